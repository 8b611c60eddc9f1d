"""Differences between the environments of two runs."""

from __future__ import annotations

from fullconv.training.environment import diff_env


def test_diff_env():
    before = {"data": "a", "fingerprint": "1" * 64, "versions": {"torch": "2.4", "timm": "1"}, "git": "abc"}
    now = {"data": "b", "fingerprint": "2", "versions": {"torch": "2.5", "timm": "1"}}
    assert diff_env(before, now) == [
        "the data differ (fingerprint 111111111111, here 2)", "torch was 2.4, is 2.5", "git was abc, is absent"
    ]  # fmt: skip
