"""`fullconv check` against faults of the corpus in `faults.py`: what it finds, and what its remedies are worth."""

from __future__ import annotations

import pytest

from fault_sets import SETS
from fault_trial import printed_lines, try_all, try_healthy
from faults import FAULTS

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
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))


def test_some_faults_are_found_and_mended_by_their_remedies():
    chosen = [fault for fault in FAULTS if (fault.base, fault.kind) in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    for outcome in try_all(chosen):
        assert outcome.found, outcome
        assert outcome.mended in (True, None), outcome


def test_a_healthy_set_raises_no_alarm():
    assert try_healthy("voc") == []


def test_lines_are_taken_from_a_remedy_as_printed():
    words = 'If so: Add to data.toml:\nclasses = ["a", "b"]\nvalues = { 0 = "a", 255 = "b" }\nOr export again.'
    assert printed_lines(words) == {"classes": '["a", "b"]', "values": '{ 0 = "a", 255 = "b" }'}


@pytest.mark.slow
def test_of_all_faults_the_doctor_finds_95_in_100_and_remedies_work_for_90():
    assert len(SETS) >= 5
    assert len({fault.kind for fault in FAULTS}) >= 40
    for base in SETS:
        assert len(try_healthy(base)) <= 1
    outcomes = try_all(FAULTS)
    lost = [(o.fault.base, o.fault.kind, o.codes) for o in outcomes if not o.found]
    assert len(lost) <= 0.05 * len(outcomes), lost
    for printed in (True, False):
        tried = [o for o in outcomes if o.mended is not None and (o.fault.remedy in ("lines", "delete")) is printed]
        vain = [(o.fault.base, o.fault.kind, o.remedy) for o in tried if not o.mended]
        assert len(vain) <= 0.1 * len(tried), vain
