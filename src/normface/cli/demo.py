from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
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
from .export import write_onnx
from .terminal import Json, command, err, open_checked, out, progress, training_progress
from .vectors import embed_pairs

if TYPE_CHECKING:
    from ..train import TrainConfig

PLAIN, UNSCALED, NORMFACE, GROWING = (
    "plain softmax", "unit vectors, no scale", "NormFace", "NormFace with growing margin",
)  # fmt: skip
IDEAS = {
    PLAIN: "The usual classifier: it multiplies the embedding with a vector for each person, and lengths count too.",
    UNSCALED: "Brings all vectors to length 1, so that only the angle between them counts.",
    NORMFACE: "Does the same, and multiplies the cosine by a number that is learned, the scale.",
    GROWING: "Also demands that people lie an angle apart (the margin of ArcFace), more and more during training.",
}
FOLDERS = {PLAIN: "softmax", UNSCALED: "unscaled", NORMFACE: "normface", GROWING: "growing"}
# Networks from the largest on: the first that sees the faces often enough in the time given is trained.
NETWORKS: tuple[dict[str, Any], ...] = (
    {"channels": (16, 64, 128, 256), "units": (1, 1, 2), "stem": 2},
    {"channels": (32, 64, 128), "units": (1, 2), "stem": 4},
    {"channels": (16, 32, 64, 128), "units": (1, 1, 1), "stem": 4},
)


@dataclass(frozen=True)
class Plan:
    """The plan for drawn or for real faces.

    Attributes:
        rows: the ways of training.
        minutes: default duration of the whole demo.
        networks: candidates, largest first.
        batch: images per step.
        angle, scale, growth: in the last row, ArcFace's margin, the final scale, and the share of the run during which
            both grow.
        enough, least, most: epochs that a larger network must reach, and the limits of the epochs.
        each, rest: seconds that one row takes besides its training steps, and that everything else takes.
    """

    rows: tuple[str, ...]
    minutes: float
    networks: tuple[dict[str, Any], ...]
    batch: int
    angle: float
    scale: float
    growth: float
    enough: float
    least: float
    most: float
    each: float
    rest: float


