from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from .. import report
from ..atomic import replacing
from ..data import open_reader
from ..embed import certificate
from ..errors import ConfigError, require
from ..faces import size_fault
from ..protocols import Comparisons, certified, every_pair, of_list, operating_point, read_blufr, read_groups
from ..protocols.pairs import NamedPairs, read_lfw_pairs, rows_of
from ..types import Embeddings
from .evaluate import command, lfw_crops, thumbnails
from .terminal import Json, Model, Strict, load_embedder, out, progress


def calibrate(
    source: Annotated[
        str,
        typer.Argument(metavar="COMPARISONS", help="lfw (pairs.txt), blufr (every pair of its images), or FILE.txt."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="lfw, blufr: folder with the lists and crops, as for evaluate. FILE.txt: aligned crops."),
    ] = None,
    model: Model = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Anybody's vectors, .npz with `vectors` and `ids`; needs --out.")
    ] = None,
    far: Annotated[
        float | None, typer.Option(help="False accept rate to stay at or below. Without it: the best accuracy.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV `id,sex,age,…`: error rates of each group.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Write result.json and report.html here too.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Of the bootstrap over people.")] = 500,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Choose the threshold for a false accept rate, and say what a score is worth.

    Writes the certificate beside the model: the threshold, the rates measured at it with their intervals, and the map
    from a score to a likelihood ratio. `verify` decides by it and `export` puts it into the ONNX file. A rate that
    the comparisons cannot resolve is refused.

    Examples: `normface calibrate blufr --data DATA --model RUN --far 0.001`,
    `normface calibrate pairs.csv --data crops.zip --model mine.onnx --far 0.01 --groups people.csv --out report`.
    """
    if (model is None) == (embeddings is None):
        got = "neither" if model is None else "both"
        raise ConfigError("either --model or --embeddings", got, "give one (no default model ships yet)")
    if embeddings is not None and folder is None:
        raise ConfigError("--out with --embeddings", "none", "name a folder for the certificate")
    if source == "blufr" and far is None:
        raise ConfigError("--far with blufr", "none", "give one, such as --far 0.001")
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    listed, wanted, digest = read_comparisons(source, data)
    crops = data and (data if source.endswith(".txt") else lfw_crops(data))
    if embeddings is not None:
        vectors, name, sha256 = Embeddings.load(embeddings), embeddings.name, "unknown"
    else:
        embedder = load_embedder(model, certified=False)
        if crops is None:
            raise ConfigError("--data with --model", "none", "name where the aligned crops are")
        reader = open_reader(crops, strict)
        reader = reader.select(np.flatnonzero(np.isin(reader.ids, wanted))).check(fault=size_fault)
        with progress(f"embedding with {embedder.name}", "images") as update:
            vectors = embedder.embed(reader, progress=update)
        name, sha256 = embedder.name, embedder.sha256
    comparisons = compared(vectors, listed, wanted, far)
    label = f"{Path(source).name}{', every pair' if listed is None else ''}, {'mirror sum' if model else name}"
    point = operating_point(
        comparisons, target_far=far, protocol=label, model_sha256=sha256, data_sha256=digest, replicates=replicates
    )
    by_image = read_groups(groups, comparisons.ids) if groups is not None else None
    result = certified(point, comparisons, by_image, conditions={"system": name}, replicates=replicates)
    kept = certificate(model) if model is not None else Path(str(folder)) / "operating_point.json"
    with replacing(kept) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")
    if folder is not None:
        photographs = thumbnails(crops) if crops is not None else None
        report.write_folder(
            folder, name, result, title=f"{name}, calibrated by {Path(source).name}", command=command(),
            photographs=photographs,
        )  # fmt: skip
    if as_json:
        out.print_json(result.to_json())
        return
    out.print(report.render_markdown({name: result}), soft_wrap=True)
    assert point.calibration
    worth = report.evidence(point.calibration, point.threshold)
    out.print(f"\naccept from cosine {point.threshold:.4f} on; there it is {worth}", soft_wrap=True)
    out.print(f"certificate: {kept}", soft_wrap=True)
    if folder is not None:
        out.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def read_comparisons(source: str, data: Path | None) -> tuple[NamedPairs | None, NDArray[np.str_], str]:
    """The list (None: every pair of BLUFR's images), the ids wanted, and the list's SHA-256."""
    if source.endswith(".txt"):
        named = read_lfw_pairs(source)
    elif source not in ("lfw", "blufr"):
        raise ConfigError("lfw, blufr or FILE.txt", repr(source), "choose one of them")
    elif data is None:
        raise ConfigError(f"--data with {source}", "none", "name the folder with its lists")
    elif source == "blufr":
        config = read_blufr(data / "lfw" / "blufr_lfw_config.mat")
        return None, config.ids[np.unique(np.concatenate([trial.test for trial in config.trials]))], config.sha256
    else:
        named = read_lfw_pairs(data / "lfw" / "pairs.txt")
    return named, np.unique(np.concatenate([named.left, named.right])), named.sha256


def compared(
    vectors: Embeddings, listed: NamedPairs | None, wanted: NDArray[np.str_], far: float | None
) -> Comparisons:
    """The comparisons of a list, or of every pair of the wanted images, whose folders are the people."""
    if listed is not None:
        return of_list(vectors, listed)
    assert far
    (rows,) = rows_of(vectors, wanted)
    people = np.unique([id.rpartition("/")[0] for id in wanted.tolist()], return_inverse=True)[1]
    return every_pair(Embeddings(vectors.vectors[rows], wanted), people, far)
