"""Pairs verified over HTTP by `normface serve` and by deepface's API, with the same network, on the same photographs.

Each server is a process (deepface: also two) on loopback, all of them in one run, turn about: a turn is some pairs of
LFW from 1, 2 or 8 clients, each waiting for its answer before it asks again. Medians of the turns' pairs/s; percentiles
of all their requests; processor time of server and workers; their memory (PSS) after everything.

The network is the third-party MobileFaceNet with its normalization written into the graph, since deepface's SFace
client feeds pixels as they are: both read that one file. Everything else is as either does it by default. deepface:
multipart, its default detector (opencv: Haar cascades for face and eyes) or YuNet, alignment by the eyes, every face
of a photograph embedded, one orientation, ONNX Runtime with its own threads, a request at a time in each process.
normface: MTCNN, alignment by five points, the central face, the sum of both orientations. On aligned crops (deepface:
detector "skip") only decoding, network and the server itself are left; one row of ours takes the default model.
"""

import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import simplejpeg
from onnx import helper, numpy_helper

from benchmarks.harness.faces import SPEC, faces, kind_of_faces, shared, third_party
from benchmarks.harness.sheet import LeftOut, Sheet
from benchmarks.peers import deepface
from benchmarks.service import Body, Pair, Server, body_of, serving
from normface.data import open_reader
from normface.data.decoding import decode
from normface.embed import Embedder
from normface.types import InputSpec

QUICK = 50


class Row(NamedTuple):
    """One way to have pairs verified."""

    server: Server
    path: str
    bodies: Sequence[Body]


class Turn(NamedTuple):
    """What a turn took: seconds, the processor's seconds, and of each request its seconds, status and answer."""

    seconds: float
    processor: float
    requests: list[tuple[float, int, Any]]


Turns = dict[tuple[str, int], Turn]


def run(sheet: Sheet) -> None:
    """pairs/s, latencies, processor time and refusals by way and clients; MiB by server."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise LeftOut("processor time and memory of the servers are read from /proc; run it on Linux")
    count, rounds, clients = sheet.pick(30, 10), sheet.pick(5, 1), sheet.pick((1, 2, 8), (1, 8))
    sheet.figures |= {"faces": kind_of_faces(), "pairs": count, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        network = raw_pixels(third_party(Path(folder)).resolve(), Path(folder, "network.onnx"))
        photographs, crops, cosines = _pairs(Embedder.load(network), count)
        ours, default = (stack.enter_context(serving(model)) for model in (network, None))
        servers = {"normface": ours, "normface, default model": default}
        rows = {
            "normface": _ours(ours, photographs),
            "normface, default model": _ours(default, photographs),
            "normface, aligned crops": _ours(ours, crops, aligned="true"),
        }
        for workers in (1, 2) if sheet.attempt("deepface", deepface.check) else ():
            name = f"deepface, {workers} process{'es' * (workers > 1)}"
            yunet = shared().parent / "weights" / "yunet_n_dynamic.onnx"
            servers[name] = stack.enter_context(deepface.serving(network, yunet, workers))
            rows |= {f"{name}, {each}": _theirs(servers[name], photographs, each) for each in ("opencv", "yunet")}
            rows[f"{name}, aligned crops"] = _theirs(servers[name], crops, "skip")
        turns: list[Turns] = []
        for turn in range(rounds + 1):  # the first warms up
            found = sheet.attempt(f"turn {turn}", _turns, rows, clients if turn else (max(clients),))
            turns += [found] if found and turn else []
        if not turns:
            return
        for number in clients:
            told = {name: _told([turn[name, number] for turn in turns]) for name in rows}
            sheet.put(f"clients/{number}", told)
        for name, server in servers.items():
            sheet.measure(f"memory_mib/{name}", _memory, server.pid)
        skipped = turns[0].get(("deepface, 1 process, aligned crops", 1))
        if (
            skipped
        ):  # that it is the same network: deepface's cosines of crops beside the Embedder's, of one orientation
            answers = [answer for _, _, answer in skipped.requests]
            largest = max(abs(1 - answer["distance"] - cosine) for answer, cosine in zip(answers, cosines, strict=True))
            sheet.put("largest_difference_of_cosines_of_crops", round(largest, 4))


def raw_pixels(model: Path, to: Path) -> Path:
    """The network with SPEC's mean and std in its graph, its specification beside it."""
    proto = onnx.load(model)
    graph, name = proto.graph, proto.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["normal" if each == name else each for each in node.input]
    for key, values in (("mean", SPEC.mean), ("std", SPEC.std)):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32)[:, None, None], key))
    graph.node.insert(0, helper.make_node("Sub", [name, "mean"], ["centered"]))
    graph.node.insert(1, helper.make_node("Div", ["centered", "std"], ["normal"]))
    onnx.save(proto, to)
    spec = InputSpec(112, 112, mean=(0, 0, 0), std=(1, 1, 1), template="112x112")
    to.with_suffix(".spec.json").write_text(spec.to_json())
    return to


