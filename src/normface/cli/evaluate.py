"""The command `normface evaluate`: judge a model by a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from ..embed import certificate, certify, keep_certificate
from ..embed.embedder import Mirror
from ..embed.image_quality import image_quality
from ..errors import ConfigError, require
from ..protocols import (
    PROTOCOLS,
    Inputs,
    NamedPairs,
    detailed,
    few_groups,
    inputs_of,
    of_list,
    read_groups,
    threshold_at,
    with_discard,
)  # fmt: skip
from ..protocols.failures import evaluated, require_others
from ..protocols.named_pairs import Ids, rows_of
from ..report.wording import protocol_title
from ..types import Embeddings, Result
from .score_tables import Scores, evaluate_scores, scores_of
from .snapshots import evaluate_snapshots
from .terminal import Computer, Json, Model, StrictRates, progress
from .vectors import (
    CountFailures,
    Crops,
    ListFiles,
    Lists,
    Partial,
    Photographs,
    System,
    Vectors,
    compare_all,
    judged_system,
    refuse_few_errors,
    show,
)

Pairs = tuple[NamedPairs, Mapping[str, Ids]] | None  # as a protocol reads them


def evaluate(
    protocol: Annotated[str, typer.Argument(help=f"Protocol: {', '.join(PROTOCOLS)}.")],
    data: Lists = None,
    model: Model = None,
    embeddings: Vectors = None,
    mirror: Annotated[
        Mirror | None, typer.Option(help="How to merge features of the image and its mirror image. Default: sum.")
    ] = None,
    named: ListFiles = None,
    crops: Crops = None,
    photographs: Photographs = None,
    failures: CountFailures = None,
    partial: Partial = False,
    pca: Annotated[
        float | None, typer.Option(help="Apply PCA fitted on the other folds, keeping this share of the variance.")
    ] = None,
    certified: Annotated[
        bool, typer.Option("--certify", help="Store the operating point with the model, for verify and export.")
    ] = False,
    far: Annotated[
        float | None, typer.Option(help="False accept rate of the operating point. Default: best accuracy.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV `id,sex,age,…`: report error rates for each group.")] = None,
    quality: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw error rates against the share of images discarded by sharpness, norm, risk (the certificate's "
            "conditions) or ediffiqa (a network: normface fetch ediffiqa). Repeat for several.",
        ),
    ] = None,
    scores: Scores = None,
    device: Computer = "auto",
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="Evaluate every snapshot of the run --model: mean ± deviation.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write result.json, report.html, report.md and embeddings.npz here.")
    ] = None,
    strict: StrictRates = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model, or embeddings of any system, by a published protocol.

    `lfw`: 6000 pairs in ten folds; each fold's threshold comes from the other nine. `lfw_view1`: 1000 pairs with the
    threshold of 2200 others (pairsDevTest.txt, pairsDevTrain.txt); select models with it, and report `lfw`.
    `blufr`: all pairs of 10 trials at FAR 0.1 % and 0.01 %, and open-set identification (blufr_lfw_config.mat).
    `pairs_csv`, `identification`, `distractors`, `all_pairs`: your own images. `scores`: any system, without vectors,
    by a table `score, same[, a, b][, fold][, group…]` (.csv or .parquet). docs/evaluation.md describes all.

    Examples: `normface evaluate lfw --data DATA --model RUN --out report`,
    `normface evaluate lfw --data DATA --embeddings F.npz --json`,
    `normface evaluate pairs_csv --list pairs.csv --embeddings F.npz`, `normface evaluate scores --scores scores.csv`.
    """
    reads = inputs_of(protocol)  # raises for an unknown protocol
    if scores is not None or not reads.vectors:
        given = {"model": model, "embeddings": embeddings, "mirror": mirror, "crops": crops, "partial": partial,
                 "pca": pca, "certify": certified, "far": far, "quality": quality, "photographs": photographs,
                 "failures": failures}  # fmt: skip
        path = scores_of(protocol, scores, named, data, **given)
        evaluate_scores(protocol, path, groups=groups, folder=folder, strict=strict, as_json=as_json)
        return
    if embeddings is not None and mirror is not None:
        raise ConfigError("--mirror with --model", "--mirror with --embeddings", "drop --mirror")
    mirror = mirror or "sum"
    _can_certify(certified, far, protocol, model=model, as_verify=mirror == "sum" and pca is None)
    options = _options(protocol, pca=pca, partial=partial or None)
    if photographs is not None and certified:
        raise ConfigError("--certify with crops", "--photographs", "use: normface calibrate … --photographs")
    if photographs is not None and quality:
        raise ConfigError("--quality with crops", "--photographs", "drop one of them, or first run: normface align")
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    lists = named or reads.find_lists(data)
    if snapshots:
        evaluate_snapshots(
            protocol,
            lists,
            model,
            options,
            data=data,
            crops=crops,
            mirror=mirror,
            strict=strict,
            device=device,
            as_json=as_json,
        )
        return
    pairs = reads.read_pairs(lists)
    if groups is not None and (pairs is None or not pairs[0].fold.any()):
        raise ConfigError("--groups with pairs in folds", protocol, "use: normface calibrate … --far … --groups …")
    if quality and pairs is None and reads.every is None:
        raise ConfigError("--quality with a protocol of pairs", protocol, "drop it, or use lfw, pairs_csv or all_pairs")
    system = judged_system(
        protocol, lists, data=data, model=model, embeddings=embeddings, crops=crops, mirror=mirror, strict=strict,
        photographs=photographs, failures=failures, certified=True, device=device,
    )  # fmt: skip
    if system.failures and pairs and not partial:
        require_others(system.failures, pairs[0], system.vectors)
    if system.failures and "partial" in signature(PROTOCOLS[protocol]).parameters:
        options["partial"] = True
    result = PROTOCOLS.build(protocol, system.vectors, *lists, conditions=system.conditions, **options)
    if system.failures:
        result = evaluated(result, system.vectors, pairs[0] if pairs else None, system.failures)
    refuse_few_errors(result, strict)
    if pairs and "threshold" in result.facts:
        result = _with_details(result, system.vectors, *pairs, groups)
    if quality:
        result = _with_discard(result, system, reads, lists, pairs, quality, model=model)
    if certified:
        assert model is not None
        point = certify(result, system.vectors, lists[-1], far=far, model_sha256=system.sha256)
        keep_certificate(certificate(model), point)
    if folder is not None:
        system.vectors.save(folder / "embeddings.npz")
    title = f"{system.name} on {protocol_title(protocol)}"
    show(system.name, result, folder, title=title, crops=system.crops, as_json=as_json)


