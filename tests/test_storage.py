"""Files that are complete or absent, and caches."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fullconv.errors import OutputError
from fullconv.storage import AtomicTextFile, DiskCache, atomic_path, cache_folder, write_bytes, write_text


def test_a_file_is_written_with_its_folders(tmp_path):
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
def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path, error):
    write_text(tmp_path / "t", "old")
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        write_bytes(tmp_path / "t", broken(error))
    assert (tmp_path / "t").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_is_reported_with_the_file(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_text(tmp_path / "t", "old")
    monkeypatch.setattr(call, full)
    with pytest.raises(OutputError, match=r"t: cannot be written \(No space left on device\)\."):
        write_text(tmp_path / "t", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("t", "old")]


def test_a_folder_in_the_way_is_reported(tmp_path):
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


def test_a_file_in_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.page\.html: cannot be written \(.*notes is a file\)"):
        write_text(tmp_path / "notes" / "page.html", "")


def test_a_path_is_replaced_only_when_the_block_succeeds(tmp_path):
    target = tmp_path / "new" / "x.bin"
    with atomic_path(target) as part:
        part.write_bytes(b"1")
        assert part.parent == target.parent
        assert not target.exists()
    assert target.read_bytes() == b"1"
    with pytest.raises(ValueError, match="bad"), atomic_path(target) as part:  # noqa: PT012
        part.write_bytes(b"2")
        raise ValueError("bad")
    assert [(path.name, path.read_bytes()) for path in target.parent.iterdir()] == [("x.bin", b"1")]


def test_the_first_writer_wins_where_nothing_may_be_overwritten(tmp_path):
    target = tmp_path / "x"
    for content in (b"1", b"2"):
        with atomic_path(target, overwrite=False) as part:
            part.write_bytes(content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"1")]


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    write_text(tmp_path / ("x" * 255), "long")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_text_file_gets_its_name_when_it_is_closed(tmp_path):
    file = AtomicTextFile(tmp_path / "log")
    file.write("Maß \udcff\n")
    assert not (tmp_path / "log").exists()
    file.close()
    file.discard()
    assert (tmp_path / "log").read_bytes() == "Maß \\udcff\n".encode()
    file = AtomicTextFile(tmp_path / "log")
    file.write("other")
    file.discard()
    assert (tmp_path / "log").read_text().startswith("Maß")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_forgets_what_was_used_longest_ago(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    cache = DiskCache("things", ".bin", limit=25)
    assert cache.get("a") is None
    for age, key in enumerate("abc"):
        os.utime(cache.put(key, [b"0123456789"]), (1000 + age, 1000 + age))
        if key == "b":
            assert cache.get("a") == cache.path("a")  # used again, so "b" goes first
    cache.put("d", [b"0123456789"])
    assert [key for key in "abcd" if cache.get(key)] == ["a", "d"]
    assert cache.path("a").parent == tmp_path / "things"
    cache.put("e", [b"x" * 100])  # larger than the limit: it alone stays
    assert [path.name for path in cache.folder.iterdir()] == [cache.path("e").name]


def test_a_cache_may_keep_what_another_process_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    cache = DiskCache("things", ".json")
    cache.put("k", [b"1"])
    assert cache.put("k", [b"2"], overwrite=False).read_bytes() == b"1"
    assert cache.put("k", [b"3"]).read_bytes() == b"3"
