"""What `fullconv check` says of a seeded fault, and what its remedy is worth."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from doctor.export_sets import EXPORTS
from doctor.faults import Fault
from doctor.sets import SETS
from fullconv.cli import main

ALL_SETS = {**SETS, **EXPORTS}
TEXTS = (".txt", ".toml", ".json", ".xml", ".csv")


class Outcome(NamedTuple):
    """What the doctor said of a fault.

    `codes` are all problems', `found` that the right one is among them, `mended` that exit code 0 without errors and warnings
    follows the remedy (None: none to try), `printed` that the remedy was applied as printed, not as words for people.
    """

    fault: Fault
    codes: list[str]
    others: list[str]
    found: bool
    mended: bool | None
    printed: bool
    remedy: str


def ask(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, stdout, stderr."""
    out, words = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(words):
        code = main(list(arguments))
    return code, out.getvalue(), words.getvalue()


def check(root: Path) -> tuple[int, dict[str, Any]]:
    """`fullconv check --json`: exit code and answer."""
    code, out, words = ask("check", str(root), "--json")
    try:
        return code, json.loads(out)
    except json.JSONDecodeError:
        problem = {"code": "no-json", "severity": "error", "count": 1, "files": [], "cause": words, "remedy": words}
        return code, {"problems": [problem]}


def alarms(answer: dict[str, Any]) -> list[str]:
    """Codes of errors and warnings."""
    return [problem["code"] for problem in answer["problems"] if problem["severity"] != "note"]


KEYS = "classes|values|colors|ignore_index|groups|unlabeled|boxes|mask_suffix|format|bands|images|masks|splits|palette"
VALUE = r'\{[^{}]*\}|\[(?:[^\[\]]|\[[^\[\]]*\])*\]|"[^"]*"|\d+'


def printed_lines(remedy: str) -> dict[str, str]:
    """The lines of data.toml that a remedy prints, as key and value."""
    return dict(re.findall(rf"\b({KEYS})\s*=\s*({VALUE})", remedy))


def write_lines(root: Path, lines: dict[str, str]) -> None:
    """Put lines into data.toml, in place of what it said of these keys."""
    path = root / "data.toml"
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in before if line.split("=")[0].strip() not in lines]
    path.write_text(
        "".join(f"{line}\n" for line in [*kept, *(f"{k} = {v}" for k, v in lines.items())]), encoding="utf-8"
    )


def remove(path: Path) -> None:
    """Delete whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def delete_last(root: Path, files: list[str]) -> None:
    """Delete the file named last, and its partner."""
    path = root / files[-1]
    remove(path)
    masks = {"val": "valannot", "train": "trainannot", "JPEGImages": "SegmentationClass"}
    if path.parent.name in masks and not any(path.parent.glob(f"{path.stem}.*")):
        for partner in (path.parent.parent / masks[path.parent.name]).glob(f"{path.stem}.*"):
            partner.unlink()
        for listed in root.glob("ImageSets/Segmentation/val.txt"):
            listed.write_text("".join(f"{s}\n" for s in listed.read_text().split() if s != path.stem), encoding="utf-8")


def move_last(root: Path, files: list[str]) -> None:
    """Move the second half of the files named from val to train, with their partners."""
    stems = {Path(name).stem for name in files[len(files) // 2 :]}
    for source, target in (("val", "train"), ("valannot", "trainannot")):
        for path in [p for p in (root / source).glob("*") if p.stem in stems]:
            path.rename(root / target / path.name)
    for lists in root.glob("ImageSets/Segmentation"):
        listed = (lists / "val.txt").read_text(encoding="utf-8").split()
        (lists / "val.txt").write_text("".join(f"{s}\n" for s in listed if s not in stems), encoding="utf-8")
        with (lists / "train.txt").open("a", encoding="utf-8") as file:
            file.writelines(f"{s}\n" for s in listed if s in stems)


def plain(path: Path) -> str:
    """Return what a picture and its mask have in common."""
    return re.sub(r"(_mask|_leftImg8bit|_gtFine_\w+|\.(jpg|png))$", "", path.stem)


def put_back(root: Path, healthy: Path, problem: dict[str, Any]) -> None:
    """Export again what a problem names: its files, those of the same names, all of a folder; nothing else.

    Text files count as named where the words say their name.
    """
    words = f"{problem['cause']} {problem['remedy']}"
    files = [name for name in problem["files"] if not Path(name).is_absolute()]
    texts = [path for path in healthy.rglob("*") if path.suffix in TEXTS]
    files += [path.relative_to(healthy).as_posix() for path in texts if path.name in words]
    for name in files:
        if (healthy / name).is_dir():
            shutil.rmtree(root / name, ignore_errors=True)
            shutil.copytree(healthy / name, root / name)
    if "data.toml" in words and not (healthy / "data.toml").exists():
        remove(root / "data.toml")
    stems = {plain(Path(name)) for name in files}
    for path in [p for p in root.rglob("*") if plain(p) in stems and (p.is_symlink() or p.suffix or not p.is_dir())]:
        remove(path)
    for path in [p for p in healthy.rglob("*") if p.is_file() and plain(p) in stems]:
        (root / path.relative_to(healthy)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to(healthy))


def apply(fault: Fault, root: Path, healthy: Path, problem: dict[str, Any]) -> bool:
    """Apply a remedy; return whether it was applied as printed."""
    lines = printed_lines(problem["remedy"])
    if fault.remedy == "lines":
        if lines:
            write_lines(root, lines)
        else:
            ask("check", str(root), "--write")
        return True
    if fault.remedy == "move":
        move_last(root, problem["files"])
        return False
    if fault.remedy == "delete":
        delete_last(root, problem["files"])
        return True
    if fault.remedy == "restore-all":
        shutil.rmtree(root)
        shutil.copytree(healthy, root)
    else:
        put_back(root, healthy, problem)
    return False


def try_fault(fault: Fault, folder: Path) -> Outcome:
    """Seed one fault into a fresh set, check, mend as told, check again."""
    root, healthy = folder / "data", folder / "healthy"
    for place in (root, healthy):
        place.mkdir(parents=True)
        ALL_SETS[fault.base](place)
    fault.seed(root)
    code, answer = check(root)
    said = {problem["code"] for problem in answer["problems"]}
    named = [problem for problem in answer["problems"] if problem["code"] in fault.codes]
    errors = any(problem["severity"] == "error" for problem in answer["problems"])
    others = sorted(set(alarms(answer)) - fault.codes)
    mended, printed, remedy = None, False, named[0]["remedy"] if named else ""
    if fault.remedy:
        mended = False
        if named:
            printed = apply(fault, root, healthy, named[0])
            after_code, after = check(root)
            mended = after_code == 0 and not alarms(after)
    return Outcome(fault, sorted(said), others, bool(named) and errors == (code == 2), mended, printed, remedy)


def try_healthy(base: str) -> list[str]:
    """False alarms in a set that is as it should be."""
    with tempfile.TemporaryDirectory() as name:
        ALL_SETS[base](Path(name))
        code, answer = check(Path(name))
    return alarms(answer) + ([f"exit {code}"] if code else [])


def try_all(faults: Iterable[Fault]) -> list[Outcome]:
    """Try faults, each in a folder that is gone afterwards."""
    outcomes = []
    for fault in faults:
        with tempfile.TemporaryDirectory() as name:
            outcomes.append(try_fault(fault, Path(name)))
    return outcomes
