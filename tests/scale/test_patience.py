"""A job that stands still is told about, as long as it does, and one that goes on is not."""

from __future__ import annotations

import time

from fullconv.scale.watchdog import overseen


def test_a_job_that_stands_still_is_told_about_until_it_goes_on():
    said: list[str] = []
    with overseen(said.append, lambda: "Look there.", patience=1.0) as sign:
        for _ in range(4):  # twice as long as the patience
            time.sleep(0.5)
            sign()
        assert said == []
        end = time.monotonic() + 20
        while len(said) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        sign()
    told = list(said)
    assert told[0] == "No picture was finished in the last 1 s. Look there."
    assert told[1] == "No picture was finished in the last 2 s. Look there."
    time.sleep(1.3)
    assert said == told  # the watch ends with the job
