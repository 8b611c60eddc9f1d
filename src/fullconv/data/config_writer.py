"""The `data.toml` that `check --write` writes: what was found out about a data set, made explicit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fullconv.data.config import DataSettings, parse_settings, read_table, table_file, toml_lines
from fullconv.data.dataset import Dataset
from fullconv.data.problems import Problem
from fullconv.errors import DataError, OutputError
from fullconv.labels import VOID
from fullconv.storage import write_text


def _settings(dataset: Dataset) -> dict[str, Any]:
    """Return the keys that the format's reader and the classes stand for."""
    if len(dataset.heads) > 1:
        return {"heads": {head: {"classes": list(labels.classes)} for head, labels in dataset.labels.items()}}
    settings, labels = dataset.settings, next(iter(dataset.labels.values()))
    table: dict[str, Any] = {"classes": list(labels.classes)}
    keys = ("values", "colors", "unlabeled", "bands")
    given = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    if settings.class_colors is not None and "colors" not in given:
        table["palette"] = [list(color) for color in settings.class_colors]
    if labels.void_values and set(labels.void_values) != {VOID}:
        void = sorted(labels.void_values)
        table["ignore_index"] = void[0] if len(void) == 1 else void
    return table | given


def write_config(dataset: Dataset | None, problems: Iterable[Problem], root: Path, given: str | Path) -> str:
    """Write the inferred `data.toml` into the data folder; return what was done, in a sentence."""
    where = table_file(root)
    if Path(given).is_file():
        raise DataError(f"{given}: is a .zip, into which nothing is written. Unpack it, and check the folder.")
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder to write data.toml to. Check the name.")
    found: dict[str, Any] = dict(read_table(root))
    if dataset is not None:
        found = {"format": dataset.format, **_settings(dataset), **found}
    for one in problems:
        found.update(one.settings)
    table = {key: found[key] for key in DataSettings.model_fields if key in found}
    if not {"classes", "values", "colors", "heads"} & set(table):
        raise DataError(f"{where}: nothing could be inferred to write there. First fix what check reports.")
    after = parse_settings(dict(table), str(where))
    if where.exists():
        before = parse_settings(read_table(root), str(where))
        new = {key: table[key] for key in table if key != "format" and getattr(before, key) != getattr(after, key)}
        if not new:
            return f"{where} is up to date; nothing was written."
        raise DataError(
            f"{where} exists and is not overwritten. What was found differs from it; to use it, add:\n"
            + "\n".join(toml_lines(new))
        )
    try:
        write_text(where, "\n".join(toml_lines(table)) + "\n")
    except OutputError as error:
        raise OutputError(
            f"{error} To train, copy the folder to a writable place and add these lines:\n"
            + "\n".join(toml_lines(table))
        ) from error
    return f"Wrote {where}."
