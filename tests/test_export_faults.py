"""`fullconv check` against the second set of faults, in the formats of annotation tools and public sets."""

from __future__ import annotations

import pytest

from export_faults import EXPORTS, FAULTS
from fault_trial import try_all, try_healthy

SAMPLE = [
    ("roboflow", "labels times 50 to be seen"),
    ("cvat", "x and y exchanged"),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))


def test_some_faults_of_exports_are_found_and_mended_by_their_remedies():
    chosen = [fault for fault in FAULTS if (fault.base, fault.kind) in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    for outcome in try_all(chosen):
        assert outcome.found, outcome
        assert outcome.mended in (True, None), outcome


@pytest.mark.slow
def test_of_all_faults_of_exports_the_doctor_finds_95_in_100_and_remedies_work_for_90():
    assert len({fault.kind for fault in FAULTS}) >= 200
    for base in EXPORTS:
        assert try_healthy(base) == []
    outcomes = try_all(FAULTS)
    assert [(o.fault.base, o.fault.kind, o.others) for o in outcomes if not o.fault.codes and o.others] == []
    real = [o for o in outcomes if o.fault.codes]
    lost = [(o.fault.base, o.fault.kind, o.codes) for o in real if not o.found]
    assert len(lost) <= 0.05 * len(real), lost
    for printed in (True, False):
        tried = [o for o in real if o.mended is not None and (o.fault.remedy == "lines") is printed]
        vain = [(o.fault.base, o.fault.kind, o.remedy) for o in tried if not o.mended]
        assert len(vain) <= 0.1 * len(tried), vain
