"""Uploads: the file of a form, and the limit of all bodies together."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.serve.errors import ApiError
from fullconv.serve.monitoring import Metrics
from fullconv.serve.uploads import ByteBudget, read_form_file


@given(content=st.binary(max_size=200), other=st.binary(max_size=50))
def test_the_file_of_a_form_is_read_unchanged(content, other):
    request = httpx.Request("POST", "http://x", files={"file": ("a.png", content)}, data={"other": other.hex()})
    body, content_type = request.read(), request.headers["content-type"]
    assert read_form_file(body, content_type) == content
    with pytest.raises(ApiError, match="multipart form"):
        read_form_file(body[:-10], content_type)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_file_field_without_a_file_name_is_a_file(size):
    content = bytes(range(256)) * (size // 256 + 1)
    body = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + content + b"\r\n--b--\r\n"
    assert read_form_file(body, "multipart/form-data; boundary=b") == content


def test_all_requests_together_have_a_byte_limit():
    budget = ByteBudget(100, Metrics().body_bytes)
    with budget.reserve() as reserve:
        assert reserve(100) == 100
        with budget.reserve() as reserve_more, pytest.raises(ApiError, match="Try again in a moment") as caught:
            reserve_more(1)
        error = caught.value
        assert (error.status, error.code, error.headers["Retry-After"]) == (503, "memory-full", "2")
    assert budget.used == 0
