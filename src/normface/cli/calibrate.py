"""The command `normface calibrate`: choose a threshold and write its certificate."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..conditions import Conditions
from ..data import Reader, open_reader
from ..embed import Embedder, certificate, keep_certificate
from ..embed.conditions import learn
from ..errors import ConfigError, counted, require
from ..inference import Device
from ..protocols import (
    PROTOCOLS,
    Inputs,
    certified,
    few_groups,
    inputs_of,
    of_list,
    operating_point,
    read_groups,
    search_table,
    searched,
)  # fmt: skip
from ..protocols.failures import calibrated, require_others
from ..protocols.named_pairs import people
from ..protocols.open_set import listed
from ..report.wording import protocol_title
from ..types import Embeddings, OperatingPoint
from .score_tables import Scores, calibrate_scores, scores_of
from .terminal import Computer, Json, Model, StrictRates, open_checked, out, progress
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
    show_certificate,
)

_log = logging.getLogger("normface")


def calibrate(
    protocol: Annotated[
        str,
        typer.Argument(
            help="Its comparisons: lfw, pairs_csv (yours), a .bin's; scores (of any system); blufr, all_pairs: every "
            "pair; identification: searches."
        ),
    ],
    data: Lists = None,
    model: Model = None,
    embeddings: Vectors = None,
    named: ListFiles = None,
    scores: Scores = None,
    crops: Crops = None,
    photographs: Photographs = None,
    failures: CountFailures = None,
    partial: Partial = False,
    far: Annotated[
        float | None, typer.Option(help="Maximum false accept rate. Default: the threshold of best accuracy.")
    ] = None,
    fpir: Annotated[
        float | None,
        typer.Option(help="For identification: share of searches for strangers that may accept anybody, such as 0.01."),
    ] = None,
    enrolled: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="For identification: sizes of galleries, in templates.")
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
        bool,
        typer.Option(
            "--confident", help="Hold the upper end of the 95 % interval of FAR or FPIR to the rate, not its value."
        ),
    ] = False,
    device: Computer = "auto",
    replicates: Annotated[int | None, typer.Option(hidden=True)] = None,  # deprecated: no bootstrap is needed
    strict: StrictRates = False,
    as_json: Json = False,
) -> None:
    """Choose the threshold for a false accept rate, and measure the evidence of scores.

    Writes the certificate next to the model: the threshold, its measured rates with their intervals, and the map
    from scores to likelihood ratios. `verify` uses this threshold, and `export` copies it into the ONNX file. Rejects a
    rate that the comparisons cannot resolve and, with `--confident`, one that they cannot guarantee.
    docs/operating-points.md explains the certificate.
    `--conditions` adds which photographs it covers. For others, `verify` and `search` are undecided and `enrol` is an
    error.

    `identification` adds thresholds for searches to the model's certificate, one for each size of gallery. At most the
    share `--fpir` of the searches for people who are not enrolled accepts somebody. People are the folders of the
    crops, or those in `--list` (`id,person,role`; roles are ignored, because galleries are drawn). `search` uses these
    thresholds.

    Examples: `normface calibrate blufr --data DATA --model RUN --far 0.001`,
    `normface calibrate pairs_csv --list pairs.csv --crops crops.zip --model M.onnx --far 0.01 --groups people.csv`,
    `normface calibrate blufr --data DATA --model M.onnx --far 0.001 --conditions faces.zip --conditions children=KIDS`,
    `normface calibrate identification --crops CROPS --model M.onnx --fpir 0.01 --enrolled 100,1000,5000`.
    """
    if replicates is not None:
        _log.warning("--replicates has no effect and will be removed: these intervals need no bootstrap")
    if protocol == "identification":
        _for_searches(
            named or [], data=data, model=model, embeddings=embeddings, crops=crops, partial=partial, fpir=fpir,
            enrolled=enrolled, confident=confident, strict=strict, folder=folder, device=device, as_json=as_json,
            unused={
                "--scores": scores, "--far": far, "--groups": groups, "--conditions": conditions,
                "--photographs": photographs, "--failures": failures,
            },
        )  # fmt: skip
        return
    if fpir is not None or enrolled is not None:
        raise ConfigError("--fpir and --enrolled with identification", protocol, "drop them, or use identification")
    reads = inputs_of(protocol)  # the error lists the protocols
    if scores is not None or not reads.vectors:
        given = {"model": model, "embeddings": embeddings, "crops": crops, "partial": partial, "conditions": conditions,
                 "photographs": photographs, "failures": failures}  # fmt: skip
        path = scores_of(protocol, scores, named, data, **given)
        calibrate_scores(
            path, far=far, groups=groups, folder=folder, confident=confident, strict=strict, as_json=as_json
        )
        return
    _fitting(protocol, reads, model=model, far=far, partial=partial, folder=folder)
    if conditions and (embeddings is not None or photographs is not None):
        other = "--embeddings" if embeddings is not None else "--photographs"
        raise ConfigError("--conditions with a model and crops", other, "drop one of them")
    faces, outside = _condition_faces(conditions or [], strict)
    lists = named or reads.find_lists(data)
    pairs = reads.read_pairs(lists)
    system = judged_system(
        protocol, lists, data=data, model=model, embeddings=embeddings, crops=crops, strict=strict,
        photographs=photographs, failures=failures, device=device,
    )  # fmt: skip
    if pairs and system.failures and not partial:
        require_others(system.failures, pairs[0], system.vectors)
    partial = partial or system.failures is not None
    if pairs:
        listed, told = pairs[0].available(system.vectors) if partial else (pairs[0], {})
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
        point = replace(point, conditions=_learn(system, model, device, point.threshold, faces, outside))
    by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
    by_pair = few_groups(pairs[1]) if pairs and not told else {}
    facts = {"system": system.name, **system.tools, **told}
    result = certified(point, comparisons, by_image, by_pair, conditions=facts)
    if system.failures:
        result = calibrated(result, point, comparisons, pairs[0] if pairs else None, system.failures)
    refuse_few_errors(result, strict)
    kept = certificate(model) if model is not None else Path(str(folder)) / "operating_point.json"
    keep_certificate(kept, point)
    title = f"{system.name}, calibrated by {protocol_title(protocol)}"
    show(system.name, result, folder, title=title, crops=system.crops, as_json=as_json)
    if not as_json:
        show_certificate(point, kept)


def _fitting(
    protocol: str, reads: Inputs, *, model: Path | None, far: float | None, partial: bool, folder: Path | None
) -> None:
    """Raise ConfigError if the protocol cannot calibrate, or if options contradict each other."""
    if reads.pairs is None and reads.every is None:
        able = [name for name in PROTOCOLS if inputs_of(name).pairs or inputs_of(name).every] + ["identification"]
        raise ConfigError(f"a protocol among {', '.join(able)}", protocol, "choose one of them")
    if model is None and folder is None:
        raise ConfigError("--out with --embeddings or the default model", "none", "name a folder for the certificate")
    if reads.pairs is None and far is None:
        raise ConfigError(f"--far with {protocol}", "none", "give one, such as --far 0.001")
    if partial and not reads.lists:
        raise ConfigError("--partial with a list", f"{protocol}, which has none", "drop it")
    if folder is not None:
        require("matplotlib", "report")  # before the long work


def _for_searches(
    lists: list[Path], *, data: Path | None, model: Path | None, embeddings: Path | None, crops: Path | None,
    partial: bool, fpir: float | None, enrolled: str | None, confident: bool, strict: bool, folder: Path | None,
    device: Device, as_json: bool, unused: dict[str, Any],
) -> None:  # fmt: skip
    """Add a table of thresholds for searches to the certificate of a model, or to that in `folder`."""
    if strange := [option for option, given in unused.items() if given]:
        raise ConfigError("options of calibrate identification", strange[0], "drop it")
    sizes = _sizes(enrolled)
    if fpir is None or not sizes:
        raise ConfigError(
            "--fpir and --enrolled with identification", "none", "give both: --fpir 0.01 --enrolled 100,1000"
        )
    if model is None and folder is None:
        raise ConfigError("--out with --embeddings or the default model", "none", "name a folder for the certificate")
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    kept = certificate(model) if model is not None else Path(str(folder)) / "operating_point.json"
    if embeddings is None:
        point = Embedder.load(model).operating_point
    else:
        point = OperatingPoint.from_json(kept.read_bytes()) if kept.exists() else None
    if point is None:
        raise ConfigError(
            "a certificate to add thresholds for searches to",
            "none",
            "make one: normface calibrate all_pairs --far 0.001",
        )
    lists = lists or (inputs_of("identification").find_lists(data) if data is not None else [])
    system = judged_system(
        "identification" if lists else "all_pairs", lists, data=data, model=model, embeddings=embeddings, crops=crops,
        strict=strict, device=device,
    )  # fmt: skip
    vectors = system.vectors
    told: dict[str, Any] = {}
    if lists:
        rows, subjects, _, told = listed(vectors, lists[0], partial)
        vectors, digest = Embeddings(rows, np.arange(len(rows)).astype(str)), told.pop("list_sha256")
    else:
        every = inputs_of("all_pairs").every
        assert every
        digest, subjects = every([], vectors.ids)[1], people(vectors.ids.tolist())[1]
    how = ["identification", system.name if embeddings else "mirror sum", *["partial"] * bool(told)]
    table = search_table(
        vectors, subjects, fpir=fpir, enrolled=sizes, protocol=", ".join(how), data_sha256=digest, confident=confident
    )
    point = replace(point, search=table)
    result = searched(point, {"system": system.name, **system.tools, **told})
    refuse_few_errors(result, strict)
    keep_certificate(kept, point)
    title = f"{system.name}, thresholds for searches"
    show(system.name, result, folder, title=title, crops=system.crops, as_json=as_json)
    if as_json:
        return
    out.print()
    for each in table.points:
        out.print(
            f"up to {counted(each.enrolled, 'template')}: accept from cosine {each.threshold:.4f} on; expected false "
            f"matches of a search for a stranger: {each.false_matches:.2g}", soft_wrap=True,
        )  # fmt: skip
    out.print(f"certificate: {kept}", soft_wrap=True)


def _sizes(text: str | None) -> list[int]:
    try:
        return [int(each) for each in text.split(",")] if text else []
    except ValueError as error:
        raise ConfigError("--enrolled N,N,… in whole numbers", repr(text), "such as 100,1000,10000") from error


def _condition_faces(given: list[str], strict: bool) -> tuple[list[Reader], dict[str, Reader]]:
    """Open the faces of `--conditions`: ordinary ones, and by name those outside.

    Raises ConfigError if there are only faces outside.
    """
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
    system: System, model: Path | None, device: Device, threshold: float, faces: list[Reader],
    outside: dict[str, Reader],
) -> Conditions:  # fmt: skip
    """Learn the conditions of the calibrated model, with a progress bar."""
    assert system.crops
    embedder = Embedder.load(model, certified=False, device=device)
    with progress("learning conditions", "images") as bar:
        return learn(
            embedder, open_reader(system.crops), faces, outside, vectors=system.vectors, threshold=threshold,
            progress=bar,
        )  # fmt: skip
