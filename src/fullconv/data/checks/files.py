"""Checks of one image, one mask, or one pair."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path

from fullconv.data.checks.aggregates import Record
from fullconv.data.config import config_hint
from fullconv.data.problems import Finding, display_path
from fullconv.data.scan.stats import ImageStats, MaskStats

_SELF_EXPLANATORY = ("empty-file", "missing-file", "mask-alpha", "link-loop")


def unreadable(record: Record, stats: ImageStats | MaskStats, path: Path) -> Finding | None:
    """An image or mask that cannot be decoded; the reader's error determines the code."""
    if not stats.error or stats.code in ("band-size", "missing-band"):
        return None
    if stats is record.image:
        path = next((path for path in record.sample.image_files if stats.error.startswith(str(path))), path)
    return describe_unreadable(stats, path, record.dataset.root, record.sample.stem)


def describe_unreadable(stats: ImageStats | MaskStats, path: Path, root: Path, stem: str) -> Finding:
    """Return the finding for a file that cannot be decoded, without what the reader's error advises."""
    code = stats.code
    if code == "unreadable":
        try:
            path.stat()
        except OSError as error:
            code = "link-loop" if error.errno == errno.ELOOP else code
    detail = "" if code in _SELF_EXPLANATORY else stats.error.removeprefix(f"{path}: ")
    if code != "needs-extra":  # which names the package to install
        detail = re.split(r"\. (?=[A-Z])", detail, maxsplit=1)[0]
    found = Finding(code, (display_path(path, root),), detail.removesuffix("."), stems=(stem,))
    if code == "not-finite":  # of a mask; images have void there
        fix = "Save them as whole class labels, as indexed or grey PNG."
        return replace(found, cause="masks hold NaN or infinite values", fix=fix, severity="error")
    return found


def several_frames(record: Record, stats: ImageStats | MaskStats, path: Path) -> Finding | None:
    """A file of several pages or frames."""
    if stats.error or stats.frames <= 1:
        return None
    return Finding("several-frames", (display_path(path, record.dataset.root),), f"the first has {stats.frames}")


def non_finite(record: Record) -> Finding | None:
    """An image with NaN or infinity that no nodata value announces."""
    return _of_notice(record, "not-finite")


def alpha_values(record: Record) -> Finding | None:
    """An image whose alpha channel may be a band."""
    found = _of_notice(record, "alpha-values")
    if found is None or record.sample.more is not None:
        return found
    bands = list(range(1, len(record.image.total) + 2))  # it was omitted
    return replace(found, fix=f"If it is a band: {config_hint(record.dataset.root, {'bands': bands})}")


def _of_notice(record: Record, code: str) -> Finding | None:
    return _of_image(record, code, "") if code in record.image.notices else None


def missing_band(record: Record) -> Finding | None:
    """An image with fewer bands than data.toml asks for."""
    if record.image.code != "missing-band":
        return None
    detail = record.image.error.removeprefix(f"{record.sample.image}: ").split(". ")[0]
    return _of_image(record, "missing-band", f"the first {detail}")


def band_size(record: Record) -> Finding | None:
    """An image whose further bands have another size."""
    more = record.sample.more
    if record.image.code != "band-size" or more is None:
        return None
    path = display_path(more, record.dataset.root)
    return Finding("band-size", (path,), f"the first {record.image.error}", stems=(record.sample.stem,))


def mask_alpha(record: Record) -> Finding | None:
    """A mask with an opaque alpha channel; a transparent one is unreadable."""
    return _encoding_note(record, "alpha", "mask-alpha", "masks have an alpha channel; it is opaque and ignored")


def float_mask(record: Record) -> Finding | None:
    """A mask of whole numbers that are stored as floats; fractions are unreadable."""
    return _encoding_note(record, "float", "float-mask", "masks store whole numbers as floats; they are read as labels")


def mask_is_image(record: Record) -> Finding | None:
    """A mask that is its image, byte by byte."""
    return _of_mask(record, "mask-is-picture") if not record.mask.error and record.is_copy_of_image else None


def exif_orientation(record: Record) -> Finding | None:
    """An image with an EXIF orientation that its mask does not follow."""
    if record.image.error or record.mask.error or record.is_copy_of_image or not record.ignores_exif:
        return None
    return _of_image(record, "exif-orientation", f"the first has orientation {record.image.orientation}")


def mask_size(record: Record) -> Finding | None:
    """A mask of another size than its image."""
    image, mask = record.image, record.mask
    if image.error or mask.error or record.is_copy_of_image or mask.size == image.size or record.ignores_exif:
        return None
    (h, w), (height, width) = mask.size, image.size
    relation = ""
    if (h, w) == (width, height):
        relation = ", turned by 90 degrees"
    elif max(abs(h - height), abs(w - width)) <= 1:
        relation = ", off by one pixel"
    elif min(h, w) > 1 and abs(h / height - w / width) * max(height, width) <= max(h / height, w / width, 1):
        relation = f", scaled by {h / height:.3g}"
    detail = f"the first is {w}x{h}, its image {width}x{height}{relation}"
    return Finding("mask-size", (record.report_path,), detail, stems=(record.sample.stem,))


def grids_differ(record: Record) -> Finding | None:
    """A mask file on another grid than its image, both georeferenced."""
    if record.image.error or record.mask.error or not (differ := record.sample.grids_differ(record.head)):
        return None
    return _of_mask(record, "grids-differ", f"of the first, {differ}")


def constant_mask(record: Record) -> Finding | None:
    """A mask of one class and nothing else."""
    is_aligned = not record.image.error and record.mask.size == record.image.size and not record.ignores_exif
    if not (is_aligned and record.has_clean_values):
        return None
    classes, void, unknown = record.counts
    if unknown or void or (classes > 0).sum() != 1:
        return None
    name = record.mapping.labels.classes[int(classes.argmax())]
    return Finding("constant-mask", (record.report_path,), f"the first holds only '{name}'")


def _of_image(record: Record, code: str, detail: str) -> Finding:
    return Finding(code, (display_path(record.sample.image, record.dataset.root),), detail, stems=(record.sample.stem,))


def _of_mask(record: Record, code: str, detail: str = "") -> Finding:
    path = display_path(record.sample.masks[record.head].path, record.dataset.root)
    return Finding(code, (path,), detail, stems=(record.sample.stem,))


def _encoding_note(record: Record, encoding: str, code: str, cause: str) -> Finding | None:
    if record.mask.error or record.mask.encoding != encoding:
        return None
    return replace(_of_mask(record, code), cause=cause, fix="", severity="note")
