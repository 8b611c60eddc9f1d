"""`fullconv check` against the frozen faults of `benchmarks/doctor`: a sample here, all of them among the slow tests."""

from __future__ import annotations

import pytest
from doctor.run import ALL_SETS, CORPUS, healthy, summarize, try_one
from doctor.trial import printed_lines

SAMPLE = [
    ("camvid", "masks of 0 and 255"),
    ("camvid", "classes counted from 1"),
    ("pairs", "an anti-aliased RGB mask"),
    ("pairs", "the two folders exchanged"),
    ("pairs", "masks of other pictures"),
    ("voc", "a stem in both lists"),
    ("voc", "a mask without its end"),
    ("camvid", "pictures of one colour"),
    ("coco", "a category that is not listed"),
    ("labelme", "an annotation made on a smaller copy"),
    ("labelme", "a class drawn by lines that have no area"),
    ("roboflow", "labels times 50 to be seen"),
    ("cvat", "x and y exchanged"),
]


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", "")  # the harness sets it; this restores it afterwards


def test_a_sample_of_faults_is_found_and_fixed_as_their_problems_advise():
    chosen = [i for i, fault in enumerate(CORPUS) if (fault.base, fault.kind) in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    for outcome in map(try_one, chosen):
        assert outcome.found, outcome
        assert outcome.mended in (True, None), outcome


def test_a_healthy_set_raises_no_alarm():
    assert healthy("voc") == []


def test_lines_are_taken_from_a_remedy_as_printed():
    words = 'If so: Add to data.toml:\nclasses = ["a", "b"]\nvalues = { 0 = "a", 255 = "b" }\nOr export again.'
    assert printed_lines(words) == {"classes": '["a", "b"]', "values": '{ 0 = "a", 255 = "b" }'}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_423_of_425_faults_are_found_without_alarms_and_most_fixes_work():
    found = summarize([try_one(i) for i in range(len(CORPUS))], {base: healthy(base) for base in ALL_SETS})
    assert (found["faults"], found["healthy_sets"]) == (425, 13)
    assert found["found"] >= 423, found["missed"]
    assert not found["alarms"]
    assert not found["alarms_in_sound_oddities"]
    for kind in ("as_printed", "in_prose"):
        assert found[f"fixes_{kind}_that_work"] >= 0.9 * found[f"fixes_{kind}"], found["fixes_that_fail"]
