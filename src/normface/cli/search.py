from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..data import read_image
from ..gallery import open_gallery
from .terminal import GALLERY, GalleryUrl, Json, Model, load_embedder, out


def search(
    image: Annotated[Path, typer.Argument(metavar="IMG", help="A photograph.")],
    gallery: GalleryUrl = GALLERY,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of people to return.")] = 10,
    model: Model = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Skip detection: the image is an aligned crop.")] = False,
    as_json: Json = False,
) -> None:
    """Search the gallery for the people most similar to the face in a photograph.

    Prints cosines, highest first, each with the decision at the model's operating point. Treat a match that is not
    accepted as a different person, whatever its rank.

    Example: `normface search who.jpg --gallery file:people.db`.
    """
    embedder = load_embedder(model)
    pixels = read_image(image)
    crop = pixels[None] if aligned else embedder.crop(pixels, str(image))
    with open_gallery(gallery, model=embedder.sha256, operating_point=embedder.operating_point, create=False) as opened:
        matches = opened.search(embedder.features(crop)[0], k)
    if as_json:
        found = [{"person": m.person, "score": m.score, "accepted": m.decision} for m in matches]
        threshold = embedder.operating_point.threshold if embedder.operating_point else None
        out.print_json(json.dumps({"matches": found, "threshold": threshold, "model": embedder.name}))
        return
    if not matches:
        out.print(f"{gallery}: no people enrolled", soft_wrap=True, markup=False)
        return
    table = Table("person", "cosine", "accepted", box=None)
    for match in matches:
        verdict = {True: "yes", False: "no", None: "no operating point"}[match.decision]
        table.add_row(Text(match.person or ""), f"{match.score:.4f}", verdict)
    out.print(table)