def _pairs(embedder: Embedder, pairs: int) -> tuple[list[Pair], list[Pair], list[float]]:
    """Photographs, their aligned crops as JPEGs, and the crops' cosines."""
    reader = open_reader(faces() / "lfw" / "lfw-raw-fold1.zip")
    photographs = [reader.encoded(row) for row in range(2 * pairs)]
    crops = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(embedder.crop(decode(data, "one"))[0]), 95) for data in photographs
    ]
    features = embedder.features(np.stack([decode(data, "one") for data in crops]), "none")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = (unit[::2] * unit[1::2]).sum(1).tolist()
    before, after = (list(zip(each[::2], each[1::2], strict=True)) for each in (photographs, crops))
    return before, after, cosines


def _ours(server: Server, pairs: Sequence[Pair], **fields: str) -> Row:
    return Row(server, "/v1/verify", [body_of({"a": a, "b": b}, **fields) for a, b in pairs])


def _theirs(server: Server, pairs: Sequence[Pair], detector: str) -> Row:
    fields = {"model_name": "SFace", "detector_backend": detector}
    return Row(server, "/verify", [body_of({"img1": a, "img2": b}, **fields) for a, b in pairs])


def _turns(rows: dict[str, Row], clients: Sequence[int]) -> Turns:
    """One of each way for every number of clients."""
    return {(name, count): _turn(row, count) for count in clients for name, row in rows.items()}


def _turn(row: Row, clients: int) -> Turn:
    connections = threading.local()

    def one(body: Body) -> tuple[float, int, Any]:
        if not hasattr(connections, "one"):
            connections.one = http.client.HTTPConnection("127.0.0.1", row.server.port, timeout=120)
        began = time.perf_counter()
        connections.one.request("POST", row.path, body[0], {"Content-Type": body[1]})
        response = connections.one.getresponse()
        told = json.loads(response.read())
        return time.perf_counter() - began, response.status, told

    processor, began = _processor(row.server.pid), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        requests = list(pool.map(one, row.bodies))
    return Turn(time.perf_counter() - began, _processor(row.server.pid) - processor, requests)


def _told(turns: Sequence[Turn]) -> dict[str, Any]:
    requests, pairs = [each for turn in turns for each in turn.requests], len(turns[0].requests)
    p50, p99 = 1000 * np.percentile([seconds for seconds, _, _ in requests], [50, 99])
    return {
        "pairs_per_second": round(pairs / statistics.median(turn.seconds for turn in turns), 2),
        "p50_ms": round(p50, 1), "p99_ms": round(p99, 1),
        "processor_ms_per_pair": round(1000 * statistics.median(turn.processor for turn in turns) / pairs, 1),
        "refused": sum(status != 200 for _, status, _ in requests) // len(turns),
    }  # fmt: skip


def _family(pid: int) -> list[Path]:
    """/proc of a process and of those that it started."""
    children = [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]
    return [Path(f"/proc/{pid}"), *(each for child in children for each in _family(child))]


def _processor(pid: int) -> float:
    """Seconds of it, so far."""
    words = [(each / "stat").read_text().rpartition(")")[2].split() for each in _family(pid)]
    return sum(int(each[11]) + int(each[12]) for each in words) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    """PSS, MiB: pages that several share are counted once."""
    lines = [line for each in _family(pid) for line in (each / "smaps_rollup").read_text().splitlines()]
    return round(sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, 1)
