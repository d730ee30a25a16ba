"""The command `normface verify`: decide whether two photographs show the same person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import report
from ..conditions import Assessment
from ..embed import Embedder
from ..types import Match, OperatingPoint
from .photographs import Draw, Faces, as_dict, chosen, draw, warn_without_conditions
from .photographs import told as told_of
from .terminal import UNDECIDED, Anyway, Computer, FaceDetector, Json, Model


def verify(
    a: Annotated[Path, typer.Argument(help="A photograph, or a video.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    model: Model = None,
    faces: Faces = "center",
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the images are aligned crops.")] = False,
    anyway: Anyway = False,
    detector: FaceDetector = "mtcnn",
    device: Computer = "auto",
    to: Draw = None,
    as_json: Json = False,
) -> None:
    """Decide whether two photographs show the same person.

    Uses the face nearest each image's center, among certain detections. Aligns it, embeds it and its mirror image, and
    compares the cosine with the threshold of the model's operating point, which has measured error rates. Also prints
    the likelihood ratio: how much more likely this cosine is for the same person than for different people. With
    `--faces all`, compares every face with every face and decides by the best pair.

    In a video (mp4, mov, avi, mkv, webm) it uses the face that is seen longest; with `--faces all`, every face.

    Photographs outside the conditions of the model's certificate, such as blurred or covered faces, are undecided, with
    exit code 3. `--anyway` decides, with a warning.

    Example: `normface verify a.jpg b.jpg`.
    """
    embedder = Embedder.load(model, detector=detector, device=device)
    matches = embedder.compare(a, b, faces=chosen(faces), aligned=aligned, anyway=anyway, names=(str(a), str(b)))
    match, point = matches[0], embedder.operating_point
    if to is not None:
        draw(embedder, to, [a, b], list(zip(*(each.faces for each in matches), strict=True)))
    warn_without_conditions(embedder)
    if as_json:
        told: dict[str, Any] = {
            "score": match.score, "same": match.decision, "decision": match.verdict, "outside": match.outside,
            "risk": match.risk, "model": embedder.name, **embedder.tools(), "faces": _faces(match, a, b),
            "llr": report.llr(point, match),
            "operating_point": _short(point) if point else None,
        }  # fmt: skip
        if faces == "all":
            told["pairs"] = [
                {"score": each.score, "decision": each.verdict, "outside": each.outside, "risk": each.risk,
                 "faces": _faces(each, a, b)}
                for each in matches
            ]  # fmt: skip
        print(json.dumps(told, indent=2))
    else:
        if point is None:
            print(f"cosine {match.score:.4f}; no decision: this model has no operating point "
                  "(create one with: normface calibrate)")  # fmt: skip
        else:
            _tell(match, point)
        for name, face, found in zip((a, b), match.faces, match.found, strict=True):
            print(told_of(str(name), face, found))
        if len(matches) > 1:
            _tell_pairs(matches)
    if match.undecided:
        raise typer.Exit(UNDECIDED)


def _tell(match: Match, point: OperatingPoint) -> None:
    """Print the decision and its reasons."""
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
    if match.undecided:
        print("give other photographs, or decide with --anyway")
        return
    if match.outside:
        return  # evidence and rates were measured on other photographs
    if point.calibration:
        print(f"evidence: {report.evidence(point.calibration, match.score)}")
    print(f"threshold from {point.protocol}, with 95 % intervals in brackets:")
    for line in report.certified_rates(point):
        print(f"  {line}")


def _tell_pairs(matches: list[Match]) -> None:
    print(f"all {len(matches)} pairs of faces, best first; the more pairs, the likelier a false match among them:")
    for match in matches:
        boxes = " and ".join(" ".join(f"{side:.0f}" for side in face.box) for face in match.faces if face)
        print(f"  {match.score:.4f} {match.verdict or 'no decision'}: {boxes}")


def _faces(match: Match, *names: Path) -> list[dict[str, Any]]:
    seen = zip(names, match.faces, match.found, strict=True)
    return [as_dict(str(name), face, found) for name, face, found in seen]


def _short(point: OperatingPoint) -> dict[str, Any]:
    """Return the operating point without its calibration; of its conditions, only the measurements."""
    told: dict[str, Any] = json.loads(point.to_json())
    told.pop("calibration")
    return {**told, "conditions": point.conditions and dict(point.conditions.facts)}
