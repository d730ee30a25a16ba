from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..conditions import Conditions
from ..data import Reader, open_reader
from ..embed import Embedder, certificate, keep_certificate
from ..embed.conditions import learn
from ..errors import ConfigError, require
from ..protocols import (
    PROTOCOLS,
    Inputs,
    certified,
    few_groups,
    inputs_of,
    of_list,
    operating_point,
    read_groups,
)  # fmt: skip
from .score_tables import Scores, calibrate_scores, scores_of
from .terminal import Json, Model, StrictRates, open_checked, progress
from .vectors import (
    Crops,
    ListFiles,
    Lists,
    Partial,
    System,
    Vectors,
    compare_all,
    judged_system,
    refuse_few_errors,
    show,
    show_certificate,
)

_log = logging.getLogger("normface")


def calibrate(
    protocol: Annotated[
        str,
        typer.Argument(
            help="Its comparisons: lfw, pairs_csv (yours), a .bin's; scores (of any system); blufr, all_pairs: every "
            "pair."
        ),
    ],
    data: Lists = None,
    model: Model = None,
    embeddings: Vectors = None,
    named: ListFiles = None,
    scores: Scores = None,
    crops: Crops = None,
    partial: Partial = False,
    far: Annotated[
        float | None, typer.Option(help="False accept rate to stay at or below. Without it: the best accuracy.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV `id,sex,age,…`: error rates of each group.")] = None,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FACES",
            help="Ordinary aligned faces of other people, to learn what the certificate does not cover; "
            "with NAME= faces that it does not cover as they are, such as children=CROPS.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write result.json, report.html and report.md here too.")
    ] = None,
    confident: Annotated[
        bool, typer.Option("--confident", help="Hold the upper end of the FAR's 95 % interval to --far, not its value.")
    ] = False,
    replicates: Annotated[int | None, typer.Option(hidden=True)] = None,  # deprecated: no bootstrap is needed
    strict: StrictRates = False,
    as_json: Json = False,
) -> None:
    """Choose the threshold for a false accept rate, and say what a score is worth.

    Writes the certificate beside the model: the threshold, the rates measured at it with their intervals, and the map
    from a score to a likelihood ratio. `verify` decides by it and `export` puts it into the ONNX file. A rate that
    the comparisons cannot resolve is refused, and with `--confident` one that they cannot promise.
    docs/operating-points.md tells what a certificate says and what not.
    `--conditions` adds which photographs it covers: `verify`, `search` and `enrol` decide nothing on others.

    Examples: `normface calibrate blufr --data DATA --model RUN --far 0.001`,
    `normface calibrate pairs_csv --list pairs.csv --crops crops.zip --model M.onnx --far 0.01 --groups people.csv`,
    `normface calibrate blufr --data DATA --model M.onnx --far 0.001 --conditions faces.zip --conditions children=KIDS`.
    """
    if replicates is not None:
        _log.warning("--replicates has no effect and will be removed: these intervals need no bootstrap")
    reads = inputs_of(protocol)  # says which protocols there are
    if scores is not None or not reads.vectors:
        given = {"model": model, "embeddings": embeddings, "crops": crops, "partial": partial, "conditions": conditions}
        path = scores_of(protocol, scores, named, data, **given)
        calibrate_scores(
            path, far=far, groups=groups, folder=folder, confident=confident, strict=strict, as_json=as_json
        )
        return
    _fitting(protocol, reads, model=model, far=far, partial=partial, folder=folder)
    if conditions and embeddings is not None:
        raise ConfigError("--conditions with a model", "--embeddings", "drop one of them")
    faces, outside = _condition_faces(conditions or [], strict)
    lists = named or reads.find_lists(data)
    pairs = reads.read_pairs(lists)
    system = judged_system(protocol, lists, data=data, model=model, embeddings=embeddings, crops=crops, strict=strict)
    told: dict[str, Any] = {}
    if pairs:
        listed, told = pairs[0].available(system.vectors) if partial else (pairs[0], told)
        comparisons, digest = of_list(system.vectors, listed), listed.sha256
    else:
        assert far
        comparisons, digest, told = compare_all(reads, system.vectors, lists, far, partial)
    how = [protocol, system.name if embeddings else "mirror sum", *["partial"] * bool(told)]
    point = operating_point(
        comparisons, target_far=far, protocol=", ".join(how),
        model_sha256=system.sha256, data_sha256=digest, confident=confident,
    )  # fmt: skip
    if faces:
        point = replace(point, conditions=_learn(system, model, point.threshold, faces, outside))
    by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
    by_pair = few_groups(pairs[1]) if pairs and not told else {}
    result = certified(point, comparisons, by_image, by_pair, conditions={"system": system.name, **told})
    refuse_few_errors(result, strict)
    kept = certificate(model) if model is not None else Path(str(folder)) / "operating_point.json"
    keep_certificate(kept, point)
    title = f"{system.name}, calibrated by {protocol}"
    show(system.name, result, folder, title=title, crops=system.crops, as_json=as_json)
    if not as_json:
        show_certificate(point, kept)


def _fitting(
    protocol: str, reads: Inputs, *, model: Path | None, far: float | None, partial: bool, folder: Path | None
) -> None:
    """Raise ConfigError where the protocol cannot calibrate, or options do not go together."""
    if reads.pairs is None and reads.every is None:
        able = [name for name in PROTOCOLS if inputs_of(name).pairs or inputs_of(name).every]
        raise ConfigError(f"a protocol among {', '.join(able)}", protocol, "choose one of them")
    if model is None and folder is None:
        raise ConfigError("--out with --embeddings or the default model", "none", "name a folder for the certificate")
    if reads.pairs is None and far is None:
        raise ConfigError(f"--far with {protocol}", "none", "give one, such as --far 0.001")
    if partial and not reads.lists:
        raise ConfigError("--partial with a list", f"{protocol}, which has none", "drop it")
    if folder is not None:
        require("matplotlib", "report")  # before the long work


def _condition_faces(given: list[str], strict: bool) -> tuple[list[Reader], dict[str, Reader]]:
    """Open what `--conditions` names: ordinary faces, and by name those outside. Raises ConfigError for these alone."""
    faces: list[Reader] = []
    outside: dict[str, Reader] = {}
    for each in given:
        name, equals, path = each.partition("=")
        named = bool(equals) and not Path(each).exists()
        reader = open_checked(Path(path if named else each), strict)
        if named:
            outside[name] = reader
        else:
            faces.append(reader)
    if outside and not faces:
        raise ConfigError("--conditions FACES too", "only NAME=FACES", "name ordinary faces of other people")
    return faces, outside


def _learn(
    system: System, model: Path | None, threshold: float, faces: list[Reader], outside: dict[str, Reader]
) -> Conditions:
    """The conditions of the model that was calibrated, with a progress bar."""
    assert system.crops
    embedder = Embedder.load(model, certified=False)
    with progress("learning conditions", "images") as bar:
        return learn(
            embedder, open_reader(system.crops), faces, outside, vectors=system.vectors, threshold=threshold,
            progress=bar,
        )  # fmt: skip
