"""The command `normface search`: find the enrolled people most like a face."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..embed import Embedder, FaceRecord
from ..types import Match, SearchRule
from .photographs import Draw, Faces, as_dict, chosen, draw, told, warn_without_conditions
from .terminal import GALLERY, UNDECIDED, Anyway, Computer, FaceDetector, GalleryUrl, Json, Model, out


def search(
    image: Annotated[Path, typer.Argument(metavar="IMG", help="A photograph, or a video.")],
    gallery: GalleryUrl = GALLERY,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Number of people to return. Default: 10; with --faces all 1 each.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Search only people with this tag.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out people with a lower cosine.")] = None,
    model: Model = None,
    faces: Faces = "center",
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the image is an aligned crop.")] = False,
    anyway: Anyway = False,
    detector: FaceDetector = "mtcnn",
    device: Computer = "auto",
    to: Draw = None,
    as_json: Json = False,
) -> None:
    """Search the gallery for the people most similar to the face in a photograph.

    Prints cosines, highest first, each with the decision, and the expected number of false matches. The certificate's
    table gives the threshold for this size of gallery (`normface calibrate identification`). Without such a table the
    threshold for verification is used, with a warning. Treat a match that is not accepted as a different person,
    whatever its rank. `--faces all` searches for every face in a group photograph. In a video, the face that is seen
    longest is searched for, or with `--faces all` every face.
    A photograph outside the certificate's conditions is undecided, with exit code 3; `--anyway` decides, with a
    warning.

    Example: `normface search who.jpg --gallery file:people.db`.
    """
    embedder = Embedder.load(model, detector=detector, device=device)
    with embedder.open_gallery(gallery, create=False) as opened:
        count = k or (1 if faces == "all" else 10)
        found = opened.search_all(
            image, count, faces=chosen(faces), aligned=aligned, anyway=anyway, tag=tag, threshold=threshold
        )
    if to is not None:
        draw(embedder, to, [image], [[seen.face for seen, _ in found]])
    warn_without_conditions(embedder)
    undecided = any(match.undecided for _, matches in found for match in matches)
    if as_json:
        each = [_as_dict(image, seen, matches) for seen, matches in found]
        answer = {"faces": each, "undecided": undecided} if faces == "all" else each[0]
        rule = _rule(found)
        out.print_json(json.dumps({
            **answer, "threshold": rule and rule.threshold, "search": rule and asdict(rule),
            "warning": rule and rule.warning, "model": embedder.name, **embedder.tools(),
        }))  # fmt: skip
    elif not found[0][1]:
        out.print(f"{gallery}: no people enrolled", soft_wrap=True, markup=False)
    else:
        for seen, matches in found:
            _tell(image, seen, matches)
        rule = _rule(found)
        if rule and not rule.warning:  # a warning was printed
            out.print(rule.words, soft_wrap=True)
    if undecided:
        raise typer.Exit(UNDECIDED)


def _rule(found: list[tuple[FaceRecord, list[Match]]]) -> SearchRule | None:
    """The rule of the searches; all searches in one gallery have the same rule."""
    return next((match.rule for _, matches in found for match in matches), None)


def _as_dict(image: Path, seen: FaceRecord, matches: list[Match]) -> dict[str, Any]:
    return {
        "matches": [
            {"person": each.person, "score": each.score, "accepted": each.decision, "decision": each.verdict}
            for each in matches
        ],
        "undecided": any(match.undecided for match in matches), "outside": seen.assessment.outside,
        "risk": seen.assessment.risk, "face": as_dict(str(image), seen.face, seen.found),
    }  # fmt: skip


def _tell(image: Path, seen: FaceRecord, matches: list[Match]) -> None:
    table = Table("person", "cosine", "accepted", box=None)
    for match in matches:
        unknown = "undecided" if match.undecided else "no operating point"
        verdict = {True: "yes", False: "no", None: unknown}[match.decision]
        table.add_row(Text(match.person or ""), f"{match.score:.4f}", verdict)
    out.print(table)
    out.print(told(str(image), seen.face, seen.found), soft_wrap=True, markup=False)
    for what in seen.assessment.outside:
        out.print(f"the certificate does not cover {image}: {what}", soft_wrap=True, markup=False)
    if seen.assessment.risk is not None:
        out.print(f"estimated false match risk: {seen.assessment.words}", soft_wrap=True)
