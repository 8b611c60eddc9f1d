"""Damaged and odd files against every reader: read or refused with a word, never a crash, never slow, never large.

Ten minutes in all (FUZZ_SECONDS): a worker process reads one case after the other; it is killed where a case takes more than
five seconds, and asked for its peak of memory.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # also in the process that is started

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
SLOW = 5.0
LARGE = 1 << 30
BYTES = [0, 1, 2, 9, 10, 13, 32, 34, 44, 45, 46, 48, 58, 59, 60, 91, 93, 123, 125, 127, 128, 254, 255]
TOKENS = [b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'""', b"99999999999999999999", b"\xff\xfe", b"0", b'"\\ud800"',
          b"[[[[", b"../../x", b"\0", b"true", b"65536", b"2147483648", b'"a"', b"-0.5"]  # fmt: skip
TEXT = {".json", ".xml", ".txt", ".csv", ".toml"}


def damage(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes of a file, cut it, repeat a part of it, or put something else into it."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[min(place, len(out) - 1)] = rng.choice([*BYTES, rng.randrange(256)])
        elif kind == 1:
            del out[place : place + rng.choice([1, 2, 8, 64])]
        elif kind == 2:
            out[place:place] = rng.choice(TOKENS)
        elif kind == 3:
            part = out[place : place + rng.choice([4, 32, 300])]
            out[place:place] = part * rng.choice([1, 2, 30])
        elif kind == 4:
            del out[place:]
        elif kind == 5 and out:
            out[min(place, len(out) - 1)] ^= 1 << rng.randrange(8)
        else:
            out[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\x40\0"])
    return bytes(out)


def pictures() -> dict[str, bytes]:
    """Small files of every kind."""
    import io

    import numpy as np
    import tifffile
    from PIL import Image

    from synthetic.images import ADOBE, encode, png, profile

    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    found = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA"):
        options = {"icc_profile": profile(ADOBE)} if kind in ("PNG", "JPEG", "TIFF") else {}
        found[kind] = encode(Image.fromarray(photo), kind, **options)
    for color, depth in ((0, 2), (0, 16), (2, 16), (6, 16), (4, 8)):
        channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
        found[f"png{color}{depth}"] = png(rng.integers(0, 1 << depth, (9, 11, channels)), color, depth, adam7=True)
    for dtype in ("uint16", "float32"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, (rng.random((9, 11, 5)) * 999).astype(dtype), photometric="minisblack")
        found[f"tiff-{dtype}"] = buffer.getvalue()
    with contextlib.suppress(ImportError):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(photo)).save(buffer)
        found["HEIC"] = buffer.getvalue()
    return found


def work(pipe: Connection, home: str) -> None:
    """Read case after case: ("picture", bytes) or ("data", folder); answer with what went wrong, and the peak of memory."""
    import warnings

    warnings.simplefilter("ignore")
    os.environ["FULLCONV_CACHE"] = home
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # the decoders' own words
    from fullconv.data import convert_dataset, inspect, open_dataset
    from fullconv.data.samples import MaskFile
    from fullconv.errors import FullconvError
    from fullconv.images import image_size, read_image

    def picture(path: str) -> None:
        for reader in (read_image, image_size, lambda p: MaskFile(Path(p)).raw()):
            with contextlib.suppress(FullconvError):
                reader(path)

    def data(path: str) -> None:
        for problem in inspect(path):
            assert problem.cause
        with contextlib.suppress(FullconvError):
            found = open_dataset(path, skip_bad=True)
            for sample in found.samples("all"):
                with contextlib.suppress(FullconvError):
                    found.read_mask(sample)
        with contextlib.suppress(FullconvError):
            convert_dataset(path, home + "/out")
        shutil.rmtree(home + "/out", ignore_errors=True)

    pipe.send(peak())
    while (case := pipe.recv()) is not None:
        try:
            (picture if case[0] == "picture" else data)(case[1])
            words = ""
        except Exception:  # whatever it is, it is what we look for
            words = traceback.format_exc()
        pipe.send((words, peak()))


def peak() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Worker:
    """A process that can be killed."""

    def __init__(self, home: str) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=work, args=(theirs, home), daemon=True)
        self.process.start()
        theirs.close()
        assert self.pipe.poll(300), "the worker does not start"
        self.allowed = self.pipe.recv() + LARGE  # torch alone takes most of a gigabyte

    def ask(self, kind: str, path: str) -> str:
        """Return what went wrong with a case; empty where nothing did."""
        used = self._cpu()
        self.pipe.send((kind, path))
        while not self.pipe.poll(0.5):
            if not self.process.is_alive():
                return f"the process died with {self.process.exitcode}"
            if self._cpu() - used > SLOW:
                return f"it takes more than {SLOW} s"
        try:
            words, most = self.pipe.recv()
        except EOFError:
            self.process.join()
            return f"the process died with {self.process.exitcode}"
        return words or (f"it took {most >> 20} MB" if most > self.allowed else "")

    def _cpu(self) -> float:
        """Seconds of a core that it has used: a busy machine makes nothing slow."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS + 600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc for the seconds used")
