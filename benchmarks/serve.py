"""The service under load, on loopback: images per second beside `fullconv predict`, latency, and a soak test with kills.

python benchmarks/serve.py [--model MODEL] [--images 16] [--requests 10000] [--kill-every 500]

Each client is a process. Without MODEL, an FCN-8s on ResNet-18 with random weights, and images of 480x360.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from harness import keep, summarize
from PIL import Image

SIZE = (360, 480)
CLIENTS = 4


class Service:
    """A service in a process of its own."""

    def __init__(self, model: Path, *options: str) -> None:
        self.log = tempfile.NamedTemporaryFile("w+b", suffix=".log", delete=False)  # noqa: SIM115
        command = [sys.executable, "-m", "fullconv", "serve", str(model), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=self.log)
        self.address = ""
        while not self.address:
            time.sleep(0.1)
            found = re.search(rb"Serving .* at http://(\S+)\. ", Path(self.log.name).read_bytes())
            self.address = found[1].decode() if found else ""
            if self.process.poll() is not None:
                raise SystemExit(Path(self.log.name).read_text(encoding="utf-8"))

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def processes(self) -> list[int]:
        """Ids of the process that listens, and of its workers."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [self.process.pid, *map(int, found.stdout.split())]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        Path(self.log.name).unlink()


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def write_images(folder: Path, count: int) -> None:
    """Write noise, which is no easier to decode and encode than a photo."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (SIZE[0] // 12, SIZE[1] // 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        noisy = np.asarray(image, np.int16) + rng.normal(0, 6, (*SIZE, 3)).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=90)


def make_model(path: Path, backbone: str) -> Path:
    import torch

    from fullconv.nn import build
    from fullconv.segmenter import Segmenter

    torch.manual_seed(0)
    network = build("fcn8s", backbone=backbone, num_classes=11, weights=None)
    Segmenter.from_network(network, [f"class{i}" for i in range(11)]).save(path)
    return path


def post(connection: http.client.HTTPConnection, body: bytes, path: str = "/v1/predict") -> tuple[int, bytes]:
    connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def send_all(address: str, paths: list[str]) -> None:
    """Send the images of one client, one after the other."""
    connection = http.client.HTTPConnection(address, timeout=120)
    for path in paths:
        status, _ = post(connection, Path(path).read_bytes())
        if status != 200:
            raise SystemExit(f"status {status}")


def saturate(pool: ProcessPoolExecutor, address: str, paths: list[str]) -> None:
    parts = [paths[i::CLIENTS] for i in range(CLIENTS)]
    list(pool.map(send_all, [address] * CLIENTS, parts))


PREDICT = """
import sys, time
from pathlib import Path
import numpy as np
from fullconv.predict import PredictJob, predict_files
from fullconv.segmenter import load
model, folder, out, batch = sys.argv[1:5]
segmenter = load(model)
segmenter.predict(np.zeros((64, 64, 3), np.uint8))
print("ready", flush=True)
for number, _ in enumerate(sys.stdin):
    start, used = time.perf_counter(), time.process_time()
    predict_files(segmenter, PredictJob([folder], Path(out) / str(number), batch_size=int(batch)))
    print(time.perf_counter() - start, time.process_time() - used, flush=True)
