from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import report
from ..embed import certificate
from ..errors import ConfigError, require
from ..protocols import (
    PROTOCOLS,
    Comparisons,
    certified,
    every_pair,
    few_groups,
    of_list,
    operating_point,
    read_blufr,
    read_groups,
)  # fmt: skip
from ..protocols.lookup import partly, people, present, rows_of
from ..types import Embeddings
from .evaluate import command, embed_named, find_crops, find_lists, keep_certificate, pairs_of, thumbnails
from .terminal import Json, Model, Strict, load_embedder, out

EVERY = ("blufr", "all_pairs")  # compare every pair of their images


def calibrate(
    protocol: Annotated[
        str,
        typer.Argument(help="Its comparisons: lfw, pairs_csv (yours), a .bin's; blufr, all_pairs: every pair."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with the lists and the aligned crops, as for evaluate.")
    ] = None,
    model: Model = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Anybody's vectors, .npz with `vectors` and `ids`; needs --out.")
    ] = None,
    named: Annotated[
        list[Path] | None, typer.Option("--list", help="The protocol's list, where it is not under --data.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(help="Aligned crops for --model, where they are not under --data.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out what has no vector, and say so, instead of refusing.")
    ] = False,
    far: Annotated[
        float | None, typer.Option(help="False accept rate to stay at or below. Without it: the best accuracy.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV `id,sex,age,…`: error rates of each group.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write result.json, report.html and report.md here too.")
    ] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Of the bootstrap over people.")] = 500,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Choose the threshold for a false accept rate, and say what a score is worth.

    Writes the certificate beside the model: the threshold, the rates measured at it with their intervals, and the map
    from a score to a likelihood ratio. `verify` decides by it and `export` puts it into the ONNX file. A rate that
    the comparisons cannot resolve is refused. docs/operating-points.md tells what a certificate says and what not.

    Examples: `normface calibrate blufr --data DATA --model RUN --far 0.001`,
    `normface calibrate pairs_csv --list pairs.csv --crops crops.zip --model M.onnx --far 0.01 --groups people.csv`.
    """
    if model is not None and embeddings is not None:
        raise ConfigError("either --model or --embeddings", "both", "give one, or none for the default model")
    if model is None and folder is None:
        raise ConfigError("--out with --embeddings or the default model", "none", "name a folder for the certificate")
    if protocol in EVERY and far is None:
        raise ConfigError(f"--far with {protocol}", "none", "give one, such as --far 0.001")
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    if partial and protocol == "all_pairs":
        raise ConfigError("--partial with a list", "all_pairs, which has none", "drop it")
    PROTOCOLS[protocol]  # says which there are
    lists = named or find_lists(protocol, data)
    listed = pairs_of(protocol, lists)
    if listed is None and protocol not in EVERY:
        raise ConfigError("a protocol on pairs, or blufr or all_pairs", protocol, "choose one of them")
    if embeddings is not None:
        vectors, name, weights = Embeddings.load(embeddings), embeddings.name, "unknown"
    else:
        embedder = load_embedder(model, certified=False)
        crops = crops or find_crops(protocol, data)
        vectors = embed_named(embedder, protocol, lists, crops, "sum", strict)
        name, weights = embedder.name, embedder.sha256
    told: dict[str, Any] = {}
    if listed:
        pairs, told = listed[0].available(vectors) if partial else (listed[0], told)
        comparisons, digest = of_list(vectors, pairs), pairs.sha256
    else:
        assert far
        comparisons, digest, told = compare_all(vectors, lists, far, partial)
    how = [protocol, name if embeddings else "mirror sum", *["partial"] * bool(told)]
    point = operating_point(
        comparisons, target_far=far, protocol=", ".join(how),
        model_sha256=weights, data_sha256=digest, replicates=replicates,
    )  # fmt: skip
    by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
    by_pair = few_groups(listed[1]) if listed and not told else {}
    conditions = {"system": name, **told}
    result = certified(point, comparisons, by_image, by_pair, conditions=conditions, replicates=replicates)
    kept = certificate(model) if model is not None else Path(str(folder)) / "operating_point.json"
    keep_certificate(kept, point)
    if folder is not None:
        report.write_folder(
            folder, name, result, title=f"{name}, calibrated by {protocol}", command=command(),
            photographs=thumbnails(crops) if crops is not None else None,
        )  # fmt: skip
    if as_json:
        out.print_json(result.to_json())
        return
    out.print(report.render_markdown({name: result}), soft_wrap=True)
    assert point.calibration
    worth = report.evidence(point.calibration, point.threshold)
    out.print(f"\naccept from cosine {point.threshold:.4f} on; a score there is {worth}", soft_wrap=True)
    out.print(f"certificate: {kept}", soft_wrap=True)
    if folder is not None:
        out.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def compare_all(
    vectors: Embeddings, lists: list[Path], far: float, partial: bool
) -> tuple[Comparisons, str, dict[str, Any]]:
    """Every pair of BLUFR's test images, or of all images where there is no list; the SHA-256 of what lists them; the
    fact `partial` where images without a vector were left out.

    Folders are the people.
    """
    told: dict[str, Any] = {}
    if lists:
        config = read_blufr(lists[0])
        ids, digest = config.ids[np.unique(np.concatenate([trial.test for trial in config.trials]))], config.sha256
        if partial:
            (kept,), told = present(vectors, ids)
            told = partly(told, int(kept.sum()), len(ids), "images")
            ids = ids[kept]
        (rows,) = rows_of(vectors, ids)
        vectors = Embeddings(vectors.vectors[rows], ids)
    else:
        digest = sha256("\n".join(sorted(vectors.ids.tolist())).encode()).hexdigest()
    return every_pair(vectors, people(vectors.ids.tolist())[1], far), digest, told
