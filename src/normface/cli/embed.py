"""The command `normface embed`: compute the embeddings of many images."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from ..atomic import replacing
from ..embed import Embedder
from ..embed.bulk import Engine, embed_all, gather
from ..embed.embedder import Mirror
from ..embed.loading import RunPrecision, model_path
from ..embed.source import open_source
from ..errors import ConfigError, DataError, FaceError
from ..faces.video import RATE, is_video
from .photographs import as_dict, warn_of_videos
from .terminal import Computer, FaceDetector, Json, Model, Strict, out, progress

_log = logging.getLogger("normface")


def embed(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Crops or photographs (a folder, zip or pack, or a text file of paths), or a video."
        ),
    ],
    to: Annotated[Path, typer.Option("--out", help="FILE.npz, or a folder for one file per 1024 images.")],
    model: Model = None,
    images: Annotated[
        Literal["auto", "crops", "photographs"],
        typer.Option(help="Aligned crops, or photographs that need detection; auto decides by the images' sizes."),
    ] = "auto",
    mirror: Annotated[Mirror, typer.Option(help="Add the features of the mirror image (sum) or not (none).")] = "sum",
    precision: Annotated[
        RunPrecision,
        typer.Option(help="fp32, bf16 (runs on PyTorch; cosine to fp32 ≥ 0.9995), or auto: bf16 if it is faster here."),
    ] = "fp32",
    detector: FaceDetector = "mtcnn",
    device: Computer = "auto",
    engine: Annotated[
        Engine, typer.Option(help="local, or ray: the Ray cluster at RAY_ADDRESS, or Ray on this machine.")
    ] = "local",
    rate: Annotated[float, typer.Option(help="For a video: frames used per second.")] = RATE,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Embed images: write vectors, norms (lengths before normalization) and ids into an .npz.

    To continue an interrupted run, run the same command again. Images without a usable face are reported and skipped.

    In a video (mp4, m4v, mov, avi, mkv, webm), follows each face and writes one embedding for it: the mean of the
    frames, weighted by quality. The ids are NAME/track-1, …; the .npz also contains times, boxes and crops.

    Examples: `normface embed crops --model mine.onnx --out crops.npz`,
    `RAY_ADDRESS=head:6379 normface embed /shared/photographs --out /shared/vectors --engine ray`.
    """
    one = to.suffix == ".npz"
    if one and to.is_dir():
        raise ConfigError("a file for --out", f"the folder {to}", "give another --out")
    folder = to.with_name(f"{to.name}.parts") if one else to
    load = partial(  # Ray's workers run elsewhere
        Embedder.load, model_path(model).absolute(), certified=False, precision=precision, device=device
    )
    if is_video(source):
        if not one or engine != "local":
            raise ConfigError("FILE.npz for --out, and --engine local, for a video", f"{to}, {engine}", "correct them")
        _embed_video(source, to, load, detector, rate, as_json)
        return
    embedder = load()
    chosen = {"auto": None, "crops": False, "photographs": True}[images]
    found = open_source(source, embedder.spec.template, chosen, strict=strict, detector=detector, device=device)
    warn_of_videos(found.unread, source)
    done: list[int] = []
    began = time.perf_counter()
    with progress(f"embedding with {embedder.name}", "images") as bar:

        def update(count: int, total: int) -> None:
            done.append(count)
            bar(count, total)

        refused = embed_all(found, folder, load, engine=engine, mirror=mirror, progress=update)
    seconds, now = time.perf_counter() - began, done[-1] - done[0]
    if strict and refused:
        raise DataError(
            f"a usable face in every image of {source}", f"{len(refused)} refused (first: {': '.join(refused[0])})",
            "remove them, or run without --strict",
        )  # fmt: skip
    total = len(found.ids)
    embedded = total - len(refused)
    if not embedded:
        raise DataError("at least one usable face", f"{total} images refused (first: {': '.join(refused[0])})",
                        "check SRC, or give --images crops for aligned crops")  # fmt: skip
    if one:
        gather(folder).save(to)
        shutil.rmtree(folder)
    if refused:
        listed = ", ".join(f"{id} ({reason})" for id, reason in refused[:5]) + (", …" if len(refused) > 5 else "")
        _log.warning("%d of %d images refused: %s", len(refused), total, listed)
    if as_json:
        out.print_json(json.dumps({
            "out": str(to), "images": total, "resumed_from": done[0], "embedded": embedded,
            "photographs": found.photographs, "mirror": mirror,
            "refused": dict(Counter(reason for _, reason in refused).most_common()), "unread": found.unread,
            "model": embedder.name, "weights_sha256": embedder.sha256, "precision": embedder.precision,
            "device": embedder.device, **found.tools, "engine": engine, "seconds": round(seconds, 2),
        }))  # fmt: skip
        return
    kind = "photographs" if found.photographs else "crops"
    out.print(
        f"{embedded:,} embeddings of {total:,} {kind} in {to}, {embedder.precision} on {embedder.device}; "
        f"{now:,} images now, {now / seconds:.4g} a second", soft_wrap=True, markup=False,
    )  # fmt: skip


def _embed_video(
    source: Path, to: Path, load: Callable[..., Embedder], detector: str, rate: float, as_json: bool
) -> None:
    """Write one embedding for each track of a video."""
    began = time.perf_counter()
    embedder = load(detector=detector, certified=True)  # its threshold links the faces, and its conditions weigh them
    with progress(f"following faces with {embedder.name}", "seconds") as bar:
        tracks = embedder.track(source, rate=rate, progress=lambda done, total: bar(int(done), int(total)))
    if not tracks:
        raise FaceError(f"faces in {source}", "none", "give a video with visible faces, or a higher --rate")
    ids = [f"{source.stem}/track-{number}" for number in range(1, len(tracks) + 1)]
    with replacing(to) as temporary, temporary.open("wb") as file:
        np.savez(
            file, vectors=np.stack([each.vector for each in tracks]), norms=np.array([each.norm for each in tracks]),
            ids=np.array(ids), crops=np.stack([each.crop for each in tracks]),
            track=np.repeat(np.arange(len(tracks)), [len(each.times) for each in tracks]),
            times=np.concatenate([each.times for each in tracks]),
            boxes=np.concatenate([each.boxes for each in tracks]),
        )  # fmt: skip
    if as_json:
        out.print_json(json.dumps({
            "out": str(to), "video": str(source), "rate": rate,
            "tracks": [
                {"id": id, "start": each.times[0], "end": each.times[-1], "frames": len(each.times),
                 "quality": round(each.quality, 4), "outside": each.assessment.outside,
                 "face": as_dict(str(source), each.face, each.found)}
                for id, each in zip(ids, tracks, strict=True)
            ],
            "model": embedder.name, "weights_sha256": embedder.sha256, **embedder.tools(),
            "seconds": round(time.perf_counter() - began, 2),
        }))  # fmt: skip
        return
    for id, each in zip(ids, tracks, strict=True):
        out.print(
            f"{id}: {each.times[0]:.1f} to {each.times[-1]:.1f} s, {len(each.times)} frames, "
            f"quality {each.quality:.2f}",
            soft_wrap=True, markup=False,
        )  # fmt: skip
    out.print(f"{len(tracks):,} embeddings in {to}", soft_wrap=True, markup=False)
