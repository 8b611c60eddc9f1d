"""Faults in CVAT's XML."""

from __future__ import annotations

import re

from doctor.export_sets import save
from doctor.export_tools import cut, fault, swap


@fault("cvat", "NaN among the points", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r'points="[^,]+,', 'points="nan,')


@fault("cvat", "infinite point", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r'points="[^,]+,', 'points="1e999,')


@fault("cvat", "a polygon with two points", "bad-shape no-area", remedy=None)
def _(root, made):
    swap(root, r'points="[^"]+"', 'points="3.0,4.0;50.0,60.0"')


@fault("cvat", "a polygon without points", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r'points="[^"]+"', 'points=""')


@fault("cvat", "points attribute missing", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r' points="[^"]+"', "")


@fault("cvat", "decimal commas", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r'points="[^"]+"', 'points="3,5,4,5;50,5,60,5;20,1,70,2"')


@fault("cvat", "a label that the file does not list", "unknown-class", remedy=None)
def _(root, made):
    swap(root, '<polygon label="car"', '<polygon label="bus"')


@fault("cvat", "label name with other case", "unknown-class similar-classes", remedy=None)
def _(root, made):
    swap(root, '<polygon label="car"', '<polygon label="Car"')


@fault("cvat", "labels that differ in case only", "similar-classes", remedy=None)
def _(root, made):
    swap(root, "<name>car</name>", "<name>car</name></label><label><name>Car</name>")
    swap(root, '<polygon label="car"', '<polygon label="Car"')


@fault("cvat", "runs of another size", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r'rle="\d+, ', 'rle="9999, ')


@fault("cvat", "a mask a million pixels wide", "bad-shape", remedy=None)
def _(root, made):
    swap(root, r'(rle="[^"]+" left="\d+" top="\d+") width="\d+"', r'\1 width="9999999999"')


@fault("cvat", "a picture twice in the XML", "repeated-id duplicate-stem several-annotations", remedy=None)
def _(root, made):
    path = root / "annotations.xml"
    text = path.read_text()
    block = re.search(r"  <image .*?</image>\n", text, re.S)[0]
    path.write_text(text.replace("</annotations>", block.replace('id="0"', 'id="12"') + "</annotations>"))


@fault("cvat", "XML cut short", "unusable unreadable truncated", remedy=None)
def _(root, made):
    cut(root / "annotations.xml")


@fault("cvat", "XML of 0 bytes", "unusable empty-file unreadable", remedy=None)
def _(root, made):
    (root / "annotations.xml").write_bytes(b"")


@fault("cvat", "LFS pointer in place of the XML", "unusable unreadable", remedy=None)
def _(root, made):
    (root / "annotations.xml").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


@fault("cvat", "CVAT for video", "unusable", remedy=None)
def _(root, made):
    (root / "annotations.xml").write_text(
        '<?xml version="1.0"?><annotations><version>1.1</version><meta><task><mode>interpolation</mode></task></meta>'
        '<track id="0" label="car"><polygon frame="0" points="1,1;20,1;20,20" keyframe="1" outside="0"/></track></annotations>'
    )


@fault("cvat", "Latin-1 in a file that says UTF-8", "unusable unreadable", remedy=None)
def _(root, made):
    path = root / "annotations.xml"
    path.write_bytes(path.read_text().replace(">tree<", ">Bäume<").replace('"tree"', '"Bäume"').encode("latin-1"))


@fault("cvat", "entities that multiply", "unusable unreadable", remedy=None)
def _(root, made):
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 9))
    swap(root, r"<annotations>", f'<!DOCTYPE x [<!ENTITY l0 "lol">{levels}]><annotations>')
    swap(root, "<id>7</id>", "<id>&l8;</id>")


@fault("cvat", "boxes only", "box-only", remedy=None)
def _(root, made):
    path = root / "annotations.xml"
    text = re.sub(r"    <mask .*?</mask>\n", "", path.read_text(), flags=re.S)
    box = r'    <box label="\1" xtl="10" ytl="20" xbr="60" ybr="70" z_order="0"></box>\n'
    path.write_text(re.sub(r'    <polygon label="(\w+)".*?</polygon>\n', box, text, flags=re.S))


@fault("cvat", "polylines among polygons", "no-area", remedy=None)
def _(root, made):
    swap(root, r"<polygon ([^>]*)>\s*</polygon>", r"<polyline \1></polyline>", count=2)


@fault("cvat", "coordinates from 0 to 1", "mask-mismatch constant-mask bad-shape no-area nothing-to-learn", remedy=None)
def _(root, made):
    path = root / "annotations.xml"

    def small(match):
        pairs = (p.split(",") for p in match[1].split(";"))
        return 'points="' + ";".join(f"{float(x) / 140:.4f},{float(y) / 100:.4f}" for x, y in pairs) + '"'

    text = re.sub(r"    <mask .*?</mask>\n", "", path.read_text(), flags=re.S)
    path.write_text(re.sub(r'points="([^"]+)"', small, text))


@fault("cvat", "x and y exchanged", "mask-mismatch mask-turned bad-shape outside-picture", remedy=None)
def _(root, made):
    path = root / "annotations.xml"
    text = re.sub(r"    <mask .*?</mask>\n", "", path.read_text(), flags=re.S)
    path.write_text(re.sub(r"([-\d.]+),([-\d.]+)(?=[;\"])", r"\2,\1", text))


@fault("cvat", "no picture in the XML", "unusable empty-split", remedy=None)
def _(root, made):
    path = root / "annotations.xml"
    path.write_text(re.sub(r"  <image .*</image>\n", "", path.read_text(), flags=re.S))


@fault("cvat", "a path that leads out", "missing-picture unusable", remedy=None)
def _(root, made):
    save(root.parent / "outside.jpg", made[0].picture)
    swap(root, r'name="[^"]+\.jpg"', 'name="../../outside.jpg"')


@fault("cvat", "a polygon wholly outside", "bad-shape no-area outside-picture", remedy=None)
def _(root, made):
    swap(root, r'points="[^"]+"', 'points="900,900;950,900;950,980"')
