"""Embedding of the images in a protocol's lists, and certification of a model on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..atomic import replacing
from ..data import Reader, open_reader
from ..errors import DataError
from ..faces import size_fault
from ..faces.batch import Work, align_all, kind_of
from ..faces.finding import Portrait
from ..faces.photographs import Photographs, open_photographs
from ..faces.video import RATE, is_video, read_frames
from ..protocols import Failures, Inputs, inputs_of, of_list, operating_point, read_lfw_pairs
from ..protocols.named_pairs import Ids
from ..system_facts import usable_cores
from ..types import Embeddings, Face, Floats, OperatingPoint, Result
from .embedder import FOUND_AT_ONCE, Embedder, Mirror

ASSESSED = 256  # crops in memory at a time


def embed_listed(
    embedder: Embedder,
    protocol: str,
    lists: Sequence[Path],
    crops: Path,
    *,
    mirror: Mirror = "sum",
    strict: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Embeddings:
    """Embed the images in a protocol's lists (all, if it has none), from a folder or archive of crops.

    `strict` raises an error for unreadable images instead of skipping them; progress is called with images done and in
    total. Crops that were saved as another kind of file than the lists say (LFW as PNG) are taken under the listed
    names. Raises DataError for malformed lists, lists that name none of the crops, and unusable crops.
    """
    reader, ids = open_listed(protocol, lists, crops, strict=strict)
    made = embedder.embed(reader, mirror=mirror, progress=progress)
    return Embeddings(made.vectors, ids, made.norms)


def open_listed(protocol: str, lists: Sequence[Path], crops: Path, *, strict: bool = False) -> tuple[Reader, Ids]:
    """Open the crops in a protocol's lists, and return the ids by which the lists name them. See `embed_listed`."""
    reader, inputs = open_reader(crops, strict), inputs_of(protocol)
    wanted, as_jpeg = inputs.named(lists, reader.ids), False
    if not wanted.any():
        wanted, as_jpeg = inputs.named(lists, _as_jpeg(reader.ids)), True
    if not wanted.any():
        raise _none_listed(lists, inputs, crops, reader.ids)
    reader = reader.select(np.flatnonzero(wanted)).check(fault=size_fault)
    return reader, _as_jpeg(reader.ids) if as_jpeg else reader.ids


def _as_jpeg(ids: Ids) -> Ids:
    """Replace the files' extensions by .jpg."""
    return np.array([str(PurePosixPath(id).with_suffix(".jpg")) for id in ids.tolist()])


def _none_listed(lists: Sequence[Path], inputs: Inputs, crops: Path, ids: Ids) -> DataError:
    """Return the error for lists that name none of the crops, with the nearest name."""
    pairs = inputs.read_pairs(lists)
    named = "" if pairs is None else str(pairs[0].left[0])
    near = get_close_matches(named, ids.tolist(), n=1, cutoff=0)
    told = f" such as {named}; the nearest is {near[0]}" if named and near else f"; theirs are such as {ids[0]}"
    listed = ", ".join(str(path) for path in lists)
    return DataError(f"crops in {crops} that {listed} names", f"none{told}", "correct --list, --crops or the ids")


def embed_photographs(
    embedder: Embedder,
    protocol: str,
    lists: Sequence[Path],
    photographs: Path,
    *,
    mirror: Mirror = "sum",
    counted: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Embeddings, Failures]:
    """Find, align and embed the faces of the photographs in a protocol's lists (all, if it has none).

    Also returns the photographs that give no template, with the reason: no face found, not readable, or not covered by
    the conditions of the embedder's certificate, where it has some. `counted` is kept in them.
    Raises DataError for malformed lists, and where no photograph gives a template.
    """
    opened = open_photographs(photographs)
    names = np.array(opened.names)[inputs_of(protocol).named(lists, np.array(opened.names))]
    work = Work(embedder.template, {}, embedder.detector, format="png")
    with TemporaryDirectory() as folder:
        listed = Photographs(opened.source, names.tolist())
        entries = align_all(listed, folder, work, workers=usable_cores(), progress=progress)
        reasons = {entry["photograph"]: kind_of(entry["refused"]) for entry in entries if "refused" in entry}
        if len(reasons) == len(names):
            raise DataError("a face in a listed photograph", f"none in {len(names)}", "check the list and the folder")
        found = [entry for entry in entries if "faces" in entry]
        place = {entry["faces"][0]["crop"]: entry for entry in found}
        reader = open_reader(Path(folder))
        made = embedder.embed(reader, mirror=mirror)
        ids = np.array([place[crop]["photograph"] for crop in made.ids.tolist()])
        for start in range(0, len(ids), ASSESSED):
            rows = range(start, min(start + ASSESSED, len(ids)))
            portraits = [Portrait(reader.read(row), _face(place[str(made.ids[row])]["faces"][0])) for row in rows]
            for row, each in zip(rows, embedder.assess(made.vectors[rows.start : rows.stop], portraits), strict=True):
                if each.outside:
                    reasons[str(ids[row])] = f"outside the certificate's conditions: {'; '.join(each.outside)}"
    kept = ~np.isin(ids, list(reasons))
    if not kept.any():
        raise DataError("a photograph inside the conditions", f"none of {len(ids)}", "give others")
    return Embeddings(made.vectors[kept], ids[kept], made.norms[kept]), Failures(names, reasons, counted)


