from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.data.config import parse_settings
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.splits import by_lists, check_folds, choose_fold, hash_order, hold_out, straddling, with_groups
from fullconv.errors import DataError

stems = st.lists(st.text("abcdef0123456789_", min_size=1, max_size=6), min_size=1, max_size=60, unique=True)


def sample(stem: str, group: str | None = None) -> Sample:
    return Sample(stem, Path("/d/images") / f"{stem}.png", {"": MaskFile(Path("/d/masks") / f"{stem}.png")}, group)


def names(samples: list[Sample]) -> list[str]:
    return [s.stem for s in samples]


def test_the_hash_is_the_same_on_every_machine():
    assert hash_order("a") == 0xCA978112CA1BBDCA  # the first 8 bytes of SHA-256 of "a"


@given(stems)
def test_a_fifth_is_held_out_whatever_the_order(all_stems):
    samples = [sample(stem) for stem in all_stems]
    train, val = hold_out(samples)
    assert sorted(names(train) + names(val)) == sorted(all_stems)
    count = len(samples)
    assert len(val) == 0 if count == 1 else 1 <= len(val) <= max(1, 0.3 * count)
    assert count < 10 or len(val) >= 0.1 * count
    assert names(hold_out(samples[::-1])[1]) == names(val)


def test_about_a_fifth_of_many_is_held_out_by_the_hash_alone():
    samples = [sample(f"{i:05d}") for i in range(5000)]
    val = set(names(hold_out(samples)[1]))
    assert 900 < len(val) < 1100
    assert val == {s.stem for s in samples if hash_order(s.stem) < 0.2 * 2**64}


@settings(max_examples=60)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60), st.integers(2, 4))
def test_a_group_never_straddles(groups, folds):
    samples = [sample(f"{i:03d}", group) for i, group in enumerate(groups)]
    splits = [hold_out(samples)]
    if len(set(groups)) >= folds:
        splits += [choose_fold(samples, folds, fold) for fold in range(folds)]
    for train, val in splits:
        assert not {s.group for s in train} & {s.group for s in val}
        assert len(train) + len(val) == len(samples)
        assert bool(val) == (len(set(groups)) > 1)


@given(stems, st.integers(2, 5))
def test_every_image_is_in_val_of_exactly_one_fold(all_stems, folds):
    samples = [sample(stem) for stem in all_stems]
    if len(samples) < folds:
        with pytest.raises(DataError, match=f"folds = {folds} needs as many images, there are {len(samples)}"):
            choose_fold(samples, folds, 0)
        return
    parts = [names(choose_fold(samples, folds, fold)[1]) for fold in range(folds)]
    assert sorted(stem for part in parts for stem in part) == sorted(all_stems)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("folds", "fold", "words"),
    [
        (None, 1, "fold = 1 needs folds"),
        (5, None, "folds = 5 needs the part that is val. Set fold to 0 to 4"),
        (1, 0, "folds = 1 is no split"),
        (5, 5, "fold 5 does not exist: with folds = 5 they are 0 to 4"),
        (5, -1, "fold -1 does not exist"),
    ],
)
def test_folds_that_do_not_go_together_are_refused(folds, fold, words):
    with pytest.raises(DataError, match=words):
        check_folds(folds, fold)
    check_folds(None, None)
    check_folds(5, 4)


def grouped(root: Path, groups: str, *all_stems: str) -> list[str | None]:
    keys = parse_settings({"groups": groups}, "data.toml")
    return [s.group for s in with_groups({"train": [sample(stem) for stem in all_stems]}, keys, root)["train"]]


def test_groups_come_from_an_expression_or_a_csv(tmp_path):
    assert grouped(tmp_path, r"^(site\d+)_", "site1_a", "site2_b", "inner/site1_c") == ["site1", "site2", "site1"]
    assert grouped(tmp_path, r"^[a-z]+", "ab1", "ab2") == ["ab", "ab"]
    (tmp_path / "groups.csv").write_text("stem,group\na.png,one\nb,two\n", encoding="utf-8-sig")
    assert grouped(tmp_path, "groups.csv", "a", "b") == ["one", "two"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("^(x", r"data\.toml: groups = '\^\(x' is no regular expression"),
        ("^(zzz)_", r"groups = '\^\(zzz\)_' does not match 1 image, as a1\. Give every image a group"),
        ("nowhere.csv", r"nowhere\.csv: cannot be read"),
        ("../x.csv", r"data\.toml: groups: '\.\./x\.csv' leaves the data folder"),
        ("short.csv", r"short\.csv, line 2: has no group\. Write lines stem,group"),
        ("other.csv", r"other\.csv: has no group for 1 image, as a1"),
    ],
)
def test_invalid_groups_are_reported(tmp_path, groups, words):
    (tmp_path / "short.csv").write_text("a1,x\nb\n")
    (tmp_path / "other.csv").write_text("b,x\n")
    with pytest.raises(DataError, match=words):
        grouped(tmp_path, groups, "a1")


