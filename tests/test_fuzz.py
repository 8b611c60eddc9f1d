"""Model files with random changes are read or refused with an error, and execute nothing."""

from __future__ import annotations

import json
import multiprocessing
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fullconv
from fullconv.checkpoint import read_state, write_state
from fullconv.errors import FullconvError, ModelFileError
from fullconv.modelfile import read_card, read_header, read_model
from model_files import small_segmenter, unsealed
from synthetic.trees import copy_with_parent, paths_in

MEMORY = 1 << 30
"""Bytes of address space that reading may take beyond what the process has: the largest header allowed is 32 MB."""
ODD: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**30, -(2**63), 1e308, float("inf"), "", "F32", "BF16", "F4", "\0", "x" * 10_000,
    [], {}, [0, 0], [0, 2**62], [-8, 0], [[1]], [2**32, 2**32], [1] * 5000, {"a": 1}, "__import__('os').system('false')",
]  # fmt: skip


def changed(tree: Any, rng: np.random.Generator) -> Any:
    """Return a copy with one place replaced, removed, renamed or duplicated."""
    found = list(paths_in(tree))
    path = found[int(rng.integers(len(found)))]
    tree, inner = copy_with_parent(tree, path)
    kind = rng.integers(4)
    if kind == 0:
        del inner[path[-1]]
    elif kind == 1 and isinstance(inner, dict):
        inner[str(ODD[int(rng.integers(len(ODD)))])[:20]] = inner[path[-1]]
    else:
        inner[path[-1]] = ODD[int(rng.integers(len(ODD)))]
    return tree


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with changes in its header, its length or its data."""
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    kind = int(rng.integers(8))
    if kind <= 3:
        tree = json.loads(header)
        for _ in range(int(rng.integers(1, 4))):
            tree = changed(tree, rng)
        if kind == 3 and isinstance(tree.get("__metadata__"), dict) and "fullconv" in tree["__metadata__"]:
            card = json.loads(json.loads(header)["__metadata__"]["fullconv"])
            tree = json.loads(header)
            tree["__metadata__"]["fullconv"] = json.dumps(changed(card, rng))
        header = json.dumps(tree).encode()
    elif kind <= 5:
        soup = bytearray(header)
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(soup)))
            if kind == 4:
                soup[place] ^= 1 << int(rng.integers(8))
            else:
                soup[place : place + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        header = bytes(soup)
    elif kind == 6:
        data = data[: int(rng.integers(len(data)))] if rng.integers(2) else data + rng.bytes(int(rng.integers(1, 99)))
    else:
        odd = [0, 1, 7, length + 8, 2**24, 2**25 + 1, 2**31, 2**40, 2**63, 2**64 - 1, int(rng.integers(2**62))]
        return struct.pack("<Q", odd[int(rng.integers(len(odd)))]) + header + data
    return struct.pack("<Q", len(header)) + header + data


def forbid_execution() -> None:
    """Exit with 77 on anything that a file could execute."""
    forbidden = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
    forbidden |= {"socket.connect"}

    def imports() -> bool:
        # a changed backbone is looked up in timm, which creates classes at import
        frame: Any = sys._getframe()
        while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
            frame = frame.f_back
        return frame is not None

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        text = event == "exec" and str(getattr(arguments[0], "co_filename", "")) == "<string>"
        if event in forbidden or (text and not imports()):
            sys.stderr.write(f"executed: {event} {arguments}\n")
            sys.stderr.flush()
            __import__("os")._exit(77)

    sys.addaudithook(hook)


def fuzz(model: str, state: str, place: str, count: int, seed: int) -> None:
    """Read mutations in a process of its own; exit 0 where each was read or refused."""
    import resource

    rng = np.random.default_rng(seed)
    whole = {"model": Path(model).read_bytes(), "state": Path(state).read_bytes()}
    sources = {kind: (data, unsealed(data)) for kind, data in whole.items()}
    read_model(model), read_state(Path(state)), fullconv.load(model)  # what is imported late is imported now
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    forbid_execution()
    path, counts, slowest = Path(place) / "fuzzed.safetensors", {"refused": 0, "read": 0}, 0.0
    for number in range(count):
        kind = "state" if number % 4 == 0 else "model"
        sealed = number % 16 == 7  # the checksum refuses all of these; the others get to what is behind it
        path.write_bytes(mutated(sources[kind][0 if sealed else 1], rng))
        begin = time.process_time()  # its own work: on a busy machine it waits for others, too
        try:
            if kind == "state":
                read_state(path)
            elif number % 499 == 1:
                fullconv.load(path)
            elif number % 2:
                read_card(path)
            else:
                read_model(path)
            counts["read"] += 1
        except FullconvError as error:
            if str(path) not in str(error) or "\n" in str(error):
                raise AssertionError(f"not in one line, with the file's name: {error}") from error
            counts["refused"] += 1
        slowest = max(slowest, time.process_time() - begin)
    (Path(place) / "counts.json").write_text(json.dumps({**counts, "slowest_s": slowest}))


def fuzzed(tmp_path: Path, count: int, seed: int) -> dict[str, Any]:
    segmenter = small_segmenter()
    segmenter.save(tmp_path / "model.safetensors")
    tensors = {f"network.{name}": value for name, value in segmenter.network.state_dict().items()}
    write_state(tmp_path / "state", tensors, {"step": 3, "best_step": None, "history": [{"epoch": 1}]})
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training"])
    arguments = (str(tmp_path / "model.safetensors"), str(tmp_path / "state"), str(tmp_path), count, seed)
    process = context.Process(target=fuzz, args=arguments)
    process.start()
    process.join(timeout=3000)
    if hung := process.is_alive():
        process.kill()
        process.join()
    kept = (tmp_path / "fuzzed.safetensors").read_bytes()[:300]
    assert (hung, process.exitcode) == (False, 0), kept
    found: dict[str, Any] = json.loads((tmp_path / "counts.json").read_text())
    print(found)
    return found


pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc")


def test_a_thousand_mutations_are_refused_or_read(tmp_path):
    found = fuzzed(tmp_path, 1000, seed=0)
    assert found["refused"] + found["read"] == 1000
    assert found["refused"] > 500
    assert found["slowest_s"] < 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mutations_are_refused_or_read(tmp_path):
    found = fuzzed(tmp_path, 100_000, seed=1)
    assert found["refused"] + found["read"] == 100_000
    assert found["slowest_s"] < 5


def test_a_network_that_a_card_makes_huge_is_refused(tmp_path):
    segmenter = small_segmenter()
    segmenter.card = segmenter.card.model_copy(update={"network": {"width": 1e7, "head": {}}})
    segmenter.save(tmp_path / "model.safetensors")
    assert read_header(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"its network cannot be built: .*width = 10000000\.0 is invalid"):
        fullconv.load(tmp_path / "model.safetensors")