def embed_videos(
    embedder: Embedder,
    protocol: str,
    lists: Sequence[Path],
    folder: Path,
    *,
    mirror: Mirror = "sum",
    rate: float = RATE,
    progress: Callable[[int, int], object] | None = None,
) -> Embeddings:
    """Embed the central face of the frames of a protocol's videos: `folder`/Name/video.mp4 is the video Name/video.

    rate: frames of a second. The ids are Name/video/0.jpg, …, in order; frames without a face are left out, and
    progress is called with videos done and in total. Raises DataError if the lists name none of the videos, or no frame
    has a face.
    """
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*"))}
    files = {name: path for name, path in files.items() if is_video(path)}
    frames = np.array([f"{name}/0.jpg" for name in files])
    wanted = [name for name, listed in zip(files, inputs_of(protocol).named(lists, frames), strict=True) if listed]
    if not wanted:
        told = f"{len(files)} others" + (f", such as {next(iter(files))}" if files else "")
        raise DataError(f"videos in {folder} that {lists[0]} names", told, "name them Name/video.mp4 as in the list")
    ids, parts = list[str](), list[Floats]()
    for done, name in enumerate(wanted, 1):
        read = enumerate(read_frames(files[name], rate=rate))
        while block := {f"{name}/{number}.jpg": frame.image for number, frame in islice(read, FOUND_AT_ONCE)}:
            portraits = embedder.portraits(list(block.values()), list(block), faces="center")
            seen = {id: found[0].crop for id, found in zip(block, portraits, strict=True) if found}
            if seen:
                ids += seen
                parts.append(embedder.features(np.stack(list(seen.values())), mirror))
        if progress:
            progress(done, len(wanted))
    if not ids:
        raise DataError("a face in a frame of a listed video", f"none in {len(wanted)} videos", "check the folder")
    return Embeddings(np.concatenate(parts), np.array(ids))


def has_videos(folder: Path) -> bool:
    """Return whether there are videos in a folder, at any depth."""
    return folder.is_dir() and any(is_video(path) for path in folder.rglob("*"))


def _face(told: dict[str, Any]) -> Face:
    """Convert a face in a journal entry."""
    return Face(tuple(told["box"]), np.array(told["landmarks"]), told["score"])


def embed_pairs(
    embedder: Embedder,
    data: Path,
    lists: Sequence[str] = ("pairs.txt",),
    *,
    mirror: Mirror = "sum",
    strict: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Embeddings:
    """Embed the LFW images in `lists` under `data`/lfw, from the first archive or folder of crops there.

    The lists are in LFW's format, or BLUFR's `.mat`; options as in `embed_listed`.
    """
    named = [data / "lfw" / name for name in lists]
    protocol = "blufr" if any(path.suffix == ".mat" for path in named) else "lfw"
    crops = inputs_of("lfw").find_crops(data)
    return embed_listed(embedder, protocol, named, crops, mirror=mirror, strict=strict, progress=progress)


def certify(
    result: Result, vectors: Embeddings, pairs_file: Path, *, far: float | None = None, model_sha256: str
) -> OperatingPoint:
    """Compute a model's operating point on a list in LFW's format, from its `result` under the conditions of `verify`.

    far: upper limit of the false accept rate; None selects the threshold of best accuracy.
    """
    return operating_point(
        of_list(vectors, read_lfw_pairs(pairs_file)), target_far=far, protocol=f"{result.protocol}, mirror sum",
        model_sha256=model_sha256, data_sha256=str(result.facts["pairs_sha256"]),
    )  # fmt: skip


def keep_certificate(path: Path, point: OperatingPoint) -> None:
    """Write an operating point to a file; `verify` and `export` read it from `certificate(model)`."""
    with replacing(path) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")
