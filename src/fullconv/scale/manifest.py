"""The manifest of a batch job: one row per image, in Parquet files that are written atomically."""

from __future__ import annotations

import io
import json
import time
from typing import Any

from fullconv.errors import RunError
from fullconv.scale.storage import ResultFolder, import_arrow

FOLDER = "manifest"
JOB = "batch.json"
FLUSH_ROWS, FLUSH_SECONDS = 2000, 15.0
"""A file is written after so many rows, or so many seconds."""


def manifest_schema() -> Any:
    """Return the Arrow schema of a manifest's rows."""
    pyarrow = import_arrow()
    text = pyarrow.string()
    return pyarrow.schema([
        ("input", text), ("output", text), ("status", text), ("reason", text),
        ("pixels", pyarrow.list_(pyarrow.int64())), ("seconds", pyarrow.float64()),
        ("warnings", pyarrow.list_(text)),
    ])  # fmt: skip


class Manifest:
    """The manifest in a folder of results."""

    def __init__(self, folder: ResultFolder, job: dict[str, Any], resume: bool) -> None:
        self.folder = folder
        self.done: set[str] = set()
        self.failures: list[tuple[str, str]] = []
        """Input and reason of the images that failed in an earlier attempt."""
        self._part = 0
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        existing = folder.read(JOB)
        if existing is not None and not resume:
            raise RunError(f"{folder.url}: holds results of a batch job. Continue it with --resume, or set another -o.")
        before = job if existing is None else json.loads(existing)
        for key, value in job.items():
            if before.get(key) != value:
                raise RunError(
                    f"{folder.url}: this job was started with {key} = {before.get(key)}, not {value}. Resume it with the same"
                    " value, or set another -o."
                )
        self._read_parts()
        if existing is None:
            folder.write(JOB, (json.dumps(job, indent=1) + "\n").encode())

    def _read_parts(self) -> None:
        pyarrow = import_arrow()
        columns = ["input", "status", "reason"]
        for name in self.folder.list_files(FOLDER, ".parquet"):
            content = self.folder.read(name)
            assert content is not None
            table = pyarrow.parquet.read_table(io.BytesIO(content), columns=columns)
            rows = list(zip(*(table.column(key).to_pylist() for key in columns), strict=True))
            self.done.update(path for path, _, _ in rows)
            self.failures += [(path, reason) for path, status, reason in rows if status == "failed"]
            self._part = max(self._part, int(name.rpartition("-")[2].removesuffix(".parquet")) + 1)

    def add(self, row: dict[str, Any]) -> bool:
        """Add an image's row and return true, or return false where the manifest has it already."""
        if row["input"] in self.done:
            return False
        self.done.add(row["input"])
        self._rows.append(row)
        if len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the rows that are not on disk yet."""
        self._flushed = time.monotonic()
        if not self._rows:
            return
        pyarrow = import_arrow()
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self._rows, schema=manifest_schema()), buffer)
        self.folder.write(f"{FOLDER}/part-{self._part:06}.parquet", buffer.getvalue())
        self._part += 1
        self._rows = []
