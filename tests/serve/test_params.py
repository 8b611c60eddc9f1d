"""Accept is negotiated as RFC 9110 states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.serve.params import MEDIA_TYPES, negotiate


@pytest.mark.parametrize(
    ("accept", "response_type"),
    [
        ("", "labels"), ("*/*", "labels"), ("image/*", "labels"), ("image/png", "labels"), ("application/*", "json"),
        ("image/png; kind=overlay", "overlay"), ('IMAGE/PNG;KIND="overlay"', "overlay"), ("application/x-npz", "npz"),
        ("image/png;q=0.3, application/json", "json"), ("application/json;q=0, */*;q=0.1", "labels"),
        ("image/png;q=0, image/*", None),
        ("text/html", None), ("nonsense", None), ("application/json;q=0", None), ("image/png;kind=other", None),
    ],
)  # fmt: skip
def test_accept_selects_the_response_type(accept, response_type):
    assert negotiate(accept) == response_type


@given(accept=st.text(max_size=60))
def test_any_accept_gives_a_response_type_or_none(accept):
    assert negotiate(accept) in {*MEDIA_TYPES, None}
