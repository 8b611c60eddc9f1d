"""A stall is reported as long as it lasts, and progress is not."""

from __future__ import annotations

import time

from fullconv.scale.batch import watchdog


def test_a_stall_is_reported_until_the_job_continues():
    reported: list[str] = []
    with watchdog(reported.append, lambda: "Check that.", stall_seconds=1.0) as heartbeat:
        for _ in range(3):  # longer than a stall
            time.sleep(0.45)
            heartbeat()
        assert reported == []
        end = time.monotonic() + 20
        while len(reported) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        heartbeat()
    before = list(reported)
    assert before[0] == "No image was finished in the last 1 s. Check that."
    assert before[1] == "No image was finished in the last 2 s. Check that."
    time.sleep(1.1)
    assert reported == before  # the watchdog ends with the job
