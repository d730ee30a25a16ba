from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
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
from ..protocols import (
    PROTOCOLS,
    detailed,
    few_groups,
    of_list,
    operating_point,
    read_bin_pairs,
    read_blufr,
    read_groups,
    read_lfw_pairs,
    read_media,
    read_pairs_csv,
    read_roles,
    read_ytf,
)  # fmt: skip
from ..protocols.pairs import NamedPairs
from ..types import Embeddings, OperatingPoint, Result
from .terminal import Json, Model, Strict, load_embedder, out, progress

CROPS = ("-112x112.zip", "-112x96.zip", "-112x112", "-112x96")  # what follows the set's name
LISTS = {  # of each protocol, under --data; a pattern may stand for several
    "lfw": ("lfw/pairs.txt",), "lfw_view1": ("lfw/pairsDevTrain.txt", "lfw/pairsDevTest.txt"),
    "blufr": ("lfw/blufr_lfw_config.mat",), "ytf": ("ytf/splits.txt",), "pairs_csv": ("pairs.csv",),
    "ijb_verification": ("ijb/*_face_tid_mid.txt", "ijb/*_template_pair_label.txt"),
    "ijb_identification": ("ijb/*_face_tid_mid.txt", "ijb/*_1N_probe_mixed.csv", "ijb/*_1N_gallery_*.csv"),
    "identification": ("identification.csv",), "distractors": ("distractors.csv",), "all_pairs": (),
    "lfw_bin": ("lfw.bin",), **{name: (f"{name}.bin",) for name in ("cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw")},
}  # fmt: skip