"""


class Predict:
    """`fullconv predict` in a persistent process, so that its start is not timed."""

    def __init__(self, model: Path, folder: Path, out: str, batch: int) -> None:
        command = [sys.executable, "-c", PREDICT, str(model), str(folder), out, str(batch)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def run(self) -> tuple[float, float]:
        """Predict all images; returns wall and CPU seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds, used = map(float, self._line().split())
        return seconds, used

    def stop(self) -> None:
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def cpu_seconds(pids: list[int]) -> float:
    """CPU seconds that processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure_throughput(model: Path, folder: Path, rounds: int, batch: int) -> dict[str, Any]:
    """Measure images per second at saturation, in turn with `fullconv predict` on the same images."""
    paths = [str(path) for path in sorted(folder.iterdir())]
    seconds: dict[str, list[float]] = {"predict": [], "serve": []}
    used: dict[str, list[float]] = {"predict": [], "serve": []}
    service = Service(model, "--batch-size", str(batch))
    with ProcessPoolExecutor(CLIENTS, mp_context=get_context("spawn")) as pool, tempfile.TemporaryDirectory() as out:
        predict = Predict(model, folder, out, batch)
        pids = service.processes()
        for turn in range(rounds + 1):
            own = predict.run()
            start, before = time.perf_counter(), cpu_seconds(pids)
            saturate(pool, service.address, paths)
            served = time.perf_counter() - start, cpu_seconds(pids) - before
            if turn:  # the first warms both
                for name, (took, cpu) in (("predict", own), ("serve", served)):
                    seconds[name].append(took)
                    used[name].append(cpu)
        predict.stop()
    service.stop()
    ratios = [own / other for own, other in zip(seconds["predict"], seconds["serve"], strict=True)]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return {
        "pictures": len(paths), "clients": CLIENTS, "batch_size": batch, "seconds": summarize(seconds),
        "pictures_per_second": {name: round(len(paths) / median(values), 2) for name, values in seconds.items()},
        "serve_to_predict": {"median": round(middle, 3), "quartile_1": round(low, 3), "quartile_3": round(high, 3)},
        "processor_seconds_a_picture": {name: round(median(values) / len(paths), 4) for name, values in used.items()},
    }  # fmt: skip


def measure_latency(model: Path, folder: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Measure the time to a response where images arrive as a Poisson process, whatever the service does."""
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())]
    service = Service(model)
    taken: list[float] = []
    threads = []
    chance = random.Random(0)

    def one(body: bytes, due: float) -> None:
        status, _ = post(http.client.HTTPConnection(service.address, timeout=60), body)
        if status == 200:
            taken.append(time.perf_counter() - due)

    for body in bodies[:3]:
        post(http.client.HTTPConnection(service.address, timeout=60), body)
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        due += chance.expovariate(rate)
        time.sleep(max(0.0, due - time.perf_counter()))
        threads.append(threading.Thread(target=one, args=(chance.choice(bodies), due)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    service.stop()
    marks = quantiles(taken, n=100)
    return {
        "rate": round(rate, 2), "requests": len(threads), "answered": len(taken), "p50_ms": round(1000 * marks[49], 1),
        "p90_ms": round(1000 * marks[89], 1), "p99_ms": round(1000 * marks[98], 1),
    }  # fmt: skip


def bad_bodies(good: bytes) -> list[tuple[str, bytes]]:
    """Return requests that must get an error."""
    return [
        ("/v1/predict", b""), ("/v1/predict", b"no image"), ("/v1/predict", good[: len(good) // 2]),
        ("/v1/predict?tile=x", good), ("/v1/predict/nobody", good), ("/v1/predict", os.urandom(2000)),
        ("/v1/predict", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ]  # fmt: skip


def soak_client(address: str, seed: int, count: int, folder: str, expected: dict[str, str]) -> dict[str, int]:
    """Send mixed requests; returns counts of their outcomes."""
    chance = random.Random(seed)
    bodies = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    names = sorted(bodies)
    bad = bad_bodies(bodies[names[0]])
    ends: dict[str, int] = {}
    connection = http.client.HTTPConnection(address, timeout=180)

    def end(word: str) -> None:
        ends[word] = ends.get(word, 0) + 1

    for _ in range(count):
        malformed = chance.random() < 0.1
        name, kind = chance.choice(names), chance.choice(["labels", "labels", "labels", "json", "overlay"])
        path, body = chance.choice(bad) if malformed else (f"/v1/predict?answer={kind}", bodies[name])
        try:
            status, answer = post(connection, body, path)
        except (OSError, http.client.HTTPException) as error:
            end(f"unanswered: {type(error).__name__}")
            connection = http.client.HTTPConnection(address, timeout=180)
            continue
        if status == 200 and not malformed:
            right = hashlib.sha256(answer).hexdigest() == expected[f"{kind} {name}"]
            end("right" if right else "wrong")
        else:
            honest = (400 <= status < 500 and malformed) or status == 503
            end(f"{'honest' if honest else 'dishonest'} {status}")
            json.loads(answer)
    return ends


def soak(model: Path, folder: Path, requests: int, kill_every: int) -> dict[str, Any]:
    """Send mixed requests, a tenth malformed, while workers are killed; record memory."""
    service = Service(model, "--copies", "2")
    expected = {}
    connection = http.client.HTTPConnection(service.address, timeout=120)
    for path in sorted(folder.iterdir()):
        for kind in ("labels", "json", "overlay"):
            status, answer = post(connection, path.read_bytes(), f"/v1/predict?answer={kind}")
            assert status == 200, answer
            expected[f"{kind} {path.name}"] = hashlib.sha256(answer).hexdigest()

    def answered() -> int:
        found = re.findall(
            r'^fullconv_requests_total\{.*route="/v1/predict.*\} (\S+)', service.get("/metrics"), re.MULTILINE
        )
        return int(sum(map(float, found)))

    begin, kills = answered(), 0
    memory: list[tuple[int, int, int]] = []
    with ProcessPoolExecutor(CLIENTS, mp_context=get_context("spawn")) as pool:
        share = requests // CLIENTS
        futures = [
            pool.submit(soak_client, service.address, seed, share, str(folder), expected) for seed in range(CLIENTS)
        ]
        while not all(future.done() for future in futures):
            time.sleep(0.5)
            done = answered() - begin
            pids = service.processes()
            if done >= (kills + 1) * kill_every and len(pids) == 3:
                kills += 1
                with suppress(OSError):
                    os.kill(random.choice(pids[1:]), signal.SIGKILL)
            memory.append((done, resident(pids[0]), max((resident(pid) for pid in pids[1:]), default=0)))
        ends: dict[str, int] = {}
        for future in futures:
            for word, count in future.result().items():
                ends[word] = ends.get(word, 0) + count
    service.stop()
    settled = [row for row in memory if row[0] >= requests // 5]
    half = len(settled) // 2
    flat = {
        name: {
            "median_first_half_mb": round(median(row[place] for row in settled[:half]) / 1e6, 1),
            "median_second_half_mb": round(median(row[place] for row in settled[half:]) / 1e6, 1),
            "most_mb": round(max(row[place] for row in settled) / 1e6, 1),
        }
        for name, place in (("listener", 1), ("largest_copy", 2))
    }
    return {"requests": share * CLIENTS, "kills": kills, "ends": dict(sorted(ends.items())), "memory": flat}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kill-every", type=int, default=500)
    parser.add_argument(
        "--rate", type=float, help="Images per second of the latency test, where throughput is not measured."
    )
    parser.add_argument("--only", choices=["throughput", "latency", "soak"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        folder.mkdir()
        write_images(folder, given.images)
        model = given.model or make_model(Path(place) / "model.safetensors", given.backbone)
        tiny = make_model(Path(place) / "tiny.safetensors", "tiny")
        content: dict[str, Any] = {}
        steps: dict[str, Callable[[], Any]] = {
            "throughput": lambda: measure_throughput(model, folder, given.rounds, 1),
            "latency": lambda: measure_latency(model, folder, given.rate or half(content["throughput"]), 60),
            "soak": lambda: soak(tiny, small_images(Path(place) / "small"), given.requests, given.kill_every),
        }
        for name, step in steps.items():
            if given.only in (None, name):
                content[name] = step()
                print(name, json.dumps(content[name], indent=1), flush=True)
    name = "serve" if given.only is None else f"serve_{given.only}"
    name += "" if given.backbone == "resnet18" else f"_{given.backbone}"
    name += "" if given.kill_every <= given.requests else "_without_kills"
    keep(name, {"network": str(given.model or f"fcn8s on {given.backbone}, 11 classes, 480x360"), **content})


def half(throughput: dict[str, Any]) -> float:
    """Return half of the measured images per second of the service."""
    return float(throughput["pictures_per_second"]["serve"]) / 2


def small_images(folder: Path) -> Path:
    """Write small images of several sizes and formats, so that many requests take little time."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number, (height, width) in enumerate([(64, 64), (96, 128), (96, 128), (50, 70), (120, 90), (33, 200)]):
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        (image.convert("L") if number == 3 else image).save(buffer, format="PNG" if number % 2 else "JPEG")
        (folder / f"{number}.bin").write_bytes(buffer.getvalue())
    return folder


if __name__ == "__main__":
    main()
