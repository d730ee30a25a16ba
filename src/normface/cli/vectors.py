"""Embeddings to evaluate: read from a file, or computed with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import embed, report
from ..embed import Embedder
from ..embed.embedder import Mirror
from ..errors import ConfigError, DataError
from ..inference import Device
from ..protocols import Comparisons, Failures, Inputs, every_pair, inputs_of
from ..protocols.named_pairs import partly, people, present, rows_of
from ..report.wording import label, measure
from ..types import RULE_OF_30, Embeddings, OperatingPoint, Result
from .terminal import command, out, progress

# Options of evaluate and calibrate.
Lists = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the lists (lfw/pairs.txt) and aligned crops (lfw/lfw-112x96.zip)."),
]
Vectors = Annotated[
    Path | None,
    typer.Option("--embeddings", help="Embeddings of any system: an .npz with `vectors` [N, D] and `ids` [N]."),
]
ListFiles = Annotated[
    list[Path] | None, typer.Option("--list", "--file", help="The protocol's lists, if they are not under --data.")
]
Crops = Annotated[Path | None, typer.Option("--crops", help="Aligned crops for --model, if they are not under --data.")]
Photographs = Annotated[
    Path | None,
    typer.Option(
        help="Photographs for --model instead of crops: folder, zip or list. Those that give no template are counted. "
        "For ytf also a folder of videos, Name/video.mp4."
    ),
]
CountFailures = Annotated[
    Literal["count", "leave-out"] | None,
    typer.Option(
        "--failures",
        help="For --photographs: count genuine comparisons with one that gives no template as false non-matches "
        "(default), or leave them out.",
    ),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Skip and report images without an embedding instead of failing.")
]

ASK_FOR = {  # a rate with more errors, by the protocol of a Result
    "calibrate": "ask for a higher --far, ", "identification_thresholds": "ask for a higher --fpir, "
}  # fmt: skip


@dataclass(frozen=True)
class System:
    """A system under evaluation.

    Attributes:
        vectors: embeddings of the images that the protocol lists.
        name: of the model, or of the file of embeddings.
        sha256: of the model's weights; "unknown" for a file of embeddings.
        crops: the images embedded; None for a file of embeddings and for photographs.
        conditions: facts for the Result.
        failures: of photographs; None for crops and embeddings.
        tools: what computed the embeddings, such as the device that was really used; nothing for a file of them.
    """

    vectors: Embeddings
    name: str
    sha256: str
    crops: Path | None
    conditions: dict[str, Any]
    failures: Failures | None = None
    tools: dict[str, str] = field(default_factory=dict)


def judged_system(
    protocol: str, lists: Sequence[Path], *, data: Path | None, model: Path | None, embeddings: Path | None,
    crops: Path | None, mirror: Mirror = "sum", strict: bool = False, photographs: Path | None = None,
    failures: Literal["count", "leave-out"] | None = None, certified: bool = False, device: Device = "auto",
) -> System:  # fmt: skip
    """Load `embeddings`, or embed the images in a protocol's lists: `crops`, those under `data`, or photographs.

    `certified` refuses photographs that the model's certificate does not cover.
    """
    if photographs is not None and (embeddings is not None or crops is not None):
        raise ConfigError("--photographs", "--embeddings or --crops too", "give one of them")
    if failures is not None and photographs is None:
        raise ConfigError("--failures with --photographs", "--failures alone", "drop it, or give photographs")
    if model is not None and embeddings is not None:
        raise ConfigError("either --model or --embeddings", "both", "give one, or neither for the default model")
    if embeddings is not None:
        name = embeddings.name
        return System(Embeddings.load(embeddings), name, "unknown", crops, {"embeddings": name})
    embedder = Embedder.load(model, certified=certified and photographs is not None, device=device)
    conditions = {"model": embedder.name, "weights_sha256": embedder.sha256, "mirror": mirror}
    if photographs is not None and inputs_of(protocol).videos and embed.has_videos(photographs):
        if failures is not None:
            raise ConfigError("--failures with photographs", "videos", "drop it; videos without a face are left out")
        with progress(f"embedding with {embedder.name}", "videos") as bar:
            vectors = embed.embed_videos(embedder, protocol, lists, photographs, mirror=mirror, progress=bar)
        tools = embedder.tools()
        return System(vectors, embedder.name, embedder.sha256, None, conditions | tools, tools=tools)
    if photographs is not None:
        with progress(f"finding faces for {embedder.name}", "photographs") as bar:
            vectors, failed = embed.embed_photographs(
                embedder, protocol, lists, photographs, mirror=mirror, counted=failures != "leave-out", progress=bar
            )
        tools = embedder.tools()
        return System(vectors, embedder.name, embedder.sha256, None, conditions | tools, failed, tools)
    images = lists[0] if lists and lists[0].suffix == ".bin" else None  # the list itself has them
    crops = crops or images or inputs_of(protocol).find_crops(data)
    with progress(f"embedding with {embedder.name}", "images") as bar:
        vectors = embed.embed_listed(embedder, protocol, lists, crops, mirror=mirror, strict=strict, progress=bar)
    tools = embedder.tools()
    return System(vectors, embedder.name, embedder.sha256, crops, conditions | tools, tools=tools)


def show(
    name: str, result: Result, folder: Path | None, *, title: str, crops: Path | None = None, as_json: bool
) -> None:
    """Write a system's report into `folder`, if given, and print the Result as JSON or Markdown.

    crops: the images judged, to show the hardest errors; None where there are none.
    """
    if folder is not None:
        photographs = report.thumbnails(crops) if crops else None
        report.write_folder(folder, name, result, title=title, command=command(), photographs=photographs)
    if as_json:
        out.print_json(result.to_json())
        return
    out.print(report.render_markdown({name: result}), soft_wrap=True)
    if folder is not None:
        out.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def show_certificate(point: OperatingPoint, kept: Path) -> None:
    """Print what a new certificate decides, and where it is."""
    assert point.calibration
    worth = report.evidence(point.calibration, point.threshold)
    out.print(
        f"\naccept from {measure(point.protocol)} {point.threshold:.4f} on; a score there is {worth}", soft_wrap=True
    )
    out.print(f"certificate: {kept}", soft_wrap=True)


def embed_pairs(embedder: Embedder, data: Path) -> Embeddings:
    """Embed the images of LFW's pairs, with a progress bar."""
    with progress(f"embedding with {embedder.name}", "images") as bar:
        return embed.embed_pairs(embedder, data, progress=bar)


