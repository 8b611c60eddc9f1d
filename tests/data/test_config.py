from __future__ import annotations

import pytest

from fullconv.data import open_dataset
from fullconv.data.config import DataSettings, inside, parse_settings, read_classes, read_settings
from fullconv.data.label_mapping import make_mapping
from fullconv.errors import DataError
from synthetic import file_lists
from synthetic.shapes import make_shapes

EVERY_KEY = """
format = "pairs"
classes = ["background", "crack"]
palette = [[0, 0, 0], [255, 0, 0]]
ignore_index = [254, 7]
values = { 0 = "background", 255 = "crack", 7 = "void" }
unlabeled = "background"
groups = "^(site\\\\d+)_"
images = "photos"
masks = "labels"
mask_suffix = "_mask"
bands = [4, 3, 2]
splits = { train = "train.txt", val = "val.txt", test = "test.txt" }
mirror_pairs = [["background", "crack"]]
"""


def test_every_key_is_read(tmp_path):
    (tmp_path / "data.toml").write_text(EVERY_KEY)
    settings = read_settings(tmp_path)
    assert settings.values == {0: "background", 255: "crack", 7: "void"}
    assert settings.groups == r"^(site\d+)_"
    assert settings.bands == [4, 3, 2]
    assert settings.splits == {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    assert settings.palette == [(0, 0, 0), (255, 0, 0)]
    assert settings.mirror_pairs == [("background", "crack")]


def test_without_files_nothing_is_set(tmp_path):
    assert read_settings(tmp_path) == DataSettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "clases = []",
            r"data\.toml: there is no key 'clases'\. Did you mean 'classes'\? The keys are format, classes",
        ),
        ("class_colors = [[0, 0, 0]]", "there is no key 'class_colors'"),
        (
            'classes = ["left", "right"]\nmirror_pairs = [["left", "rigth"]]',
            r"mirror_pairs: 'rigth' is not among the classes\. Did you mean 'right'",
        ),
        ('classes = ["a", "b", "c"]\nmirror_pairs = [["a", "b"], ["c", "a"]]', "mirror_pairs: 'a' is listed twice"),
        ('classes = ["a", "b"]\nmirror_pairs = [["a", "a"]]', "mirror_pairs: 'a' is listed twice"),
        ("mirror_pairs = [[1, 2]]", r"mirror_pairs\.0\.0 = 1 is invalid"),
        ('mirror_pairs = [["a"]]', "mirror_pairs"),
        ('classes = ["a"]', "the number of classes is 1. Name 2 to 255"),
        ('classes = ["a", "a"]', "class 'a' is listed twice"),
        ('values = { 0 = "a", 1 = "b" }\npalette = [[0, 0, 0]]', "palette has 1 colours for 2 classes"),
        ("ignore_index = -1", "Use a mask value from 0 to 65535"),
        ("ignore_index = [3, 65536]", "Use a mask value from 0 to 65535"),
        ('classes = "a"', r"classes = 'a' is invalid: input should be a valid list"),
        ("classes = [1, 2]", r"classes\.0 = 1 is invalid"),
        ("ignore_index = 'x'", r"ignore_index = 'x' is invalid"),
        ("ignore_index = 1.5", r"ignore_index = 1\.5 is invalid"),
        ('classes = ["a", "b"]\npalette = [[0, 0, 0]]', "palette has 1 colours for 2 classes"),
        ('classes = ["a", "b"]\npalette = [[0, 0, 0], [0, 0, 256]]', "three from 0 to 255"),
        ('values = { x = "a" }', "'x' is not a mask value. Use whole numbers from 0"),
        (
            'classes = ["road", "sky"]\nvalues = { 0 = "roud" }',
            r"values: 0 = 'roud' is not among the classes\. Did you mean 'road'",
        ),
        ('values = { 0 = "a" }\ncolors = { "#000000" = "a" }', "values .* and colors .* exclude each other"),
        ("values = {}", "values is empty"),
        ('colors = { "red" = "a" }', "'red' is not a colour; write it as '#rrggbb'"),
        ('classes = ["a", "b"]\nunlabeled = "c"', "unlabeled = 'c' is neither a class nor 'void'"),
        ('classes = ["a", "void"]\nvalues = { 0 = "a", 1 = "void" }', "'void' means no class in values and colors"),
        ("bands = [0, 1]", "bands are counted from 1, so 0 does not exist"),
        ("bands = []", r"bands = \[\] is invalid"),
        ('images = "../other"', "images: '../other' leaves the data folder"),
        ('masks = "/etc"', "masks: '/etc' leaves the data folder"),
        ('masks = "C:/x"', "leaves the data folder"),
        ('images = ""', "the path is empty"),
        ('splits = { train = "../../x" }', "splits.train: '../../x' leaves the data folder"),
        ('splits = { trian = "x" }', r"there is no split 'trian'\. Did you mean 'train'\?"),
        ("classes = [", "data.toml: not valid TOML"),
        ('classes = ["\xff"]', "not valid TOML: 'utf-8' codec"),
    ],
)
def test_an_invalid_data_toml_is_reported_with_key_and_reason(tmp_path, text, words):
    (tmp_path / "data.toml").write_text(text, encoding="latin-1")  # so that one is not UTF-8
    with pytest.raises(DataError, match=words) as caught:
        read_settings(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("path", ["a/b", "a\\b", "./a/b"])
def test_paths_inside_are_kept_with_forward_slashes(path):
    assert inside(path) == "a/b"


def test_classes_txt_names_classes(tmp_path):
    (tmp_path / "classes.txt").write_text("# names\nroad\n\nbig tree\n", encoding="utf-8-sig")
    assert read_settings(tmp_path).class_names() == ("road", "big tree")
    (tmp_path / "data.toml").write_text('classes = ["a", "b"]')
    assert read_settings(tmp_path).class_names() == ("a", "b")


@pytest.mark.parametrize("form", ["big tree 0 128 0", "big tree, 0, 128, 0", "big tree\t0\t128\t0"])
def test_colours_of_classes_txt_paint_and_decode(tmp_path, form):
    (tmp_path / "classes.txt").write_text(f"road 255 0 0\n{form}\n")
    settings = read_settings(tmp_path)
    assert settings.class_names() == ("road", "big tree")
    coding = make_mapping(settings, ("road", "big tree"))
    assert coding.labels.palette == ((255, 0, 0), (0, 128, 0))
    assert coding.colors.get(0x008000) == 1


def test_lines_of_classes_txt_without_a_colour_are_painted_in_one_of_their_own(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky 1 2 3\nbig tree\n")
    settings = read_settings(tmp_path)
    assert settings.class_names() == ("road", "sky", "big tree")
    coding = make_mapping(settings, ("road", "sky", "big tree"))
    assert coding.labels.palette == ((0, 0, 0), (1, 2, 3), (0, 128, 0))
    assert settings.class_colors is None  # not all masks of colours could be decoded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"road 1 2 300\n", r"classes\.txt, line 1: 'road 1 2 300' has a number over 255"),
        (b"\xff\xfe\x00", r"classes\.txt: cannot be read.*Save it as UTF-8 text"),
    ],
)
def test_an_invalid_classes_txt_is_reported(tmp_path, text, words):
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=words):
        read_classes(tmp_path / "classes.txt")


