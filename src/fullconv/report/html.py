"""Text, numbers and encoded pictures in HTML.

The look of the report: light and dark, wide and narrow.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any, Literal

from PIL import Image

DASH = "–"
MISSING = "—"


def text(value: Any) -> str:
    """Escape a value for HTML text and attributes.

    >>> text('<a "b">')
    '&lt;a &quot;b&quot;&gt;'
    """
    return escape(str(value), quote=True)


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as percent without its sign; a dash for None and NaN.

    >>> percent(0.6537), percent(None)
    ('65.4', '—')
    """
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def interval(low: float, high: float) -> str:
    """Write an interval of fractions in percent; a dash where there is none.

    >>> interval(0.61, 0.6734)
    '61.0–67.3'
    """
    return MISSING if math.isnan(low) else f"{percent(low)}{DASH}{percent(high)}"


def whole(value: float) -> str:
    """Write a count with thin spaces between thousands.

    >>> whole(1234567).replace(chr(0x202f), " ")
    '1 234 567'
    """
    return f"{round(value):,}".replace(",", "\u202f")


def short(value: float) -> str:
    """Write a number in few digits.

    >>> short(0.002), short(1234.5), short(2e-05), short(0)
    ('0.002', '1234', '2e-05', '0')
    """
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def plain(value: Any) -> str:
    """Write a setting as a reader would: yes and no, lists with commas, numbers in few digits."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or MISSING
    return str(value)


def swatch(color: Sequence[int]) -> str:
    """Return a small square of a colour (RGB 0..255)."""
    return f'<i class="swatch" style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'


def data_uri(image: Image.Image, kind: Literal["JPEG", "PNG"], quality: int = 82) -> str:
    """Encode a PIL image as a data URI; JPEG without chroma subsampling, so that thin coloured marks stay sharp."""
    buffer = io.BytesIO()
    if kind == "JPEG":
        # Not optimized: Pillow sizes its buffer by the pixels, and noise without subsampling overflows it.
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "PNG", optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


STYLE = """
:root { color-scheme: light dark;
  --bg: #fff; --ink: #16191d; --soft: #5c6672; --line: #e2e6ea; --pale: #f4f6f8; --accent: #1d5fc4; --second: #b9540e;
  --c: #1f8a4c; --d: #a23ba6; --e: #8a6a00; --f: #0f8a96; --g: #c4314b; --h: #6b5bd6;
  --heat: 29 95 196; --on-heat: #fff; --track: #e9edf2; --warn: #fff6e0; --warn-line: #e3b341; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #101317; --ink: #e7eaee; --soft: #98a2ae; --line: #2a3038; --pale: #181c22; --accent: #6ea8ff;
  --c: #5cc98a; --d: #d98add; --e: #d9b84a; --f: #5cc9d4; --g: #f0788c; --h: #a79bff;
  --second: #f0a05f; --heat: 110 168 255; --on-heat: #0b1018; --track: #232932; --warn: #2b2414;
  --warn-line: #8a6d1d; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
main, .top { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
.top { padding-top: 44px; }
main { padding-bottom: 96px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0; font-weight: 650; }
h2 { font-size: 21px; letter-spacing: -.01em; margin: 68px 0 14px; font-weight: 650; }
h3 { font-size: 16px; margin: 36px 0 10px; font-weight: 650; }
h4 { font-size: 15px; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 72ch; }
a { color: var(--accent); }
b { font-weight: 650; }
.soft, .subtitle { color: var(--soft); }
.subtitle { margin: 8px 0 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 22px 0 0; padding: 10px 0; font-size: 14px;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
nav a { text-decoration: none; color: var(--soft); }
nav a:hover { color: var(--accent); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.hero { display: flex; flex-wrap: wrap; gap: 28px 56px; align-items: flex-end; margin: 40px 0 30px; }
.hero .main { flex: 1 1 380px; }
.hero .label, .fact .label { color: var(--soft); font-size: 14px; }
.hero .number { font-size: 76px; line-height: 1; font-weight: 680; letter-spacing: -.035em; margin: 4px 0 16px;
  font-variant-numeric: tabular-nums; }
.hero .number small { font-size: 30px; font-weight: 500; letter-spacing: 0; color: var(--soft); margin-left: 6px; }
.scale { position: relative; height: 10px; border-radius: 5px; background: var(--track); }
.scale i { position: absolute; top: 0; bottom: 0; border-radius: 5px; background: var(--accent); opacity: .38; }
.scale b { position: absolute; top: -4px; width: 4px; height: 18px; margin-left: -2px; border-radius: 2px;
  background: var(--accent); }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: 13px; margin-top: 8px; }
.facts { display: flex; gap: 40px; flex-wrap: wrap; }
.fact .value { font-size: 27px; font-weight: 620; font-variant-numeric: tabular-nums; letter-spacing: -.015em; }
.fact .value small { font-size: 15px; font-weight: 450; color: var(--soft); margin-left: 2px; }
.notice { background: var(--warn); border-left: 3px solid var(--warn-line); padding: 12px 16px; border-radius: 4px;
  margin: 20px 0 0; list-style: none; }
.said { margin: 18px 0 0; }
.caption { margin: 10px 0 0; font-size: 14px; }

.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.numbers { width: 100%; }
.numbers th, .numbers td { text-align: right; padding: 7px 12px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
.numbers thead th { font-size: 13px; font-weight: 500; color: var(--soft); vertical-align: bottom; }
.numbers th:first-child, .numbers .name { text-align: left; }
.numbers th:first-child { padding-left: 0; }
.numbers tbody th { font-weight: 500; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 9px; vertical-align: -1px;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / .45); }
.swatch.void { background: repeating-linear-gradient(135deg, #cdd2d8 0 3px, #eceff2 3px 6px); }
.classes .bar { width: 34%; min-width: 150px; }
.track { position: relative; display: block; height: 12px; border-radius: 3px; background: var(--track); }
.track i { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 3px; background: var(--accent); opacity: .6; }
.track i.whisker { top: 5px; bottom: 5px; border-radius: 0; background: var(--ink); opacity: 1; min-width: 1px; }
.track i.whisker::before, .track i.whisker::after { content: ""; position: absolute; top: -3px; width: 1.5px;
  height: 8px; background: var(--ink); }
.track i.whisker::before { left: 0; } .track i.whisker::after { right: 0; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 34px 40px; }
figure { margin: 0; }
.charts .chart.tall { grid-row: span 2; }
.chart figcaption { display: flex; justify-content: space-between; gap: 16px; margin-bottom: 4px; }
.chart svg { width: 100%; height: auto; display: block; overflow: visible; }
.chart text { fill: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.chart text.mark { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--bg); stroke-width: 4px; }
.axis { stroke: var(--soft); stroke-width: 1; fill: none; } .grid { stroke: var(--line); stroke-width: 1; fill: none; }
.line { fill: none; stroke: var(--tone); stroke-width: 2; stroke-linejoin: round; }
.tone-a { --tone: var(--accent); } .tone-b { --tone: var(--second); } .tone-c { --tone: var(--c); }
.tone-d { --tone: var(--d); } .tone-e { --tone: var(--e); } .tone-f { --tone: var(--f); } .tone-g { --tone: var(--g); }
.tone-h { --tone: var(--h); }
.dot { stroke: var(--bg); stroke-width: 2; fill: var(--tone); }
.hit { fill: var(--ink); fill-opacity: 0; } .hit:hover { fill-opacity: .07; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13.5px; color: var(--soft); }
.key::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: 4px; background: var(--tone, var(--line)); }

.confusion { border-collapse: separate; border-spacing: 2px; font-size: 13.5px; margin-left: -2px; }
.confusion td { width: 44px; min-width: 34px; height: 32px; text-align: center; border-radius: 3px; padding: 0;
  background: rgb(var(--heat) / calc(.04 + .88 * var(--v, 0))); }
.confusion td.strong { color: var(--on-heat); font-weight: 600; }
.confusion th { font-weight: 500; padding: 0; white-space: nowrap; }
.confusion tbody th { text-align: right; padding-right: 4px; }
.confusion .swatch { margin: 0 2px 0 8px; }
.confusion thead th { vertical-align: bottom; padding-bottom: 4px; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block; line-height: 1; }
.confusion thead .swatch { margin: 0 0 7px; }
.confusion .corner { background: none; color: var(--soft); text-align: right; vertical-align: bottom;
  padding: 0 8px 6px 0; white-space: nowrap; width: auto; font-size: 13px; }
.matrix { width: min(100%, 720px); image-rendering: pixelated; border-radius: 3px; }

.legend { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none;
  margin: 0; padding: 10px 0; background: var(--bg); border-bottom: 1px solid var(--line); font-size: 14px; }
.legend .swatch { margin-right: 6px; }
article .legend { position: static; border: 0; padding: 0 0 8px; font-size: 13px; }
article { padding: 26px 0 8px; }
article + article { border-top: 1px solid var(--line); margin-top: 18px; }
article header { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: baseline; margin-bottom: 10px; }
.zoom { margin-left: auto; font-size: 14px; color: var(--soft); cursor: pointer; }
.panels { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 8px; }
.panels + p { margin: 16px 0 8px; font-size: 14px; }
.frame { position: relative; line-height: 0; border-radius: 4px; overflow: hidden; background: var(--pale); }
.frame img { width: 100%; height: auto; }
.frame img.flat { image-rendering: pixelated; }
.box { position: absolute; border: 2px solid #fff; outline: 1px solid rgb(0 0 0 / .65); border-radius: 2px; }
.panels figcaption { font-size: 13px; color: var(--soft); margin-top: 4px; }
article:has(.zoom input:checked) .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }

.setup h3 { margin-top: 20px; }
.setup { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 56px; }
table.pairs { width: 100%; font-size: 14.5px; }
.pairs th, .pairs td { text-align: left; padding: 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.pairs th { font-weight: 450; color: var(--soft); padding-right: 24px; white-space: nowrap; }
.pairs td { overflow-wrap: anywhere; text-align: right; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--soft); font-size: 14px; }

@media (max-width: 640px) {
  main, .top { padding-left: 16px; padding-right: 16px; }
  .top { padding-top: 28px; }
  h1 { font-size: 25px; } h2 { margin-top: 52px; }
  .hero { margin: 28px 0 24px; } .hero .number { font-size: 62px; }
  .facts { gap: 16px 28px; } .fact .value { font-size: 23px; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  article:has(.zoom input:checked) .panels { grid-template-columns: minmax(0, 1fr); }
  .legend { position: static; gap: 2px 12px; font-size: 13px; }
  .numbers th, .numbers td { padding: 6px 8px; font-size: 14.5px; }
  .numbers th:first-child, .confusion tbody th, .confusion .corner { position: sticky; left: 0; background: var(--bg);
    z-index: 1; }
  .classes .bar { min-width: 96px; }
  .chart text { font-size: 15.5px; }
}
@media print { nav, .zoom { display: none; } .legend { position: static; } article { break-inside: avoid; } }
"""
