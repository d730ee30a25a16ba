from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from ..protocols import (
    Comparisons,
    certified,
    every_pair,
    of_list,
    operating_point,
    read_blufr,
    read_groups,
    read_lfw_pairs,
    read_pairs_csv,
)  # fmt: skip
from ..protocols.lookup import people, rows_of
from ..protocols.pairs import NamedPairs
from ..types import Embeddings
from .evaluate import command, lfw_crops, thumbnails
from .terminal import Json, Model, Strict, load_embedder, out, progress


def calibrate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="COMPARISONS",
            help="lfw (pairs.txt), blufr (every pair of its images), or a file of pairs, .csv (`a,b,same`) or .txt.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="lfw, blufr: folder with the lists and crops, as for evaluate. File of pairs: aligned crops."
        ),
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
    wanted = read_comparisons(source, data)
    crops = None
    if embeddings is not None:
        vectors, name, sha256 = Embeddings.load(embeddings), embeddings.name, "unknown"
    else:
        if data is None:
            raise ConfigError("--data with --model", "none", "name where the aligned crops are")
        embedder = load_embedder(model, certified=False)
        crops = data if source.endswith((".csv", ".txt")) else lfw_crops(data)
        reader = open_reader(crops, strict)
        reader = reader.select(np.flatnonzero(np.isin(reader.ids, wanted.ids))).check(fault=size_fault)
        with progress(f"embedding with {embedder.name}", "images") as update:
            vectors = embedder.embed(reader, progress=update)
        name, sha256 = embedder.name, embedder.sha256
    comparisons = wanted.score(vectors, far)
    label = f"{wanted.name}, {'mirror sum' if model else name}"
    point = operating_point(
        comparisons, target_far=far, protocol=label, model_sha256=sha256, data_sha256=wanted.sha256,
        replicates=replicates,
    )  # fmt: skip
    by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
    result = certified(point, comparisons, by_image, wanted.groups, conditions={"system": name}, replicates=replicates)
    kept = certificate(model) if model is not None else Path(str(folder)) / "operating_point.json"
    with replacing(kept) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")
    if folder is not None:
        report.write_folder(
            folder, name, result, title=f"{name}, calibrated by {wanted.name}", command=command(),
            photographs=thumbnails(crops) if crops is not None else None,
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


@dataclass(frozen=True)
class Wanted:
    """Comparisons to be made: a list, or (None) every pair of `ids`; columns of groups of the list's pairs."""

    name: str
    listed: NamedPairs | None
    ids: NDArray[np.str_]
    sha256: str
    groups: Mapping[str, NDArray[np.str_]]

    @classmethod
    def of(cls, name: str, listed: NamedPairs, groups: Mapping[str, NDArray[np.str_]]) -> Wanted:
        """Those of a list."""
        return cls(name, listed, np.unique(np.concatenate([listed.left, listed.right])), listed.sha256, groups)

    def score(self, vectors: Embeddings, far: float | None) -> Comparisons:
        """Make them. Raises DataError for ids without a vector."""
        if self.listed is not None:
            return of_list(vectors, self.listed)
        assert far
        (rows,) = rows_of(vectors, self.ids)
        return every_pair(Embeddings(vectors.vectors[rows], self.ids), people(self.ids.tolist())[1], far)


def read_comparisons(source: str, data: Path | None) -> Wanted:
    """By name, `lfw` or `blufr`, or from a file of pairs. Raises ConfigError for anything else."""
    if source.endswith(".csv"):
        return Wanted.of(Path(source).name, *read_pairs_csv(source))
    if source.endswith(".txt"):
        return Wanted.of(Path(source).name, read_lfw_pairs(source), {})
    if source not in ("lfw", "blufr"):
        raise ConfigError("lfw, blufr or a file of pairs, .csv or .txt", repr(source), "choose one of them")
    if data is None:
        raise ConfigError(f"--data with {source}", "none", "name the folder with its lists")
    if source == "lfw":
        return Wanted.of(source, read_lfw_pairs(data / "lfw" / "pairs.txt"), {})
    config = read_blufr(data / "lfw" / "blufr_lfw_config.mat")
    ids = config.ids[np.unique(np.concatenate([trial.test for trial in config.trials]))]
    return Wanted("blufr, every pair of the tests' images", None, ids, config.sha256, {})
