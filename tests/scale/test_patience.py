"""A job that stands still is told about, as long as it does, and one that goes on is not."""

from __future__ import annotations

import time

from fullconv.scale.patience import duration, overseen


def test_a_job_that_stands_still_is_told_about_until_it_goes_on():
    said: list[str] = []
    with overseen(said.append, lambda: "Look there.", patience=0.2) as sign:
        for _ in range(10):  # five times as long as the patience
            time.sleep(0.1)
            sign()
        assert said == []
        end = time.monotonic() + 20
        while len(said) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        sign()
    told = list(said)
    assert told[0] == "No picture was finished in the last 0.2 seconds. Look there."
    assert told[1] == "No picture was finished in the last 0.4 seconds. Look there."
    time.sleep(0.5)
    assert said == told  # the watch ends with the job


def test_a_time_is_written_for_people():
    assert [duration(seconds) for seconds in (0.5, 119, 120, 210)] == [
        "0.5 seconds",
        "119 seconds",
        "2 minutes",
        "3.5 minutes",
    ]