PLANS = {
    "drawn": Plan(
        (PLAIN, UNSCALED, NORMFACE, GROWING), 3.25, NETWORKS[-1:], 32, 0.3, 20.0, 0.5, 2, 2, 8, each=4, rest=25
    ),
    "real": Plan((PLAIN, NORMFACE, GROWING), 25.0, NETWORKS, 64, 0.5, 30.0, 1.0, 6, 3, 10, each=40, rest=60),
}


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
    as_json: Json = False,
) -> None:
    """Train a small face network in several ways, evaluate each on new people, and write a report.

    Draws synthetic faces (or uses real ones with `--data`), times the first training steps, and plans the rest to
    take `--minutes`. Trains from one initialization: a plain softmax; unit vectors without a scale, which must fail;
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
    network, epochs = plan(kind, faces, minutes or kind.minutes, epochs, began)
    rows, results, vectors = [], {}, {}
    for name in kind.rows:
        run = folder / FOLDERS[name]
        config = configuration(name, faces, network, kind, epochs)
        train_row(config, faces, run, name)
        results[name], vectors[name] = judge(run, data)
        difference = None if name == PLAIN else gain(vectors[name], vectors[PLAIN], data)
        rows.append(row(name, run, results[name], difference))
        against = f", {report.points(difference)} points against plain softmax" if difference else ""
        say(began, f"{name}: {report.percent(rows[-1].accuracy)} of pairs decided correctly{against}")
    page, exported = folder / "report.html", folder / "normface.onnx"
    say(began, f"exporting {exported} …")
    write_onnx(folder / FOLDERS[GROWING], exported)
    verified = [verify_pair(Embedder.load(exported), data, same) for same in (True, False)]
    people, pairs = len(faces.identities), results[PLAIN].metrics["accuracy"].n
    saw, following = told(rows, people), what_next(exported)
    opening = report.story(introduction(len(faces), people, pairs, faces_are), rows, saw, following, [
        report.Verified(jpeg(each["left"]), jpeg(each["right"]), each["match"], each["threshold"], each["same"])
        for each in verified
    ])  # fmt: skip
    title = "Teaching a network to tell faces apart, " + {3: "three", 4: "four"}[len(rows)] + " ways"
    report.write_report(page, results, title=title, command=command(), opening=opening)
    seconds = round(time.perf_counter() - began)
    if as_json:
        out.print_json(json.dumps({
            "report": str(page), "model": str(exported), "seconds": seconds, "epochs": epochs, "network": network,
            "results": {name: json.loads(result.to_json())["metrics"] for name, result in results.items()},
            "differences": {each.name: vars(each.difference) for each in rows if each.difference},
            "verified": [words(each) for each in verified], "saw": saw,
        }))  # fmt: skip
        return
    width = max(map(len, kind.rows))
    out.print(f"\n{pairs:,} pairs of people never seen in training, decided correctly [95 % interval]:")
    for each in rows:
        against = f"   difference {report.points(each.difference)} points" if each.difference else ""
        out.print(f"  {each.name:{width}}  {report.percent(each.accuracy)}{against}", soft_wrap=True, markup=False)
    for pair in map(words, verified):
        score = f"cosine {pair['score']:.3f}, threshold {pair['threshold']:.3f}"
        out.print(f"verify {pair['a']} {pair['b']}: {pair['verdict']} ({pair['truth']}); {score}", soft_wrap=True)
    out.print(f"\nWhat you saw: {saw}\nWhat next: {following}", soft_wrap=True, markup=False)
    out.print(f"\nreport: {page}  (open it in a browser)\nmodel:  {exported}", soft_wrap=True)
    say(began, "done")


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


def plan(kind: Plan, faces: Reader, minutes: float, epochs: float | None, began: float) -> tuple[dict[str, Any], float]:
    """Choose the network, and the number of epochs that fit into the remaining time."""
    if epochs is not None:
        return kind.networks[-1], epochs
    from ..train.speed import images_per_second

    say(began, "timing the first training steps …")
    for network in kind.networks:
        speed = images_per_second(configuration(PLAIN, faces, network, kind, 1.0), faces)
        left = 60 * minutes - (time.perf_counter() - began) - kind.rest - kind.each * len(kind.rows)
        fitting = left / len(kind.rows) * speed / len(faces)
        if fitting >= kind.enough:
            break
    chosen = round(min(max(fitting, kind.least), kind.most), 1)
    seconds = time.perf_counter() - began + kind.rest
    seconds += len(kind.rows) * (kind.each + chosen * len(faces) / speed)
    say(
        began,
        f"{speed:.0f} images/s here: {len(kind.rows)} trainings of {chosen:g} epochs over {len(faces):,} images, "
        f"about {seconds / 60:.1f} minutes in all (--minutes {minutes:g})",
    )
    return network, chosen


def configuration(name: str, faces: Reader, network: dict[str, Any], kind: Plan, epochs: float) -> TrainConfig:
    """Return the recipe of a row; only the loss differs between rows."""
    from ..train import load_config

    config = load_config("softmax" if name == PLAIN else "normface", [f"optim.epochs={epochs}"])
    options: dict[str, Any] = config.loss.options
    if name == UNSCALED:
        options = {"normalize": "both", "scale": 1.0, "learn_scale": False}
    elif name == GROWING:
        margin = {"name": "Gradual", "of": {"name": "ArcFace", "angle": kind.angle}, "until": kind.growth}
        options = {"scale": kind.scale, "learn_scale": False, "growth": kind.growth, "margin": margin}
    return config.model_copy(update={
        "model": config.model.model_copy(update={"options": network}),
        "optim": config.optim.model_copy(update={"batch": kind.batch}),
        "loss": config.loss.model_copy(update={"options": options}),
    })  # fmt: skip


def train_row(config: TrainConfig, faces: Reader, run: Path, name: str) -> None:
    """Train a row into `run`."""
    from ..train import train as run_training

    # The monitors warn of a loss without a scale; here it is intended.
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


def introduction(images: int, people: int, pairs: int, faces_are: str) -> str:
    """Describe the experiment to a reader who has not read the paper."""
    return (
        "A face network turns a picture of a face into a list of numbers, its embedding. Two pictures count as the "
        "same person if their embeddings point in nearly the same direction: if the cosine of the angle between "
        f"them is high. Here one small network was trained on {images:,} {faces_are} of {people:,} people, several "
        f"times from the same initialization. Then it had to decide for {pairs:,} pairs of pictures of other people "
        "whether both show the same person. Guessing is right for half of them. Only the loss, the number that "
        "training minimizes, differs."
    )


def told(rows: list[report.Row], people: int) -> str:
    """Summarize the figures in two or three sentences."""
    by_name = {each.name: each for each in rows}
    sentences = []
    if unscaled := by_name.get(UNSCALED):
        final = float(np.mean(unscaled.losses[-25:]))
        sentences.append(
            f"Cosines lie between −1 and 1, so with {people:,} people the loss without a scale cannot fall below "
            f"{unscaled.bound:.2f}, however good the network (Proposition 2 of the NormFace paper, arXiv 1704.06369). "
            f"It ended at {final:.2f}; guessing gives {np.log(people):.2f}, so the network learned little. With a "
            "scale it learns: this is NormFace."
        )
    sentences += [f"{name} {_against(by_name[name].difference)}." for name in (NORMFACE, GROWING)]
    return " ".join([*sentences, "Each was trained once; another seed would change the figures a little."])


def _against(difference: Estimate | None) -> str:
    assert difference is not None
    verdict = (
        "decides more pairs correctly than plain softmax" if difference.low > 0
        else "decides fewer pairs correctly than plain softmax" if difference.high < 0
        else "does not differ significantly from plain softmax on these pairs"
    )  # fmt: skip
    return f"{verdict} ({report.points(difference)} points)"


def what_next(exported: Path) -> str:
    """Suggest next steps to a newcomer."""
    return (
        "Compare two photographs of your own with the built-in model: `normface verify a.jpg b.jpg`. Or train a "
        "network on your own faces, with one folder per person: `normface align PHOTOGRAPHS CROPS`, then "
        f"`normface train scratch --crops CROPS --out RUN`. The last network of this demo is `{exported}`."
    )


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


def jpeg(photograph: Image) -> bytes:
    """Encode a photograph for the report."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(photograph), quality=85))


def say(began: float, text: str) -> None:
    """Print a progress line with the elapsed time on stderr."""
    err.print(f"[{time.perf_counter() - began:4.0f} s] {text}", soft_wrap=True, markup=False)
