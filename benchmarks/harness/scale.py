"""What a step of training on millions of classes costs on several GPUs, computed from measured constants.

    python -m benchmarks.harness.scale --classes 10000000 --gpus 8 64

prints the tables of docs/scale.md, for which `python -m benchmarks page` fills in scale.md beside this file.
B images of a step on all k GPUs, C classes, D dimensions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normface.report.render import markdown_table

from .sheet import ROOT

PAGE = ROOT / "docs" / "scale.md"
TEMPLATE = Path(__file__).with_name("scale.md")

# Measured on one H200 (docs/benchmarks.md): the head by library products at B = 1,024 and C = 1,000,000 takes 11.7 ms,
# of which its four products are 6.1; a copy moves 4.3 TB/s; a step of IResNet-50 before 100,000 classes takes 49.9 ms.
PRODUCTS = 8 * 1024 * 1_000_000 * 512 / 6.1e-3  # operations a second
COPY = 4.3e12  # bytes a second, read or written
NETWORK, BATCH = 49.9e-3, 128  # seconds a step, and images of it on each GPU
# Not measured but specified: NVLink within 8 GPUs, and 400 Gbit/s a GPU between machines, in one direction.
NVLINK, BETWEEN, NODE = 450e9, 50e9, 8  # bytes a second; GPUs in a machine

PARAMETERS, DIM = 43_590_336, 512  # of IResNet-50: what is trained
WIDE, HALF, LABEL = 4, 2, 8  # bytes of a number
# Bytes of each number of the class weights that a step moves. Forward: read, write the unit row in half, read it by the
# product. Backward: the same, read it twice more, write and read the product's gradient, write the weights'.
ROWS = (WIDE + HALF + HALF) + (WIDE + HALF + HALF) + 2 * HALF + 2 * WIDE + WIDE
# Of each of the B·C products: 14 bytes written and read in all, of which half stays in the L2 cache.
COSINES = 7
UPDATE = 5 * WIDE  # SGD with momentum: read gradient, weight and momentum, write two of them


@dataclass(frozen=True)
class Run:
    """A training run: classes, GPUs, images on each, and which share of the other classes a step sees."""

    classes: int
    gpus: int
    batch: int = BATCH
    dim: int = DIM
    parameters: int = PARAMETERS
    sample: float = 1.0
    compress: bool = False

    @property
    def images(self) -> int:
        """B, of all GPUs."""
        return self.batch * self.gpus

    @property
    def seen(self) -> float:
        """Classes of one GPU that a step compares with."""
        return self.sample * self.classes / self.gpus


def collectives(run: Run) -> dict[str, dict[str, int]]:
    """Bytes of the tensors that ranks gather, reduce and scatter in a step, whole, by kind and by what they are.

    Features and labels of all ranks; their lengths, for margins; the gradient of all features; of each sample the own
    cosine (twice), the largest logit and the sum of exponentials; the network's gradients; whether to stop. Left out:
    a few numbers by which ranks check that they agree.
    """
    b = run.images
    return {
        "all_gather": {"features": WIDE * b * run.dim, "labels": LABEL * b, "lengths": WIDE * b},
        "reduce_scatter": {"gradient of the features": WIDE * b * run.dim},
        "all_reduce": {
            "gradient of the network": (HALF if run.compress else WIDE) * run.parameters,
            "numbers of each sample": 4 * WIDE * b,
            "whether to stop": 2 * WIDE,
        },
    }


def sent(run: Run) -> dict[str, float]:
    """Bytes that each rank sends in a step by a ring: S·(k - 1)/k of a gathered or scattered tensor, twice of a sum."""
    share = (run.gpus - 1) / run.gpus
    found = collectives(run)
    network = found["all_reduce"].pop("gradient of the network")
    head = sum((2 if kind == "all_reduce" else 1) * sum(each.values()) for kind, each in found.items())
    return {"network": 2 * share * network, "head": share * head}


def seconds(run: Run) -> dict[str, float]:
    """Time of each part of a step on one GPU, each alone."""
    link = NVLINK if run.gpus <= NODE else BETWEEN
    rows, volume = run.dim * run.seen, sent(run)
    return {
        "network": NETWORK * run.batch / BATCH,
        "products of the head": 8 * run.images * rows / PRODUCTS,
        "traffic of the head": (ROWS * rows + COSINES * run.images * run.seen) / COPY,
        "update of the class weights": UPDATE * rows / COPY,
        "network's gradients over the link": volume["network"] / link,
        "features and their gradient over the link": volume["head"] / link,
    }


def memory(run: Run) -> float:
    """Bytes on each GPU of class weights, their momentum, and their gradient (of the classes seen)."""
    return WIDE * run.dim * (2 * run.classes / run.gpus + run.seen)


def tables(runs: Sequence[Run]) -> dict[str, str]:
    """The tables of the page, in Markdown, with a column a run."""
    names = [f"{run.gpus} GPUs" + (f", {100 * run.sample:g} % sampled" if run.sample < 1 else "") for run in runs]
    size = [
        ["", *names],
        ["images a step, B", *(f"{run.images:,}" for run in runs)],
        ["classes on each GPU", *(f"{run.classes / run.gpus:,.0f}" for run in runs)],
        ["their weights, momentum and gradient, GB", *(f"{memory(run) / 1e9:.1f}" for run in runs)],
    ]
    times = [
        ["each alone, ms", *names],
        *([part, *(f"{1000 * seconds(run)[part]:.2f}" for run in runs)] for part in seconds(runs[0])),
    ]
    volume = [
        ["MB", *names],
        *(
            [f"{what} ({kind})", *(f"{collectives(run)[kind][what] / 1e6:.2f}" for run in runs)]
            for kind, whole in collectives(runs[0]).items()
            for what in whole
        ),
        ["sent by each GPU", *(f"{sum(sent(run).values()) / 1e6:.0f}" for run in runs)],
    ]
    return {"size": markdown_table(size), "times": markdown_table(times), "volume": markdown_table(volume)}


def render() -> str:
    """docs/scale.md."""
    runs = [Run(10_000_000, 8), Run(10_000_000, 64), Run(10_000_000, 8, sample=0.1)]
    return TEMPLATE.read_text(encoding="utf-8").format(**tables(runs))


def main() -> None:
    """Print the tables of runs of any size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=10_000_000, help="default: %(default)s")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64], help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=BATCH, help="images on each GPU (%(default)s)")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the classes that a step sees (%(default)s)")
    given = parser.parse_args()
    runs = [Run(given.classes, gpus, given.batch, sample=given.sample) for gpus in given.gpus]
    print("\n\n".join(tables(runs).values()))


if __name__ == "__main__":
    main()
