"""The command `normface demo`: run everything once on drawn faces."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import simplejpeg
import typer

from .. import report, theory
from ..data import Reader, open_reader
from ..embed import Embedder, certificate, certify, keep_certificate
from ..errors import ConfigError, FaceError, require
from ..protocols import compare, inputs_of, lfw, read_lfw_pairs
from ..types import Embeddings, Estimate, Image, Result
from .demo_plan import GROWING, NORMFACE, PLAIN, PLANS, UNSCALED, Plan, configuration, planned, say
from .demo_story import IDEAS, introduction, told, what_next
from .export import write_onnx
from .terminal import Json, command, open_checked, out, progress, training_progress
from .vectors import embed_pairs

if TYPE_CHECKING:
    from ..train import TrainConfig

FOLDERS = {PLAIN: "softmax", UNSCALED: "unscaled", NORMFACE: "normface", GROWING: "growing"}


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Train on real faces: a folder with train/faces-112.zip and lfw/ (docs/data.md)."),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="New folder for all output.")] = Path("demo-out"),
    minutes: Annotated[
        float | None, typer.Option(min=1, help="Target duration in minutes. Default: 3.25, or 25 with --data.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs to train, instead of --minutes.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialization and order of the images.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small face network in several ways, evaluate each on new people, and write a report.

    Draws synthetic faces (or uses real ones with `--data`), times the first training steps, and plans the rest to
    take `--minutes`. Trains from one initialization: a plain softmax; unit vectors without a scale, which learn
    poorly;
    NormFace; and NormFace with a growing margin. Then exports the last network, verifies two pairs of photographs with
    it, and writes `report.html`.

    Examples: `normface demo`, `normface demo --minutes 10`, `normface demo --data DIR --out real-out`.
    """
    require("torch", "train")
    require("matplotlib", "report")
    began = time.perf_counter()
    if any((folder / name).exists() for name in FOLDERS.values()):
        raise ConfigError("a new folder for --out", f"{folder} with an earlier demo", "remove it or give another --out")
    if minutes is not None and epochs is not None:
        raise ConfigError("--minutes or --epochs", "both", "give one of them")
    kind = PLANS["drawn" if data is None else "real"]
    faces_are = "drawn pictures" if data is None else "photographs"
    if data is None:
        say(began, "drawing faces of 400 people …")
        data = draw_faces(folder / "data")
    check_inputs(data)
    faces = open_checked(data / "train" / "faces-112.zip")
    network, epochs = planned(kind, faces, minutes or kind.minutes, epochs, began)
    rows, results = compare_losses(kind, faces, data, folder, network, epochs, seed, began)
    page, exported = folder / "report.html", folder / "normface.onnx"
    say(began, f"exporting {exported} …")
    write_onnx(folder / FOLDERS[GROWING], exported)
    verified = [verify_pair(Embedder.load(exported), data, same) for same in (True, False)]
    people, pairs = len(faces.identities), results[PLAIN].metrics["accuracy"].n
    opening = report.story(
        introduction(len(faces), people, pairs, faces_are), rows, told(rows, people), what_next(exported, faces_are),
        [shown(pair) for pair in verified],
    )  # fmt: skip
    title = "Teaching a network to tell faces apart, " + {3: "three", 4: "four"}[len(rows)] + " ways"
    report.write_report(page, results, title=title, command=command(), opening=opening)
    if as_json:
        out.print_json(json.dumps({
            "report": str(page), "model": str(exported), "seconds": round(time.perf_counter() - began),
            "epochs": epochs, "network": network, "seed": seed,
            "results": {name: json.loads(result.to_json())["metrics"] for name, result in results.items()},
            "differences": {each.name: vars(each.difference) for each in rows if each.difference},
            "verified": [words(each) for each in verified], "saw": told(rows, people),
        }))  # fmt: skip
        return
    print_rows(rows)
    for pair in map(words, verified):
        score = f"cosine {pair['score']:.3f}, threshold {pair['threshold']:.3f}"
        out.print(f"verify {pair['a']} {pair['b']}: {pair['verdict']} ({pair['truth']}); {score}", soft_wrap=True)
    out.print(f"\nWhat you saw: {told(rows, people)}", soft_wrap=True, markup=False)
    out.print(f"What next: {what_next(exported, faces_are)}", soft_wrap=True, markup=False)
    out.print(f"\nreport: {page}  (open it in a browser)\nmodel:  {exported}", soft_wrap=True)
    say(began, "done")


def compare_losses(
    kind: Plan, faces: Reader, data: Path, folder: Path, network: dict[str, Any], epochs: float, seed: int, began: float
) -> tuple[list[report.Row], dict[str, Result]]:
    """Train and evaluate each row. Returns the rows of the report and the results, by name."""
    rows, results, vectors = [], {}, {}
    for name in kind.rows:
        run = folder / FOLDERS[name]
        train_row(configuration(name, network, kind, epochs, seed), faces, run, name)
        results[name], vectors[name] = judge(run, data)
        difference = None if name == PLAIN else gain(vectors[name], vectors[PLAIN], data)
        rows.append(row(name, run, results[name], difference))
        against = f", {report.points(difference)} points against plain softmax" if difference else ""
        say(began, f"{name}: {report.percent(rows[-1].accuracy)} of pairs decided correctly{against}")
    return rows, results


