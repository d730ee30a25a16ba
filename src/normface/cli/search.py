from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..data import read_image
from ..embed import Embedder, covered
from ..gallery import open_gallery
from .terminal import GALLERY, UNDECIDED, Anyway, GalleryUrl, Json, Model, out


def search(
    image: Annotated[Path, typer.Argument(metavar="IMG", help="A photograph.")],
    gallery: GalleryUrl = GALLERY,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of people to return.")] = 10,
    tag: Annotated[str | None, typer.Option(help="Search only people with this tag.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out people with a lower cosine.")] = None,
    model: Model = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the image is an aligned crop.")] = False,
    anyway: Anyway = False,
    as_json: Json = False,
) -> None:
    """Search the gallery for the people most similar to the face in a photograph.

    Prints cosines, highest first, each with the decision, and how many false matches to expect. The threshold is the
    one that the model's certificate has for a gallery of as many templates (`normface calibrate identification`); a
    certificate without such thresholds decides by that of verification, with a warning. Treat a match that is not
    accepted as a different person, whatever its rank. A photograph that the certificate does not cover is undecided:
    the exit code is 3; `--anyway` decides, with a warning.

    Example: `normface search who.jpg --gallery file:people.db`.
    """
    embedder = Embedder.load(model)
    pixels = read_image(image)
    seen = embedder.see([embedder.portrait(pixels, aligned=aligned, name=str(image))])
    with open_gallery(gallery, model=embedder.sha256, operating_point=embedder.operating_point, create=False) as opened:
        found = opened.search(seen[0].vector, k, tag=tag, threshold=threshold)
        matches = [covered(each, seen, [str(image)], anyway=anyway) for each in found]
    assessed, undecided = seen[0].assessment, any(each.undecided for each in matches)
    rule = matches[0].rule if matches else None
    if as_json:
        listed = [{"person": m.person, "score": m.score, "accepted": m.decision} for m in matches]
        out.print_json(json.dumps({
            "matches": listed, "undecided": undecided, "outside": assessed.outside, "risk": assessed.risk,
            "threshold": rule and rule.threshold, "search": rule and asdict(rule), "warning": rule and rule.warning,
            "model": embedder.name,
        }))  # fmt: skip
    elif not matches:
        out.print(f"{gallery}: no people enrolled", soft_wrap=True, markup=False)
    else:
        table = Table("person", "cosine", "accepted", box=None)
        unknown = "undecided" if undecided else "no operating point"
        for match in matches:
            verdict = {True: "yes", False: "no", None: unknown}[match.decision]
            table.add_row(Text(match.person or ""), f"{match.score:.4f}", verdict)
        out.print(table)
        if rule and not rule.warning:  # a warning was printed
            out.print(rule.words, soft_wrap=True)
        for what in assessed.outside:
            out.print(f"the certificate does not cover {image}: {what}", soft_wrap=True, markup=False)
        if assessed.risk is not None:
            out.print(f"estimated false match risk: {assessed.words}", soft_wrap=True)
    if undecided:
        raise typer.Exit(UNDECIDED)
