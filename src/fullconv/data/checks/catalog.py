"""The table of all checks. To add one, write its row here, its function in a module of this package, and a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from fullconv.data.checks import alignment, appearance, dataset, duplicates, files, palettes
from fullconv.data.problems import MAX_FILES, Finding, Problem, Severity, problem

Scope = Literal["file", "image", "mask", "pair", "masks", "dataset", "format"]


@dataclass(frozen=True)
class Check:
    """One kind of problem."""

    code: str
    severity: Severity
    cause: str
    """What was found and what it means: a clause that the files complete."""
    fix: str
    scope: Scope = "format"
    """What `find` is called with: "file" a record, its image's or mask's stats, and the path; "image", "mask" and "pair" a
    record; "masks" the aggregates of each head, "dataset" those of the first. "format": found while opening."""
    find: Callable[..., Any] | None = None
    """Returns a Finding or None; of "masks" and "dataset" several. Rows that share a function share one call."""
    hides: tuple[str, ...] = ()
    """Codes that follow from this problem and are not reported beside it."""
    evidence: str = ""
    """For the documentation: what counts as such, with the limits."""
    also: str = ""
    """For the documentation: when the severity is another one."""


_COPY_AGAIN = "Copy or export them again, or omit the pairs (--skip-bad)."
_LABELS = ("unknown-label", "class-missing-in-train", "class-unused", "constant-mask")
_CLASSES = ("all-void", "nothing-to-learn", "class-missing-in-train", "class-unused", "constant-mask")
_FALSE_ALARMS = "False alarms: none in 424 healthy sets that no limit was chosen on (benchmarks/doctor/healthy.py)"
_ONE_SIZE = "Export both at one size, or omit the pairs."

# fmt: off
CHECKS = (
    Check("unusable", "error", "the data set cannot be opened", "As the message says.", "dataset",
          evidence="no such folder, an empty one, no known layout, two layouts that match, or an invalid `data.toml`"),
    Check("missing-mask", "error", "images have no mask of their name",
          "Add the mask, move the image away, or set mask_suffix where all masks have one.",
          also="warning in PASCAL VOC without lists and for unlabelled tasks of Label Studio; note for VOC's test list"),
    Check("missing-picture", "warning", "masks or annotations have no image of their name",
          "Add the images, or move the masks away.", also="error \\* without any image"),
    Check("missing-bands", "error", "images have no partner of their name in the folder of `bands_from`",
          "Add it, or move the image away."),
    Check("duplicate-stem", "error", "images or masks share a name but for the suffix", "Remove or rename one of each.",
          evidence="`a.jpg` beside `a.png`, in PASCAL VOC if they are listed; `--skip-bad` takes the first"),
    Check("missing-folder", "error", "a split has a folder of images and none of masks, or the other way round",
          "Add it, or move the folder away.", "dataset", also="note for test"),
    Check("empty-folder", "error", "a folder of the layout holds neither images nor masks", "Add them.", "dataset"),
    Check("empty-split", "warning", "a split has no image with a mask", "Add some.", "dataset", dataset.empty_splits,
          also="error \\* for train; none for test if its masks are withheld"),
    Check("other-file", "note", "files are no images by their suffix and are ignored", ""),
    Check("missing-listed", "error", "a list names images (of CVAT masks) that do not exist", "Correct the list.",
          evidence="in `splits` or a list of the format; `--skip-bad` omits the line"),
    Check("omitted-line", "note", "a list repeats images, which count once, or has blank lines between others",
          "Keep one line of each image.", evidence="in `splits` or a list of the format"),
    Check("unread-folder", "note", "folders hold images that belong to no pair, and are not read",
          "Set images and masks in data.toml if they should count.",
          evidence="beside pairs of folders: `testing/` without masks, `aug/`"),
    Check("unlisted", "note", "images are on no list or in no annotation and are omitted",
          "List or annotate them to include them."),
    Check("unread-list", "note", "`train.txt` and others list the images, but val was held out by hash",
          "Add the `splits` line of the message to use them."),
    Check("group-straddles", "error", "groups are in several splits", "Move each group into one split.", "dataset"),
    Check("missing-file", "error", "files do not exist", "Check the names, and links with a missing target.", "file",
          files.unreadable),
    Check("link-loop", "error", "links lead back to themselves", "Replace them by the files, or omit the pairs.", "file",
          files.unreadable, also="warning for a folder that links to one above it; it is not followed twice"),
    Check("empty-file", "error", "files are empty (0 bytes)", _COPY_AGAIN, "file", files.unreadable),
    Check("truncated", "error", "files are truncated: data are missing at the end", _COPY_AGAIN, "file", files.unreadable,
          evidence="or are zeros there, also where decoders would silently fill them in"),
    Check("not-a-picture", "error", "not image files, despite their extension", "Replace them, or omit the pairs.", "file",
          files.unreadable, evidence="text, a Git LFS pointer, a folder, a pipe"),
    Check("unreadable", "error", "files cannot be decoded", _COPY_AGAIN, "file", files.unreadable, also="\\* for a folder",
          evidence="also a JPEG with zeros in the middle or sent as text, an annotation file without its list of shapes, "
                   "and a file or folder without permission"),
    Check("too-large", "error", "images have more pixels than allowed", "Set FULLCONV_MAX_PIXELS in the environment.", "file",
          files.unreadable, evidence="179 million by default"),
    Check("needs-extra", "error", "files need a reader that is not installed", "", "file", files.unreadable,
          evidence="multi-band TIFF: `geo`, HEIC: `formats`; the message has the install line"),
    Check("several-frames", "note", "files hold several pages or frames, of which the first is read", "", "file",
          files.several_frames, evidence="smaller copies of a page do not count"),
    Check("not-finite", "warning", "images hold NaN or infinite values, which become void",
          "If they are no mistake, set NaN as the nodata value of the files.", "image", files.non_finite,
          evidence="unless NaN is the file's nodata value", also="error in masks"),
    Check("alpha-values", "warning", "images have an alpha channel that may hold a band, such as infrared",
          "If it is a band, write all bands in data.toml: bands = [1, 2, 3, 4]", "image", files.alpha_values,
          evidence="a quarter of it or more lies between transparent and opaque, with 16 values or more"),
    Check("missing-band", "error", "images have fewer bands than data.toml asks for",
          "Correct bands in data.toml, or omit these images.", "image", files.missing_band),
    Check("channels-differ", "error", "images differ in channels", "Convert all to one kind, or omit these.", "dataset",
          dataset.different_kinds, evidence="8-bit grey among RGB is no error"),
    Check("dtype-differs", "error", "images differ in data type", "Convert all to one kind, or omit these.", "dataset",
          dataset.different_kinds, evidence="8-bit, 16-bit or float"),
    Check("constant-pictures", "warning", "images are of one colour everywhere",
          "Check their export, or delete them with their masks.", "dataset", dataset.constant_images,
          ("duplicate-across-splits", "near-duplicate"),
          also="error \\* where all pixels of train have one value (of 8 bits: in six images or more)"),
    Check("grey-among-color", "note", "images are grey and are read as R = G = B", "", "dataset", dataset.different_kinds,
          evidence="8-bit grey images among RGB ones"),
    Check("band-size", "error", "images with further bands have another size than their images", _ONE_SIZE, "image",
          files.band_size),
    Check("exif-orientation", "error", "images have an EXIF orientation, and their masks were drawn without it",
          "Remove the orientation from these images: exiftool -Orientation= -overwrite_original FILE", "pair",
          files.exif_orientation,
          evidence="by the sizes; of square or upside-down images (six pairs or more), by which way the mask explains its "
                   "own image's colours better, and other images' not as well"),
    Check("mask-size", "error", "masks have another size than their images", _ONE_SIZE, "pair", files.mask_size,
          evidence="after EXIF orientation; or were drawn on an image of another size (COCO, CVAT, LabelMe)"),
    Check("grids-differ", "error", "masks lie on another grid than their images, and both are georeferenced",
          'To warp the masks, write in data.toml: align = "nearest"', "pair", files.grids_differ, ("mask-size",),
          "another CRS, origin or pixel size, by more than a tenth of a pixel"),
    Check("mask-is-picture", "error", "masks are the images themselves, byte by byte",
          "Replace them by masks, or omit the pairs.", "pair", files.mask_is_image, ("rgb-mask", "class-unused")),
    Check("bad-mask", "error", "masks hold no class labels", "Save them as indexed or grey PNG.", "file", files.unreadable,
          evidence="negative values, values over 65535, two or more than four channels"),
    Check("pages-differ", "error", "mask files hold several pages that differ",
          "Name the class of each page in pages of data.toml.", "file", files.unreadable,
          evidence="of TIFF and GIF; or they have another number of pages than `pages` names"),
    Check("float-mask", "error", "masks hold fractions: they were scaled or averaged",
          "Save them as whole class labels, as indexed or grey PNG.", "mask", files.float_mask,
          also="note where all are whole numbers"),
    Check("mask-alpha", "error", "masks are transparent in places, so their labels are ambiguous",
          "Save them without an alpha channel, as indexed or grey PNG.", "mask", files.mask_alpha,
          also="note where it is opaque"),
    Check("jpeg-mask", "error", "masks are stored as JPEG",
          "Export the masks again, as indexed PNG; `threshold` reads black and white ones.", "masks",
          dataset.jpeg_masks, ("class-unused", "class-missing-in-train", "nothing-to-learn")),
    Check("lossy-mask", "error", "masks were compressed or resized with interpolation: their edges hold values in between",
          "Export the masks again as PNG, without anti-aliasing, and resize them with nearest neighbour only.", "masks",
          dataset.blurred_masks, ("class-unused", "class-missing-in-train", "nothing-to-learn"),
          also="warning where all values are classes",
          evidence="a fifth or more of the edges pass over several labels or colours in between, for one or two pixels; "
                   "drawn masks stay below a fourteenth. Needs three labels or more. Levels of a smooth field are no "
                   "problem: their edges are wider in places. Binary masks get `threshold = 128`"),
    Check("unknown-label", "error", "masks hold labels that are neither a class nor void", "Name them in classes or values.",
          "masks", dataset.unknown_labels),
    Check("unknown-color", "error", "masks hold colours without a class", "Add them to colors.", "masks",
          dataset.unknown_colors, evidence="the message has the `colors` line where red and blue are swapped"),
    Check("binary-mask", "error", "masks hold only 0 and 255 (or 65535), and 255 is void",
          "Add the `values` line of the message.", "masks", dataset.diagnose_labels, _CLASSES, also="warning for few",
          evidence="unless a class has 255; or few masks do, while the others hold classes and no 255"),
    Check("rgb-mask", "error", "masks are RGB and their colours have no class", "Add the `colors` line of the message.",
          "masks", dataset.colored_masks, _CLASSES),
    Check("off-by-one", "error", "masks number the classes from 1", "Add the `values` line of the message.", "masks",
          dataset.diagnose_labels, (*_LABELS, "nothing-to-learn"), also="warning for trainIds",
          evidence="they hold K, and 0 never or as one label more; of a format with a table of its own (Roboflow, ADE20K, "
                   "Cityscapes) one more than it, or its classes from 0 with a 255 that it does not define (trainIds)"),
    Check("scaled-labels", "error", "masks hold the class labels times a factor", "Add the `values` line of the message.",
          "masks", dataset.diagnose_labels, (*_LABELS, "nothing-to-learn", "all-void"),
          evidence="256 or 257 (16 bits), another factor, or spread over 0 to 255"),
    Check("instance-ids", "error", "masks number objects, not classes",
          "Add the `values` line of the message, or export one label per class.", "masks", dataset.diagnose_labels,
          (*_LABELS, "nothing-to-learn"),
          evidence="labels or colours differ from mask to mask: each counts up to another last one, or most are in one "
                   "mask only"),
    Check("classes-exchanged", "warning", "two classes look like each other in some masks",
          "Look at a few beside their images, and export these masks like the others.", "dataset",
          appearance.exchanged_classes,
          evidence="in one split, or of two classes in at most a quarter of the masks: by their colours, and by which is "
                   "larger or by further classes that look as usual. " + _FALSE_ALARMS),
    Check("void-as-class", "warning", "255 is void, but fills regions, and exactly one class is in no mask",
          "Add the `values` line of the message if 255 is that class.", "masks", dataset.diagnose_labels, ("class-unused",),
          evidence="regions of 8 pixels and more across, in half of the masks that hold 255"),
    Check("palette-permuted", "error", "palettes of indexed masks have their colours at other labels",
          "Export these masks again with the palette of the others.", "masks", palettes.permuted_palettes,
          also="\\* where classes have colours",
          evidence="than the classes or most masks; or there is no order that two thirds of the masks share. Of "
                   "greys: two labels of which one is lighter by 64 or more in some masks, and the other in others"),
    Check("folders-exchanged", "error", "masks look like photographs and images like masks, so their folders are exchanged",
          "Exchange the two folders.", "masks", dataset.exchanged_folders,
          (*_CLASSES, "jpeg-mask", "lossy-mask",
          "rgb-mask"),
          evidence="three quarters of the masks have more than 4096 colours, and no image has 64 different values"),
    Check("few-classes", "error", "no classes are named, and masks or annotations hold fewer than two",
          "Add the `classes` line of the message.", "masks", None, _CLASSES),
    Check("label-gaps", "error", "no classes are named, and the labels are not 0 to K-1",
          "Add the `values` line of the message.", "masks", None, (*_CLASSES, "unknown-label"),
          evidence="or are more than 255"),
    Check("all-void", "warning", "masks are void everywhere", "Check them; nothing can be learned from them.", "masks",
          dataset.void_masks, also="note for all of test, as where the ground truth is withheld"),
    Check("constant-mask", "note", "masks hold one class everywhere", "", "pair", files.constant_mask,
          evidence="an empty one: the first class"),
    Check("same-mask", "warning", "masks of different images are the same, byte by byte", "Export the masks again.", "masks",
          dataset.same_mask, evidence="more than half of all"),
    Check("nothing-to-learn", "error", "every mask in train is void everywhere, so there is nothing to learn from",
          "Name the labels that are classes in values of data.toml, or export the masks again.", "masks",
          dataset.nothing_to_learn, ("all-void", "constant-mask", "class-unused"), evidence="or holds only one class"),
    Check("unlabeled", "note", "masks are drawn from shapes; the message names the class of the rest",
          'Set unlabeled in data.toml for another class, or "void".'),
    Check("unknown-class", "error", "shapes have a name that is no class", "Add it to classes, or rename the shapes.",
          evidence="not in `classes`, or not in the list of their file (CVAT, Supervisely, `category_id` of COCO)"),
    Check("similar-classes", "warning", "class names differ in case, spaces or hyphens only",
          "Give all shapes of a class one name.", "masks", dataset.similar_classes, evidence="`Car` and `car `"),
    Check("mirror-pairs", "warning", "classes are called left and right, and mirrored images would exchange them",
          "Add the `mirror_pairs` line of the message.", "masks", dataset.unpaired_sides,
          evidence="names that differ in left and right, or in a lone l and r, only; none where `mirror_pairs` is set, "
                   "also to `[]`"),
    Check("repeated-id", "error", "images or categories of a COCO file share an id", "Give each its own.",
          evidence="or an image has several ids, or stands in several files with different annotations"),
    Check("bad-shape", "error", "shapes cannot be drawn", "Draw them again, or remove them.",
          evidence="too few points, no numbers, run lengths of another size, all points between 0 and 1"),
    Check("box-only", "warning", "annotations have a box and no outline", "Draw outlines, or set boxes in data.toml.",
          also="note where they are filled or `boxes` is set",
          evidence="what boxes draw is in [formats.md](formats.md)"),
    Check("no-area", "warning", "shapes without an area are omitted", "Draw outlines where they should count.",
          evidence="points and lines (CVAT, Label Studio, Supervisely), and outlines of fewer than three different points "
                   "(COCO, LabelMe)"),
    Check("outline-in-outline", "warning", "COCO annotations have an outline inside another one of their own",
          "Export run lengths or masks.", evidence="COCO adds them up, so it is no hole"),
    Check("orphan-annotation", "warning", "annotations belong to no image of their file", "Correct their image_id."),
    Check("outside-picture", "warning", "shapes leave their images", "Check the unit and order of the coordinates.", "masks",
          dataset.outside_image,
          evidence="a tenth of all shapes (at least three) pass the edges by more than a fifth of the image, or all lie "
                   "in its first hundredth, or some lie wholly outside"),
    Check("several-annotations", "warning", "images are annotated several times", "Keep one of each.",
          evidence="by several people (Label Studio), twice in the file (CVAT), or in several files (LabelMe); the "
                   "ground truth, the file of its name, or the first counts"),
    Check("several-labels", "warning", "shapes have several labels (Label Studio); the first counts", "Keep one."),
    Check("class-attribute", "warning", "shapes have several attributes, of which one is taken for the class",
          "Rename the right one to class.", evidence="VIA and GeoJSON: an attribute of a usual name (class, label, type, "
          "...), else the one with the fewest values", also="note where one has a usual name"),
    Check("path-mended", "note", "annotations have a wrong path for their image; the image of that name was taken", "",
          also="warning where a list leads out of the data folder to another file"),
    Check("hidden-shapes", "warning", "shapes vanish under larger ones that are drawn later",
          "Add the `overlap` line of the message.", "masks", dataset.hidden_shapes,
          evidence="a quarter of the pixels that shapes of a class draw; parts that smaller shapes hide do not count"),
    Check("class-missing-in-train", "warning", "classes are in val or test but not in train, so they cannot be learned",
          "Move images with them to train, or remove the classes.", "masks", dataset.missing_classes),
    Check("class-unused", "note", "classes are in no mask", "", "masks", dataset.missing_classes),
    Check("other-class", "note", "classes of the full ADE20K release that `classes` omits are void", ""),
    Check("duplicate-across-splits", "warning", "images are in two splits with the same content, so scores would be too high",
          "Delete one of each two, image and mask.", "dataset", duplicates.duplicates,
          evidence="by decoded content; or two lists of PASCAL VOC have one name"),
    Check("near-duplicate", "warning",
          "images are in two splits nearly the same (saved again, resized or turned), so scores would be too high",
          "Delete one of each two, image and mask.", "dataset", duplicates.duplicates,
          evidence="correlation 0.985 of what differs from the mean image, in any orientation"),
    Check("compared-in-part", "note", "the data set is large", "", "dataset", duplicates.duplicates,
          evidence="over 30 million pairs of train with val or test, flipped and turned copies are not searched; over 3 "
                   "billion, only every n-th image is compared"),
    Check("video-neighbours", "note",
          "images of val or test resemble images of train: frames of one video, or tiles of one image, make scores too high",
          "Put each video, or each image that was cut up, into one split (groups in data.toml).", "dataset",
          duplicates.duplicates, evidence="a tenth of val or test (at least three), correlation 0.9"),
    Check("mask-mismatch", "warning",
          "masks fit other images better than their own: the pairs are probably shuffled",
          "Pair them again, by names or lists that belong together; open a few images beside their masks.", "dataset",
          alignment.alignment,
          evidence="of a shifted list: better the next ones; of a mixed-up one: three or more (and a fifth) much better "
                   "those of other names; of single pairs: no better than chance, where all others fit clearly. "
                   "A set whose masks do not tell its images apart is not judged. " + _FALSE_ALARMS),
    Check("mask-turned", "warning", "masks fit their images much better turned or mirrored, while the others fit as they are",
          "Turn them, or export them again.", "dataset", alignment.alignment,
          evidence="or all masks of a split do, each its own image better than other masks do that are turned alike. "
                   + _FALSE_ALARMS),
)
# fmt: on

BY_CODE = {check.code: check for check in CHECKS}


def checks_of(scope: Scope) -> list[Callable[..., Any]]:
    """Return the functions of a scope, each once."""
    return list(dict.fromkeys(check.find for check in CHECKS if check.scope == scope and check.find is not None))


def to_problem(found: Finding | Problem) -> Problem:
    """Complete a finding with its row of the table."""
    if isinstance(found, Problem):
        return found
    row = BY_CODE[found.code]
    severity = found.severity or row.severity
    cause = (found.cause or row.cause) + (f" ({found.detail})" if found.detail else "")
    fix = row.fix if found.fix is None else found.fix
    stems = found.stems if severity == "error" else ()
    return problem(found.code, severity, found.files, cause, fix, stems, found.settings)


class ProblemCollector:
    """Merges findings to one problem per code and severity; the first finding supplies detail, cause and fix."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Severity], tuple[Problem, list[str], set[str]]] = {}

    def add(self, finding: Finding) -> None:
        """Add what a check found."""
        found = to_problem(finding)
        _, files, stems = self._found.setdefault((found.code, found.severity), (found, [], set()))
        files += finding.files
        stems |= found.stems

    def problems(self) -> list[Problem]:
        """Return the problems in the order of their first finding."""
        return [
            replace(first, count=len(files), files=tuple(files[:MAX_FILES]), stems=frozenset(stems))
            for first, files, stems in self._found.values()
        ]


def without_consequences(problems: Iterable[Problem]) -> list[Problem]:
    """Omit problems that follow from another one."""
    problems = list(problems)
    hidden = {code for found in problems if found.code in BY_CODE for code in BY_CODE[found.code].hides}
    return [found for found in problems if found.code not in hidden]
