"""Write the table of checks.md from the catalog: python docs/reference/make_checks.py."""

from pathlib import Path

from fullconv.data.checks.catalog import as_markdown

PAGE = Path(__file__).with_name("checks.md")

if __name__ == "__main__":
    prose = PAGE.read_text(encoding="utf-8").partition("| code |")[0]
    PAGE.write_text(prose + as_markdown(), encoding="utf-8")