def listed(root: Path, **lists: str):
    for split, text in lists.items():
        (root / f"{split}.txt").write_text(text)
    keys = parse_settings({"splits": {split: f"{split}.txt" for split in lists}}, "data.toml")
    pool = [
        Sample(s, root / "images" / f"{s}.png", {"": MaskFile(root / "masks" / f"{s}.png")})
        for s in ("a", "b c", "d/e")
    ]
    return by_lists({"": pool}, keys, root)


@pytest.mark.parametrize(
    "line", ["b c", "b c.png", "images/b c.png", "./images/b c.png", "/somewhere/else/b c.png", "\ufeffb c"]
)
def test_a_line_of_a_list_is_a_stem_or_a_path(tmp_path, line):
    splits, _ = listed(tmp_path, train="a\nd/e\n", val=line)
    assert names(splits["val"]) == ["b c"]
    assert names(splits["train"]) == ["a", "d/e"]


@pytest.mark.parametrize(
    "line", ["images/a.png masks/a.png", "a.png,a_mask.png", "/SegNet/images/a.png\t/SegNet/x.png"]
)
def test_a_line_may_name_image_and_mask(tmp_path, line):
    assert names(listed(tmp_path, train=line)[0]["train"]) == ["a"]


def test_unlisted_images_are_omitted_and_reported_and_missing_ones_are_errors(tmp_path):
    splits, problems = listed(tmp_path, train="a\nzz\n")
    assert splits == {"train": splits["train"]}
    assert {(p.code, p.severity, p.count, p.files) for p in problems} == {
        ("missing-listed", "error", 1, ("zz",)),
        ("unlisted", "note", 2, ("b c", "d/e")),
    }


def test_lines_that_repeat_an_image_and_blank_ones_are_named_and_do_not_count(tmp_path):
    splits, problems = listed(tmp_path, train="a\n\n  \nimages/a.png\nb c\n\n", val="d/e\n\n\n")
    assert {split: names(members) for split, members in splits.items()} == {"train": ["a", "b c"], "val": ["d/e"]}
    assert [(p.code, p.severity, p.files) for p in problems] == [
        ("omitted-line", "note", ("a",)),
        ("omitted-line", "note", ("train.txt, line 2", "train.txt, line 3")),
    ]


@pytest.mark.parametrize("line", ['""', ".png", "/", ",", "../", "a.png.", "../c.png"])
def test_lines_that_name_no_image_are_errors_with_the_line(tmp_path, line):
    _, problems = listed(tmp_path, train=f"a\nb c\nd/e\n{line}\n")
    assert [(p.code, p.severity, p.files) for p in problems] == [("missing-listed", "error", (line,))]


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("../elsewhere/a.png", "note"),
        ("/nowhere/a.png", "note"),
        ("D:\\x\\a.png D:\\x\\b.png", "note"),
        ("../other/a.png", "warning"),
        ("images/../../other/a.png", "warning"),
        ("images/../images/a.png", None),
        ("/images/a.png", None),
        ("{root}/images/a.png", None),
    ],
)
def test_a_path_out_of_the_data_folder_is_reported_and_warned_of_where_it_is_another_image(tmp_path, line, severity):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").touch()
    (root := tmp_path / "data").mkdir()
    line = line.format(root=root)
    splits, problems = listed(root, train=f"{line}\nb c\nd/e\n")
    assert names(splits["train"]) == ["a", "b c", "d/e"]
    expected = [] if severity is None else [("path-mended", severity, (line,))]
    assert [(p.code, p.severity, p.files) for p in problems] == expected


def test_a_image_on_two_lists_and_a_list_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"val\.txt: a is in train, too\. Remove it from one list"):
        listed(tmp_path, train="a\n", val="a\n")
    keys = parse_settings({"splits": {"train": "nowhere.txt"}}, "data.toml")
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read"):
        by_lists({"": [sample("a")]}, keys, tmp_path)


def test_groups_in_several_splits_are_an_error():
    splits = {"train": [sample("a", "g1"), sample("b", "g2")], "val": [sample("c", "g1")]}
    (found,) = straddling(splits)
    assert (found.code, found.severity, found.files) == ("group-straddles", "error", ("g1",))
    assert straddling({"train": [sample("a", "g1")], "val": [sample("b", "g2"), sample("c")]}) == []
