"""Charts: round ticks, every value in a tooltip, lines inside the frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pages import Page

from fullconv.report.charts import MAX_POINTS, TALL, Line, line_chart, nice_ticks
from fullconv.report.html import environment, percent


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6), about=st.integers(2, 8))
@example(low=0.0, span=3e-14, about=4)  # the learning rate of FCN-8s
def test_ticks_are_round_few_and_span_the_range(low, span, about):
    if abs(low) > 1e6 * span:
        span = abs(low)
    ticks = nice_ticks(low, low + span, about)
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span - 1e-6 * span
    assert 2 <= len(ticks) <= about + 3
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_a_chart_holds_every_value_in_its_tooltips_and_stays_in_its_frame():
    points = [(float(e), 0.5 + 0.4 * np.sin(e)) for e in range(1, 31)]
    chart = line_chart("Scores", [Line("mIoU", points)], percent, height=TALL, floor=0, mark="best")
    tooltips = [text for _, _, text in chart.columns]
    assert len(tooltips) == 30
    assert tooltips[7] == "epoch 8: mIoU 89.6"
    places = np.array(chart.lines[0].points)
    assert (places >= 0).all()
    assert (places <= [520, TALL]).all()
    assert places[13, 1] == places[:, 1].min()  # up is more
    assert len(places) == 30


def test_long_runs_are_thinned_and_keep_their_ends():
    points = [(float(e), float(e)) for e in range(1, 5001)]
    tooltips = [text for _, _, text in line_chart("Loss", [Line("loss", points)], str).columns]
    assert len(tooltips) == MAX_POINTS
    assert tooltips[0].startswith("epoch 1: ")
    assert tooltips[-1].startswith("epoch 5000: ")


@pytest.mark.parametrize("points", [[(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.5)], [(3.0, 0.0)], [(1.0, -2.0), (2.0, -2.0)]])
def test_a_point_or_a_flat_line_is_a_chart_too(points):
    chart = line_chart("Loss", [Line("loss", points)], str, mark="here")
    svg = str(environment().get_template("macros.html").module.line_chart(chart))
    Page(svg)
    assert "nan" not in svg
    assert "inf" not in svg
