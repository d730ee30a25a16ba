"""The command `normface data`: check a data set before it is used."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import simplejpeg
import typer

from .. import report
from ..atomic import replacing
from ..data import Images, hygiene, open_reader
from ..embed import Embedder
from ..errors import ConfigError, DataError
from ..system_facts import usable_cores
from ..types import Embeddings
from .pack import alike_names, images_a_person
from .terminal import Json, out, progress

PICTURES, SIDE = 200, 120  # number of doubtful images in the report; their longer side, in pixels
KINDS = ("unreadable", "duplicate", "wrong label", "stranger", "overlap")


def check(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Images in any format that `normface pack` reads.")],
    against: Annotated[
        Path | None, typer.Option(metavar="TEST", help="Test set whose people and images must not be in SRC.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Run folder or FILE.onnx: also find wrong labels and people shared with TEST.")
    ] = None,
    cutoff: Annotated[
        float | None,
        typer.Option(
            min=-1, max=1, help="Cosine from which two faces count as the same person. Default: the model's threshold."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the reports and exclude.txt.")] = Path("data-check"),
    leave_out: Annotated[
        str, typer.Option("--exclude", help=f"Kinds of images to list in exclude.txt, of: {', '.join(KINDS)}.")
    ] = "unreadable,duplicate,overlap",
    as_json: Json = False,
) -> None:
    """Find unreadable images, duplicates, doubtful labels, and people shared with a test set.

    Writes `report.html` (it contains small pictures of people: do not publish it), `report.json`, and `exclude.txt`
    for `normface pack --exclude`. Checking labels and shared people needs `--model`; finding duplicates does not.

    Example: `normface data check crops`.
    """
    wanted = [kind.strip() for kind in leave_out.split(",") if kind.strip()]
    if unknown := [kind for kind in wanted if kind not in KINDS]:
        raise ConfigError(f"--exclude with kinds of {', '.join(KINDS)}", ", ".join(unknown), "correct --exclude")
    embedder = None if model is None else Embedder.load(model)
    limit = _cutoff(embedder, cutoff)
    reader, other = open_reader(source), None if against is None else open_reader(against)
    found, theirs = _survey(reader, "reading"), None if other is None else _survey(other, "reading the test set")
    if len(found.unreadable) == len(reader):
        raise DataError(f"a readable image in {source}", f"none of {len(reader)}", "correct the path")
    ids, marks = reader.ids, dict[int, tuple[str, str]]()

    def mark(row: int, kind: str, words: str) -> None:
        marks.setdefault(int(row), (kind, words))

    for row, reason in found.unreadable:
        mark(row, "unreadable", reason)
    pairs = hygiene.duplicates(found)
    for row, at, kind in pairs:
        mark(row, "duplicate", f"{kind} of {ids[at]}")
    told: dict[str, Any] = {"duplicates": [[ids[row], ids[at], kind] for row, at, kind in pairs]}
    if other is not None and theirs is not None:
        common = hygiene.duplicates(found, theirs)
        for row, at, kind in common:
            mark(row, "overlap", f"{kind} of {other.ids[at]} of the test set")
        told["duplicates_of_test"] = [[ids[row], other.ids[at], kind] for row, at, kind in common]
    if embedder is not None and limit is not None:
        told |= _by_embeddings(embedder, limit, reader, found, other, theirs, mark)
    counts = np.bincount(reader.labels)
    told = {
        "source": str(source), "images": len(reader), "people": len(reader.identities),
        "images_a_person": images_a_person(counts), "sizes": _sizes(found), "cutoff": limit,
        "unreadable": {str(ids[row]): reason for row, reason in found.unreadable},
        "differ_by_case": alike_names(reader.identities.tolist()), **told,
        "marked": dict(Counter(kind for kind, _ in marks.values())),
    }  # fmt: skip
    excluded = [(str(ids[row]), *why) for row, why in sorted(marks.items()) if why[0] in wanted]
    _write(folder, reader, told, marks, excluded)
    if as_json:
        out.print_json(json.dumps({**told, "excluded": len(excluded), "report": str(folder / "report.html")}))
        return
    out.print(f"{len(reader):,} images of {len(reader.identities):,} people", soft_wrap=True)
    for kind in KINDS:
        out.print(f"  {told['marked'].get(kind, 0):6,} {kind}", soft_wrap=True)
    for key, words in {
        "alike": "pairs of identities that may be the same person",
        "overlap": "people also in the test set",
    }.items():
        if key in told:
            out.print(f"  {len(told[key]):6,} {words}", soft_wrap=True)
    out.print(f"report: {folder / 'report.html'}\nlist:   {folder / 'exclude.txt'} ({len(excluded):,} images)",
              soft_wrap=True, markup=False)  # fmt: skip


def _cutoff(embedder: Embedder | None, given: float | None) -> float | None:
    if embedder is None:
        if given is not None:
            raise ConfigError("--cutoff with --model", "--cutoff alone", "add --model")
        return None
    if given is None and embedder.operating_point is None:
        raise ConfigError(
            "--cutoff, or a model with an operating point", f"{embedder.name} without one",
            "run normface calibrate, or give --cutoff",
        )  # fmt: skip
    return embedder.operating_point.threshold if given is None and embedder.operating_point else given


def _survey(reader: Images, words: str) -> hygiene.Survey:
    with progress(words, "images") as update:
        return hygiene.survey(reader, threads=usable_cores(), progress=update)


def _by_embeddings(
    embedder: Embedder, cutoff: float, reader: Images, found: hygiene.Survey, other: Images | None,
    theirs: hygiene.Survey | None, mark: Any,
) -> dict[str, Any]:  # fmt: skip
    good, ours = _embed(embedder, reader, found, "embedding")
    labels = good.labels
    rows = np.searchsorted(reader.rows, good.rows)
    doubts = hygiene.doubtful(ours.vectors, labels, cutoff)
    names = good.identities
    for row, own, nearest, cosine in doubts.wrong:
        mark(rows[row], "wrong label", f"nearer to {names[nearest]} ({cosine:.2f}) than to its own ({own:.2f})")
    for row, own in doubts.strangers:
        mark(rows[row], "stranger", f"cosine {own:.2f} to the rest of {names[labels[row]]}")
    told: dict[str, Any] = {"alike": [[names[i], names[j], round(c, 4)] for i, j, c in doubts.alike]}
    if other is not None and theirs is not None:
        test, embedded = _embed(embedder, other, theirs, "embedding the test set")
        common = hygiene.overlap(ours.vectors, labels, embedded.vectors, test.labels, cutoff)
        for person, at, cosine in common:
            for each in np.flatnonzero(labels == person):
                mark(rows[each], "overlap", f"{names[person]} is {test.identities[at]} of the test set ({cosine:.2f})")
        told["overlap"] = [[names[i], test.identities[j], round(c, 4)] for i, j, c in common]
    return told


def _embed(embedder: Embedder, reader: Images, found: hygiene.Survey, words: str) -> tuple[Images, Embeddings]:
    bad = {row for row, _ in found.unreadable}
    good = reader.select([row for row in range(len(reader)) if row not in bad])
    with progress(words, "images") as update:
        return good, embedder.embed(good, mirror="none", progress=update)


def _sizes(found: hygiene.Survey) -> dict[str, int]:
    sizes = Counter(f"{height}×{width}" for height, width in found.sizes.tolist() if height)
    common = dict(sizes.most_common(8))
    rest = sum(sizes.values()) - sum(common.values())
    return common | ({"others": rest} if rest else {})


def _write(
    folder: Path, reader: Images, told: dict[str, Any], marks: dict[int, tuple[str, str]], excluded: list[Any]
) -> None:
    ids = reader.ids
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
    lines = [f"# {kind}: {words}\n{id}\n".replace("\r", " ") for id, kind, words in excluded if "\n" not in id]
    with replacing(folder / "exclude.txt") as temporary:
        temporary.write_text("".join(lines), "utf-8")
    doubtful = [(row, str(ids[row]), f"{kind}: {words}") for row, (kind, words) in sorted(marks.items())]
    shown = [(name, words, _thumbnail(reader, row)) for row, name, words in doubtful[:PICTURES]]
    facts = {"images": f"{told['images']:,}", "people": f"{told['people']:,}", "in the list": f"{len(excluded):,}"}
    facts |= {f"people with {size} images": f"{count:,}" for size, count in told["images_a_person"].items()}
    facts |= {f"size {size}": f"{count:,}" for size, count in told["sizes"].items()}
    if told["cutoff"] is not None:
        facts["same person from cosine"] = f"{told['cutoff']:.4f}"
    facts |= {f"alike: {a}, {b}": f"{cosine:.3f}" for a, b, cosine in told.get("alike", [])[:50]}
    facts |= {f"in the test set: {a}": f"{b}, {cosine:.3f}" for a, b, cosine in told.get("overlap", [])[:50]}
    if told["differ_by_case"]:
        facts["differ by case"] = "; ".join(", ".join(names) for names in told["differ_by_case"][:20])
    page = report.render_photographs(
        f"Faces of {told['source']}", facts, told["marked"], shown, [each[1:] for each in doubtful[PICTURES:]],
        heading="Doubtful",
    )  # fmt: skip
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page, "utf-8")


def _thumbnail(reader: Images, row: int) -> bytes | None:
    try:
        image = reader.read(row)
    except DataError:
        return None
    share = min(1.0, SIDE / max(image.shape[:2]))
    size = [max(1, round(share * side)) for side in image.shape[1::-1]]
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), 80)
    )
