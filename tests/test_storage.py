"""Files whole or not at all, and where caches go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fullconv.errors import OutputError
from fullconv.storage import cache_folder, write_bytes, write_text


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", [b"12", b"", b"34"])
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"1234"
    write_text(str(tmp_path / "t.txt"), "Maße\n")
    assert (tmp_path / "t.txt").read_bytes() == "Maße\n".encode()


def test_a_file_is_replaced(tmp_path):
    write_text(tmp_path / "t", "old, and longer")
    write_text(tmp_path / "t", "new")
    assert (tmp_path / "t").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def broken(error: BaseException):
    yield b"half"
    raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("other"), KeyboardInterrupt()])
def test_what_breaks_in_the_middle_leaves_the_old_file_and_no_other(tmp_path, error):
    write_text(tmp_path / "t", "old")
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        write_bytes(tmp_path / "t", broken(error))
    assert (tmp_path / "t").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_full_disc_is_said_with_the_name(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"t: cannot be written \(No space left on device\)\."):
        write_text(tmp_path / "t", "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_said(tmp_path):
    (tmp_path / "t").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "t", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("FULLCONV_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert cache_folder() == Path("/x/cache/fullconv")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fullconv"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "fullconv"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/fullconv/cache")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.page\.html: cannot be written \(.*notes is a file\)"):
        write_text(tmp_path / "notes" / "page.html", "")
