from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import report
from ..data import read_image
from ..types import OperatingPoint
from .terminal import Json, Model, load_embedder


def verify(
    a: Annotated[Path, typer.Argument(help="A photograph.")],
    b: Annotated[Path, typer.Argument(help="Another photograph.")],
    model: Model = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the images are aligned crops.")] = False,
    as_json: Json = False,
) -> None:
    """Decide whether two photographs show the same person.

    Detects and aligns the face nearest each image's center, embeds it and its mirror image, and compares the cosine
    with the threshold of the model's operating point, which has measured error rates. Also prints the likelihood
    ratio: how much more likely this cosine is for the same person than for different people.

    Example: `normface verify a.jpg b.jpg`.
    """
    embedder = load_embedder(model)
    match = embedder.verify(read_image(a), read_image(b), aligned=aligned, names=(str(a), str(b)))
    point = embedder.operating_point
    if as_json:
        print(json.dumps({
            "score": match.score, "same": match.decision, "model": embedder.name,
            "llr": point.calibration.llr(match.score) if point and point.calibration else None,
            "operating_point": _short(point) if point else None,
        }, indent=2))  # fmt: skip
        return
    if point is None:
        print(f"cosine {match.score:.4f}; no decision: this model has no operating point "
              "(create one with: normface calibrate)")  # fmt: skip
        return
    verdict, sign = ("same person", "≥") if match.decision else ("different people", "<")
    print(f"{verdict}: cosine {match.score:.4f} {sign} threshold {point.threshold:.4f}")
    if point.calibration:
        print(f"evidence: {report.evidence(point.calibration, match.score)}")
    print(f"threshold from {point.protocol}, with 95 % intervals in brackets:")
    for line in report.certified_rates(point):
        print(f"  {line}")


def _short(point: OperatingPoint) -> dict[str, Any]:
    """Return the operating point without its calibration; the output has the likelihood ratio instead."""
    return {key: value for key, value in json.loads(point.to_json()).items() if key != "calibration"}