def test_no_damaged_file_crashes_hangs_or_fills_the_memory(tmp_path):
    from synthetic.exports import FORMATS, Scene

    seed = int(os.environ.get("FUZZ_SEED", time.time()))
    rng = random.Random(seed)
    files = pictures()
    scene = Scene.make(0, 3, 9, 12)
    for name, write in FORMATS.items():
        write(scene, tmp_path / "sets" / name)
    keep = tmp_path / "found"
    keep.mkdir()
    (tmp_path / "cache").mkdir()
    worker, done, found = Worker(str(tmp_path / "cache")), 0, []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and len(found) < 20:
        case = tmp_path / f"case{done}"
        if rng.random() < 0.5:
            kind = "picture"
            name = rng.choice(sorted(files))
            case.write_bytes(damage(files[name], rng))
        else:
            kind = "data"
            name = rng.choice(sorted(FORMATS))
            shutil.copytree(tmp_path / "sets" / name, case)
            inside = sorted(path for path in case.rglob("*") if path.is_file())
            texts = [path for path in inside if path.suffix in TEXT]
            path = rng.choice(texts if texts and rng.random() < 0.8 else inside)
            path.write_bytes(damage(path.read_bytes(), rng))
        words = worker.ask(kind, str(case))
        done += 1
        if words:
            case.rename(keep / f"{done}-{name}")
            found.append(f"{keep / f'{done}-{name}'}: {words}")
            worker.stop()
            worker = Worker(str(tmp_path / "cache"))
        elif case.is_dir():
            shutil.rmtree(case)
        else:
            case.unlink()
    worker.stop()
    print(f"{done} cases in {SECONDS:.0f} s, seed {seed}")
    assert not found, f"seed {seed}:\n" + "\n".join(found)
    assert done > SECONDS / 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_the_command_line_shows_no_traceback(tmp_path, seed):
    import subprocess

    from synthetic.exports import FORMATS, Scene

    rng = random.Random(seed)
    name = sorted(FORMATS)[seed % len(FORMATS)]
    FORMATS[name](Scene.make(seed, 3, 9, 12), tmp_path / "in")
    inside = sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())
    for path in rng.sample(inside, min(2, len(inside))):
        path.write_bytes(damage(path.read_bytes(), rng))
    for arguments in (
        ["check", str(tmp_path / "in"), "--json"],
        ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fullconv", *arguments], capture_output=True, text=True, timeout=300
        )
        assert done.returncode in (0, 2, 3), done.stderr
        assert "Traceback" not in done.stderr
        if arguments[0] == "check":
            assert isinstance(json.loads(done.stdout)["ok"], bool)


def test_damage_is_the_same_for_the_same_seed_and_changes_something():
    one, other = (damage(bytes(range(200)), random.Random(5)) for _ in range(2))
    assert one == other != bytes(range(200))
