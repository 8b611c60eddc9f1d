"""What a batch job has done: a row a picture, in Parquet files that are only ever whole."""

from __future__ import annotations

import io
import json
import time
from typing import Any

from fullconv.errors import RunError
from fullconv.scale.storage import Place, import_arrow

FOLDER = "manifest"
JOB = "batch.json"
ROWS, SECONDS = 2000, 15.0
"""A file is written after so many rows, or so many seconds."""


class Manifest:
    """The manifest of a folder of results.

    Args:
        place: The folder of results.
        job: What must be the same for a job to go on: model and settings.
        resume: Go on where a manifest is.

    Raises:
        RunError: There is a manifest and this is no resume, or it is another job's.
    """

    def __init__(self, place: Place, job: dict[str, Any], resume: bool) -> None:
        self.place = place
        before = place.read(JOB)
        if before is not None and not resume:
            raise RunError(f"{place.url}: holds results of a batch job. Go on with it by --resume, or give another -o.")
        if before is not None:
            _compare(json.loads(before), job, place.url)
        self.done: set[str] = set()
        self.failures: list[tuple[str, str]] = []
        """Input and reason of what an earlier attempt could not do."""
        self._next = 0
        self._rows: list[dict[str, Any]] = []
        self._written = time.monotonic()
        for name in place.names(FOLDER, ".parquet"):
            self._take(name)
        if before is None:
            place.write(JOB, (json.dumps(job, indent=1) + "\n").encode())

    def _take(self, name: str) -> None:
        pyarrow = import_arrow()
        content = self.place.read(name)
        assert content is not None
        table = pyarrow.parquet.read_table(io.BytesIO(content), columns=["input", "status", "reason"])
        self.done.update(table.column("input").to_pylist())
        columns = zip(*(table.column(key).to_pylist() for key in ("input", "status", "reason")), strict=True)
        self.failures += [(path, reason) for path, status, reason in columns if status == "failed"]
        self._next = max(self._next, int(name.rpartition("-")[2].removesuffix(".parquet")) + 1)

    def add(self, row: dict[str, Any]) -> bool:
        """Add a picture's row unless it is there already; say whether it was added."""
        if row["input"] in self.done:
            return False
        self.done.add(row["input"])
        self._rows.append(row)
        if len(self._rows) >= ROWS or time.monotonic() - self._written > SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the rows that are not on disk yet."""
        self._written = time.monotonic()
        if not self._rows:
            return
        pyarrow = import_arrow()
        schema = pyarrow.schema([
            ("input", pyarrow.string()), ("output", pyarrow.string()), ("status", pyarrow.string()),
            ("reason", pyarrow.string()), ("pixels", pyarrow.list_(pyarrow.int64())), ("seconds", pyarrow.float64()),
        ])  # fmt: skip
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self._rows, schema=schema), buffer)
        self.place.write(f"{FOLDER}/part-{self._next:06}.parquet", buffer.getvalue())
        self._next += 1
        self._rows = []


def _compare(before: dict[str, Any], job: dict[str, Any], url: str) -> None:
    for key, value in job.items():
        if before.get(key) != value:
            raise RunError(
                f"{url}: this job was begun with {key} = {before.get(key)}, not {value}. Go on with the same, or give"
                " another -o."
            )
