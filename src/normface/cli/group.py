"""The command `normface group`: group the faces in photographs by person."""

from __future__ import annotations

import json
import logging
import shutil
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..embed import Embedder, FaceGallery
from ..embed.pile import CROPS, FILE, SINGLES, UNCOVERED, Pile, crop_name, faces_in, write_crop, write_people
from ..errors import ConfigError, DataError, FaceError
from ..faces.photographs import Photographs, open_photographs
from ..gallery import GALLERIES
from ..types import Floats
from .photographs import warn_of_videos
from .terminal import Anyway, Computer, FaceDetector, Json, Model, Strict, out, progress

_log = logging.getLogger("normface")


def group(
    source: Annotated[
        Path, typer.Argument(metavar="PHOTOS", help="Photographs: a folder, a zip, or a text file of paths.")
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the result.")],
    into: Annotated[
        str | None,
        typer.Option(
            metavar="EARLIER",
            help="Known people: the DIR of an earlier run, or a gallery (file:…, postgres://… and others).",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine from which groups merge. Default: the certificate's threshold for as many faces."),
    ] = None,
    model: Model = None,
    anyway: Anyway = False,
    detector: FaceDetector = "mtcnn",
    device: Computer = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Group the faces in photographs by person, without names.

    Writes DIR/index.html with a face of each person, and for each person a folder with links to the photographs and a
    sheet of all faces (index.html). Faces without a match are in `singles`. Faces outside the conditions of the model's
    certificate (blurred, tiny, …) are in `uncovered`, because strangers would match them; `--anyway` groups them.
    DIR/faces.npz contains the embeddings: protect the folder like a gallery.

    `--into` first assigns faces to known people: those of an earlier result, whose faces and names are kept, or those
    in a gallery. Photographs in the earlier result are not read again.

    Example: `normface group photographs --out people`.
    """
    began = time.perf_counter()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("a new folder for --out", f"{folder}, which exists", "give another, or remove it")
    gallery = into if into and into.partition(":")[0] in GALLERIES else None
    earlier = Path(into) if into and not gallery else None
    photographs = open_photographs(source)
    warn_of_videos(photographs.unread, source)
    embedder = Embedder.load(model, detector=detector, device=device)
    if threshold is None and embedder.operating_point is None:
        raise ConfigError("a model with a certificate", f"{embedder.name} without one", "give --threshold")
    pile = Pile.load(earlier) if earlier else Pile(embedder.sha256)
    if pile.model != embedder.sha256:
        raise ConfigError(
            f"vectors of {embedder.name} in {earlier}", "those of another model", "give the same --model as before"
        )
    with ExitStack() as stack:
        known = stack.enter_context(embedder.open_gallery(gallery, create=False)) if gallery else None
        undo = stack.enter_context(ExitStack())
        undo.callback(shutil.rmtree, folder, ignore_errors=True)  # an incomplete result is useless
        _make(folder, earlier, len(pile))
        carried, files = len(pile), _files(photographs)
        unreadable, faceless = _find_faces(embedder, photographs, files, pile, folder, anyway=anyway, strict=strict)
        if not len(pile):
            raise FaceError(
                f"faces in the photographs of {source}", f"none in {faceless}, {len(unreadable)} unreadable",
                "give photographs with visible faces",
            )  # fmt: skip
        point = embedder.operating_point
        cut = point.for_search(len(pile)).threshold if threshold is None and point else float(threshold or 0)
        with progress("grouping", "faces") as bar:
            pile.assign(cut, known=partial(_recognized, known) if known else None, progress=bar)
        undo.pop_all()
    pile.save(folder / FILE)
    back = {path: name for name, path in files.items()}
    rows = pile.rows()
    apart = {kind: len(rows.get(kind, ())) for kind in (SINGLES, UNCOVERED)}
    facts = {
        "photographs": len(photographs), "faces": len(pile), "people": len(rows.keys() - apart.keys()), **apart,
        "without a face": faceless, "unreadable": len(unreadable),
    }  # fmt: skip
    folders = write_people(
        pile, folder, {key: f"{value:,}" for key, value in facts.items()} | {"threshold": f"{cut:.4f}"},
        lambda path: photographs.source.read(back[path]) if path in back else None,
    )  # fmt: skip
    if unreadable:
        first = ", ".join(f"{name} ({why})" for name, why in list(unreadable.items())[:5])
        _log.warning("%d of %d photographs unreadable: %s", len(unreadable), len(photographs), first)
    if as_json:
        out.print_json(json.dumps({
            "out": str(folder), **{key.replace(" ", "_"): value for key, value in facts.items()},
            "groups": [
                {"person": person, "folder": folders[person], "faces": len(found),
                 "photographs": sorted({pile.photographs[row] for row in found})}
                for person, found in rows.items() if person not in apart
            ],
            "unreadable": unreadable, "unread": dict(photographs.unread), "carried": carried, "threshold": cut,
            "model": embedder.name, **embedder.tools(), "seconds": round(time.perf_counter() - began, 2),
        }))  # fmt: skip
        return
    out.print(
        f"{facts['faces']:,} faces in {facts['photographs']:,} photographs: {facts['people']:,} people, "
        f"{apart[SINGLES]:,} faces of nobody else, {apart[UNCOVERED]:,} that the certificate does not cover",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    out.print(f"open {folder / 'index.html'}", soft_wrap=True, markup=False)


def _make(folder: Path, earlier: Path | None, carried: int) -> None:
    """Create the folder of the result with the crops of an earlier one."""
    try:
        (folder / CROPS).mkdir(parents=True)
        for row in range(carried):
            if earlier and (crop := earlier / CROPS / crop_name(row)).exists():
                shutil.copyfile(crop, folder / CROPS / crop.name)
    except OSError as error:
        raise DataError(f"to write {folder}", f"'{error.strerror}'", "choose a writable folder") from error


def _find_faces(
    embedder: Embedder, photographs: Photographs, files: dict[str, str], pile: Pile, folder: Path, *, anyway: bool,
    strict: bool,
) -> tuple[dict[str, str], int]:  # fmt: skip
    """Add the faces of new photographs to the pile. Returns why some are unreadable, and how many have no face."""
    seen = set(pile.photographs)
    names = [name for name in photographs.names if files[name] not in seen]
    unreadable, faceless = dict[str, str](), 0
    with progress("finding faces", "photographs") as bar:
        for done, (name, faces) in enumerate(faces_in(embedder, photographs, names, strict=strict), 1):
            if isinstance(faces, str):
                unreadable[name] = faces
            else:
                faceless += not faces
                for face in faces:
                    write_crop(folder, len(pile), face)
                    pile.add(files[name], face, anyway=anyway)
            bar(done, len(names), f"{len(pile):,} faces")
    return unreadable, faceless


def _files(photographs: Photographs) -> dict[str, str]:
    """The absolute path of each photograph; in a zip, as if the zip were a folder."""
    base = Path(getattr(photographs.source, "root", photographs.source.path)).absolute()
    return {name: str(base / name) for name in photographs.names}


def _recognized(known: FaceGallery, vector: Floats) -> str | None:
    """The enrolled person whom a face is accepted as."""
    found = known.gallery.search(vector, k=1)
    return found[0].person if found and found[0].decision else None