def refuse_few_errors(result: Result, strict: bool) -> None:
    """With `strict`, raise DataError if a rate of the result has fewer than 30 errors."""
    if strict and (few := result.few_errors):
        told = ", ".join(f"{count} behind {label(name)}" for name, count in few.items())
        raise DataError(
            f"at least {RULE_OF_30} errors behind every rate (Rule of 30, ISO/IEC 19795-1)", told,
            f"give images of more people, {ASK_FOR.get(result.protocol, '')}or drop --strict",
        )  # fmt: skip


def compare_all(
    reads: Inputs, vectors: Embeddings, lists: list[Path], far: float, partial: bool
) -> tuple[Comparisons, str, dict[str, Any]]:
    """Every pair of a protocol's images.

    Also returns the SHA-256 of their definition, and the fact `partial` if images without a vector were left out.
    Folders are the people.
    """
    assert reads.every
    told: dict[str, Any] = {}
    ids, digest = reads.every(lists, vectors.ids)
    if partial:
        (kept,), told = present(vectors, ids)
        told = partly(told, int(kept.sum()), len(ids), "images")
        ids = ids[kept]
    (rows,) = rows_of(vectors, ids)
    vectors = Embeddings(vectors.vectors[rows], ids)
    return every_pair(vectors, people(vectors.ids.tolist())[1], far), digest, told