def evaluate(
    protocol: Annotated[str, typer.Argument(help=f"Which protocol: {', '.join(LISTS)}.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the lists (lfw/pairs.txt) and the aligned crops lfw/lfw-112x96.zip."),
    ] = None,
    model: Model = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Judge anybody's vectors: an .npz with `vectors` [N, D] and `ids` [N].")
    ] = None,
    mirror: Annotated[
        Mirror | None, typer.Option(help="How the mirrored image's features are merged. Default: sum.")
    ] = None,
    named: Annotated[
        list[Path] | None, typer.Option("--list", help="The protocol's lists, where they are not under --data.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(help="Aligned crops for --model, where they are not under --data.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out what has no vector, and say so, instead of refusing.")
    ] = False,
    pca: Annotated[float | None, typer.Option(help="PCA fitted on the other folds, keeping this variance.")] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Keep the operating point beside the model, for verify and export.")
    ] = False,
    far: Annotated[
        float | None, typer.Option(help="False accept rate of the operating point; without it: best accuracy.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV `id,sex,age,…`: error rates of each group, of pairs in a list.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write result.json, report.html, report.md and embeddings.npz here.")
    ] = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Judge a model, or anybody's vectors, by a published protocol.

    `lfw`: 6000 pairs in ten folds; each fold's threshold comes from the other nine. `lfw_view1`: 1000 pairs with the
    threshold of 2200 others (pairsDevTest.txt, pairsDevTrain.txt); choose models by this one, and report the first.
    `blufr`: all pairs of 10 trials at FAR 0.1 % and 0.01 %, and open-set identification (blufr_lfw_config.mat).
    `pairs_csv`, `identification`, `distractors`, `all_pairs`: your own images. docs/evaluation.md tells of all.

    Examples: `normface evaluate lfw --data DATA --model RUN --out report`,
    `normface evaluate lfw --data DATA --embeddings F.npz --json`,
    `normface evaluate pairs_csv --list pairs.csv --embeddings F.npz`.
    """
    if model is not None and embeddings is not None:
        raise ConfigError("either --model or --embeddings", "both", "give one, or none for the default model")
    if embeddings is not None and (mirror is not None or strict):
        raise ConfigError("--mirror and --strict with --model", "them with --embeddings", "drop them")
    if far is not None and not certify:
        raise ConfigError("--far with --certify", "--far alone", "add --certify, or drop --far")
    mirror = mirror or "sum"
    if certify and protocol not in ("lfw", "lfw_view1"):
        raise ConfigError("--certify with lfw", protocol, f"use: normface calibrate {protocol}")
    if certify and (model is None or mirror != "sum" or pca is not None):
        raise ConfigError(
            "--certify with --model, --mirror sum and no --pca, as verify compares", "something else",
            "drop the others",
        )  # fmt: skip
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    judge = PROTOCOLS[protocol]  # says which there are
    lists = named or find_lists(protocol, data)
    listed = pairs_of(protocol, lists)
    if groups is not None and (listed is None or not listed[0].fold.any()):
        raise ConfigError("--groups with pairs in folds", protocol, "use: normface calibrate … --far … --groups …")
    if embeddings is not None:
        vectors, name, sha256 = Embeddings.load(embeddings), embeddings.name, "unknown"
        conditions = {"embeddings": name}
    else:
        embedder = load_embedder(model, certified=False)
        crops = crops or find_crops(protocol, data)
        vectors = embed_named(embedder, protocol, lists, crops, mirror, strict)
        name, sha256 = embedder.name, embedder.sha256
        conditions = {"model": name, "weights_sha256": sha256, "mirror": mirror}
    options = {"pca": pca, "partial": partial or None}
    options = {option: value for option, value in options.items() if value is not None}
    if strange := [option for option in options if option not in signature(judge).parameters]:
        raise ConfigError(f"options of {protocol}", f"--{strange[0]}", "drop it")
    result = PROTOCOLS.build(protocol, vectors, *lists, conditions=conditions, **options)
    if listed and "threshold" in result.facts:
        comparisons = of_list(vectors, listed[0].available(vectors)[0])
        by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
        by_pair = {} if "partial" in result.facts else few_groups(listed[1])
        result = detailed(result, comparisons, float(result.facts["threshold"]), by_image, by_pair)
    if certify:
        assert model is not None
        keep_certificate(certificate(model), certified(result, vectors, lists[-1], far, sha256))
    if folder is not None:
        vectors.save(folder / "embeddings.npz")
        photographs = thumbnails(crops) if crops is not None else None
        report.write_folder(
            folder, name, result, title=f"{name} on {protocol.upper()}", command=command(), photographs=photographs
        )
    if as_json:
        out.print_json(result.to_json())
    else:
        out.print(report.render_markdown({name: result}), soft_wrap=True)
        if folder is not None:
            out.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def embed_named(
    embedder: Embedder, protocol: str, lists: Sequence[Path], crops: Path, mirror: Mirror = "sum", strict: bool = False
) -> Embeddings:
    """Embed the images that a protocol's lists name (all, where it has none), from a folder or archive of crops."""
    reader = open_reader(crops, strict)
    reader = reader.select(np.flatnonzero(_wanted(protocol, lists, reader.ids))).check(fault=size_fault)
    with progress(f"embedding with {embedder.name}", "images") as update:
        return embedder.embed(reader, mirror=mirror, progress=update)


def embed_pairs(
    embedder: Embedder,
    data: Path,
    lists: Sequence[str] = ("pairs.txt",),
    mirror: Mirror = "sum",
    strict: bool = False,
) -> Embeddings:
    """Embed the LFW images that `lists` in `data`/lfw name, from the first archive or folder of crops there."""
    named = [data / "lfw" / name for name in lists]
    protocol = "blufr" if any(path.suffix == ".mat" for path in named) else "lfw"
    return embed_named(embedder, protocol, named, find_crops("lfw", data), mirror, strict)


