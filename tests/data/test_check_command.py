from __future__ import annotations

from fullconv.cli.program import main
from made import make_shapes


def test_names_with_brackets_are_printed_as_they_are(tmp_path, capsys):
    root = make_shapes(tmp_path / "data [bold]", "flat", pictures=4)
    assert main(["check", str(root)]) == 0
    assert "data [bold]: pairs, 4 classes" in capsys.readouterr().out
