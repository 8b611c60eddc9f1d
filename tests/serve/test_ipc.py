"""Frames between the service and its workers."""

from __future__ import annotations

import asyncio
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.serve.ipc import pack_frame, read_frame, receive_frame, write_frame


@settings(max_examples=30)
@given(frames=st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary()), max_size=5))
def test_frames_survive_the_pipe_and_a_truncated_one_ends_it(frames):
    file = io.BytesIO()
    for header, payload in frames:
        write_frame(file, header, payload)
    whole = file.getvalue()
    file.seek(0)
    assert [read_frame(file) for _ in frames] == frames
    assert read_frame(file) is None
    if whole:
        broken = io.BytesIO(whole[:-1])
        assert [frame for _ in frames if (frame := read_frame(broken)) is not None] == frames[:-1]


def test_a_stream_receives_frames_until_it_ends():
    async def receive():
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(pack_frame({"id": 1}, b"abc") + pack_frame({"id": 2})))
        reader.feed_eof()
        assert [await receive_frame(reader) for _ in range(2)] == [({"id": 1}, b"abc"), ({"id": 2}, b"")]
        with pytest.raises(asyncio.IncompleteReadError):
            await receive_frame(reader)

    asyncio.run(receive())
