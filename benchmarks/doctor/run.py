"""Check recall and false alarms of `fullconv check`: seed every frozen fault alone into a fresh healthy set, and check it.

    python benchmarks/doctor/run.py [--only TEXT] [--processes 2] [--save NAME]

Prints the faults found and missed, the alarms in healthy sets and in sound oddities, and the fixes that work. A fault is
found where one of its own codes is reported and the exit code agrees with the severities.
A fix works where exit code 0
without errors and warnings follows. Lines for data.toml and deletions are applied as printed; fixes in prose are judged by
restoring the files that the problem names. `--save` keeps the figures in `benchmarks/results/NAME.json`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from doctor import export_faults, faults
from doctor.trial import ALL_SETS, Outcome, try_fault, try_healthy

CORPUS = [*faults.FAULTS, *export_faults.FAULTS]


def try_one(index: int) -> Outcome:
    """Try one fault of the corpus in a folder and with a cache of its own; the outcome without the (unpicklable) seed."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FULLCONV_CACHE"] = f"{folder}/cache"
        outcome = try_fault(CORPUS[index], Path(folder))
    return outcome._replace(fault=outcome.fault._replace(seed=None))


def healthy(base: str) -> list[str]:
    """Return the alarms in one healthy set."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FULLCONV_CACHE"] = f"{folder}/cache"
        return try_healthy(base)


def summarize(outcomes: list[Outcome], alarms: dict[str, list[str]]) -> dict[str, Any]:
    """Count what was found, missed and fixed."""
    real = [o for o in outcomes if o.fault.codes]
    sound = [o for o in outcomes if not o.fault.codes]
    printed = [o for o in real if o.fault.remedy in ("lines", "delete")]
    prose = [o for o in real if o.fault.remedy not in ("lines", "delete", None)]
    return {
        "faults": len(real),
        "found": sum(o.found for o in real),
        "missed": [
            f"{o.fault.base}: {o.fault.kind}: reported {', '.join(o.codes) or 'nothing'}" for o in real if not o.found
        ],
        "healthy_sets": len(alarms),
        "alarms": {base: codes for base, codes in alarms.items() if codes},
        "sound_oddities": len(sound),
        "alarms_in_sound_oddities": {f"{o.fault.base}: {o.fault.kind}": o.others for o in sound if o.others},
        "faults_with_other_alarms": sum(bool(o.others) for o in real),
        "fixes_as_printed": len(printed),
        "fixes_as_printed_that_work": sum(bool(o.mended) for o in printed),
        "fixes_in_prose": len(prose),
        "fixes_in_prose_that_work": sum(bool(o.mended) for o in prose),
        "fixes_that_fail": [f"{o.fault.base}: {o.fault.kind}: {o.remedy[:200]}" for o in real if o.mended is False],
    }


def main() -> None:
    """Try all, and print what was found, missed and alarmed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="try the faults whose 'set: kind' holds this text")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--save", default="", metavar="NAME")
    arguments = parser.parse_args()
    chosen = [i for i, fault in enumerate(CORPUS) if arguments.only in f"{fault.base}: {fault.kind}"]
    with ProcessPoolExecutor(arguments.processes) as pool:
        alarms = dict(zip(ALL_SETS, pool.map(healthy, ALL_SETS), strict=True))
        outcomes = list(pool.map(try_one, chosen, chunksize=4))
    found = summarize(outcomes, alarms)
    for key, value in found.items():
        lines = (
            value
            if isinstance(value, list)
            else [f"{k}: {v}" for k, v in value.items()]
            if isinstance(value, dict)
            else None
        )
        print(f"{key}: {value if lines is None else len(lines)}", *(lines or []), sep="\n  ")
    if arguments.save:
        from harness import keep

        print(keep(arguments.save, found))


if __name__ == "__main__":
    main()
