"""Write the table of checks.md from the catalog: python docs/reference/make_checks.py."""

from pathlib import Path

from fullconv.data.checks.catalog import CHECKS

PAGE = Path(__file__).with_name("checks.md")


def as_markdown() -> str:
    """Return the table of all checks."""
    rows = ["| code | severity | meaning | fix |", "|---|---|---|---|"]
    for check in CHECKS:
        star = " \\*" if check.severity == "error" and check.scope in ("masks", "dataset") else ""
        severity = f"{check.severity}{star}" + (f"; {check.also}" if check.also else "")
        meaning = " ".join(f"{text[0].upper()}{text[1:]}." for text in (check.cause, check.evidence) if text)
        rows.append(f"| `{check.code}` | {severity} | {meaning} | {check.fix} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    prose = PAGE.read_text(encoding="utf-8").partition("| code |")[0]
    PAGE.write_text(prose + as_markdown(), encoding="utf-8")