def print_rows(rows: list[report.Row]) -> None:
    """Print the accuracies and differences as a table."""
    pairs, width = rows[0].accuracy.n, max(len(each.name) for each in rows)
    out.print(f"\n{pairs:,} pairs of people never seen in training, decided correctly [95 % interval]:")
    for each in rows:
        against = f"   difference {report.points(each.difference)} points" if each.difference else ""
        out.print(f"  {each.name:{width}}  {report.percent(each.accuracy)}{against}", soft_wrap=True, markup=False)


def check_inputs(data: Path) -> None:
    """Open every input, so that a missing one is reported before hours of work."""
    read_lfw_pairs(data / "lfw" / "pairs.txt")
    crops = inputs_of("lfw").find_crops(data)
    for place in (data / "train" / "faces-112.zip", crops, data / "lfw" / "lfw-raw-fold1.zip"):
        open_reader(place)


def draw_faces(folder: Path) -> Path:
    """Draw synthetic faces into the folder structure of the real data."""
    from ..data.synthetic import write_dataset

    with progress("drawing faces", "images") as update:
        write_dataset(folder, people=80, images=40, fold_people=32, fold_images=5, fold_pairs=300, progress=update)
    return folder


def train_row(config: TrainConfig, faces: Reader, run: Path, name: str) -> None:
    """Train a row into `run`."""
    from ..train import train as run_training

    # The monitors warn about a loss without a scale; here it is intended.
    quiet = logging.WARNING if name == UNSCALED else logging.NOTSET
    with training_progress(f"training {name}") as update:
        logging.disable(quiet)
        try:
            outcome = run_training(config, faces, run, progress=update)
        finally:
            logging.disable(logging.NOTSET)
    if not outcome.finished:
        raise KeyboardInterrupt


def judge(run: Path, data: Path) -> tuple[Result, Embeddings]:
    """Evaluate a run by the LFW protocol and store its operating point in it. Returns the result and the embeddings."""
    model, pairs = Embedder.load(run), data / "lfw" / "pairs.txt"
    vectors = embed_pairs(model, data)
    result = lfw(vectors, pairs, conditions={"weights_sha256": model.sha256, "mirror": "sum"})
    keep_certificate(certificate(run), certify(result, vectors, pairs, model_sha256=model.sha256))
    return result, vectors


def gain(vectors: Embeddings, plain: Embeddings, data: Path) -> Estimate:
    """Return the paired difference in accuracy to plain softmax."""
    return compare(vectors, plain, data / "lfw" / "pairs.txt", far=0.1).metrics["accuracy_difference"]


def row(name: str, run: Path, result: Result, difference: Estimate | None) -> report.Row:
    """Return a run's row on the first screen of the report."""
    from ..train.doctor import read

    whole = read(run)
    losses = [float(record["loss"] or np.nan) for record in whole.records]
    classes = json.loads((run / "environment.json").read_text("utf-8"))["data"]["classes"]
    bound = theory.loss_lower_bound(classes, 1.0) if name == UNSCALED else None
    accuracy = result.metrics["accuracy"]
    return report.Row(name, IDEAS[name], accuracy, difference, losses, whole.config.optim.batch, bound, name != GROWING)


def verify_pair(embedder: Embedder, data: Path, same: bool) -> dict[str, Any]:
    """Verify two unaligned photographs: the first genuine (or impostor) pair of the list in which faces are found."""
    pairs, reader = read_lfw_pairs(data / "lfw" / "pairs.txt"), open_reader(data / "lfw" / "lfw-raw-fold1.zip")
    place = {name: row for row, name in enumerate(reader.ids.tolist())}
    chosen = pairs.same == same
    for left, right in zip(pairs.left[chosen].tolist(), pairs.right[chosen].tolist(), strict=True):
        if left not in place or right not in place:
            continue
        photographs = reader.read(place[left]), reader.read(place[right])
        try:
            match = embedder.verify(*photographs, names=(left, right))
        except FaceError:
            continue
        assert embedder.operating_point
        return {
            "a": left, "b": right, "left": photographs[0], "right": photographs[1], "match": match, "same": same,
            "threshold": embedder.operating_point.threshold,
        }  # fmt: skip
    raise FaceError("a face in both photographs of a pair", "none in any pair", "check lfw/lfw-raw-fold1.zip")


def words(pair: dict[str, Any]) -> dict[str, Any]:
    """Return a verified pair as text and JSON values."""
    match = pair["match"]
    return {
        "a": pair["a"], "b": pair["b"], "score": match.score, "threshold": pair["threshold"],
        "verdict": "the same person" if match.decision else "different people",
        "truth": "right" if match.decision == pair["same"] else "wrong",
    }  # fmt: skip


def shown(pair: dict[str, Any]) -> report.Verified:
    """Return a verified pair for the report."""
    return report.Verified(jpeg(pair["left"]), jpeg(pair["right"]), pair["match"], pair["threshold"], pair["same"])


def jpeg(photograph: Image) -> bytes:
    """Encode a photograph for the report."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(photograph), quality=85))
