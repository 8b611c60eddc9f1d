"""A prediction run over files."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.errors import InputError, ModelFileError, OutputError
from fullconv.labels import read_label_map
from fullconv.predict import PredictJob, RunSummary, predict_files
from synthetic.images import write_noise


def log(out: Path, name: str = "predictions.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text("utf-8").splitlines()]


def rows(out: Path, name: str = "summary.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / name).read_text("utf-8"))))


def written(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_unusual_images_are_predicted_as_displayed(segmenter, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_noise(tmp_path / "turned.jpg", (24, 40), exif=exif)
    Image.fromarray(np.full((10, 12), 60000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (12, 10), (20, 40, 0, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("P", (12, 10), 3).save(tmp_path / "palette.png")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "pixel.png")
    out = tmp_path / "out"
    assert predict_files(segmenter, PredictJob([str(tmp_path)], out)).failed == 0
    sizes = {path.stem: read_label_map(path).shape for path in out.glob("*.png")}
    assert sizes == {"turned": (40, 24), "deep": (10, 12), "cmyk": (10, 12), "palette": (10, 12), "pixel": (1, 1)}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_log_keeps_the_order_of_the_images(segmenter, tmp_path, batch_size):
    for number in range(9):
        write_noise(tmp_path / "in" / f"{number}.png")
    predict_files(
        segmenter, PredictJob([str(tmp_path / "in" / "3.png"), str(tmp_path / "in" / "6.png")], tmp_path / "out")
    )
    for number in (1, 4, 7):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"not an image")
    reported: list[str] = []
    job = PredictJob([str(tmp_path / "in")], tmp_path / "out", skip_existing=True, batch_size=batch_size)
    predict_files(segmenter, job, lambda path, _: reported.append(Path(path).stem))
    assert [(Path(line["input"]).stem, line["status"]) for line in log(tmp_path / "out")] == [
        (str(n), "failed" if n % 3 == 1 else "skipped" if n in (3, 6) else "done") for n in range(9)
    ]
    assert reported == ["1", "4", "7"]
    assert list(dict.fromkeys(Path(row["image"]).stem for row in rows(tmp_path / "out"))) == list("023568")


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batches_change_nothing_and_a_bad_image_in_one_is_found(segmenter, tmp_path, batch_size):
    for i in range(5):
        write_noise(tmp_path / f"in/p{i}.png", (24, 32) if i != 2 else (30, 20))
    bands = np.zeros((24, 32, 5), np.uint8)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "in/p5.tif", bands, photometric="minisblack", planarconfig="contig")
    reported: list[str] = []
    job = PredictJob([str(tmp_path / "in")], tmp_path / "out", batch_size=batch_size)
    summary = predict_files(segmenter, job, lambda path, reason: reported.append(reason))
    assert (summary.done, summary.failed) == (5, 1)
    assert "p5.tif: has 5 bands, the model expects 3" in reported[0]
    for i in range(5):
        expected = segmenter.predict(tmp_path / f"in/p{i}.png").label_map
        assert (read_label_map(tmp_path / f"out/p{i}.png") != expected).mean() < 0.005  # a batch may round otherwise


def test_label_maps_are_written_for_every_head_or_one(two_heads, tmp_path):
    source = write_noise(tmp_path / "a.png")
    expected = two_heads.predict(source).label_maps
    predict_files(two_heads, PredictJob([str(source)], tmp_path / "all", overlay=True))
    assert {"a.sort.png", "a.state.png", "a.sort.overlay.png", "a.state.overlay.png"} <= written(tmp_path / "all")
    for head, label_map in expected.items():
        np.testing.assert_array_equal(read_label_map(tmp_path / f"all/a.{head}.png"), label_map)
    assert {(row["head"], row["class"]) for row in rows(tmp_path / "all")} >= {("sort", "c"), ("state", "wet")}
    assert set(log(tmp_path / "all")[0]["outputs"]) == {"sort", "state"}
    predict_files(two_heads, PredictJob([str(source)], tmp_path / "one", head="state"))
    np.testing.assert_array_equal(read_label_map(tmp_path / "one/a.png"), expected["state"])
    with pytest.raises(ModelFileError, match="no head 'stat', it has sort, state"):
        predict_files(two_heads, PredictJob([str(source)], tmp_path / "none", head="stat"))


def test_skip_existing_keeps_complete_results_and_counts_them(segmenter, tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        write_noise(tmp_path / "in" / name)
    out = tmp_path / "out"
    job = PredictJob([str(tmp_path / "in")], out, skip_existing=True)
    predict_files(segmenter, job)
    before = rows(out)
    (out / "b.png").unlink()
    (out / "c.png").write_bytes((out / "c.png").read_bytes()[:40])  # damaged
    Image.new("L", (32, 24), 9).save(out / "d.png")  # not a label map of these classes
    stamp = (out / "a.png").stat().st_mtime_ns
    summary = predict_files(segmenter, job)
    assert (summary.done, summary.skipped) == (3, 1)
    assert (out / "a.png").stat().st_mtime_ns == stamp
    assert rows(out) == before
    assert [line["status"] for line in log(out)] == ["skipped", "done", "done", "done"]
    more = predict_files(segmenter, PredictJob([str(tmp_path / "in")], out, skip_existing=True, overlay=True))
    assert more.done == 4  # their overlays were not there


def test_each_shard_writes_its_own_tables(segmenter, tmp_path):
    for i in range(6):
        write_noise(tmp_path / f"in/{i}.png", (8, 8))
    for i in (1, 2):
        predict_files(segmenter, PredictJob([str(tmp_path / "in")], tmp_path / "out", shard=(i, 2)))
    both = [*log(tmp_path / "out", "predictions.1-of-2.jsonl"), *log(tmp_path / "out", "predictions.2-of-2.jsonl")]
    assert sorted(Path(line["input"]).name for line in both) == [f"{i}.png" for i in range(6)]
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_the_initializer_runs_in_the_threads_for_files_only(segmenter, tmp_path):
    paths = [write_noise(tmp_path / f"{index}.png") for index in range(3)]
    threads: list[int] = []
    job = PredictJob([str(path) for path in paths], tmp_path / "out", workers=2)
    predict_files(segmenter, job, initializer=lambda: threads.append(threading.get_ident()))
    assert 1 <= len(threads) <= 2
    assert threading.get_ident() not in threads


def test_an_interrupted_run_keeps_its_results_and_tables(segmenter, tmp_path):
    for i in range(8):
        write_noise(tmp_path / f"in/{i}.png", (8, 8))
    out, summary = tmp_path / "out", RunSummary()

    def stop(done: int, total: int) -> None:
        assert total == 8
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(segmenter, PredictJob([str(tmp_path / "in")], out, workers=1), progress=stop, summary=summary)
    assert 3 <= summary.done < 8
    assert len(log(out)) == len(list(out.glob("*.png"))) == summary.done
    assert not list(out.glob(".*"))  # no partial files
    assert len({row["image"] for row in rows(out)}) == summary.done


def test_a_result_that_cannot_be_written_ends_the_run(segmenter, tmp_path):
    write_noise(tmp_path / "in/a.png")
    (tmp_path / "out/a.png").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written"):
        predict_files(segmenter, PredictJob([str(tmp_path / "in")], tmp_path / "out"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (PredictJob([], Path("out")), r"nothing to predict: name images, folders or patterns, or give --list FILE"),
        (PredictJob(["empty"], Path("out")), r"empty: contains no images\. Image files end in avif, bmp"),
        (PredictJob(["none/*.png"], Path("out")), r"none/\*\.png: matches no images\. Check the pattern"),
        (
            PredictJob([], Path("out"), listed="list.txt"),
            r"--list list\.txt: contains no paths\. Write one path per line",
        ),
    ],
)
def test_without_images_nothing_is_written(segmenter, tmp_path, monkeypatch, job, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("list.txt").write_text("\n")
    with pytest.raises(InputError, match=words):
        predict_files(segmenter, job)
    assert not Path("out").exists()


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="only Linux allows such names")
def test_file_names_may_be_invalid_utf_8(segmenter, tmp_path):
    source = write_noise(tmp_path / "in/a.png")
    odd = os.fsencode(source.parent) + b"/caf\xe9.png"
    os.rename(source, odd)  # noqa: PTH104  # bytes
    assert predict_files(segmenter, PredictJob([str(source.parent)], tmp_path / "out")).done == 1
    assert os.path.isfile(os.fsencode(tmp_path / "out") + b"/caf\xe9.png")  # noqa: PTH113
    assert os.fsencode(log(tmp_path / "out")[0]["input"]) == odd


def test_a_second_run_into_one_folder_keeps_the_records_of_the_first(segmenter, tmp_path):
    for name in ("a", "b", "c"):
        write_noise(tmp_path / f"{name}.png", (8, 9))
    out, paths = tmp_path / "out", {name: str(tmp_path / f"{name}.png") for name in "abc"}
    predict_files(segmenter, PredictJob([paths["a"], paths["b"]], out))
    first = rows(out)
    predict_files(segmenter, PredictJob([paths["c"], paths["b"]], out))
    assert [Path(line["input"]).stem for line in log(out)] == ["c", "b", "a"]
    assert [row for row in rows(out) if row["image"] == paths["a"]] == [r for r in first if r["image"] == paths["a"]]
    assert len(rows(out)) == 3 * len(segmenter.card.classes)


def test_a_damaged_record_of_an_earlier_run_is_passed_over(segmenter, tmp_path):
    write_noise(tmp_path / "a.png", (8, 9))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl").write_text('{"input": 3\nnull\n[]\n{"input": "x"}\n', "utf-8")
    (tmp_path / "out" / "summary.csv").write_text("", "utf-8")
    predict_files(segmenter, PredictJob([str(tmp_path / "a.png")], tmp_path / "out"))
    assert [Path(line["input"]).stem for line in log(tmp_path / "out")] == ["a"]


@pytest.mark.parametrize("out", ["images", "images/../images"])
def test_the_input_folder_is_no_output_folder(segmenter, tmp_path, out):
    write_noise(tmp_path / "images" / "a.jpg", (8, 9))
    with pytest.raises(InputError, match=r"is the input folder, where the results would be inputs of the next run"):
        predict_files(segmenter, PredictJob([str(tmp_path / "images")], tmp_path / out))
    assert written(tmp_path / "images") == {"a.jpg"}


def test_an_output_folder_named_as_an_image_is_refused(segmenter, tmp_path):
    write_noise(tmp_path / "a.png", (8, 9))
    with pytest.raises(InputError, match=r"one\.png: results are several files in a folder\. Name a folder, .* one\."):
        predict_files(segmenter, PredictJob([str(tmp_path / "a.png")], tmp_path / "one.png"))
    (tmp_path / "two.png").mkdir()
    assert predict_files(segmenter, PredictJob([str(tmp_path / "a.png")], tmp_path / "two.png")).done == 1


def test_addresses_and_names_that_are_too_long_fail_alone(segmenter, tmp_path):
    reasons: dict[str, str] = {}
    long = tmp_path / f"{'x' * 251}.png"
    for path in (tmp_path / "a.png", long):
        write_noise(path, (8, 9))
    listed = tmp_path / "list.txt"
    listed.write_text("http://host/c.png\n", "utf-8")
    inputs = [str(tmp_path / "a.png"), str(long), "https://host/b.png"]
    job = PredictJob(inputs, tmp_path / "out", listed=str(listed), overlay=True)
    summary = predict_files(segmenter, job, reasons.__setitem__)
    assert (summary.done, summary.failed) == (1, 3)
    assert "its name is too long for its results, which end in .overlay.png" in reasons[str(long)]
    for address in ("https://host/b.png", "http://host/c.png"):
        assert reasons[address] == f"{address}: is an address, not a file. Download the image first."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_fails_alone(segmenter, tmp_path):
    write_noise(tmp_path / "in" / "a.png", (8, 9))
    os.mkfifo(tmp_path / "in" / "b.png")
    reasons: dict[str, str] = {}
    summary = predict_files(segmenter, PredictJob([str(tmp_path / "in")], tmp_path / "out"), reasons.__setitem__)
    assert (summary.done, summary.failed) == (1, 1)
    assert reasons[str(tmp_path / "in" / "b.png")].endswith("is not a regular file, not an image. Use an image file.")
