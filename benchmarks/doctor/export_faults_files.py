"""Faults of the files of exports and of the tables beside them, and what is odd and yet no fault."""

from __future__ import annotations

import os
import zlib

import numpy as np
from PIL import Image

from doctor.export_sets import indexed, save
from doctor.export_tools import cut, edit_masks, fault, masks_of, pictures_of, studio, swap


@fault("suffix", "a JPEG cut short", "truncated")
def _(root, made):
    cut(pictures_of(root)[1])


@fault("cvat", "a JPEG cut short by a few bytes", "truncated")
def _(root, made):
    cut(pictures_of(root)[1], 0.97)


@fault("supervisely", "a JPEG cut short, with an end mark put back", "truncated")
def _(root, made):
    path = pictures_of(root)[1]
    cut(path)
    path.write_bytes(path.read_bytes() + b"\xff\xd9")


@fault("labelstudio", "second half of a JPEG zeroed", "truncated unreadable")
def _(root, made):
    path = pictures_of(root)[1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


@fault("cityscapes", "a PNG picture cut short", "truncated")
def _(root, made):
    cut(pictures_of(root)[1])


@fault("ade20k", "a PNG mask cut short", "truncated")
def _(root, made):
    cut(masks_of(root)[1])


@fault("cityscapes", "second half of a PNG zeroed", "truncated unreadable")
def _(root, made):
    path = pictures_of(root)[1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


@fault("cityscapes", "a byte changed inside a PNG", "unreadable truncated")
def _(root, made):
    path = pictures_of(root)[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


@fault("suffix", "a TIFF cut short", "truncated unreadable")
def _(root, made):
    path = pictures_of(root)[1]
    array = np.asarray(Image.open(path))
    path.unlink()
    cut(save(path.with_suffix(".tif"), array), 0.5)


@fault("cvat", "a picture of 0 bytes", "empty-file")
def _(root, made):
    pictures_of(root)[1].write_bytes(b"")


@fault("roboflow", "a mask of 0 bytes", "empty-file")
def _(root, made):
    masks_of(root)[1].write_bytes(b"")


@fault("labelstudio", "LFS pointer named .jpg", "not-a-picture")
def _(root, made):
    pictures_of(root)[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


@fault("ade20k", "web page named .png", "not-a-picture")
def _(root, made):
    masks_of(root)[1].write_text("<!DOCTYPE html><html><head><title>404</title></head></html>")


@fault("cityscapes", "a folder named x.png", "not-a-picture")
def _(root, made):
    path = pictures_of(root)[1]
    path.unlink()
    path.mkdir()


@fault("supervisely", "a pipe named .jpg", "not-a-picture")
def _(root, made):
    path = pictures_of(root)[1]
    path.unlink()
    os.mkfifo(path)


@fault("suffix", "a mask that is a pipe", "not-a-picture")
def _(root, made):
    path = masks_of(root)[1]
    path.unlink()
    os.mkfifo(path)


@fault("cvat", "a link to itself", "link-loop")
def _(root, made):
    path = pictures_of(root)[1]
    path.unlink()
    path.symlink_to(path.name)


@fault("suffix", "a link to nowhere", "missing-file")
def _(root, made):
    path = pictures_of(root)[1]
    path.unlink()
    path.symlink_to("gone.jpg")


@fault("supervisely", "a folder that links to its parent", "link-loop")
def _(root, made):
    (root / "ds0" / "again").symlink_to("..", target_is_directory=True)


@fault("ade20k", "a folder of pictures that links to its parent", "link-loop")
def _(root, made):
    (root / "images" / "training" / "more").symlink_to("../..", target_is_directory=True)


@fault("roboflow", "junk under a PNG's head", "unreadable truncated")
def _(root, made):
    masks_of(root)[1].write_bytes(b"\x89PNG\r\n\x1a\n" + np.random.default_rng(0).bytes(900))


@fault("cvat-masks", "text named .jpg", "not-a-picture")
def _(root, made):
    pictures_of(root)[1].write_text("forgot to copy\n")


@fault("suffix", "a picture of 16 bits among 8", "dtype-differs")
def _(root, made):
    path = pictures_of(root)[1]
    array = np.asarray(Image.open(path)).mean(2).astype(np.uint16) * 257
    path.unlink()
    save(path.with_suffix(".png"), array)


@fault("suffix", "a float picture with NaN", "not-finite")
def _(root, made):
    path = pictures_of(root)[1]
    array = np.asarray(Image.open(path)).mean(2).astype(np.float32)
    array[4:9, 4:9] = np.nan
    path.unlink()
    save(path.with_suffix(".tif"), array)


@fault("cvat", "a grey picture among colour", "grey-among-color")
def _(root, made):
    path = pictures_of(root)[1]
    save(path, np.asarray(Image.open(path)).mean(2).astype(np.uint8))


@fault("labelstudio", "a black picture", "constant-pictures")
def _(root, made):
    path = pictures_of(root)[1]
    save(path, np.zeros_like(np.asarray(Image.open(path))))


@fault("ade20k", "all pictures black", "constant-pictures")
def _(root, made):
    for path in pictures_of(root):
        save(path, np.zeros_like(np.asarray(Image.open(path))))


@fault("suffix", "an animated GIF", "several-frames")
def _(root, made):
    path = pictures_of(root)[1]
    image = Image.open(path).convert("RGB")
    image.save(path.with_suffix(".gif"), save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    path.unlink()


@fault("suffix", "arrays of NumPy beside", "other-file")
def _(root, made):
    np.save(root / "train" / "features.npy", np.zeros(3))


@fault("suffix", "a PNG of 60,000 x 60,000 pixels", "too-large")
def _(root, made):
    path = pictures_of(root)[1]
    path.unlink()
    head = b"IHDR" + (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    body = b"IDAT" + zlib.compress(bytes(1000))
    text = b"\x89PNG\r\n\x1a\n"
    for part in (head, body, b"IEND"):
        text += (len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big")
    path.with_suffix(".png").write_bytes(text)


@fault(
    "roboflow", "_classes.csv of two splits in another order", "unusable unknown-label unknown-class similar-classes"
)
def _(root, made):
    (root / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n2, road\n3, tree\n")


@fault("roboflow", "a number twice in _classes.csv", "unusable")
def _(root, made):
    for path in root.rglob("_classes.csv"):
        path.write_text("Pixel Value, Class\n0, background\n1, road\n1, car\n3, tree\n")


@fault("roboflow", "a word for a number in _classes.csv", "unusable")
def _(root, made):
    for path in root.rglob("_classes.csv"):
        path.write_text("Pixel Value, Class\nzero, background\n1, road\n2, car\n3, tree\n")


@fault("cvat-masks", "a bad line in labelmap.txt", "unusable")
def _(root, made):
    swap(root, "road:128,64,128::", "road;128,64,128", "labelmap.txt")


@fault("cvat-masks", "a colour over 255 in labelmap.txt", "unusable")
def _(root, made):
    swap(root, "128,64,128", "128,64,300", "labelmap.txt")


@fault("cvat-masks", "two labels of one colour", "unusable")
def _(root, made):
    swap(root, "107,142,35", "128,64,128", "labelmap.txt")


@fault("suffix", "a misspelt key in data.toml", "unusable")
def _(root, made):
    (root / "data.toml").write_text('clases = ["a", "b"]\n')


@fault("suffix", "a class twice in classes.txt", "unusable similar-classes")
def _(root, made):
    (root / "classes.txt").write_text("background\nroad\nroad\ntree\n")


@fault("suffix", "classes that differ in case only", "similar-classes unusable", None)
def _(root, made):
    (root / "classes.txt").write_text("background\ncar\nCar\ntree\n")


@fault("suffix", "a list that names a picture that is not there", "missing-listed", None)
def _(root, made):
    (root / "train.txt").write_text("".join(f"{s.name}\n" for s in made[:8]) + "nowhere_000\n")
    (root / "val.txt").write_text("".join(f"{s.name}\n" for s in made[8:]))
    (root / "data.toml").write_text('splits = { train = "train.txt", val = "val.txt" }\n')


@fault("suffix", "masks outside the data folder", "unusable")
def _(root, made):
    (root / "data.toml").write_text('images = "../photos"\nmasks = "../labels"\n')


@fault("suffix", "an empty classes.txt", "unusable unknown-label")
def _(root, made):
    (root / "classes.txt").write_text("\n\n")


@fault("cvat", "fine: XML in UTF-16", "")
def _(root, made):
    path = root / "annotations.xml"
    path.write_text(path.read_text().replace("utf-8", "utf-16"), encoding="utf-16")


@fault("cvat", "fine: a byte order mark", "")
def _(root, made):
    path = root / "annotations.xml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@fault("cvat", "fine: Windows path", "")
def _(root, made):
    swap(root, r'name="([^"]+\.jpg)"', r'name="C:\\\\data\\\\set 1\\\\\1"')


@fault("cvat", "fine: points leave the picture", "")
def _(root, made):
    swap(root, r'points="[^"]+"', 'points="-30,20;60,-40;200,80;30,140"')


@fault("cvat", "fine: non-ASCII names with spaces", "")
def _(root, made):
    (root / "images" / f"{made[0].name}.jpg").rename(root / "images" / "Straße am See 1.jpg")
    swap(root, f'name="{made[0].name}.jpg"', 'name="Straße am See 1.jpg"')


@fault("cvat-masks", "fine: labelmap.txt with mark and Windows line ends", "")
def _(root, made):
    path = root / "labelmap.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


@fault("cvat-masks", "fine: grey masks that count the lines of labelmap.txt", "")
def _(root, made):
    for item in made:
        save(root / "SegmentationClass" / f"{item.name}.png", item.mask)


@fault("cvat-masks", "fine: lists with suffixes and Windows line ends", "")
def _(root, made):
    for path in (root / "ImageSets" / "Segmentation").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b".jpg\r\n"))


@fault("labelstudio", "fine: JSON with a byte order mark", "")
def _(root, made):
    path = next(root.glob("*.json"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@fault("labelstudio", "fine: pictures under another key, absolute Windows paths", "")
def _(root, made):
    def change(tasks):
        for task in tasks:
            task["data"] = {"photo": "C:\\Users\\ann\\" + task["data"]["image"].rsplit("/", 1)[1], "weather": "dry"}
            task.pop("file_upload")

    studio(root, change)


@fault("labelstudio", "fine: predictions beside annotations", "")
def _(root, made):
    def change(tasks):
        for task in tasks:
            task["predictions"] = [
                {"model_version": "v1", "score": 0.4, "result": task["annotations"][0]["result"][:1]}
            ]

    studio(root, change)


@fault("roboflow", "fine: _classes.csv with mark and Windows line ends", "")
def _(root, made):
    for path in root.rglob("_classes.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


@fault("suffix", "fine: resource forks of a Mac", "")
def _(root, made):
    for path in pictures_of(root):
        path.with_name("._" + path.name).write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(60))
    (root / "train" / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    (root / "train" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")


@fault("supervisely", "fine: resource forks of a Mac", "")
def _(root, made):
    for path in [*pictures_of(root), *root.rglob("*.jpg.json")]:
        path.with_name("._" + path.name).write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(60))


@fault("ade20k", "fine: upper-case suffixes", "")
def _(root, made):
    for path in pictures_of(root):
        path.rename(path.with_suffix(".JPG"))


@fault("cityscapes", "fine: indexed masks", "")
def _(root, made):
    for path in masks_of(root):
        indexed(np.asarray(Image.open(path)), np.random.default_rng(1).integers(0, 256, (256, 3)).tolist()).save(path)


@fault("suffix", "fine: 1-bit masks of two classes", "")
def _(root, made):
    for path in masks_of(root):
        Image.fromarray(np.asarray(Image.open(path)) > 0).save(path)
    (root / "classes.txt").write_text("background\nsomething\n")


@fault("suffix", "fine: void border of 255 around objects", "")
def _(root, made):
    def border(mask):
        edge = np.zeros(mask.shape, bool)
        edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        edge[1:] |= mask[1:] != mask[:-1]
        return np.where(edge, np.uint8(255), mask)

    edit_masks(root, border)


@fault("ade20k", "fine: PNG pictures named .jpg", "")
def _(root, made):
    for path in pictures_of(root):
        Image.open(path).convert("RGB").save(path, "PNG")


@fault("cityscapes", "fine: EXIF 1 and a colour profile", "")
def _(root, made):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for path in pictures_of(root):
        image = Image.open(path)
        image.load()
        exif = Image.Exif()
        exif[0x0112] = 1
        image.save(path, exif=exif, icc_profile=profile)


@fault("suffix", "fine: turned pictures of a camera whose masks are upright", "")
def _(root, made):
    for path in pictures_of(root)[:4]:
        image = Image.open(path).transpose(Image.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif, quality=95)
