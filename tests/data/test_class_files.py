from __future__ import annotations

from pathlib import Path

import pytest
from doctor.sets import CLASSES, COLORS, NAMES, colored, save

from fullconv.data import examine
from fullconv.data.config import read_classes
from synthetic.scenes import STEMS, assert_read, assert_refused, pairs, scene


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_text_files_of_windows_are_read(tmp_path, encoding):
    pairs(tmp_path)
    (tmp_path / "data.toml").unlink()
    (tmp_path / "classes.txt").write_bytes("\r\n".join([*NAMES, ""]).encode(encoding))
    (tmp_path / "a.txt").write_bytes("\r\n".join(f"images\\{stem}.jpg" for stem in STEMS[:4]).encode(encoding))
    (tmp_path / "b.txt").write_bytes("\r\n".join(f"{stem}.jpg 1" for stem in STEMS[4:]).encode(encoding))
    (tmp_path / "data.toml").write_bytes('splits = { train = "a.txt", val = "b.txt" }\r\n'.encode(encoding))
    assert_read(tmp_path, splits={"train": 4, "val": 2})


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.with_name("Data.toml").write_text(CLASSES)])
def test_a_misnamed_data_toml_is_reported(tmp_path, make):
    pairs(tmp_path, named=False)
    make(tmp_path / "data.toml")
    assert_refused(tmp_path, "Make it a file named data.toml")


@pytest.mark.parametrize("form", ["{i} {name}", "{i}: {name}", "{i},{name}", "{j}. {name}"])
def test_indices_before_class_names_are_removed(tmp_path, form):
    pairs(tmp_path, named=False)
    lines = [form.format(i=i, j=i + 1, name=name) for i, name in enumerate(NAMES)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    assert_read(tmp_path)


def test_other_numbers_before_class_names_stay(tmp_path):
    (tmp_path / "classes.txt").write_text("7 road\n8 sidewalk\n11 building\n12 wall\n")
    pairs(tmp_path, named=False)
    assert examine(tmp_path).dataset.classes[0] == "7 road"


@pytest.mark.parametrize("name", ["class_dict.csv", "label_colors.txt"])
@pytest.mark.parametrize("void", [False, True])
def test_color_tables_of_public_sets_define_the_classes(tmp_path, name, void):
    rows = [(name, *color) for name, color in zip(NAMES, COLORS, strict=True)]
    rows += [("Void", 7, 7, 7)] if void else []
    csv_lines = "\n".join(["name, r, g, b", *(", ".join(map(str, row)) for row in rows)])
    lines = "\n".join(f"{r} {g} {b}\t{label}" for label, r, g, b in rows)
    (tmp_path / name).write_text(csv_lines if name.endswith(".csv") else lines)
    pairs(tmp_path, named=False)
    for stem in STEMS:
        save(colored(scene(stem).labels), tmp_path / "masks" / f"{stem}.png")
    assert_read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["group,stem\n{g},{s}", "stem;group\n{s};{g}", "filename,date,patient_id\n{s}.jpg,2020,{g}", "{s}\t{g}", "{s},{g}"],
)
def test_tables_of_groups_are_read_by_their_heading(tmp_path, text):
    pairs(tmp_path)
    head, _, row = text.rpartition("\n")
    (tmp_path / "g.csv").write_text(
        "\n".join([head, *(row.format(s=s, g=f"site{i % 3}") for i, s in enumerate(STEMS))])
    )
    (tmp_path / "data.toml").write_text(CLASSES + 'groups = "g.csv"\n')
    groups = {sample.image.stem: sample.group for sample in examine(tmp_path).dataset.samples("all")}
    assert groups == {stem: f"site{i % 3}" for i, stem in enumerate(STEMS)}


@pytest.mark.parametrize(
    ("text", "words"),
    [("scene_a,2020,x\n", "more than two columns"), ("scene_a,x\nscene_a,y\n", "line 2: scene_a is in group x, too")],
)
def test_ambiguous_tables_of_groups_are_refused(tmp_path, text, words):
    pairs(tmp_path)
    (tmp_path / "g.csv").write_text(text)
    (tmp_path / "data.toml").write_text(CLASSES + 'groups = "g.csv"\n')
    assert_refused(tmp_path, words)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"road"\n"sky"\n', ["road", "sky"]),
        ("'road',\n'sky',\n", ["road", "sky"]),
        ("0 road\n2 tree\n1 sky\n", ["road", "sky", "tree"]),
        ("2: sky\n1: road\n", ["road", "sky"]),
        ("7 road\n8 sky\n", ["7 road", "8 sky"]),  # ids of another table are no indices
        ("0 road\n0 sky\n", ["0 road", "0 sky"]),
    ],
)
def test_quotes_and_numbers_are_no_part_of_names(tmp_path, text, names):
    (tmp_path / "classes.txt").write_text(text)
    assert read_classes(tmp_path / "classes.txt")[0] == names


def test_colours_follow_their_names_into_the_order_of_the_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("1 sky 0 0 255\n0 road 9 9 9\n")
    assert read_classes(tmp_path / "classes.txt") == (["road", "sky"], [(9, 9, 9), (0, 0, 255)])
