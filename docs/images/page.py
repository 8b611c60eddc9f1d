"""Take docs/images/serve.png, the screenshot of the service's page in the README; with --all, the page in all its states.

python docs/images/page.py DEMO [--all FOLDER], where DEMO is the folder that `fullconv demo -o DEMO` filled. Needs Chromium and
the extra `dev` (Playwright). All images are synthetic.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import fullconv

TARGET = Path(__file__).parent / "serve.png"
EXAMPLES = Path(fullconv.__file__).parent / "serve" / "page"
MAX_BYTES = 300_000
WIDE, PHONE = {"width": 1160, "height": 780}, {"width": 390, "height": 844}


@contextmanager
def service(model: Path) -> Iterator[str]:
    """Serve a model on a free port, and yield its address."""
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "fullconv", "serve", "--model", f"shapes={model}", "--port", "0"]
        process = subprocess.Popen(command, stderr=log)
        try:
            address = None
            while address is None:
                time.sleep(0.2)
                log.seek(0)
                text = log.read()
                address = re.search(r"^Serving .* at (http://\S+)\. ", text, re.MULTILINE)
                if process.poll() is not None:
                    raise SystemExit(text)
            yield address[1]
        finally:
            process.terminate()
            process.wait()


def open_page(browser: Browser, address: str, size: dict[str, int], scheme: str, **options: Any) -> Page:
    """Open the page in a window of a size."""
    page = browser.new_context(viewport=size, color_scheme=scheme, **options).new_page()
    page.goto(address)
    page.wait_for_selector("#chips li")
    return page


def upload(page: Page, files: list[Path]) -> None:
    """Upload images, and wait until all are done and the first is shown."""
    page.set_input_files("#files", [str(file) for file in files])
    for file in files:
        page.wait_for_selector(
            f'#strip button[aria-label="{file.name}, done"], #strip button[aria-label="{file.name}, failed"]'
        )
    page.click("#strip button >> nth=0")
    settle(page)


def settle(page: Page) -> None:
    """Let the page paint."""
    page.wait_for_timeout(300)


def hover(page: Page, across: float, down: float) -> None:
    """Move the pointer to a point of the stage, in fractions of its sides."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    settle(page)


def readme(page: Page, files: list[Path], target: Path) -> None:
    """Take the screenshot of the README: several images, one half covered, the pointer on a shape."""
    upload(page, files)
    page.fill("#compare", "34")
    hover(page, 0.53, 0.44)
    page.screenshot(path=target)
    if target.stat().st_size > MAX_BYTES:  # 256 colours are enough for a screenshot
        Image.open(target).convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.FLOYDSTEINBERG).save(
            target, optimize=True
        )
    assert target.stat().st_size <= MAX_BYTES, f"{target}: {target.stat().st_size} bytes"


def states(browser: Browser, address: str, files: list[Path], folder: Path) -> None:
    """Take a screenshot of every state of the page, light and dark, on a desktop and on a phone."""
    broken = folder / "broken.jpg"
    broken.write_bytes(files[0].read_bytes()[:900])
    for scheme in ("light", "dark"):
        for name, size, more in (("wide", WIDE, {}), ("phone", PHONE, {"has_touch": True, "device_scale_factor": 2})):
            page = open_page(browser, address, size, scheme, **more)
            whole = name == "phone"

            def shot(state: str, page: Page = page, whole: bool = whole, place: str = f"{scheme}-{name}") -> None:
                page.screenshot(path=folder / f"{place}-{state}.png", full_page=whole)

            shot("empty")
            upload(page, [*files, broken])
            shot("result")
            page.fill("#opacity", "90")
            page.uncheck("#classes input >> nth=0")
            hover(page, 0.5, 0.5)
            for _ in range(3):
                page.click("#zoom-in")
            settle(page)
            shot("zoomed")
            page.click('#strip button[aria-label^="broken"]')
            page.wait_for_selector(".box.bad")
            shot("error")
            page.evaluate("document.getElementById('over').hidden = false")
            shot("dragged-over")
            page.goto(f"{address}/docs")
            page.wait_for_selector("section")
            shot("docs")
            page.context.close()
    broken.unlink()


def main() -> None:
    """Take the screenshots that the command line requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--all", type=Path, help="a folder for screenshots of all states")
    given = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    own = [EXAMPLES / f"example{number}.jpg" for number in (3, 1, 2)]
    files = [*own, *sorted((given.demo / "data" / "test" / "images").iterdir())[:2]]
    with service(given.demo / "run") as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if given.all is None:
            readme(open_page(browser, address, WIDE, "light"), files, TARGET)
        else:
            given.all.mkdir(parents=True, exist_ok=True)
            states(browser, address, files, given.all)
        browser.close()


if __name__ == "__main__":
    main()
