"""What to label next: the numbers of a image, the order, the command."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fullconv.cli import main
from fullconv.errors import InputError
from fullconv.ranking import GRID, ImageSummary, rank, summarize
from model_files import small_segmenter


@pytest.fixture(scope="module")
def segmenter():
    return small_segmenter(width=0.5)


def random_image(seed, height=50, width=41):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def summary_of(name, uncertainty, *seen):
    return ImageSummary(name, uncertainty, np.array(seen, np.float32))


@pytest.mark.parametrize("size", [(50, 41), (3, 2), (1, 1), (700, 20)])
def test_summary_is_the_entropy_and_the_mean_probabilities_of_grid_cells(segmenter, size):
    image = random_image(1, *size)
    prediction = segmenter.predict(image, probabilities=True)
    p = prediction.probabilities.astype(np.float64)
    found = summarize(segmenter.predict(image), "x")
    assert found.uncertainty == pytest.approx(float(-(p * np.log(p)).sum(0).mean() / math.log(3)), rel=1e-4)
    rows, columns = (np.arange(n) * GRID // n for n in size)
    for k in range(3):
        for i in range(GRID):
            for j in range(GRID):
                cell = p[k][np.ix_(rows == i, columns == j)]
                expected = cell.mean() if cell.size else 0.0
                assert found.seen.reshape(3, GRID, GRID)[k, i, j] == pytest.approx(expected, abs=1e-5)


def test_the_most_uncertain_comes_first_and_its_twin_does_not_come_second():
    order = rank(
        [summary_of("hard", 0.9, 1, 0), summary_of("twin", 0.89, 1, 0.01), summary_of("other", 0.5, 0, 1)], top=3
    )
    assert [row.image for row in order] == ["hard", "other", "twin"]
    assert order[0].novelty is None
    assert order[1].novelty > order[2].novelty


def test_labeled_images_are_not_novel():
    summaries = [summary_of("known scene", 0.9, 1, 0), summary_of("new scene", 0.6, 0, 1)]
    assert rank(summaries)[0].image == "known scene"
    assert rank(summaries, labeled=[summary_of("train", 0.1, 1, 0.01)])[0].image == "new scene"


def test_below_the_top_uncertainty_alone_decides():
    order = rank([summary_of(str(n), n / 10, n, -n) for n in range(6)], top=2)
    assert [row.image for row in order][2:] == sorted([row.image for row in order][2:], reverse=True)
    assert all(row.novelty is None for row in order[2:])


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12), st.integers(1, 15)
)
def test_ranks_do_not_depend_on_the_order_of_the_images(numbers, top):
    summaries = [summary_of(f"{n:02}", *values) for n, values in enumerate(numbers)]
    order = rank(summaries, top)
    assert sorted(row.image for row in order) == [g.image for g in summaries]
    assert [row.rank for row in order] == list(range(1, len(order) + 1))
    assert rank(summaries[::-1], top) == order


def test_nothing_to_rank_is_an_error():
    with pytest.raises(InputError, match="no image"):
        rank([])


def test_the_command_ranks_a_folder_and_reports_a_bad_image(segmenter, tmp_path, capsys):
    model, folder = tmp_path / "model.safetensors", tmp_path / "new"
    segmenter.save(model)
    folder.mkdir()
    for n in range(3):
        Image.fromarray(random_image(n)).save(folder / f"{n}.png")
    assert main(["rank", str(model), str(folder)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert {row["image"] for row in rows} == {str(folder / f"{n}.png") for n in range(3)}
    (folder / "bad.png").write_bytes(b"not a image")
    out = tmp_path / "order.csv"
    assert main(["rank", str(model), str(folder), "--json", "-o", str(out)]) == 3
    stderr = capsys.readouterr()
    answer = json.loads(stderr.out)
    assert len(answer["order"]) == 3
    assert answer["failed"][0]["input"].endswith("bad.png")
    assert "bad.png" in stderr.err
    assert [row["image"] for row in csv.DictReader(io.StringIO(out.read_text()))] == [
        row["image"] for row in answer["order"]
    ]
    (tmp_path / "empty").mkdir()
    assert main(["rank", str(model), str(tmp_path / "empty")]) == 2
    assert "contains no images" in capsys.readouterr().err


def test_labeled_images_lower_the_rank_of_similar_ones(segmenter, tmp_path, capsys):
    model = tmp_path / "model.safetensors"
    segmenter.save(model)
    for n in range(4):
        for kind, content in (("images", random_image(n % 2)), ("masks", np.full((50, 41), n % 3, np.uint8))):
            (tmp_path / "data" / "train" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(tmp_path / "data" / "train" / kind / f"{n}.png")
    (tmp_path / "new").mkdir()
    Image.fromarray(random_image(0)).save(tmp_path / "new" / "same.png")
    Image.fromarray(random_image(0)[::2, ::2] // 2).save(tmp_path / "new" / "unlike.png")
    assert main(["rank", str(model), str(tmp_path / "new"), "--labelled", str(tmp_path / "data"), "--json"]) == 0
    order = json.loads(capsys.readouterr().out)["order"]
    assert order[0]["image"].endswith("unlike.png")
    assert order[1]["novelty"] == pytest.approx(0, abs=1e-6)
