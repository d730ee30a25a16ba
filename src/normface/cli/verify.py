from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import report
from ..conditions import Assessment
from ..data import read_image
from ..embed import Embedder
from ..types import Match, OperatingPoint
from .terminal import UNDECIDED, Anyway, Json, Model


def verify(
    a: Annotated[Path, typer.Argument(help="A photograph.")],
    b: Annotated[Path, typer.Argument(help="Another photograph.")],
    model: Model = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the images are aligned crops.")] = False,
    anyway: Anyway = False,
    as_json: Json = False,
) -> None:
    """Decide whether two photographs show the same person.

    Detects and aligns the face nearest each image's center, embeds it and its mirror image, and compares the cosine
    with the threshold of the model's operating point, which has measured error rates. Also prints the likelihood
    ratio: how much more likely this cosine is for the same person than for different people.

    Photographs that the model's certificate does not cover, such as blurred or covered faces, are undecided: the exit
    code is 3. `--anyway` decides, with a warning.

    Example: `normface verify a.jpg b.jpg`.
    """
    embedder = Embedder.load(model)
    match = embedder.verify(read_image(a), read_image(b), aligned=aligned, anyway=anyway, names=(str(a), str(b)))
    point = embedder.operating_point
    if as_json:
        print(json.dumps({
            "score": match.score, "same": match.decision, "decision": _decision(match), "outside": match.outside,
            "risk": match.risk, "model": embedder.name,
            "llr": point.calibration.llr(match.score) if point and point.calibration else None,
            "operating_point": _short(point) if point else None,
        }, indent=2))  # fmt: skip
    elif point is None:
        print(f"cosine {match.score:.4f}; no decision: this model has no operating point "
              "(create one with: normface calibrate)")  # fmt: skip
    else:
        _tell(match, point)
    if match.undecided:
        raise typer.Exit(UNDECIDED)


def _tell(match: Match, point: OperatingPoint) -> None:
    """Print the decision and what it rests on."""
    if match.undecided:
        print(f"undecided: cosine {match.score:.4f}; the certificate does not cover these photographs")
    else:
        verdict, sign = ("same person", "≥") if match.decision else ("different people", "<")
        print(f"{verdict}: cosine {match.score:.4f} {sign} threshold {point.threshold:.4f}")
    if match.outside and not match.undecided:
        print("warning: decided although the certificate does not cover these photographs")
    for what in match.outside:
        print(f"  {what}")
    if match.risk is not None:
        print(f"estimated false match risk: {Assessment(match.risk).words}")
    else:
        print("conditions: not in this certificate, so any photograph is decided "
              "(measure them: normface calibrate … --conditions FACES)")  # fmt: skip
    if match.undecided:
        print("give other photographs, or decide with --anyway")
        return
    if point.calibration:
        print(f"evidence: {report.evidence(point.calibration, match.score)}")
    print(f"threshold from {point.protocol}, with 95 % intervals in brackets:")
    for line in report.certified_rates(point):
        print(f"  {line}")


def _decision(match: Match) -> str | None:
    if match.undecided:
        return "undecided"
    return None if match.decision is None else "same" if match.decision else "different"


def _short(point: OperatingPoint) -> dict[str, Any]:
    """Return the operating point without its calibration; of its conditions, what was measured."""
    told: dict[str, Any] = json.loads(point.to_json())
    told.pop("calibration")
    return {**told, "conditions": point.conditions and dict(point.conditions.facts)}
