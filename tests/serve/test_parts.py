"""The parts of the service that can be asked without one."""

from __future__ import annotations

import doctest
import io
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullconv.card import Labels
from fullconv.errors import InputError, MissingExtraError, ModelFileError
from fullconv.images.limits import PictureError
from fullconv.serve.errors import Refusal
from fullconv.serve.ipc import read_frame, write_frame
from fullconv.serve.media_types import KINDS, negotiate
from fullconv.serve.metrics import Measures
from fullconv.serve.responses import polygons, run_lengths, table
from fullconv.serve.settings import Settings
from fullconv.serve.uploads import Bodies, picture_of_form

LABELS = Labels(classes=("a", "b", "c"))
MAPS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


@given(heads=st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary()), max_size=5))
def test_frames_come_out_as_they_went_in_and_a_broken_one_is_the_end(heads):
    file = io.BytesIO()
    for head, payload in heads:
        write_frame(file, head, payload)
    whole = file.getvalue()
    file.seek(0)
    assert [read_frame(file) for _ in heads] == heads
    assert read_frame(file) is None
    if whole:
        broken = io.BytesIO(whole[:-1])
        assert [frame for _ in heads if (frame := read_frame(broken)) is not None] == heads[:-1]


@given(label_map=MAPS)
def test_run_lengths_rebuild_the_label_map(label_map):
    again = np.full(label_map.size, 255, np.uint8)
    for row in run_lengths(label_map, LABELS):
        stops = np.cumsum(row["counts"])
        assert stops[-1] <= label_map.size
        for start, stop in zip(stops[::2], stops[1::2], strict=False):
            assert (again[start:stop] == 255).all()
            again[start:stop] = row["index"]
        assert row["name"] == LABELS.classes[row["index"]]
    assert (again.reshape(label_map.shape, order="F") == label_map).all()


@given(label_map=MAPS)
def test_polygons_rebuild_the_label_map(label_map):
    features = pytest.importorskip("rasterio.features")
    patches = polygons(label_map, LABELS)
    shapes = [({"type": "Polygon", "coordinates": patch["rings"]}, patch["index"] + 1) for patch in patches]
    assert (features.rasterize(shapes, label_map.shape) == label_map + 1).all()


@given(label_map=MAPS)
def test_the_table_counts_every_pixel_once(label_map):
    found = table(label_map, LABELS)
    assert [row["pixels"] for row in found["classes"]] == [int((label_map == i).sum()) for i in range(3)]
    assert sum(row["share"] for row in found["classes"]) == pytest.approx(1)
    assert (found["size"]["height"], found["size"]["width"]) == label_map.shape


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "labels"), ("*/*", "labels"), ("image/*", "labels"), ("image/png", "labels"), ("application/*", "json"),
        ("image/png; kind=overlay", "overlay"), ('IMAGE/PNG;KIND="overlay"', "overlay"), ("application/x-npz", "npz"),
        ("image/png;q=0.3, application/json", "json"), ("application/json;q=0, */*;q=0.1", "labels"),
        ("image/png;q=0, image/*", None),
        ("text/html", None), ("nonsense", None), ("application/json;q=0", None), ("image/png;kind=other", None),
    ],
)  # fmt: skip
def test_accept_is_read_as_the_standard_says(accept, kind):
    assert negotiate(accept) == kind


@given(accept=st.text(max_size=60))
def test_any_accept_is_answered_by_a_kind_or_none(accept):
    assert negotiate(accept) in {*KINDS, None}


@given(content=st.binary(max_size=200), more=st.binary(max_size=50))
def test_the_file_of_a_form_comes_out_as_it_went_in(content, more):
    import httpx

    request = httpx.Request("POST", "http://x", files={"file": ("a.png", content)}, data={"other": more.hex()})
    body = request.read()
    kind = request.headers["content-type"]
    assert picture_of_form(body, kind) == content
    with pytest.raises(Refusal, match="multipart form"):
        picture_of_form(body[:-10], kind)


def test_noise_has_too_many_runs():
    with pytest.raises(Refusal, match="more than 4,000,000 runs"):
        run_lengths(np.random.default_rng(0).integers(0, 3, (2500, 2500), dtype=np.uint8), LABELS)


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputError("x"), 422), (PictureError("not-a-picture", "x"), 415), (PictureError("truncated", "x"), 422),
     (PictureError("too-large", "x"), 413), (MissingExtraError("p", "formats", "x"), 415), (MemoryError(), 413),
     (ModelFileError("x"), 422), (ValueError("a bug"), 500)],
)  # fmt: skip
def test_what_goes_wrong_with_a_picture_has_its_status(error, status):
    from fullconv.serve.errors import as_refusal

    assert as_refusal(error).status == status


def test_all_requests_together_may_hold_only_so_much():
    bodies = Bodies(Settings({"m": "x"}), Measures())
    with bodies.hold() as first:
        first.add(bodies.settings.body_budget)
        with bodies.hold() as second, pytest.raises(Refusal, match="Try again in a moment") as caught:
            second.add(1)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "2")
    assert bodies.held == 0


@pytest.mark.parametrize("name", ["kinds", "settings", "problems"])
def test_the_examples_of_a_module_are_right(name):
    found = doctest.testmod(import_module(f"fullconv.serve.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_page_is_part_of_the_package():
    from fullconv.serve.static import PAGES, read_files

    files = read_files()
    assert set(PAGES.values()) <= set(files)
    folder = Path(__file__).parents[2] / "src" / "fullconv" / "serve" / "page"
    assert set(files) == {path.name for path in folder.iterdir()}
