"""The service beside the bare Embedder on the same LFW photographs, and what it lives through. One machine, one run.

Throughput: pairs decoded and verified a second, medians of interleaved rounds: by `Embedder.verify` one after another,
by the same in a thread a core, and over HTTP from `CLIENTS` connections, whose work is done on the same cores. Latency:
at 80 % of that throughput, requests that come evenly and at random (Poisson). Memory: resident, over 10,000 requests.
Malformed: 10,000 uploads with a few bytes changed, cut, doubled or moved, through the application in this process.
benchmarks/service_beside.py has it beside deepface's API.
"""

import asyncio
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import httpx
import numpy as np

from benchmarks.harness.faces import faces, kind_of_faces, third_party
from benchmarks.harness.sheet import Sheet
from normface import models
from normface.data import open_reader
from normface.data.decoding import decode
from normface.embed import Embedder
from normface.embed.export import export
from normface.serve import Settings, create_app
from normface.system_facts import usable_cores

QUICK = 60
CLIENTS = 8
Pair = tuple[bytes, bytes]
Body = tuple[bytes, str]


class Server(NamedTuple):
    """A process that listens on loopback."""

    port: int
    pid: int


def run(sheet: Sheet) -> None:
    """pairs/s and ratios, latencies in ms, MiB, and what the malformed uploads were answered."""
    count, rounds, seconds = sheet.pick(60, 16), sheet.pick(5, 2), sheet.pick(25, 5)
    requests, malformed = sheet.pick(10_000, 400), sheet.pick(10_000, 800)
    with tempfile.TemporaryDirectory() as folder:
        model = sheet.attempt("MobileFaceNet", third_party, Path(folder))
        sheet.figures |= {
            "faces": kind_of_faces(), "model": "MobileFaceNet, third party" if model else "the default model",
        }  # fmt: skip
        reader = open_reader(faces() / "lfw" / "lfw-raw-fold1.zip")
        photographs = [reader.encoded(row) for row in range(2 * count)]
        pairs = list(zip(photographs[::2], photographs[1::2], strict=True))
        crop = open_reader(faces() / "train" / "faces-112.zip").encoded(0)
        with serving(model) as (port, _):
            throughput = sheet.measure("", _throughput, Embedder.load(model), pairs, port, rounds)
            if throughput:
                load = 0.8 * throughput["pairs_per_second"]["service"]
                bodies = [body_of({"a": a, "b": b}) for a, b in pairs]
                sheet.put("load", "80 % of the service's throughput")
                for name in ("even", "poisson"):
                    sheet.measure(f"latency/{name}", _latency, port, bodies, load, name == "poisson", seconds)
            sheet.measure("memory", _memory, port, body_of({"photographs": crop}, aligned="true"), requests)
        sheet.measure("malformed", _malformed, Path(folder) / "small.onnx", crop, malformed)


