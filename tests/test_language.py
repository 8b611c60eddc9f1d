"""The words of the field: what language.md banned does not grow back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([
    *(ROOT / "src" / "fullconv").rglob("*.py"), *(ROOT / "src" / "fullconv").rglob("*.html"),
    *(ROOT / "src" / "fullconv").rglob("*.js"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md",
])  # fmt: skip

BANNED = re.compile(
    r"\b(pictures?|mend(?:s|ed|ing)?|told|spoken|nobody|somebody|whoever|by wish|as it comes|leave[sd]? away|left away"
    r"|mean IU|IU|going on|goes on by|a token is wanted|starting weights|truths?|shortage|no number)\b",
    re.IGNORECASE,
)
"""Words of the old dialect: image, fix, ground truth, mIoU, resume, omit, remove, pretrained weights ... are the field's."""

ALLOWED = [
    r'"pictures"', r"'pictures'", r"\bpictures=", r"\.pictures\b", r"`pictures`", r"\bpictures:", r"validation_pictures",
    r"\b(?:not-a|mask-is|missing|outside|constant)-pictures?\b", r"\bpath-mended\b", r"picture\|",
    r"ground[ -_]truth", r"Ground[ -_]truth",
]  # fmt: skip
"""Frozen identifiers: keys of `check --json`, recipe.toml and the service; and the one compound that is the field's own."""

LIMIT = 60


def found(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    hits = []
    for number, line in enumerate(lines, 1):
        rest = line
        for allowed in ALLOWED:
            rest = re.sub(allowed, "", rest)
        hits += [f"{path.relative_to(ROOT)}:{number}: {match.group(0)}" for match in BANNED.finditer(rest)]
    return hits


def test_the_dialect_does_not_grow_back():
    hits = [hit for path in FILES for hit in found(path)]
    assert len(hits) <= LIMIT, "\n".join(hits)


@pytest.mark.parametrize("text", ["a picture of it", "mend the mask", "it was told", "mean IU 0.5", "leave away"])
def test_a_banned_word_is_found(text, tmp_path, monkeypatch):
    monkeypatch.setattr("test_language.ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    assert found(path)


def test_numerals_agree():
    wrong = re.compile(r"\b1 (?:images|files|masks|classes|pixels|tiles|epochs|steps|errors|warnings)\b")
    hits = [f"{p}: {m.group(0)}" for p in FILES for m in wrong.finditer(p.read_text(encoding="utf-8"))]
    assert not hits
