"""Bulk embedding into files, by this process or a Ray cluster: resumable, with identical output.

The images are split into parts of PART. Each part becomes one file, which is written atomically and computed only
once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..atomic import replacing
from ..errors import ConfigError, DataError
from ..prefetch import map_ahead
from ..system_facts import usable_cores
from ..types import Embeddings
from .embedder import Embedder, Mirror
from .parts import Embedded, blocks, embed_block, join
from .source import Source

Engine = Literal["local", "ray"]
JOB, PART = "embed.json", 1024


def embed_all(
    source: Source,
    folder: str | Path,
    load: Callable[[], Embedder],
    *,
    engine: Engine = "local",
    mirror: Mirror = "sum",
    progress: Callable[[int, int], object] | None = None,
) -> list[tuple[str, str]]:
    """Embed every image of a source into files `part-00000.npz`, … under `folder`. Returns refused images and reasons.

    Each part is a file of `Embeddings` (unless all its images were refused) with two more arrays, `refused` and
    `reasons`. Calling it again on the same folder continues an interrupted job. With "ray", `load` runs in each actor,
    and RAY_ADDRESS names the cluster, whose machines must see the images and the model at the same paths.
    `progress` is called with images done and in total, first with those done in earlier calls.

    Raises ConfigError if the folder contains another job, DataError if it cannot be written.
    """
    if engine not in get_args(Engine):
        raise ConfigError(f"an engine among {', '.join(get_args(Engine))}", repr(engine), "correct the engine")
    folder, total = Path(folder), len(source.ids)
    embedder = load()
    _begin(folder, source, embedder, mirror)
    parts = [range(start, min(start + PART, total)) for start in range(0, total, PART)]
    todo = [number for number in range(len(parts)) if not part_file(folder, number).exists()]
    done = total - sum(len(parts[number]) for number in todo)
    if progress:
        progress(done, total)
    work: Iterator[tuple[int, Embedded]]
    if engine == "ray" and todo:
        from .cluster import run as by_ray

        work = by_ray(source, load, mirror, embedder.sha256, {number: parts[number] for number in todo})
    else:
        work = _locally(source, embedder, mirror, {number: parts[number] for number in todo})
    for number, embedded in work:
        _write(part_file(folder, number), embedded)
        done += len(parts[number])
        if progress:
            progress(done, total)
    return [pair for number in range(len(parts)) for pair in _refused(part_file(folder, number))]


def gather(folder: str | Path) -> Embeddings:
    """Read all embeddings in a folder of `embed_all`, in the order of the images.

    Raises DataError if parts are missing or damaged, or no image could be embedded.
    """
    folder = Path(folder)
    try:
        total = json.loads((folder / JOB).read_bytes())["images"]
        found = [_read(part_file(folder, number), "vectors", "ids", "norms") for number in range(-(-total // PART))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"a folder of normface embed at {folder}", f"'{error}'", "run normface embed again") from error
    whole = [part for part in found if "ids" in part]
    if not whole:
        raise DataError("at least one image with a face", f"{total} refused", f"see `reasons` in {folder}/part-*.npz")
    vectors, ids, norms = (np.concatenate([part[name] for part in whole]) for name in ("vectors", "ids", "norms"))
    return Embeddings(vectors, ids, norms)


def part_file(folder: Path, number: int) -> Path:
    """Path of a part."""
    return folder / f"part-{number:05d}.npz"


def _locally(
    source: Source, embedder: Embedder, mirror: Mirror, parts: dict[int, range]
) -> Iterator[tuple[int, Embedded]]:
    threads = max(embedder.threads, usable_cores() if source.photographs else 1)
    prepared = map_ahead(
        source.prepare, (block for rows in parts.values() for block in blocks(rows)), depth=2 * threads, threads=threads
    )
    for number, rows in parts.items():
        yield number, join([embed_block(embedder, next(prepared), mirror) for _ in blocks(rows)])


def _begin(folder: Path, source: Source, embedder: Embedder, mirror: Mirror) -> None:
    """Write the description of the job, or check that the folder has the same one."""
    job = {
        "model_sha256": embedder.sha256, "precision": embedder.precision, "mirror": mirror, "part": PART,
        "spec": asdict(embedder.spec), "photographs": source.photographs, "images": len(source.ids),
        "names_sha256": source.digest,
    }  # fmt: skip
    if source.photographs and source.detector != "mtcnn":
        job["detector"] = source.detector
    job = json.loads(json.dumps(job))
    file = folder / JOB
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError("a new folder, or one of the same job", f"{folder} with other files", "change --out")
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
        return
    try:
        there = json.loads(file.read_bytes())
        other = sorted(key for key in job.keys() | there.keys() if there.get(key) != job.get(key))
    except (ValueError, AttributeError):
        other = ["unreadable"]
    if other:
        raise ConfigError(
            "a folder of the same job", f"{file} of another ({', '.join(other)})", "give another --out, or remove it"
        )


def _write(path: Path, part: Embedded) -> None:
    refused, reasons = ([pair[i] for pair in part.refused] for i in (0, 1))
    arrays: dict[str, Any] = {"refused": np.array(refused, np.str_), "reasons": np.array(reasons, np.str_)}
    if part.ids:
        whole = Embeddings(part.features, np.array(part.ids, np.str_))
        arrays |= {"vectors": whole.vectors, "norms": whole.norms, "ids": whole.ids}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path, *names: str) -> dict[str, Any]:
    """Read those of the named arrays that a part has."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file}
    except Exception as error:  # zipfile, numpy and the file system each have their own errors
        raise DataError(f"{path} to be intact", f"'{error}'", "remove it and run normface embed again") from error


def _refused(path: Path) -> list[tuple[str, str]]:
    part = _read(path, "refused", "reasons")
    return list(zip(part["refused"].tolist(), part["reasons"].tolist(), strict=True))
