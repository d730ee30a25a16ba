"""Protocols beside other libraries and beside their bare matrix products, one run; memory in a process of its own.

Vectors are synthetic: speed does not depend on them. BLUFR's configuration is the official one. Medians of rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.faces import shared
from benchmarks.harness.sheet import LeftOut, Sheet, peer
from benchmarks.peers import cvlface, insightface
from normface.data.bins import write_bin
from normface.protocols import PROTOCOLS, metrics, read_bin_pairs, read_blufr
from normface.protocols.ijb import IJB_FARS, Media, judge_templates
from normface.protocols.pairs import judge
from normface.protocols.tally import tally_all_pairs
from normface.types import Embeddings

QUICK = 60
IMAGES, TEMPLATES, SUBJECTS, DIM = 227_630, 12_115, 1_845, 512  # IJB-B's
PAIRS, GENUINE = 8_010_270, 10_270


def run(sheet: Sheet) -> None:
    """Seconds, ratios, and peak memory; quick: LFW and IJB's galleries against probes."""
    sheet.measure("lfw", lfw, sheet)
    ijb(sheet)
    if not sheet.quick:
        sheet.measure("blufr", in_a_process, blufr)
        sheet.measure("tally_all_pairs", in_a_process, stream)


def lfw(sheet: Sheet) -> dict[str, Any]:
    """6,000 pairs of 512-d vectors and whether they are genuine → all figures; and `lfw_bin`, which reads the file."""
    rng = np.random.default_rng(0)
    same = np.arange(6000) // 300 % 2 == 0
    centers = rng.normal(size=(12_000, DIM)).astype(np.float32)
    centers[1::2][same] = centers[::2][same]
    x = centers + 2.8 * rng.normal(size=centers.shape).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lfw.bin")
        write_bin(path, [b"image"] * len(x), same.tolist())
        embeddings = Embeddings(x, np.array([f"{row:06d}" for row in range(len(x))]))
        named = read_bin_pairs(path)
        ours, spent = timed(lambda: judge("lfw_bin", embeddings, named, people=None), 9)
        _, whole = timed(lambda: PROTOCOLS.build("lfw_bin", embeddings, path), 9)
    found = {
        "pairs": len(same), "seconds": spent, "seconds_with_the_file": whole,
        "accuracy": ours.metrics["accuracy"].value,
    }  # fmt: skip
    theirs = sheet.attempt("lfw/insightface", insightface.load)
    if theirs is None:
        return found
    peers, their_seconds = timed(lambda: theirs.evaluate(x, same.tolist(), nrof_folds=10), 3)
    return found | {
        "insightface_seconds": their_seconds, "times_insightface": round(their_seconds / spent, 1),
        "insightface_accuracy": float(np.mean(peers[2])),
    }  # fmt: skip


def ijb(sheet: Sheet) -> None:
    """IJB-B's numbers of images, templates and pairs; norm weighting, no detector score; one round of each."""
    rng = np.random.default_rng(0)
    subject = np.concatenate([np.arange(SUBJECTS), rng.integers(0, SUBJECTS, TEMPLATES - SUBJECTS)])
    template = np.concatenate([np.arange(TEMPLATES), rng.integers(0, TEMPLATES, IMAGES - TEMPLATES)])
    medium = template * 10 + rng.integers(0, 10, IMAGES)
    centers = rng.normal(size=(SUBJECTS, DIM)).astype(np.float32)
    x = centers[subject[template]] + rng.normal(scale=6, size=(IMAGES, DIM)).astype(np.float32)
    # As in IJB-B: galleries of one template a subject (the first ones) against all other templates
    probes = np.arange(SUBJECTS, TEMPLATES)
    for name, count in (("images", IMAGES), ("templates", TEMPLATES), ("pairs", PAIRS)):
        sheet.put(f"ijb_verification/{name}", count)
    embeddings = Embeddings(x, np.array([f"{row}.jpg" for row in range(IMAGES)]))
    media = Media(embeddings.ids, template, medium, np.full(IMAGES, -1))
    for kind in sheet.pick(("gallery against probes", "any with any"), ("gallery against probes",)):
        galleries = kind == "gallery against probes"
        left = rng.integers(0, SUBJECTS if galleries else TEMPLATES, PAIRS)
        right = rng.choice(probes, PAIRS) if galleries else rng.integers(0, TEMPLATES, PAIRS)
        left[:GENUINE], right[:GENUINE] = subject[probes], probes
        pairs = left, right, subject[left] == subject[right]
        place = f"ijb_verification/{kind}"
        found = sheet.measure(place, _ijb, partial(judge_templates, embeddings, media, *pairs))
        if found and galleries:
            sheet.attempt(f"{place}/cvlface", _ijb_beside, found, partial(_cvlface, x, template, medium, *pairs))


