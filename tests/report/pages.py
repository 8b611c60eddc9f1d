"""A parser for pages, and synthetic images, reports and logs for them."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from fullconv.card import Card
from fullconv.evaluation import Report
from fullconv.metrics import confusion_matrix, count
from fullconv.report import ReportImage, write_report

CLASSES = ("ground", "disc", '<script>alert("x")</script>')
CARD = Card(variant="fcn8s", backbone="tiny", classes=CLASSES, stride=32, fullconv="0.1.0", weights_sha256="ab" * 32)
EMPTY_TAGS = {"meta", "img", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def image_of(number=0, size=(40, 60), classes=3, dtype=np.uint8, bands=3, error_rate=0.1, noise=0.1):
    random = np.random.default_rng(number)
    mask = np.kron(random.integers(0, classes, (4, 6)), np.ones((size[0] // 4, size[1] // 6), int)).astype(np.uint8)
    prediction = np.where(random.random(mask.shape) < error_rate, random.integers(0, classes, mask.shape), mask)
    mask[:2] = 255
    light = mask[..., None] + random.random((*mask.shape, bands)) * noise
    image = (light * (255 if dtype == np.uint8 else 4000) / (classes + noise)).astype(dtype)
    return ReportImage(f"street/{number}", image, mask, prediction.astype(np.uint8), number / 100)


def report_of(images, classes=CLASSES, **settings):
    matrices = {p.stem: confusion_matrix(p.mask, p.prediction, len(classes)) for p in images}
    confusion = sum(matrices.values(), np.zeros((len(classes),) * 2, np.int64))
    return Report(classes, confusion, {stem: count(m) for stem, m in matrices.items()}, **settings)


def history(epochs, **scores):
    return [
        {"epoch": e, "step": 50 * e, "train_loss": 1 / e, "lr": 0.01, "seconds": 30.0 * e, "val": scores or val(e)}
        for e in range(1, epochs + 1)
    ]


def val(epoch):
    return None if epoch % 2 else {"mean_iou": 0.9 - abs(epoch - 6) / 20, "pixel_accuracy": 0.95}


def render(path, **settings):
    images = settings.pop("images", [image_of(n) for n in range(3)])
    settings.setdefault("reports", {"val": report_of([image_of(n) for n in range(3)])})
    write_report(path, card=settings.pop("card", CARD), images=images, **settings)
    return path.read_text(encoding="utf-8")


def decoded(uri):
    extension, data = re.fullmatch(r"data:image/(jpeg|png);base64,([A-Za-z0-9+/=]+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == extension
    return image