@contextmanager
def serving(model: Path | None) -> Iterator[Server]:
    """The service as a process of its own; None: with the default model."""
    words = ["serve", *(["--model", str(model)] if model else []), "--port", "0", "--rate", "100000"]
    program = [sys.executable, "-c", "from normface.cli import main; main()", *words]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        port = int(json.loads(process.stderr.readline())["url"].rpartition(":")[2])
        threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _throughput(embedder: Embedder, pairs: Sequence[Pair], port: int, rounds: int) -> dict[str, Any]:
    bodies = [body_of({"a": a, "b": b}) for a, b in pairs]
    connections = threading.local()
    cv2.setNumThreads(1)  # as in the service

    def bare(pair: Pair) -> float:
        return embedder.verify(decode(pair[0], "a"), decode(pair[1], "b")).score

    def over_http(body: Body) -> float:
        if not hasattr(connections, "one"):
            connections.one = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        return float(_ask(connections.one, "/v1/verify", body)["score"])

    with ThreadPoolExecutor(usable_cores()) as cores, ThreadPoolExecutor(CLIENTS) as clients:
        ways: dict[str, Callable[[], list[float]]] = {
            "embedder": lambda: [bare(pair) for pair in pairs],
            "embedder, a thread a core": lambda: list(cores.map(bare, pairs)),
            "service": lambda: list(clients.map(over_http, bodies)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        scores: dict[str, list[float]] = {}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                scores[name] = way()
                times[name] += [time.perf_counter() - began] * (turn > 0)  # the first warms up
    speeds = {name: len(pairs) / statistics.median(spent) for name, spent in times.items()}
    return {
        "pairs": len(pairs), "rounds": rounds, "clients": CLIENTS,
        "pairs_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
        "ratio_to_embedder": round(speeds["service"] / speeds["embedder"], 3),
        "ratio_to_embedder_a_thread_a_core": round(speeds["service"] / speeds["embedder, a thread a core"], 3),
        "largest_difference_of_scores": float(np.abs(np.subtract(scores["service"], scores["embedder"])).max()),
    }  # fmt: skip


def _latency(port: int, bodies: Sequence[Body], rate: float, at_random: bool, seconds: float) -> dict[str, Any]:
    """Milliseconds from when each request was due to its answer."""
    chance = random.Random(0)
    count = int(rate * seconds)
    gaps = [chance.expovariate(rate) if at_random else 1 / rate for _ in range(count)]
    due = np.cumsum(gaps) + time.perf_counter() + 0.2
    connections = threading.local()

    def one(number: int) -> float:
        if not hasattr(connections, "one"):
            connections.one = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        time.sleep(max(0.0, due[number] - time.perf_counter()))
        _ask(connections.one, "/v1/verify", bodies[number % len(bodies)])
        return float(time.perf_counter() - due[number])

    with ThreadPoolExecutor(32) as pool:
        spent = 1000 * np.array(list(pool.map(one, range(count))))
    p50, p99 = np.percentile(spent, [50, 99])
    return {"requests": count, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "p99_to_p50": round(p99 / p50, 2)}


def _memory(port: int, body: Body, requests: int) -> dict[str, Any]:
    """MiB resident before, after a tenth of the requests, and at the end."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(4)]

    def many(connection: http.client.HTTPConnection, count: int) -> None:
        for _ in range(count):
            _ask(connection, "/v1/embed", body)

    marks, done = {"0": _resident(port)}, 0
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        for until in (requests // 10, 4 * requests // 10, 7 * requests // 10, requests):
            list(pool.map(many, connections, [(until - done) // 4] * 4))
            marks[str(until)], done = _resident(port), until
    return {"requests": done, "resident_mib": marks, "per_second": round(done / (time.perf_counter() - began), 1)}


def _resident(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith("process_resident_memory_bytes "))
    return round(float(line.split()[1]) / 2**20, 1)


def _malformed(model: Path, crop: bytes, uploads: int) -> dict[str, Any]:
    """Status codes of mutated uploads, and how many a second."""
    body, kind = body_of({"a": crop, "b": crop}, aligned="true")
    chance, statuses = random.Random(0), Counter[int]()
    network = models.build("smallresnet", channels=(4, 8, 8, 8), units=(1, 1, 1), dim=16).eval()
    export(network, model, sha256="untrained")  # a small one: it is the uploads that are measured
    app = create_app(Settings(model=model, rate=1e6))

    async def upload(data: bytes) -> int:
        told: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            told.append(message)

        head = {"host": "127.0.0.1", "content-type": kind, "content-length": str(len(data))}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/v1/verify", "raw_path": b"/v1/verify", "query_string": b"", "root_path": "",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
            "headers": [(name.encode(), value.encode()) for name, value in head.items()],
        }  # fmt: skip
        await app(scope, receive, send)
        return int(told[0]["status"])

    async def all_of_them() -> None:
        async def some() -> None:
            for _ in range(uploads // 8):
                statuses[await upload(mutated(chance, body))] += 1

        await asyncio.gather(*(some() for _ in range(8)))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    spent = time.perf_counter() - began
    return {
        "uploads": statuses.total(), "statuses": {str(code): n for code, n in sorted(statuses.items())},
        "per_second": round(statuses.total() / spent),
    }  # fmt: skip


def mutated(chance: random.Random, whole: bytes) -> bytes:
    """A body with a few bytes changed, cut, doubled or moved."""
    body = bytearray(whole)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(body) or 1)
        match chance.randrange(5):
            case 0:
                body[place : place + 1] = chance.randbytes(1)
            case 1:
                del body[place : place + chance.randrange(1, 400)]
            case 2:
                body[place:place] = chance.randbytes(chance.randrange(1, 40))
            case 3:
                body[place:place] = body[: chance.randrange(1, 400)]
            case _:
                body = body[:place]
    return bytes(body)


def body_of(files: dict[str, bytes], **fields: str) -> Body:
    """A multipart request of files and fields, and its content type."""
    request = httpx.Request("POST", "http://x", files=files, data=fields)
    return request.read(), request.headers["content-type"]


def _ask(connection: http.client.HTTPConnection, path: str, body: Body) -> Any:
    try:
        connection.request("POST", path, body[0], {"Content-Type": body[1]})
        response = connection.getresponse()
    except ConnectionError:  # the service hangs up on connections that are idle for 5 s; http.client connects anew
        connection.close()
        connection.request("POST", path, body[0], {"Content-Type": body[1]})
        response = connection.getresponse()
    told = json.loads(response.read())
    assert response.status == 200, told
    return told
