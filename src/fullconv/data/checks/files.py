"""What is wrong with one picture, or with its mask."""

from __future__ import annotations

from fullconv.data.checks.alignment import exif_is_missed
from fullconv.data.checks.catalog import JPEG_FORMATS, JPEG_WORDS, Findings
from fullconv.data.dataset import Dataset
from fullconv.data.labels.histogram import is_blurred, void_numbers
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.stats import MaskFacts, PictureFacts
from fullconv.data.statistics import all_grey, class_counts


def look_at_picture(dataset: Dataset, sample: Sample, facts: PictureFacts, findings: Findings) -> None:
    """Note what is wrong with a picture by itself."""
    if facts.error:
        if facts.code == "band-size" and sample.more is not None:
            findings.add("band-size", sample, sample.more, f"the first {facts.error}")
        else:
            path = next((path for path in sample.pictures if facts.error.startswith(str(path))), sample.image)
            findings.unreadable(facts.code, sample, path, facts.error)
        return
    if facts.frames > 1:
        findings.add("several-frames", sample, sample.image, f"the first has {facts.frames}")
    if facts.strange:
        findings.add("not-finite", sample, sample.image, f"{facts.strange} numbers of the first are NaN or infinite")
    if dataset.bands is not None and max(dataset.bands) > facts.channels:
        asked = f"the first has {facts.channels}, data.toml asks for band {max(dataset.bands)}"
        findings.add("missing-band", sample, sample.image, asked)


def look_at_mask(
    dataset: Dataset, head: str, sample: Sample, picture: PictureFacts, facts: MaskFacts, findings: Findings
) -> None:
    """Note what is wrong with a mask by itself, and beside its picture."""
    path = sample.masks[head].path
    if facts.error:
        findings.unreadable(facts.code, sample, path, facts.error)
        return
    if facts.frames > 1:
        findings.add("several-frames", sample, path, f"the first has {facts.frames}")
    if facts.kind:
        findings.add({"alpha": "mask-alpha:opaque", "float": "float-mask:whole"}[facts.kind], sample, path)
    if facts.digest == picture.digest and isinstance(sample.masks[head], MaskFile):
        findings.add("mask-is-picture", sample, path)
        return
    fits = picture.error == "" and _fits(sample, head, picture, facts, findings)
    if facts.format in JPEG_FORMATS:
        findings.add("jpeg-mask", sample, path, JPEG_WORDS)
        return
    _look_at_values(dataset, head, sample, facts, findings, fits)


def _fits(sample: Sample, head: str, picture: PictureFacts, facts: MaskFacts, findings: Findings) -> bool:
    """Whether picture and mask lie on each other."""
    if picture.orientation != 1 and exif_is_missed(sample, picture, facts):
        words = f"the first has orientation {picture.orientation}"
        findings.add("exif-orientation", sample, sample.image, words)
        return False
    if facts.size != picture.size:
        (h, w), (height, width) = facts.size, picture.size
        said = f"the first is {w}x{h}, its picture {width}x{height}{_relation(facts.size, picture.size)}"
        findings.add("mask-size", sample, sample.judged(head), said)
    return facts.size == picture.size


def _look_at_values(
    dataset: Dataset, head: str, sample: Sample, facts: MaskFacts, findings: Findings, fits: bool
) -> None:
    path, coding = sample.judged(head), dataset.codings[head]
    if facts.in_color and not coding.colors and not all_grey(facts):
        return  # told once for all, with the colours
    numbers = not facts.in_color or all_grey(facts)
    if is_blurred(facts, void_numbers(coding.labels) if numbers else frozenset()):
        return  # told once for all, with how they came to be
    classes, void, unknown = class_counts(facts, coding)
    if unknown:
        findings.unknown(sample, path, unknown, coding.by_color or (facts.in_color and bool(coding.colors)))
    elif not classes.any():
        findings.add("all-void", sample, path, "they hold no class at all")
    elif fits and not void and (classes > 0).sum() == 1:
        name = coding.labels.classes[int(classes.argmax())]
        findings.add("constant-mask", sample, path, f"the first holds only '{name}'")


def _relation(mask: tuple[int, int], picture: tuple[int, int]) -> str:
    """Say how a mask of another size came to be, where the sizes tell."""
    (h, w), (height, width) = mask, picture
    if (h, w) == (width, height):
        return ", turned by 90 degrees"
    if max(abs(h - height), abs(w - width)) <= 1:
        return ", off by one pixel"
    if min(h, w) > 1 and abs(h / height - w / width) * max(height, width) <= max(h / height, w / width, 1):
        return f", scaled by {h / height:.3g}"
    return ""
