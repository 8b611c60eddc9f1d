"""Class lists, colors and means of the datasets that the published networks were trained on."""

from __future__ import annotations

from fullconv.card import Labels
from fullconv.errors import DataError, nearest
from fullconv.labels import Color, voc_palette
from fullconv.recipe import dump_toml


def _split(text: str) -> list[str]:
    return text.split(",") if "," in text else text.split()


_VOC = _split(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person"
    " pottedplant sheep sofa train tvmonitor"
)
_NYUD = _split(
    "wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,shelves,curtain,dresser,"
    "pillow,mirror,floor mat,clothes,ceiling,books,refrigerator,television,paper,towel,shower curtain,box,whiteboard,"
    "person,night stand,toilet,sink,lamp,bathtub,bag,other structure,other furniture,other prop"
)
_SIFT_FLOW = _split(
    "awning balcony bird boat bridge building bus car cow crosswalk desert door fence field grass moon mountain person"
    " plant pole river road rock sand sea sidewalk sign sky staircase streetlight sun tree window"
)
_CONTEXT = _VOC + _split(
    "bag bed bench book building cabinet ceiling clothes computer cup door fence floor flower food grass ground"
    " keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedclothes track"
    " tree truck wall water window wood"
)
_CITYSCAPES = _split(
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,truck,bus,"
    "train,motorcycle,bicycle"
)
_CITYSCAPES_COLORS: list[Color] = [
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip
_CAMVID = _split("sky building pole road pavement tree sign fence car pedestrian bicyclist")
_CAMVID_COLORS: list[Color] = [
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
]  # fmt: skip


def _labels(classes: list[str], colors: list[Color] | None = None) -> Labels:
    return Labels(classes=tuple(classes), palette=tuple(colors or voc_palette(len(classes))))


LABELS: dict[str, dict[str, Labels]] = {
    "voc": {"": _labels(_VOC)},
    "nyud": {"": _labels(_NYUD)},
    "siftflow": {"semantic": _labels(_SIFT_FLOW), "geometric": _labels(["sky", "horizontal", "vertical"])},
    "pascalcontext": {"": _labels(_CONTEXT)},
    "cityscapes": {"": _labels(_CITYSCAPES, _CITYSCAPES_COLORS)},
    "camvid": {"": _labels(_CAMVID, _CAMVID_COLORS)},
}
"""Labels by dataset and head. SIFT Flow's test set lacks cow, desert and moon: score it with policy present_only."""

MEANS_BGR: dict[str, tuple[float, ...]] = {
    "voc": (104.00699, 116.66877, 122.67892),
    "pascalcontext": (104.007, 116.669, 122.679),
    "siftflow": (114.578, 115.294, 108.353),
    "nyud": (116.190, 97.203, 92.318),
    "nyud-hha": (132.431, 94.076, 118.477),
    "nyud-depth": (7.844,),
}
"""Mean of the training images, blue first, in 0..255 (log depth in its own unit), without division.

Source: the Caffe release's data layers.
"""


def channel_means(variant: str) -> tuple[float, ...]:
    """Return the means that a published network subtracts, in the image's order: RGB, then HHA or depth as stored.

    >>> channel_means("voc-fcn8s")
    (122.67892, 116.66877, 104.00699)
    """
    if variant == "nyud-fcn32s-hha":
        return MEANS_BGR["nyud-hha"]
    further = {"nyud-fcn32s-color-d": "nyud-depth", "nyud-fcn32s-color-hha": "nyud-hha"}.get(variant)
    return (*reversed(MEANS_BGR[variant.split("-")[0]]), *(MEANS_BGR[further] if further else ()))


_COUNTED_FROM_1 = ("nyud", "siftflow")
"""Datasets whose own masks hold 0 for void and classes from 1 (SIFT Flow's geometric masks hold -1: store it as 0)."""


def data_toml(name: str) -> str:
    """Return the data.toml of a published dataset for its own masks, saved as PNG: classes, colors, void.

    PASCAL-Context's are the 60 classes of the paper, not the 459 that it annotates.

    >>> print(data_toml("camvid").splitlines()[0])
    classes = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    """
    if name not in LABELS:
        raise DataError(f"there is no published dataset '{name}'.{nearest(name, LABELS)} Known: {', '.join(LABELS)}.")
    tables: dict[str, dict[str, object]] = {}
    for head, labels in LABELS[name].items():
        table: dict[str, object] = {"classes": labels.classes, "palette": [list(color) for color in labels.palette]}
        if name == "camvid":
            table["ignore_index"] = len(labels.classes)
        if name in _COUNTED_FROM_1:
            table["values"] = {"0": "void", **{str(i): label for i, label in enumerate(labels.classes, 1)}}
        tables[head] = table
    return dump_toml(tables.get("", {"heads": tables}))


def seg11valid(val: list[str], sbd_train: set[str]) -> list[str]:
    """Return the images of the published VOC scores: those of VOC 2011 segmentation val that are not in SBD train.

    >>> seg11valid(["a", "b", "c"], {"b"})
    ['a', 'c']
    """
    return [stem for stem in val if stem not in sbd_train]