def _wanted(protocol: str, lists: Sequence[Path], ids: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which images [N] a protocol's lists name."""
    if protocol in ("lfw", "lfw_view1"):
        pairs = [read_lfw_pairs(path) for path in lists]
        return np.isin(ids, np.concatenate([side for each in pairs for side in (each.left, each.right)]))
    if protocol == "blufr":
        return np.isin(ids, read_blufr(lists[0]).ids)
    if protocol == "pairs_csv":
        own, _ = read_pairs_csv(lists[0])
        return np.isin(ids, np.concatenate([own.left, own.right]))
    if protocol == "ytf":
        videos = read_ytf(lists[0])
        return np.isin([each.rpartition("/")[0] for each in ids.tolist()], np.append(videos.left, videos.right))
    if protocol.startswith("ijb"):
        return np.isin(ids, read_media(lists[0]).ids)
    if protocol in ("identification", "distractors"):
        return np.isin(ids, read_roles(lists[0])[0])
    return np.ones(len(ids), bool)


def pairs_of(protocol: str, lists: Sequence[Path]) -> tuple[NamedPairs, Mapping[str, NDArray[np.str_]]] | None:
    """The pairs that a protocol judges, and columns of groups of them; None where it has no list of pairs."""
    if protocol in ("lfw", "lfw_view1"):
        return read_lfw_pairs(lists[-1]), {}
    if protocol == "pairs_csv":
        return read_pairs_csv(lists[0])
    if LISTS[protocol] and LISTS[protocol][0].endswith(".bin"):
        return read_bin_pairs(lists[0]), {}
    return None


def find_lists(protocol: str, data: Path | None) -> list[Path]:
    """A protocol's lists under `data`. Raises ConfigError without it, DataError for a pattern that nothing matches."""
    if data is None and LISTS[protocol]:
        raise ConfigError("--data, or --list", "neither", "say where the protocol's lists are")
    found = []
    for pattern in LISTS[protocol]:
        assert data is not None
        if "*" not in pattern:
            found.append(data / pattern)
        elif matches := sorted(data.glob(pattern)):
            found += matches
        else:
            raise DataError(f"{pattern} in {data}", "nothing", "put the published lists there, or name them: --list")
    return found


def find_crops(protocol: str, data: Path | None) -> Path:
    """The aligned crops of a protocol under `data`: its `.bin`, or SET/SET-112x112.zip and the like, or `crops`.

    Raises ConfigError without `data`, DataError where there are none.
    """
    if data is None:
        raise ConfigError("--data, or --crops", "neither", "say where the aligned crops are")
    listed = LISTS[protocol][0] if LISTS[protocol] else ""
    if listed.endswith(".bin"):
        return data / listed
    folder = listed.partition("/")[0] if "/" in listed else ""
    names = [f"{folder}{end}" for end in CROPS] if folder else []
    places = [data / folder / name for name in (*names, "crops.zip", "crops")]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise DataError(
            "aligned crops", f"none of {', '.join(map(str, places))}", "put them there, or name them: --crops"
        )
    return place


def lfw_crops(data: Path) -> Path:
    """The first archive or folder of aligned LFW crops in `data`/lfw. Raises DataError for none."""
    return find_crops("lfw", data)


def certified(result: Result, vectors: Embeddings, pairs: Path, far: float | None, sha256: str) -> OperatingPoint:
    """The operating point of a protocol's comparisons, for a model evaluated as `verify` compares."""
    return operating_point(
        of_list(vectors, read_lfw_pairs(pairs)), target_far=far, protocol=f"{result.protocol}, mirror sum",
        model_sha256=sha256, data_sha256=str(result.facts["pairs_sha256"]),
    )  # fmt: skip


def keep_certificate(path: Path, point: OperatingPoint) -> None:
    """Write an operating point; `verify` and `export` look for it at `certificate(model)`."""
    with replacing(path) as temporary:
        temporary.write_text(point.to_json() + "\n", encoding="utf-8")


def thumbnails(crops: Path) -> Callable[[str], bytes | None]:
    """Small JPEGs of aligned crops by id; None for ids that are not there."""
    import simplejpeg

    reader = open_reader(crops)
    rows = {id: row for row, id in enumerate(reader.ids.tolist())}

    def jpeg(id: str) -> bytes | None:
        return bytes(simplejpeg.encode_jpeg(reader.read(rows[id]), quality=80)) if id in rows else None

    return jpeg


def command() -> str:
    """The command line that is running, to be repeated by a reader."""
    return shlex.join(["normface", *sys.argv[1:]])
