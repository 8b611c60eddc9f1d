"""Prediction over files: which pictures, under which names, and what is written for them."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.card import Card, Labels
from fullconv.errors import InputError, ModelFileError, OutputError
from fullconv.labels import read_label_map
from fullconv.nn import build
from fullconv.predict import Job, Plan, Tally, expand, parse_shard, predict_files, read_list
from fullconv.predict.outputs import count_file, count_pixels, encode
from fullconv.segmenter import Segmenter, build_settings

COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(3)
    network = build("fcn8s", backbone="tiny", num_classes=3, width=0.25)
    return Segmenter.from_network(network, ["a", "b", "c"], palette=COLORS, device="cpu")


@pytest.fixture(scope="module")
def two_heads() -> Segmenter:
    torch.manual_seed(3)
    network = build("fcn8s", backbone="tiny", num_classes={"sort": 3, "state": 2}, width=0.25)
    heads = {"sort": Labels(classes=("a", "b", "c")), "state": Labels(classes=("dry", "wet"))}
    card = Card(
        variant="fcn8s", backbone="tiny", network=build_settings(network), classes=heads["sort"].classes, heads=heads
    )
    return Segmenter(network, card, "cpu")


def picture(path: Path, size: tuple[int, int] = (24, 32), seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def names(plan: Plan, *endings: str) -> dict[str, str]:
    plan.settle(endings or (".png",))
    return {Path(found.path).as_posix(): found.name for found in plan}


def log(out: Path, name: str = "predictions.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text("utf-8").splitlines()]


def rows(out: Path, name: str = "summary.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / name).read_text("utf-8"))))


def written(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


# --- which pictures --------------------------------------------------------------------------------------------------


def test_a_folder_stands_for_its_pictures_in_order_without_clutter(tmp_path):
    for name in ("b/z.JPG", "b/a.png", "c.tif", "notes.txt", "a.json", ".hidden.png", ".git/x.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [relative for _, relative in expand(str(tmp_path), tmp_path / "out")]
    assert found == ["c.tif", "b/a.png", "b/z.JPG"]


def test_a_glob_keeps_what_follows_its_fixed_part(tmp_path):
    for name in ("x/a.png", "x/deep/b.jpg", "y/a.png", "x/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    out = tmp_path / "out"

    def found(pattern: str) -> list[str]:
        return [relative for _, relative in expand(f"{tmp_path}/{pattern}", out)]

    assert found("*/a.png") == ["x/a.png", "y/a.png"]
    assert found("x/*.png") == ["a.png"]
    assert found("x/**/*.jpg") == ["deep/b.jpg"]
    assert sorted(found("x/**")) == ["a.png", "deep/b.jpg"]
    assert sorted(found("?/")) == ["x/a.png", "x/deep/b.jpg", "y/a.png"]  # folders that match stand for their pictures
    assert found("z*") == []


def test_a_name_that_exists_is_taken_literally(tmp_path):
    picture(tmp_path / "a[1].png")
    picture(tmp_path / "a1.png")
    assert [relative for _, relative in expand(f"{tmp_path}/a[1].png", tmp_path)] == ["a[1].png"]


@pytest.mark.parametrize("link", [False, True])
def test_results_inside_the_folder_given_are_not_read_again(tmp_path, link):
    picture(tmp_path / "photos/a.png")
    picture(tmp_path / "photos/labels/old.png")
    given = tmp_path / "photos"
    if link:
        given = tmp_path / "linked"
        given.symlink_to(tmp_path / "photos")
    out = tmp_path / "photos/labels"
    assert [relative for _, relative in expand(str(given), out)] == ["a.png"]
    assert [relative for _, relative in expand(f"{given}/**/*.png", out)] == ["a.png"]
    assert [relative for _, relative in expand(str(out), out)] == ["old.png"]  # unless it is what was given


def test_a_list_may_have_a_mark_windows_ends_and_empty_lines(tmp_path, monkeypatch):
    text = "\ufeffx/a.png\r\n\r\n/y/ü b.jpg\n  \nlast.png"
    (tmp_path / "list.txt").write_text(text, "utf-8", newline="")
    expected = [("x/a.png", "a.png"), ("/y/ü b.jpg", "ü b.jpg"), ("last.png", "last.png")]
    assert list(read_list(str(tmp_path / "list.txt"))) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))
    assert list(read_list("-")) == expected


def test_a_list_that_is_not_there_is_said_with_the_nearest_name(tmp_path):
    (tmp_path / "pictures.txt").write_text("")
    with pytest.raises(InputError, match=r"--list .*picture\.txt: no such file\. Did you mean 'pictures\.txt'\?"):
        list(read_list(str(tmp_path / "picture.txt")))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_list(str(tmp_path)))


def test_a_long_list_is_planned_in_constant_memory(tmp_path):
    def lines(count: int):
        return ((f"/data/{i // 100}/p{i % 7}_{i}.jpg", f"p{i % 7}_{i}.jpg") for i in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        with Plan(tmp_path / "out") as plan:
            assert plan.add(lines(count)) == count
            plan.settle([".png"])
            assert sum(1 for _ in plan) == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(100)
    assert peak(20_000) < peak(2_000) + 300_000  # 20,000 names as Python strings take 3 MB


# --- under which names -----------------------------------------------------------------------------------------------


def test_names_that_collide_keep_their_ending_and_only_they(tmp_path):
    with Plan(tmp_path) as plan:
        plan.add([("/p/a.jpg", "a.jpg"), ("/p/a.png", "a.png"), ("/p/b.png", "b.png"), ("/p/x/a.png", "x/a.png")])
        assert list(names(plan).values()) == ["a.jpg", "a.png", "b", "x/a"]
    with Plan(tmp_path) as plan:  # a third whose plain name is the one that the first one got
        plan.add([("/p/a.jpg", "a.jpg"), ("/p/a.png", "a.png"), ("/p/a.jpg.tif", "a.jpg.tif")])
        assert list(names(plan).values()) == ["a.jpg", "a.png", "a.jpg.tif"]


def test_names_that_collide_with_their_ending_keep_the_folders_above(tmp_path):
    listed = ["/p/1/x/im.jpg", "/p/2/x/im.jpg", "/p/3/y/im.jpg", "/p/3/y/im.png"]
    with Plan(tmp_path) as plan:
        plan.add((path, path.rpartition("/")[2]) for path in listed)
        assert list(names(plan).values()) == ["1/x/im.jpg", "2/x/im.jpg", "y/im.jpg", "im.png"]


def test_an_overlay_never_has_the_name_of_another_label_map(tmp_path):
    found = [("/p/a.jpg", "a.jpg"), ("/p/a.overlay.jpg", "a.overlay.jpg")]
    with Plan(tmp_path) as plan:
        plan.add(found)
        assert list(names(plan, ".png").values()) == ["a", "a.overlay"]
    with Plan(tmp_path) as plan:
        plan.add(found)
        assert list(names(plan, ".png", ".overlay.png").values()) == ["a", "a.overlay.jpg"]
    with Plan(tmp_path) as plan:  # one that has its name from a collision
        plan.add([*found[:1], ("/p/1/a.overlay", "a.overlay"), ("/p/2/a.overlay", "a.overlay")])
        named = list(names(plan, ".png", ".overlay.png").values())
        assert named == ["a.jpg", "1/a.overlay", "2/a.overlay"]


@settings(max_examples=60, deadline=None)
@example([("", "a.overlay", ""), ("", "a", ""), ("y", "a", "")], list(range(12)))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x", "y", "x/y", "a.jpg"]),
            st.sampled_from(["a", "a.jpg", "a.overlay", "a.png"]),
            st.sampled_from([".jpg", ".png", ""]),
        ),
        unique=True,
        max_size=12,
    ),
    st.permutations(range(12)),
)
def test_no_two_results_share_a_file_in_whatever_order_they_come(tmp_path_factory, parts, order):
    endings = [".png", ".overlay.png", ".npz"]
    found = [(f"/p/{folder}/{stem}{ending}", f"{stem}{ending}") for folder, stem, ending in parts]

    def named(pairs: list[tuple[str, str]]) -> dict[str, str]:
        with Plan(Path("/elsewhere")) as plan:
            plan.add(pairs)
            return names(plan, *endings)

    given_names = named(found)
    files = [name + ending for name in given_names.values() for ending in endings]
    assert len(files) == len(set(files))
    assert named([found[i] for i in order if i < len(found)]) == given_names


def test_a_file_that_is_given_twice_is_predicted_once(tmp_path):
    first = picture(tmp_path / "x/a.png")
    (tmp_path / "link.png").symlink_to(first)
    with Plan(tmp_path / "out") as plan:
        for text in (str(tmp_path / "x"), str(first), str(tmp_path / "x/../x/a.png"), str(tmp_path / "link.png")):
            assert plan.add(expand(text, tmp_path / "out")) == 1
        assert names(plan) == {first.as_posix(): "a"}


@pytest.mark.parametrize(
    ("given_path", "endings", "victim"),
    [("p", [".png"], "a.png"), ("p/a.png", [".png"], "a.png"), ("p/b.jpg", [".png", ".overlay.png"], None)],
)
def test_a_result_never_replaces_an_input(tmp_path, given_path, endings, victim):
    picture(tmp_path / "p/a.png")
    picture(tmp_path / "p/b.jpg")
    with Plan(tmp_path / "p") as plan:
        plan.add(expand(str(tmp_path / given_path), tmp_path / "p"))
        if victim is None:
            plan.settle(endings)
            return
        with pytest.raises(InputError, match=r"a\.png: is an input, and the result for .*a\.png would replace it"):
            plan.settle(endings)


def test_a_link_to_a_file_among_the_results_is_not_replaced_either(tmp_path):
    picture(tmp_path / "out/a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").symlink_to(tmp_path / "out/a.png")
    with Plan(tmp_path / "out") as plan:
        plan.add(expand(str(tmp_path / "in"), tmp_path / "out"))
        with pytest.raises(InputError, match="would replace it"):
            plan.settle([".png"])


def test_shards_part_the_pictures_by_their_relative_names():
    relatives = [f"x/{i}.png" for i in range(200)]

    def part(i: int, root: str) -> set[str]:
        with Plan(Path("/out"), (i, 3)) as plan:
            plan.add((f"{root}/{name}", name) for name in relatives)
            plan.settle([".png"])
            assert plan.count() == len(list(plan))
            return {found.name for found in plan}

    parts = [part(i, "/here") for i in (1, 2, 3)]
    assert sum(len(p) for p in parts) == len(set.union(*parts)) == 200
    assert min(len(p) for p in parts) > 40
    assert part(2, "/another/machine") == parts[1]


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/b", "1", "1/", "-1/2", "1/0"])
def test_a_shard_that_cannot_be_is_said(text):
    with pytest.raises(InputError, match=r"--shard .*: write it as i/n with i from 1 to n"):
        parse_shard(text)


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["index", "grey", "color", "original"])
def test_a_label_map_in_any_format_counts_as_it_did(tmp_path, kind):
    labels = Labels(classes=("a", "b", "c"), palette=COLORS, values={0: 0, 300: 1, 7: 2, 9: 255})
    label_map = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.uint8)
    (tmp_path / "m.png").write_bytes(encode(label_map, labels, kind))
    assert count_file(str(tmp_path / "m.png"), labels, kind).tolist() == np.bincount(label_map.ravel()).tolist()
    with Image.open(tmp_path / "m.png") as image:
        pixels = np.asarray(image)
        assert image.mode == {"index": "P", "grey": "L", "color": "RGB"}.get(kind, image.mode)
    expected = {"color": np.array(COLORS)[label_map], "original": np.array([0, 300, 7])[label_map]}
    np.testing.assert_array_equal(pixels, expected.get(kind, label_map))


def test_original_values_up_to_255_stay_8_bit(tmp_path):
    labels = Labels(classes=("a", "b"), values={0: 0, 255: 1}, ignore_index=9)
    (tmp_path / "m.png").write_bytes(encode(np.array([[0, 1]], np.uint8), labels, "original"))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[0, 255]]


def test_label_maps_are_those_of_predict_and_the_tables_say_so(segmenter, tmp_path):
    first = picture(tmp_path / "in/a.png", (40, 30))
    second = picture(tmp_path / "in/deep/b.png", (16, 16))
    out = tmp_path / "out"
    tally = predict_files(segmenter, Job([str(tmp_path / "in")], out))
    assert (tally.done, tally.skipped, tally.failed) == (2, 0, 0)
    assert written(out) == {"a.png", "deep/b.png", "summary.csv", "predictions.jsonl"}
    for source, result in ((first, out / "a.png"), (second, out / "deep/b.png")):
        expected = segmenter.predict(source)
        np.testing.assert_array_equal(read_label_map(result), expected.label_map)
        mine = [row for row in rows(out) if row["image"] == source.as_posix()]
        assert [(row["class"], int(row["pixels"])) for row in mine] == list(expected.counts().items())
        assert sum(float(row["share"]) for row in mine) == pytest.approx(1, abs=2e-6)
    assert log(out) == [
        {"input": first.as_posix(), "output": (out / "a.png").as_posix(), "status": "done", "reason": None},
        {"input": second.as_posix(), "output": (out / "deep/b.png").as_posix(), "status": "done", "reason": None},
    ]


def test_overlays_and_probabilities_lie_beside(segmenter, tmp_path):
    source = picture(tmp_path / "a.png", (20, 200))
    predict_files(segmenter, Job([str(source)], tmp_path / "out", overlay=True, probabilities=True))
    with np.load(tmp_path / "out/a.npz") as archive:
        probabilities = archive["probabilities"]
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (3, 20, 200)
    np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=2e-3)
    with Image.open(tmp_path / "out/a.overlay.png") as image:
        assert image.width == 200
        assert image.height > 20


def test_unusual_pictures_are_used_as_they_should_be_seen(segmenter, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "turned.jpg", (24, 40), exif=exif)
    Image.fromarray(np.full((10, 12), 60000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (12, 10), (20, 40, 0, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("P", (12, 10), 3).save(tmp_path / "palette.png")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "pixel.png")
    out = tmp_path / "out"
    assert predict_files(segmenter, Job([str(tmp_path)], out)).failed == 0
    sizes = {path.stem: read_label_map(path).shape for path in out.glob("*.png")}
    assert sizes == {"turned": (40, 24), "deep": (10, 12), "cmyk": (10, 12), "palette": (10, 12), "pixel": (1, 1)}


def test_bad_pictures_are_named_and_the_others_are_done(segmenter, tmp_path):
    good = picture(tmp_path / "good.png")
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    data = picture(tmp_path / "cut.jpg", (64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.new("CMYK", (4, 4)).save(tmp_path / "four.tif")
    told: list[tuple[str, str]] = []
    job = Job([str(tmp_path), str(tmp_path / "gone.png"), f"{tmp_path}/*.bmp"], tmp_path / "out")
    tally = predict_files(segmenter, job, lambda path, reason: told.append((path, reason)))
    assert tally.done >= 1
    assert tally.failed == len(told)
    failed = {Path(path).name: reason for path, reason in told}
    assert {"zero.png", "text.jpg", "cut.jpg", "gone.png", "*.bmp"} <= failed.keys()
    for path, reason in told:
        assert reason.startswith(path)
    for name, words in (("zero.png", "is empty"), ("cut.jpg", "truncated"), ("gone.png", "no such file"),
                        ("*.bmp", "matches no picture"), ("text.jpg", "text file")):  # fmt: skip
        assert words in failed[name]
    assert read_label_map(tmp_path / "out/good.png").shape == (24, 32)
    found = {Path(line["input"]).name: line for line in log(tmp_path / "out")}
    assert found["zero.png"]["status"] == "failed"
    assert found["zero.png"]["reason"] == failed["zero.png"]
    assert found["zero.png"]["output"] is None
    assert found["good.png"]["input"] == good.as_posix()


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_log_has_the_order_of_the_pictures_whatever_came_of_them(segmenter, tmp_path, batch_size):
    for number in range(9):
        picture(tmp_path / "in" / f"{number}.png")
    predict_files(segmenter, Job([str(tmp_path / "in" / "3.png"), str(tmp_path / "in" / "6.png")], tmp_path / "out"))
    for number in (1, 4, 7):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"no picture")
    told: list[str] = []
    job = Job([str(tmp_path / "in")], tmp_path / "out", skip_existing=True, batch_size=batch_size)
    predict_files(segmenter, job, lambda path, _: told.append(Path(path).stem))
    assert [(Path(line["input"]).stem, line["status"]) for line in log(tmp_path / "out")] == [
        (str(n), "failed" if n % 3 == 1 else "skipped" if n in (3, 6) else "done") for n in range(9)
    ]
    assert told == ["1", "4", "7"]
    assert list(dict.fromkeys(Path(row["image"]).stem for row in rows(tmp_path / "out"))) == list("023568")


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batches_change_nothing_and_a_bad_one_among_them_is_found(segmenter, tmp_path, batch_size):
    for i in range(5):
        picture(tmp_path / f"in/p{i}.png", (24, 32) if i != 2 else (30, 20))
    bands = np.zeros((24, 32, 5), np.uint8)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "in/p5.tif", bands, photometric="minisblack", planarconfig="contig")
    told: list[str] = []
    job = Job([str(tmp_path / "in")], tmp_path / "out", batch_size=batch_size)
    tally = predict_files(segmenter, job, lambda path, reason: told.append(reason))
    assert (tally.done, tally.failed) == (5, 1)
    assert "p5.tif: has 5 bands, the model wants 3" in told[0]
    for i in range(5):
        expected = segmenter.predict(tmp_path / f"in/p{i}.png").label_map
        assert (read_label_map(tmp_path / f"out/p{i}.png") != expected).mean() < 0.005  # a batch may round otherwise


def test_every_head_has_its_label_map_or_one_has(two_heads, tmp_path):
    source = picture(tmp_path / "a.png")
    expected = two_heads.predict(source).label_maps
    predict_files(two_heads, Job([str(source)], tmp_path / "all", overlay=True))
    assert {"a.sort.png", "a.state.png", "a.sort.overlay.png", "a.state.overlay.png"} <= written(tmp_path / "all")
    for head, label_map in expected.items():
        np.testing.assert_array_equal(read_label_map(tmp_path / f"all/a.{head}.png"), label_map)
    assert {(row["head"], row["class"]) for row in rows(tmp_path / "all")} >= {("sort", "c"), ("state", "wet")}
    assert set(log(tmp_path / "all")[0]["outputs"]) == {"sort", "state"}
    predict_files(two_heads, Job([str(source)], tmp_path / "one", head="state"))
    np.testing.assert_array_equal(read_label_map(tmp_path / "one/a.png"), expected["state"])
    with pytest.raises(ModelFileError, match="no head 'stat', it has sort, state"):
        predict_files(two_heads, Job([str(source)], tmp_path / "none", head="stat"))


def test_skip_existing_leaves_whole_results_and_still_counts_them(segmenter, tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        picture(tmp_path / "in" / name)
    out = tmp_path / "out"
    job = Job([str(tmp_path / "in")], out, skip_existing=True)
    predict_files(segmenter, job)
    before = rows(out)
    (out / "b.png").unlink()
    (out / "c.png").write_bytes((out / "c.png").read_bytes()[:40])  # left by something else than this program
    Image.new("L", (32, 24), 9).save(out / "d.png")  # no label map of these classes
    stamp = (out / "a.png").stat().st_mtime_ns
    tally = predict_files(segmenter, job)
    assert (tally.done, tally.skipped) == (3, 1)
    assert (out / "a.png").stat().st_mtime_ns == stamp
    assert rows(out) == before
    assert [line["status"] for line in log(out)] == ["skipped", "done", "done", "done"]
    more = predict_files(segmenter, Job([str(tmp_path / "in")], out, skip_existing=True, overlay=True))
    assert more.done == 4  # their overlays were not there


def test_shards_write_tables_of_their_own(segmenter, tmp_path):
    for i in range(6):
        picture(tmp_path / f"in/{i}.png", (8, 8))
    for i in (1, 2):
        predict_files(segmenter, Job([str(tmp_path / "in")], tmp_path / "out", shard=(i, 2)))
    both = [*log(tmp_path / "out", "predictions.1-of-2.jsonl"), *log(tmp_path / "out", "predictions.2-of-2.jsonl")]
    assert sorted(Path(line["input"]).name for line in both) == [f"{i}.png" for i in range(6)]
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads")
def test_threads_for_files_stand_behind_those_of_the_network(segmenter, tmp_path, monkeypatch):
    paths = [picture(tmp_path / f"{index}.png") for index in range(3)]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    seen = {}
    read = segmenter.read

    def spy(image, *more):
        seen.setdefault(isinstance(image, str), set()).add(os.getpriority(os.PRIO_PROCESS, 0))
        return read(image, *more)

    monkeypatch.setattr(segmenter, "read", spy)
    predict_files(segmenter, Job([str(path) for path in paths], tmp_path / "out"))
    assert seen == {True: {min(19, own + 5)}, False: {own}}, "from files, and beside the network"
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_stop_keeps_what_was_written_and_its_tables(segmenter, tmp_path):
    for i in range(8):
        picture(tmp_path / f"in/{i}.png", (8, 8))
    out, tally = tmp_path / "out", Tally()

    def stop(done: int, total: int) -> None:
        assert total == 8
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(segmenter, Job([str(tmp_path / "in")], out, workers=1), progress=stop, tally=tally)
    assert 3 <= tally.done < 8
    assert len(log(out)) == len(list(out.glob("*.png"))) == tally.done
    assert not list(out.glob(".*"))  # nothing half-written
    assert len({row["image"] for row in rows(out)}) == tally.done


def test_a_result_that_cannot_be_written_ends_the_run_in_words(segmenter, tmp_path):
    picture(tmp_path / "in/a.png")
    (tmp_path / "out/a.png").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written"):
        predict_files(segmenter, Job([str(tmp_path / "in")], tmp_path / "out"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("inside", [False, True])
def test_results_cannot_go_where_a_file_is(segmenter, tmp_path, inside):
    picture(tmp_path / "in/a.png")
    taken = tmp_path / "taken"
    taken.write_text("mine")
    out = taken / "out" if inside else taken
    words = (
        r"out: cannot be made .*Choose another folder with -o"
        if inside
        else r"taken: is a file\. Name a folder with -o"
    )
    with pytest.raises(OutputError, match=words):
        predict_files(segmenter, Job([str(tmp_path / "in")], out))
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job([], Path("out")), r"nothing to predict: name pictures, folders or patterns, or give --list FILE"),
        (Job(["empty"], Path("out")), r"empty: holds no picture\. Picture files end in avif, bmp"),
        (Job(["none/*.png"], Path("out")), r"none/\*\.png: matches no picture\. Check the pattern"),
        (Job([], Path("out"), listed="list.txt"), r"--list list\.txt: names no picture\. Write a path a line"),
    ],
)
def test_nothing_to_predict_is_said_and_nothing_is_written(segmenter, tmp_path, monkeypatch, job, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("list.txt").write_text("\n")
    with pytest.raises(InputError, match=words):
        predict_files(segmenter, job)
    assert not Path("out").exists()


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="names that are no UTF-8 are Linux's")
def test_names_that_are_no_utf_8_are_served(segmenter, tmp_path):
    source = picture(tmp_path / "in/a.png")
    odd = os.fsencode(source.parent) + b"/caf\xe9.png"
    os.rename(source, odd)  # noqa: PTH104  # bytes
    assert predict_files(segmenter, Job([str(source.parent)], tmp_path / "out")).done == 1
    assert os.path.isfile(os.fsencode(tmp_path / "out") + b"/caf\xe9.png")  # noqa: PTH113
    assert os.fsencode(log(tmp_path / "out")[0]["input"]) == odd


@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (300, 1)])
def test_pixels_are_counted_by_class(shape):
    label_map = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    np.testing.assert_array_equal(count_pixels(label_map, 255), np.bincount(label_map.reshape(-1), minlength=255))
    np.testing.assert_array_equal(count_pixels(label_map.T[::-1], 255), count_pixels(label_map, 255))  # any layout