def _can_certify(asked: bool, far: float | None, protocol: str, *, model: Path | None, as_verify: bool) -> None:
    """Raise ConfigError if --certify or --far do not fit the other options."""
    if far is not None and not asked:
        raise ConfigError("--far with --certify", "--far alone", "add --certify, or drop --far")
    if asked and protocol not in ("lfw", "lfw_view1"):
        raise ConfigError("--certify with lfw", protocol, f"use: normface calibrate {protocol}")
    if asked and (model is None or not as_verify):
        raise ConfigError(
            "--certify with --model, --mirror sum and no --pca (as verify compares)", "other options",
            "give --model, and drop --mirror and --pca",
        )  # fmt: skip


def _options(protocol: str, **given: Any) -> dict[str, Any]:
    """Return the options that are not None. Raises ConfigError for one that the protocol does not have."""
    options = {name: value for name, value in given.items() if value is not None}
    known = signature(PROTOCOLS[protocol]).parameters
    if strange := [name for name in options if name not in known]:
        raise ConfigError(f"options of {protocol}", f"--{strange[0]}", "drop it")
    return options


def _with_details(
    result: Result, vectors: Embeddings, pairs: NamedPairs, columns: Mapping[str, Ids], groups: Path | None
) -> Result:
    """Add calibration, the hardest errors and rates by group, at the protocol's threshold."""
    available, told = pairs.available(vectors)
    comparisons = of_list(vectors, available)
    by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
    by_pair = {} if told else few_groups(columns)
    return detailed(result, comparisons, float(result.facts["threshold"]), by_image, by_pair)


def _with_discard(
    result: Result, system: System, reads: Inputs, lists: list[Path], pairs: Pairs, names: list[str], *,
    model: Path | None,
) -> Result:  # fmt: skip
    """Add error-versus-discard curves at the protocol's threshold; if it has none, at that of FAR 1 %, or of 0.1 % over
    every pair of images.
    """
    if pairs:
        far, comparisons = 0.01, of_list(system.vectors, pairs[0].available(system.vectors)[0])
    else:
        far = 0.001
        comparisons = compare_all(reads, system.vectors, lists, far, "partial" in result.facts)[0]
    threshold = result.facts.get("threshold")
    if threshold is None:
        threshold = threshold_at(comparisons, far)
    (rows,) = rows_of(system.vectors, comparisons.ids)
    vectors = system.vectors
    chosen = replace(vectors, vectors=vectors.vectors[rows], ids=vectors.ids[rows], norms=vectors.norms[rows])
    qualities = {}
    for name in dict.fromkeys(names):
        with progress(f"measuring {name.partition('=')[0]}", "images") as bar:
            qualities[name.partition("=")[0]] = image_quality(name, chosen, system.crops, model=model, progress=bar)
    return with_discard(result, comparisons, float(threshold), qualities)
