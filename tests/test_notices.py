"""Notices: one per kind, with count and first file."""

from __future__ import annotations

import pickle

from fullconv.notices import Notice, NoticeCollector


def test_collector_keeps_the_first_notice_of_a_code_and_counts_the_others() -> None:
    collector = NoticeCollector()
    assert collector.add(Notice("value-range", "a.tif: 16 bits", "a.tif"))
    assert not collector.add(Notice("value-range", "b.tif: 16 bits", "b.tif", count=2))
    assert collector.extend([Notice("memory", "too small")] * 2) == [Notice("memory", "too small")]
    expected = (Notice("value-range", "a.tif: 16 bits", "a.tif", count=3), Notice("memory", "too small", count=2))
    assert tuple(collector) == expected
    assert tuple(pickle.loads(pickle.dumps(collector))) == expected
