"""Draw docs/images/layers.svg: the layers of the package, computed from its imports; nothing is typed in.

A box is a module or package of `src/fullconv`. It stands above everything it imports, directly or through others. An arrow is an
import that no longer path already implies. Boxes with a thick border hold modules of the core (docs/design.md).

    python docs/images/layers.py [--check]
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fullconv"
TARGET = Path(__file__).with_name("layers.svg")
WIDTH, BOX_HEIGHT, ROW_HEIGHT, GAP = 1240, 26, 62, 14
INK, LINE, FILL, CORE_FILL = "#1f2933", "#9aa5b1", "#f5f7fa", "#cfe3f7"
HIDDEN = {"", "__main__", "_lazy", "_version"}


def package_of(path: Path) -> str:
    """Return the first part of a module's name below ``fullconv``."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py").replace("__init__", "")


def imports() -> dict[str, set[str]]:
    """Return the packages that each package imports, at the top of a module or inside a function."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        own = package_of(path)
        targets = found.setdefault(own, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "fullconv":
                names += [f"fullconv.{alias.name}" for alias in node.names]
            targets |= {name.split(".")[1] for name in names if name.startswith("fullconv.")}
    shown = found.keys() - HIDDEN
    return {name: (found[name] & shown) - {name} for name in sorted(shown)}


def core() -> set[str]:
    """Return the packages with a module in the reading order of docs/design.md."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    return {name.split("/")[0] for name in re.findall(r"^\d+\. `([\w./]+)\.py`", page, re.MULTILINE)}


def draw() -> str:
    """Return the SVG's text."""
    edges = imports()

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(target) for target in edges[name]), default=-1)

    @cache
    def reach(name: str) -> frozenset[str]:
        return frozenset(edges[name]).union(*(reach(target) for target in edges[name]))

    rows: dict[int, list[str]] = {}
    for name in edges:
        rows.setdefault(depth(name), []).append(name)
    highest = max(rows)
    height = (highest + 1) * ROW_HEIGHT + 20
    place: dict[str, tuple[float, float, float]] = {}
    for level in range(highest + 1):
        # The order that crosses least is approached by the mean place of what a box imports.
        means = {
            name: sum(place[target][0] for target in edges[name] if target in place) / max(len(edges[name]), 1)
            for name in rows[level]
        }
        names = sorted(rows[level], key=lambda name: (means[name], name))
        widths = [9.0 * len(name) + 22 for name in names]
        space = (WIDTH - sum(widths)) / (len(names) + 1)
        left = space
        for name, width in zip(names, widths, strict=True):
            place[name] = (left + width / 2, height - 20 - BOX_HEIGHT - level * ROW_HEIGHT, width)
            left += width + space
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="Helvetica, Arial, sans-serif" font-size="14">',
        "<title>Layers of fullconv: a box imports only from boxes below it</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 1 L9 5 L0 9 z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for name in edges:
        direct = {t for t in edges[name] if not any(t in reach(other) for other in edges[name] - {t})}
        for target in sorted(direct):
            (x, y, _), (tx, ty, _) = place[name], place[target]
            middle = (y + BOX_HEIGHT + ty) / 2
            lines.append(
                f'<path d="M{x:.1f} {y + BOX_HEIGHT:.1f} C{x:.1f} {middle:.1f} {tx:.1f} {middle:.1f} {tx:.1f} {ty:.1f}"'
                f' fill="none" stroke="{LINE}" stroke-width="1.2" marker-end="url(#head)"/>'
            )
    for name, (x, y, width) in place.items():
        inside = name in core()
        lines.append(
            f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BOX_HEIGHT}" rx="4"'
            f' fill="{CORE_FILL if inside else FILL}" stroke="{INK}" stroke-width="{2 if inside else 1}"/>'
        )
        lines.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle" fill="{INK}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the drawing, or only compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Exit with 1 if layers.svg is not of the present imports.")
    if parser.parse_args().check:
        sys.exit(TARGET.read_text(encoding="utf-8") != draw())
    TARGET.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
