from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from .. import report
from ..atomic import replacing
from ..data import open_reader
from ..embed import Embedder, certificate
from ..embed.embedder import Mirror
from ..errors import ConfigError, DataError, require
from ..faces import size_fault
from ..protocols import PROTOCOLS, operating_point, read_blufr, read_lfw_pairs, scores
from ..types import Embeddings, OperatingPoint, Result
from .terminal import Json, Model, Strict, load_embedder, out, progress

LISTS = {  # of each protocol
    "lfw": ("pairs.txt",), "lfw_view1": ("pairsDevTrain.txt", "pairsDevTest.txt"), "blufr": ("blufr_lfw_config.mat",),
}  # fmt: skip


def evaluate(
    protocol: Annotated[str, typer.Argument(help="Which protocol: lfw, lfw_view1 (to choose models by) or blufr.")],
    data: Annotated[
        Path, typer.Option(help="Folder with the lists (lfw/pairs.txt) and the aligned crops lfw/lfw-112x96.zip.")
    ],
    model: Model = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Judge anybody's vectors: an .npz with `vectors` [N, D] and `ids` [N].")
    ] = None,
    mirror: Annotated[
        Mirror | None, typer.Option(help="Add the mirrored image's features (sum) or not (none). Default: sum.")
    ] = None,
    pca: Annotated[float | None, typer.Option(help="PCA fitted on the other folds, keeping this variance.")] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Keep the operating point beside the model, for verify and export.")
    ] = False,
    far: Annotated[
        float | None, typer.Option(help="False accept rate of the operating point; without it: best accuracy.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write result.json, report.html and embeddings.npz here.")
    ] = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Judge a model, or anybody's vectors, by a published protocol.

    `lfw`: 6000 pairs in ten folds; each fold's threshold comes from the other nine. `lfw_view1`: 1000 pairs with the
    threshold of 2200 others (pairsDevTest.txt, pairsDevTrain.txt); choose models by this one, and report the first.
    `blufr`: all pairs of 10 trials at FAR 0.1 % and 0.01 %, and open-set identification (blufr_lfw_config.mat).

    Examples: `normface evaluate lfw --data DATA --model RUN --out report`,
    `normface evaluate lfw --data DATA --embeddings F.npz --json`.
    """
    if (model is None) == (embeddings is None):
        got = "neither" if model is None else "both"
        raise ConfigError("either --model or --embeddings", got, "give one (no default model ships yet)")
    if embeddings is not None and (mirror is not None or strict):
        raise ConfigError("--mirror and --strict with --model", "them with --embeddings", "drop them")
    if far is not None and not certify:
        raise ConfigError("--far with --certify", "--far alone", "add --certify, or drop --far")
    mirror = mirror or "sum"
    if certify and protocol == "blufr":
        raise ConfigError("--certify with a list of pairs (lfw)", "blufr", "certify by lfw")
    if certify and (model is None or mirror != "sum" or pca is not None):
        raise ConfigError(
            "--certify with --model, --mirror sum and no --pca, as verify compares", "something else",
            "drop the others",
        )  # fmt: skip
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    if protocol not in LISTS:
        PROTOCOLS.build(protocol)  # says which there are
    lists = [data / "lfw" / name for name in LISTS[protocol]]
    if embeddings is not None:
        vectors, name, sha256 = Embeddings.load(embeddings), embeddings.name, "unknown"
        conditions = {"embeddings": name}
    else:
        embedder = load_embedder(model, certified=False)
        vectors, name, sha256 = (
            embed_pairs(embedder, data, LISTS[protocol], mirror, strict),
            embedder.name,
            embedder.sha256,
        )
        conditions = {"model": name, "weights_sha256": sha256, "mirror": mirror}
    options = {} if pca is None else {"pca": pca}
    result = PROTOCOLS.build(protocol, vectors, *lists, conditions=conditions, **options)
    if certify:
        assert model is not None
        keep_certificate(model, certified(result, vectors, lists[-1], far, sha256))
    if folder is not None:
        vectors.save(folder / "embeddings.npz")
        with replacing(folder / "result.json") as temporary:
            temporary.write_text(result.to_json() + "\n", encoding="utf-8")
        title = f"{name} on {protocol.upper()}"
        report.write_report(folder / "report.html", {name: result}, title=title, command=command())
    if as_json:
        out.print_json(result.to_json())
    else:
        out.print(report.render_markdown({name: result}), soft_wrap=True)
        if folder is not None:
            out.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def embed_pairs(
    embedder: Embedder,
    data: Path,
    lists: Sequence[str] = LISTS["lfw"],
    mirror: Mirror = "sum",
    strict: bool = False,
) -> Embeddings:
    """Embed the LFW images that `lists` name, from the first archive or folder of crops in `data`/lfw."""
    named = images_of([data / "lfw" / name for name in lists])
    reader = open_reader(lfw_crops(data), strict)
    reader = reader.select(np.flatnonzero(np.isin(reader.ids, named))).check(fault=size_fault)
    with progress(f"embedding with {embedder.name}", "images") as update:
        return embedder.embed(reader, mirror=mirror, progress=update)


def images_of(lists: Sequence[Path]) -> NDArray[np.str_]:
    """The ids of all images that lists of pairs, or BLUFR's configuration, name."""
    if any(path.suffix == ".mat" for path in lists):
        return np.concatenate([read_blufr(path).ids for path in lists])
    pairs = [read_lfw_pairs(path) for path in lists]
    return np.unique(np.concatenate([side for each in pairs for side in (each.left, each.right)]))


def lfw_crops(data: Path) -> Path:
    """The first archive or folder of aligned LFW crops in `data`/lfw. Raises DataError for none."""
    places = [data / "lfw" / name for name in ("lfw-112x112.zip", "lfw-112x96.zip", "lfw-112x112", "lfw-112x96")]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise DataError("aligned LFW crops", f"none of {', '.join(map(str, places))}", "put them there, or align LFW")
    return place


def certified(result: Result, vectors: Embeddings, pairs: Path, far: float | None, sha256: str) -> OperatingPoint:
    """The operating point of a protocol's comparisons, for a model evaluated as `verify` compares."""
    comparisons = scores(vectors, read_lfw_pairs(pairs).within(vectors))
    return operating_point(
        comparisons, target_far=far, protocol=f"{result.protocol}, mirror sum", model_sha256=sha256,
        data_sha256=str(result.facts["pairs_sha256"]),
    )  # fmt: skip


def keep_certificate(model: Path, point: OperatingPoint) -> None:
    """Write an operating point where `verify` and `export` look for it."""
    with replacing(certificate(model)) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")


def command() -> str:
    """The command line that is running, to be repeated by a reader."""
    return shlex.join(["normface", *sys.argv[1:]])