def test_names_follow_from_values_or_colors():
    assert parse_settings({"values": {"7": "b", "0": "a", "9": "void"}}, "x").class_names() == ("a", "b")
    assert parse_settings({"colors": {"#ff0000": "b", "#000000": "a"}}, "x").class_names() == ("b", "a")
    assert DataSettings().class_names() is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('classes = ["a", " "]', "empty name"),
        ('classes = ["a", "b"]\nignore_index = [255, 7]\nvalues = { 0 = "a", 7 = "b" }', "7 is void by ignore_index"),
    ],
)
def test_contradictions_in_data_toml_are_errors(tmp_path, lines, words):
    file_lists.make(tmp_path, "x {}.png", "x {}_mask.png")
    (tmp_path / "data.toml").write_text(lines)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_255_may_be_named_as_void_and_as_a_class(tmp_path):
    file_lists.make(tmp_path, "x {}.png", "x {}_mask.png")
    table = 'values = { 0 = "a", 1 = "b", 2 = "b", 255 = "b" }'
    (tmp_path / "data.toml").write_text(f"ignore_index = 255\n{table}")
    assert list(open_dataset(tmp_path).classes) == ["a", "b"]


def test_a_data_toml_with_a_hidden_suffix_is_reported(tmp_path):
    file_lists.make(tmp_path, "x {}.png", "x {}_mask.png")
    (tmp_path / "data.toml").rename(tmp_path / "data.toml.txt")
    with pytest.raises(DataError, match=r"data\.toml\.txt: is not read"):
        open_dataset(tmp_path)


def test_mirror_pairs_of_counted_classes_name_these(tmp_path):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False)
    (root / "data.toml").write_text('mirror_pairs = [["class1", "class2"]]\n')
    assert open_dataset(root).labels[""].mirror_order == [0, 2, 1, 3]
    (root / "data.toml").write_text('mirror_pairs = [["class1", "class9"]]\n')
    with pytest.raises(DataError, match=r"data\.toml: mirror_pairs: 'class9' is not among the classes"):
        open_dataset(root)
