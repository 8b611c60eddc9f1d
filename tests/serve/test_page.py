"""The page in a real browser: uploads, results, errors, accessibility."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import CLASSES, RunningService, draw_image, png

from fullconv.labels import voc_palette
from fullconv.serve.app import PAGES, read_files
from synthetic.images import encode

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
IMAGE = png(draw_image())
SIZE = (96, 128)
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const pass = (kind, more) => document.dispatchEvent(new (kind === 'paste' ? ClipboardEvent : DragEvent)(kind, more));
  %s
}"""
DRAG = """for (const kind of ['dragenter', 'dragover', 'drop'])
  pass(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });"""
PASTE = "pass('paste', { clipboardData: transfer, bubbles: true });"
OVERLAY = "() => document.getElementById('overlay').toDataURL()"
STYLE = "(name) => getComputedStyle(document.getElementById('overlay'))[name]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Tab:
    """A tab with the page; fails on a script error, or on a request to another server."""

    def __init__(self, browser: Any, service: RunningService, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1100, "height": 640}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(service.address)
        self.service = service

    def upload(self, *files: tuple[str, bytes]) -> None:
        kind = "application/octet-stream"
        self.page.set_input_files("#files", [{"name": n, "mimeType": kind, "buffer": data} for n, data in files])

    def wait(self, name: str) -> None:
        self.page.wait_for_selector(f'#stage[data-ready="{name}"]')
        self.page.evaluate("() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")

    def overlay(self) -> np.ndarray:
        data = self.page.evaluate(OVERLAY).partition(",")[2]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        assert [url for url in self.requests if not url.startswith((self.service.address, "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def label_map(service) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(service.client.post("/v1/predict", content=IMAGE).content)))


@pytest.fixture
def tab(browser, service) -> Iterator[Tab]:
    opened = Tab(browser, service)
    opened.page.wait_for_selector("#chips li")
    yield opened
    opened.close()


@pytest.fixture
def shown(tab) -> Tab:
    """A tab that shows the result of the image."""
    tab.page.evaluate(DROP % DRAG, ["one.png", "image/png", base64.b64encode(IMAGE).decode()])
    tab.wait("one.png")
    return tab


def centres(canvas: np.ndarray, step: int = 7) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield pixels of the image with the color of the canvas, to which it is fitted, at their centers."""
    height, width = SIZE
    scale = min(canvas.shape[0] / height, canvas.shape[1] / width)
    top, left = (canvas.shape[0] - scale * height) / 2, (canvas.shape[1] - scale * width) / 2
    for y in range(0, height, step):
        for x in range(0, width, step):
            yield y, x, canvas[int(top + (y + 0.5) * scale), int(left + (x + 0.5) * scale)]


def test_a_dropped_image_gets_its_labels_and_classes_can_be_hidden(shown, label_map):
    palette = voc_palette(4)
    canvas = shown.overlay()
    for y, x, color in centres(canvas):
        assert tuple(color) == (*palette[label_map[y, x]], 255)
    assert (canvas[..., 3] == 255).sum() == pytest.approx(
        min(canvas.shape[0] / 96, canvas.shape[1] / 128) ** 2 * 96 * 128, rel=0.02
    )
    most = int(np.bincount(label_map.reshape(-1)).argmax())
    shown.page.uncheck(f'#classes input[data-index="{most}"]')
    shown.page.wait_for_timeout(100)
    for y, x, color in centres(shown.overlay()):
        assert (color[3] == 0) == (label_map[y, x] == most)
    shown.page.click("#none")
    shown.page.wait_for_timeout(100)
    assert not shown.overlay().any()
    shown.page.click("#all")
    shown.page.wait_for_timeout(100)
    assert (shown.overlay() == canvas).all()


def test_the_table_counts_pixels_and_the_pointer_shows_class_and_confidence(shown, service, label_map):
    path = "/v1/predict?include=confidence"
    content = service.client.post(path, content=IMAGE, headers={"Accept": "application/json"}).json()
    confidence = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["confidence"]))))
    rows = shown.page.locator("#classes tr").all_inner_texts()
    counts = sorted(np.bincount(label_map.reshape(-1), minlength=4), reverse=True)
    assert [int(re.sub(r"\D", "", row.split()[-1])) for row in rows] == counts
    box = shown.page.locator("#stage").bounding_box()
    scale = min((box["width"] - 2) / 128, (box["height"] - 2) / 96)
    left, top = box["x"] + (box["width"] - scale * 128) / 2, box["y"] + (box["height"] - scale * 96) / 2
    for y, x in ((10, 20), (50, 64), (90, 120)):
        shown.page.mouse.move(left + (x + 0.5) * scale, top + (y + 0.5) * scale)
        assert shown.page.inner_text("#tip").split() == [
            CLASSES[label_map[y, x]], str(confidence[y, x]), "%", "x", f"{x},", "y", str(y)
        ]  # fmt: skip
    shown.page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 30)
    assert not shown.page.is_visible("#tip")


def test_opacity_divider_and_zoom_work(shown):
    page = shown.page
    page.fill("#opacity", "20")
    assert page.evaluate(STYLE, "opacity") == "0.2"
    page.fill("#compare", "50")
    assert page.evaluate(STYLE, "clipPath").startswith("inset(0px 0px 0px ")
    handle, stage = (page.locator(name).bounding_box() for name in ("#divider", "#stage"))
    page.mouse.move(handle["x"] + 14, handle["y"] + 100)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.25, handle["y"] + 100, steps=3)
    page.mouse.up()
    assert abs(int(page.input_value("#compare")) - 25) <= 1
    page.fill("#compare", "0")
    fitted, before = page.inner_text("#zoom-level"), shown.overlay()
    page.mouse.move(stage["x"] + 300, stage["y"] + 200)
    page.mouse.wheel(0, -600)
    page.wait_for_timeout(150)
    zoomed = shown.overlay()
    assert int(page.inner_text("#zoom-level").split()[0]) > int(fitted.split()[0])
    page.mouse.down()
    page.mouse.move(stage["x"] + 200, stage["y"] + 150, steps=3)
    page.mouse.up()
    page.wait_for_timeout(150)
    assert (shown.overlay() != zoomed).any()
    page.click("#zoom-fit")
    page.wait_for_timeout(150)
    assert (shown.overlay() == before).all()


def test_downloads_have_the_bytes_of_predict_and_the_overlay_as_shown(shown, service, label_map, tmp_path):
    page = shown.page

    def saved(button: str) -> tuple[str, bytes]:
        with page.expect_download() as waiting:
            page.click(button)
        path = tmp_path / "saved"
        waiting.value.save_as(path)
        return waiting.value.suggested_filename, path.read_bytes()

    name, data = saved("#save-labels")
    assert (name, data) == ("one.png", service.client.post("/v1/predict", content=IMAGE).content)
    name, data = saved("#save-table")
    lines = data.decode().splitlines()
    assert (name, lines[0]) == ("one.csv", "image,class,pixels,share")
    counts = np.bincount(label_map.reshape(-1), minlength=4)
    assert {line.split(",")[1]: int(line.split(",")[2]) for line in lines[1:]} == dict(
        zip(CLASSES, counts, strict=True)
    )
    page.fill("#opacity", "40")
    page.uncheck('#classes input[data-index="0"]')
    name, data = saved("#save-overlay")
    found = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    painted = np.array(voc_palette(4), float)[label_map]
    mixed = np.where((label_map == 0)[..., None], draw_image(), 0.6 * draw_image() + 0.4 * painted)
    assert name == "one.overlay.png"
    assert np.abs(found - mixed).max() <= 1


def test_the_keyboard_is_enough(tab):
    page = tab.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus(".example")
    page.keyboard.press("Enter")
    tab.wait("example1.jpg")
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#status")
    assert re.fullmatch(rf"({'|'.join(CLASSES)}) \d+ %, x \d+, y \d+", first)
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#status") != first
    level = page.inner_text("#zoom-level")
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert page.inner_text("#zoom-level") != level
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert page.inner_text("#zoom-level") == level
    page.click("#clear")
    assert page.is_visible("#drop")


def test_bad_files_are_reported_and_others_are_processed(tab):
    tab.upload(("bad.jpg", b"no image"), ("good.png", IMAGE), ("half.png", IMAGE[:-500]))
    page = tab.page
    page.wait_for_selector(".box.bad")
    assert "The image is a text file" in page.inner_text("#message")
    page.click('#strip button[aria-label^="good.png"]')
    tab.wait("good.png")
    page.click('#strip button[aria-label^="half.png"]')
    page.wait_for_selector(".box.bad")
    assert "truncated" in page.inner_text("#message")
    assert not page.is_visible("#panel")


def test_a_pasted_image_and_a_format_that_no_browser_reads_are_shown(tab):
    page = tab.page
    page.evaluate(DROP % PASTE, ["image.png", "image/png", base64.b64encode(IMAGE).decode()])
    tab.wait("image.png")
    tab.upload(("scan.tif", encode(Image.fromarray(draw_image(3)), "TIFF")))
    tab.wait("scan.tif")
    drawn = page.evaluate(
        "() => document.getElementById('image').getContext('2d').getImageData(200, 200, 1, 1).data[3]"
    )
    assert drawn == 255


def violations(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{row['id']}: {row['nodes'][0]['html'][:120]}" for row in found if row["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_a_phone_needs_no_sideways_scrolling(browser, service, scheme):
    tab = Tab(browser, service, color_scheme=scheme, viewport={"width": 380, "height": 760}, has_touch=True)
    page = tab.page
    narrow = "document.documentElement.scrollWidth <= window.innerWidth"
    page.wait_for_selector("#chips li")
    assert violations(page) == []
    assert page.evaluate(narrow)
    tab.upload(("bad.jpg", b"no image"), ("good.png", IMAGE))
    page.wait_for_selector(".box.bad")
    assert violations(page) == []
    page.click('#strip button[aria-label^="good.png"]')
    tab.wait("good.png")
    assert violations(page) == []
    assert page.evaluate(narrow)
    page.touchscreen.tap(190, 420)
    assert re.match(rf"({'|'.join(CLASSES)}) \d+ %", page.inner_text("#tip"))
    page.goto(f"{service.address}/docs")
    page.wait_for_selector("section")
    assert violations(page) == []
    assert page.evaluate(narrow)
    assert page.locator("section h2").first.inner_text().split() == ["POST", "/v1/predict"]
    tab.close()


# --- slow ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_thirty_megapixels_are_shown_zoomed_and_hovered(tab, service, tmp_path):
    from fullconv.cli.synthetic import draw

    part = draw(np.random.default_rng(1), (500, 600))[0]
    large = np.tile(part, (10, 10, 1))
    path = tmp_path / "large.jpg"
    Image.fromarray(large).save(path, quality=90)
    page = tab.page
    page.set_default_timeout(240_000)
    page.set_input_files("#files", path)
    tab.wait("large.jpg")
    assert page.inner_text("#size") == "6,000 × 5,000 pixels"
    expected = np.asarray(Image.open(io.BytesIO(service.client.post("/v1/predict", content=path.read_bytes()).content)))
    box = page.locator("#stage").bounding_box()
    hovered = 0
    for turn in range(12):
        page.mouse.move(box["x"] + 40 * turn + 150, box["y"] + 30 * turn + 60)
        if not page.is_visible("#tip"):
            continue
        name, _, _, _, x, _, y = page.inner_text("#tip").split()
        assert name == CLASSES[expected[int(y), int(x.strip(","))]]
        hovered += 1
        page.mouse.wheel(0, -300)
    assert hovered > 8
    click = (
        "() => { const t = performance.now(); document.getElementById('none').click(); return performance.now() - t; }"
    )
    assert page.evaluate(click) < 100


@pytest.mark.slow
def test_two_tabs_work_at_the_same_time(browser, service):
    tabs = [Tab(browser, service), Tab(browser, service)]
    names = [[f"{tab}-{n}.png" for n in range(6)] for tab in range(2)]
    for tab, own in zip(tabs, names, strict=True):
        tab.page.wait_for_selector("#chips li")
        tab.upload(*((name, png(draw_image(seed))) for seed, name in enumerate(own)))
    for number, (tab, own) in enumerate(zip(tabs, names, strict=True)):
        for seed, name in enumerate(own):
            tab.page.click(f'#strip button[aria-label="{name}, done"]')
            tab.wait(name)
            content = service.client.post("/v1/predict?answer=json", content=png(draw_image(seed))).json()
            rows = sorted((row["pixels"] for row in content["classes"]), reverse=True)
            shown = [re.sub(r"\D", "", row.split()[-1]) for row in tab.page.locator("#classes tr").all_inner_texts()]
            assert list(map(int, shown)) == rows, f"{name} of tab {number}"
        tab.close()


@pytest.mark.slow
def test_a_token_is_requested_and_stays_in_the_tab(browser, strict):
    tab = Tab(browser, strict)
    page = tab.page
    page.wait_for_selector("#login[open]")
    page.fill("#token", "wrong-token")
    page.click("#login button")
    page.wait_for_selector("text=invalid bearer token")
    page.fill("#token", "open-sesame")
    page.click("#login button")
    page.wait_for_selector("#chips li")
    tab.upload(("one.png", IMAGE))
    tab.wait("one.png")
    assert json.loads(page.evaluate("JSON.stringify(Object.keys(localStorage))")) == []
    tab.close()


@pytest.mark.slow
def test_an_unreachable_service_is_reported(browser, start):
    service = start()
    tab = Tab(browser, service)
    tab.page.wait_for_selector("#chips li")
    service.stop()
    tab.upload(("one.png", IMAGE))
    tab.page.wait_for_selector(".box.bad")
    assert "cannot be reached" in tab.page.inner_text("#message")
    tab.close()


def eventually(condition: Callable[[], bool], page: Any) -> bool:
    """Poll a condition; the page's policy forbids to wait inside it."""
    for _ in range(200):
        if condition():
            return True
        page.wait_for_timeout(50)
    return False


@pytest.mark.slow
def test_another_model_and_another_head_predict_the_same_images(browser, start, model, two_headed):
    tab = Tab(browser, start("--model", f"pair={two_headed}"))
    page = tab.page
    page.wait_for_selector("#chips li")
    tab.upload(("one.png", IMAGE))
    tab.wait("one.png")
    names = "[...document.querySelectorAll('#classes label')].map((one) => one.textContent).sort().join()"
    assert page.evaluate(names) == "box,disc,ground,triangle"
    assert not page.is_visible("#head")
    page.select_option("#model", "pair")
    assert eventually(lambda: page.evaluate(names) == "a,b,c", page)
    page.select_option("#head", "state")
    assert eventually(lambda: page.evaluate(names) == "dry,wet", page)
    tab.close()


def test_the_page_is_part_of_the_package_and_small():
    files = read_files()
    assert set(PAGES) <= set(files)
    folder = Path(__file__).parents[2] / "src" / "fullconv" / "serve" / "page"
    assert set(files) == {path.name for path in folder.iterdir()}
    assert sum(map(len, files.values())) < 150_000
