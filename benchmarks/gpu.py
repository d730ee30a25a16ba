"""A GPU in at most 6 minutes: correctness, softmax head, training, loading and embedding, beside their peers.

`PYTHONPATH=src python -m benchmarks gpu` needs PyTorch 2.11 or newer with its Triton, and NumPy; no installation and
no network. What else training, images, tests and the picture need (WHEELS) is named where it is missing, and the parts
that need it are left out. A call measures what is missing in the record, as long as code and device are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness.parts import Measurements, Part, measure_parts
from benchmarks.harness.sheet import RESULTS, ROOT, LeftOut, Sheet
from normface.cpu import processor
from normface.errors import require
from normface.system_facts import or_unknown, output_of

QUICK = None
WHEELS = {
    "pydantic": "pydantic", "simplejpeg": "simplejpeg", "cv2": "opencv-python-headless", "safetensors": "safetensors",
    "tensorboard": "tensorboard", "scipy": "scipy", "PIL": "pillow", "onnx": "onnx", "onnxruntime": "onnxruntime",
    "matplotlib": "matplotlib", "pytest": "pytest", "hypothesis": "hypothesis",
}  # fmt: skip
PLACE = "benchmarks.on_gpu"
PARTS = {  # seconds are limits: most parts take a third of theirs
    "correctness": Part(60, f"{PLACE}.head:correctness"),
    "head 1024 × 1000000": Part(75, f"{PLACE}.head:times", {"batch": 1024, "classes": 1_000_000}),
    "head 1024 × 100000": Part(45, f"{PLACE}.head:times", {"batch": 1024, "classes": 100_000}),
    "training 128 × 100000": Part(150, f"{PLACE}.training:steps", {"batch": 128, "classes": 100_000}),
    "head 256 × 1000000": Part(60, f"{PLACE}.head:times", {"batch": 256, "classes": 1_000_000}),
    "head 256 × 100000": Part(40, f"{PLACE}.head:times", {"batch": 256, "classes": 100_000}),
    "head 1024 × 10000000, sampled": Part(40, f"{PLACE}.head:sampled"),
    "training 512 × 1000000": Part(150, f"{PLACE}.training:steps", {"batch": 512, "classes": 1_000_000}),
    "loading": Part(30, f"{PLACE}.images:loading"),
    "embedding": Part(60, f"{PLACE}.images:embedding"),
    "tests": Part(120, "benchmarks.gpu:device_tests"),
}


def main(words: list[str]) -> int:
    """Measure what is missing in the record of this code and device; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  PYTHONPATH=src python -m benchmarks gpu --arcface insightface/recognition/arcface_torch",
    )  # fmt: skip
    arcface = "insightface's recognition/arcface_torch, to measure it too; default: ARCFACE_TORCH"
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: to see that everything runs")
    parser.add_argument("--minutes", type=float, default=6.0, help="the most it takes (%(default)g)")
    parser.add_argument("--arcface", metavar="DIR", default=os.environ.get("ARCFACE_TORCH"), help=arcface)
    parser.add_argument("--only", metavar="PART", action="append", choices=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for DEVICE.json and DEVICE.png (benchmarks/results/gpu)"
    )
    given = parser.parse_args(words)
    try:
        import torch

        from benchmarks.on_gpu.setting import Setting
    except ImportError as error:
        parser.error(f"expected PyTorch 2.11 or newer and NumPy, got '{error}'; install them: pip install torch numpy")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a GPU, got none; to try it on a CPU add: --tiny --device cpu")
    if given.device == "cpu" and not given.tiny:
        parser.error("expected --tiny with --device cpu, got full sizes, which take hours there; add --tiny")
    facts = describe(given.device)
    out = given.out or (ROOT / "build" / "benchmarks" if given.tiny else RESULTS) / "gpu"
    name = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    sheet = Sheet("gpu", out / f"{name}.json", facts=facts, quick=given.tiny)
    sheet.resume(f"{facts['device']}, {fingerprint()}")
    if missing := [wheel for module, wheel in WHEELS.items() if find_spec(module) is None]:
        print(f"for all parts install: pip install {' '.join(missing)}", file=sys.stderr)
    parts = {part: PARTS[part] for part in given.only or PARTS}
    measure_parts(sheet, parts, Setting(given.device, given.tiny, given.arcface), 60 * given.minutes)
    sheet.attempt("picture", picture, sheet.figures, facts, sheet.path.with_suffix(".png"))
    file = sheet.finish(resumable=True)
    print(f"kept in {os.path.relpath(file)}; the same command measures what is missing")
    return int(bool(sheet.failed))


def describe(device: str) -> dict[str, Any]:
    """What the record says about machine and software."""
    import torch

    found: dict[str, Any] = {"device": or_unknown(lambda: processor().name), "cores": os.cpu_count()}
    if device == "cuda":
        held, query = torch.cuda.get_device_properties(0), ["nvidia-smi", "--query-gpu=driver_version"]
        found |= {
            "device": held.name, "memory_mib": held.total_memory >> 20, "capability": f"{held.major}.{held.minor}",
            "processors": held.multi_processor_count, "cuda": torch.version.cuda,
            "driver": or_unknown(lambda: output_of([*query, "--format=csv,noheader"]).splitlines()[0]),
        }  # fmt: skip
    for name in ("torch", "triton", "numpy"):
        found[name] = or_unknown(lambda name=name: metadata.version(name))  # type: ignore[misc]
    commit = or_unknown(lambda: output_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]))
    return {**found, "python": sys.version.split()[0], "commit": commit}


def fingerprint() -> str:
    """Hash of the code that is measured, and of what measures it."""
    measuring = [Path(__file__), *(ROOT / "benchmarks" / "on_gpu").glob("*.py")]
    files = sorted([*(ROOT / "src").rglob("*.py"), *measuring])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def device_tests(setting: Any) -> Measurements:
    """`pytest tests/gpu`, which needs pytest and hypothesis."""

    def run() -> dict[str, int]:
        if not setting.cuda:
            raise LeftOut("tests/gpu needs a GPU")
        for package in ("pytest", "hypothesis"):
            metadata.version(package)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(" ".join(done.stdout.splitlines()[-12:]) or done.stderr)
        return {what: int(count) for count, what in re.findall(r"(\d+) (passed|skipped)", done.stdout)}

    yield "tests", run


def picture(figures: Mapping[str, Any], facts: Mapping[str, Any], path: Path) -> None:
    """Draw times and memory of the head, and the speed of training, into a PNG file."""
    require("matplotlib", "report").use("Agg")
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(1, 3, figsize=(17, 7), layout="constrained")
    _bars(axes[0], figures.get("head", {}), "ms", "head, forward and backward (ms)")
    _bars(axes[1], figures.get("head", {}), "extra_mib", "head, memory beyond features, weights, gradients (MiB)")
    _bars(axes[2], figures.get("training", {}), "images_per_second", "training (images/s)")
    canvas.suptitle(f"{facts['device']}, torch {facts['torch']}, commit {facts['commit']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)


def _bars(axes: Any, groups: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, title: str) -> None:
    """One bar a method, groups in different colors; times and memory on a logarithmic scale."""
    labels: list[str] = []
    for number, (group, methods) in enumerate(groups.items()):
        for method, found in methods.items():
            if found.get(name):
                axes.barh(len(labels), found[name], color=f"C{number}")
                axes.text(found[name], len(labels), f" {found[name]:g}", va="center", fontsize=6)
                labels.append(f"{method} ({group})")
    axes.set_yticks(range(len(labels)), labels, fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("linear" if name == "images_per_second" else "log")
    axes.set_title(title, fontsize=9)
