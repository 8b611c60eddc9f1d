"""What `fullconv check` finds of seeded faults, what it says of healthy sets, and what its remedies are worth.

    python benchmarks/doctor_recall.py [--exports] [--name NAME] [--only WORDS]

The faults are those of `tests/faults.py`, with `--exports` those of `tests/export_faults.py`. The table goes to the end of
`benchmarks/doctor.md` (`benchmarks/doctor_exports.md`), the figures to `results/`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from export_faults import EXPORTS
from export_faults import FAULTS as EXPORT_FAULTS
from fault_sets import SETS
from fault_trial import Outcome, try_all, try_healthy
from faults import FAULTS

HEADING = "## Fault by fault"


def figures(outcomes: list[Outcome], healthy: dict[str, list[str]]) -> dict[str, Any]:
    """Count."""
    printed = [o for o in outcomes if o.fault.remedy in ("lines", "delete")]
    words = [o for o in outcomes if o.fault.remedy not in ("lines", "delete", None)]
    return {
        "kinds": len({o.fault.kind for o in outcomes}),
        "faults": len(outcomes),
        "found": sum(o.found for o in outcomes),
        "false_alarms_in_healthy_sets": healthy,
        "faults_with_other_alarms": sum(bool(o.others) for o in outcomes),
        "remedies_as_printed": len(printed),
        "remedies_as_printed_that_work": sum(bool(o.mended) for o in printed),
        "remedies_in_words": len(words),
        "remedies_in_words_that_work": sum(bool(o.mended) for o in words),
    }


def yes(value: bool | None) -> str:
    """A word for the table."""
    return "-" if value is None else "yes" if value else "**no**"


def table(outcomes: list[Outcome]) -> str:
    """A row a fault."""
    rows = [
        f"| {o.fault.kind} | {o.fault.base} | {' or '.join(sorted(o.fault.codes))} | {yes(o.found)} "
        f"| {', '.join(o.codes) or 'nothing'} | {', '.join(o.others)} | {o.fault.remedy or '-'} | {yes(o.mended)} |"
        for o in outcomes
    ]
    head = "| fault | set | expected | found | said | other alarms | remedy | check passes |\n|---|---|---|---|---|---|---|---|"
    return "\n".join([head, *rows, ""])


def main() -> None:
    """Try all, print what failed, and keep the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--exports", action="store_true", help="the second set of faults, in formats of annotation tools"
    )
    parser.add_argument("--name", default="")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    chosen, sets = (EXPORT_FAULTS, EXPORTS) if arguments.exports else (FAULTS, SETS)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FULLCONV_CACHE"] = cache
        healthy = {base: try_healthy(base) for base in sets}
        outcomes = try_all(fault for fault in chosen if arguments.only in f"{fault.base}: {fault.kind}")
    fine = [o for o in outcomes if not o.fault.codes]
    outcomes = [o for o in outcomes if o.fault.codes]
    found = figures(outcomes, healthy)
    if fine:
        found |= {"odd_but_sound": len(fine), "false_alarms_in_odd_but_sound": sum(bool(o.others) for o in fine)}
    for o in outcomes:
        if not o.found or o.mended is False:
            print(
                f"{o.fault.base}: {o.fault.kind}: found {o.found}, mended {o.mended}, said {o.codes} {o.remedy[:200]}"
            )
    for key, value in found.items():
        print(f"{key}: {value}")
    if not arguments.only:
        page = Path(__file__).with_name("doctor_exports.md" if arguments.exports else "doctor.md")
        kept = page.read_text(encoding="utf-8").partition(HEADING)[0]
        page.write_text(f"{kept}{HEADING}\n\n{table(outcomes)}", encoding="utf-8")
        print(keep(arguments.name or ("doctor_recall_exports" if arguments.exports else "doctor_recall"), found))


if __name__ == "__main__":
    main()
