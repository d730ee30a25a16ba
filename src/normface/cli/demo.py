from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import report
from ..data import Reader, open_reader
from ..embed import Embedder, certificate
from ..errors import ConfigError, FaceError, require
from ..protocols import lfw, read_lfw_pairs
from ..types import Result
from .evaluate import certified, command, embed_pairs, keep_certificate, lfw_crops
from .export import write_onnx
from .terminal import Json, err, open_checked, out, progress, training_progress

SYSTEMS = {"softmax": "plain softmax", "normface": "NormFace"}  # recipe → name
EPOCHS = {"synthetic": 4.0, "real": 7.0}


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Real faces: a folder with train/faces-112.zip and lfw/, see the README."),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="A new folder for everything that is made.")] = Path("demo-out"),
    epochs: Annotated[float | None, typer.Option(help="Passes over the training faces.")] = None,
    as_json: Json = False,
) -> None:
    """The whole job: train plain softmax and NormFace from the same start, judge both, export, verify two pairs.

    Without `--data` on synthetic faces, drawn here: a few minutes. With real ones: under half an hour on two cores.
    """
    require("torch", "train")
    require("matplotlib", "report")
    began = time.perf_counter()
    if any((folder / name).exists() for name in SYSTEMS):
        raise ConfigError("a new folder for --out", f"{folder} with an earlier demo", "remove it or name another")
    kind = "synthetic" if data is None else "real"
    data = data or draw_faces(folder / "data")
    epochs = EPOCHS[kind] if epochs is None else epochs
    check_inputs(data)
    faces = open_checked(data / "train" / "faces-112.zip")
    results: dict[str, Result] = {}
    for recipe, name in SYSTEMS.items():
        speed = train(recipe, faces, folder / recipe, epochs)
        results[name] = judge(folder / recipe, data)
        say(began, f"{name}: trained at {speed:.0f} images/s, 10-fold accuracy {accuracy(results[name])}")
    if kind == "real":  # on faces like those it was made for
        results["default model"] = judge_default(data)
        say(began, f"the model that ships, for comparison: {accuracy(results['default model'])}")
    page, exported = folder / "report.html", folder / "normface.onnx"
    title = f"Plain softmax and NormFace on {kind} faces"
    report.write_report(page, results, title=title, command=command())
    write_onnx(folder / "normface", exported)
    say(began, f"exported {exported}")
    verified = [verify(Embedder.load(exported), data, same) for same in (True, False)]
    if as_json:
        figures: dict[str, Any] = {"report": str(page), "model": str(exported), "verified": verified}
        figures["results"] = {name: json.loads(result.to_json())["metrics"] for name, result in results.items()}
        out.print_json(json.dumps({**figures, "seconds": round(time.perf_counter() - began)}))
        return
    out.print(f"\n{title}: 10-fold accuracy, mean ± standard error")
    for name, result in results.items():
        out.print(f"  {name:14}{accuracy(result)}")
    for match in verified:
        score = f"cosine {match['score']:.3f}, threshold {match['threshold']:.3f}"
        out.print(f"verify {match['a']} {match['b']}: {match['verdict']} ({match['truth']}); {score}", soft_wrap=True)
    out.print(f"report: {page}\nmodel:  {exported}", soft_wrap=True)
    say(began, "done")


def check_inputs(data: Path) -> None:
    """Open everything that will be needed, before hours of work."""
    read_lfw_pairs(data / "lfw" / "pairs.txt")
    for place in (data / "train" / "faces-112.zip", lfw_crops(data), data / "lfw" / "lfw-raw-fold1.zip"):
        open_reader(place)


def draw_faces(folder: Path) -> Path:
    """Synthetic faces, laid out like the real data."""
    from ..data.synthetic import write_dataset

    with progress("drawing faces", "images") as update:
        write_dataset(folder, progress=update)
    return folder


def train(recipe: str, faces: Reader, run: Path, epochs: float) -> float:
    """Train a recipe into `run`; images per second."""
    from ..train import load_config
    from ..train import train as run_training

    with training_progress(f"training {recipe}") as update:
        outcome = run_training(load_config(recipe, [f"optim.epochs={epochs}"]), faces, run, progress=update)
    if not outcome.finished:
        raise KeyboardInterrupt
    return outcome.images_per_second


def judge(run: Path, data: Path) -> Result:
    """The LFW protocol on a run; its operating point is kept there."""
    from ..train import embedder

    model, pairs = embedder(run), data / "lfw" / "pairs.txt"
    vectors = embed_pairs(model, data)
    result = lfw(vectors, pairs, conditions={"weights_sha256": model.sha256, "mirror": "sum"})
    keep_certificate(certificate(run), certified(result, vectors, pairs, None, model.sha256))
    return result


def judge_default(data: Path) -> Result:
    """The LFW protocol on the model that ships."""
    model = Embedder.load()
    conditions = {"weights_sha256": model.sha256, "mirror": "sum"}
    return lfw(embed_pairs(model, data), data / "lfw" / "pairs.txt", conditions=conditions)


def verify(embedder: Embedder, data: Path, same: bool) -> dict[str, Any]:
    """Verify two photographs as they were taken: the list's first pair of one person (or of two) with faces found."""
    pairs, reader = read_lfw_pairs(data / "lfw" / "pairs.txt"), open_reader(data / "lfw" / "lfw-raw-fold1.zip")
    place = {name: row for row, name in enumerate(reader.ids.tolist())}
    chosen = pairs.same == same
    for left, right in zip(pairs.left[chosen].tolist(), pairs.right[chosen].tolist(), strict=True):
        if left not in place or right not in place:
            continue
        try:
            match = embedder.verify(reader.read(place[left]), reader.read(place[right]), names=(left, right))
        except FaceError:
            continue
        assert embedder.operating_point
        return {
            "a": left, "b": right, "score": match.score, "threshold": embedder.operating_point.threshold,
            "verdict": "the same person" if match.decision else "different people",
            "truth": "right" if match.decision == same else "wrong",
        }  # fmt: skip
    raise FaceError("a face in both photographs of a pair", "none in any", "look at lfw/lfw-raw-fold1.zip")


def accuracy(result: Result) -> str:
    """Percent ± standard error."""
    return f"{100 * result.metrics['accuracy'].value:.2f} % ± {100 * result.facts['standard_error']:.2f}"


def say(began: float, text: str) -> None:
    """Tell on stderr what is done, and when."""
    err.print(f"[{time.perf_counter() - began:4.0f} s] {text}", soft_wrap=True, markup=False)