def _ijb(judge: Callable[[], Any]) -> dict[str, Any]:
    ours, spent = timed(judge, 1)
    return {
        "seconds": spent,
        "tar": {
            f"{far:g}": [ours.metrics[name].value] for far in IJB_FARS if (name := f"tar@far={far:g}") in ours.metrics
        },
    }


def _ijb_beside(found: dict[str, Any], judge: Callable[[], dict[float, float]]) -> None:
    """Add CVLface's seconds and rates to ours."""
    cvlface.load()
    peers, spent = timed(judge, 1)
    found |= {"cvlface_seconds": spent, "times_cvlface": round(spent / found["seconds"], 1)}
    for far, rates in found["tar"].items():
        rates.append(peers[float(far)])


def _cvlface(x: Any, template: Any, medium: Any, left: Any, right: Any, same: Any) -> dict[float, float]:
    """What its `evaluate` does for one of its three ways to weigh images."""
    theirs, roc_curve = cvlface.load(), peer("sklearn.metrics", "pip install scikit-learn").roc_curve
    vectors, numbers = theirs.image2template_feature(x, template, medium)
    scores = theirs.verification(vectors, numbers, left, right)
    far, tar, _ = roc_curve(same, scores)
    far, tar = np.flipud(far), np.flipud(tar)
    nearest = {rate: min(zip(abs(far - rate), range(len(far)), strict=True))[1] for rate in IJB_FARS}
    return {rate: float(tar[at]) for rate, at in nearest.items()}


def blufr() -> dict[str, Any]:
    """The whole protocol, 10 trials, beside the product of every similarity matrix it asks for."""
    official = shared() / "lfw" / "blufr_lfw_config.mat"
    if not official.exists():
        raise LeftOut("BLUFR's configuration is not there; lay blufr_lfw_config.mat into the folder lfw of --data DIR")
    config, rng = read_blufr(official), np.random.default_rng(0)
    centers = rng.normal(size=(int(config.subjects.max()) + 1, 256))
    x = (centers[config.subjects] + 1.5 * rng.normal(size=(len(config.ids), 256))).astype(np.float32)
    embeddings = Embeddings(x, config.ids)

    def products() -> None:
        for trial in config.trials:
            for rows, columns in ((trial.test, trial.test), (trial.probes, trial.gallery)):
                left, right = embeddings.vectors[rows], embeddings.vectors[columns].T.copy()
                left @ right  # two arrays: of one and itself BLAS would compute but half

    spent, bare = [], []
    for _ in range(2):
        bare.append(timed(products, 1)[1])
        spent.append(timed(lambda: PROTOCOLS.build("blufr", embeddings, official), 1)[1])
    return {
        "trials": len(config.trials), "dim": 256, "seconds": min(spent), "products_seconds": min(bare),
        "times_products": round(min(spent) / min(bare), 2), "peak_mib_with_products": peak(),
    }  # fmt: skip


def stream() -> dict[str, Any]:
    """10⁹ comparisons of 256-d vectors, and TAR at FAR 0.1 % to 1e-6 from their tally."""
    rng, people = np.random.default_rng(0), 11_181
    subjects = np.repeat(np.arange(people), 4)
    centers = rng.standard_normal((people, 256), np.float32)
    x = centers[subjects] + 1.5 * rng.standard_normal((len(subjects), 256), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    before = peak()
    tally, spent = timed(lambda: tally_all_pairs(x, subjects, 1e-3), 1)
    return {
        "comparisons": tally.impostors + len(tally.genuine), "dim": 256, "seconds": spent, "peak_mib": peak(),
        "peak_mib_before": before, "tar": {f"{far:g}": tally.accepted(tally.threshold(far)) for far in IJB_FARS[1:]},
        "eer": metrics.eer(tally.roc()),
    }  # fmt: skip


def timed(work: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """What it gives, and its median seconds."""
    found, spent = None, []
    for _ in range(rounds):
        began = time.perf_counter()
        found = work()
        spent.append(time.perf_counter() - began)
    return found, round(statistics.median(spent), 4)


def peak() -> int:
    """The most memory that this process has held, in MiB (Linux; `ru_maxrss` would begin with the parent's)."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def in_a_process(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """So that its memory is its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work)
