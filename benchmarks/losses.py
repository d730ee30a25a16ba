"""Every loss trained alike for the same short budget, judged on LFW and DevTest: the table of docs/losses.md.

Runs lie in build/losses and go on where they were stopped. Real faces are looked for in NORMFACE_DATA or
../shared/data; without them only the synthetic ones are used.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.sheet import Sheet
from normface.data import open_reader
from normface.data.synthetic import write_dataset
from normface.embed import Embedder, embed_pairs
from normface.faces import size_fault
from normface.protocols import inputs_of, lfw, lfw_view1
from normface.report.render import markdown_table
from normface.train import Outcome, TrainConfig, train
from normface.train.loop import Progress

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "losses"
EPOCHS = 3.0
QUICK = None  # trains for hours
MODEL = {"name": "smallresnet", "options": {"channels": [16, 32, 64, 128], "units": [1, 1, 1]}}
SOFTMAX = "softmax, nothing normalised"
FINE = {"lr": 0.01}  # as the paper fine-tunes: a tenth of the rate from scratch
BY_PERSON = {"per_person": 4}


def cosine(**options: Any) -> dict[str, Any]:
    """A row of `CosineSoftmax`."""
    return {"loss": {"name": "CosineSoftmax", "options": options}}


def loss(name: str, **options: Any) -> dict[str, Any]:
    """A row of another loss."""
    return {"loss": {"name": name, "options": options}}


PLAIN = dict(normalize="none", scale=1.0, learn_scale=False)
AT_64 = dict(scale=64.0, learn_scale=False)  # as the margins' authors
CENTER = {"name": "Center", "weight": 1.0}
ROWS: dict[str, dict[str, Any]] = {
    SOFTMAX: cosine(**PLAIN),
    "NormFace softmax": cosine(),
    "softmax, features only": cosine(normalize="features"),
    "NormFace softmax, hard weights": cosine(weights="hard"),
    "NormFace softmax, 3 sub-centres": cosine(subcenters=3),
    "AdaCos": cosine(scale="adacos"),
    "AdaCos, dynamic": cosine(scale="adacos-dynamic"),
    "CosFace": cosine(margin="CosFace", **AT_64),
    "ArcFace": cosine(margin="ArcFace", **AT_64),
    "ArcFace, straight-through": cosine(margin={"name": "ArcFace", "gradient": "straight-through"}, **AT_64),
    "CurricularFace": cosine(margin="CurricularFace", **AT_64),
    "AdaFace": cosine(margin="AdaFace", **AT_64),
    "MagFace": cosine(margin="MagFace", **AT_64),
    "SphereFace": cosine(margin="SphereFace", normalize="weights"),
    "SphereFace-R": cosine(margin="SphereFaceR", scale=30.0, learn_scale=False),
    "softmax + center": loss("Joint", terms=[{"name": "CosineSoftmax", "weight": 1.0, **PLAIN}, CENTER]),
    "softmax + C-contrastive": loss("Joint"),
    "C-contrastive": {**loss("CContrastive"), "optim": FINE},
    "C-triplet": {**loss("CTriplet"), "optim": FINE},
    "contrastive": {**loss("Contrastive"), "data": BY_PERSON},
    "triplet": {**loss("Triplet", mining="semi-hard"), "data": BY_PERSON},
    "from softmax: softmax": {**cosine(**PLAIN), "optim": FINE, "start": SOFTMAX},
    "from softmax: NormFace softmax": {**cosine(), "optim": FINE, "start": SOFTMAX},
    "from softmax: ArcFace": {**cosine(margin="ArcFace", **AT_64), "optim": FINE, "start": SOFTMAX},
    "from softmax: C-contrastive": {**loss("CContrastive"), "optim": FINE, "start": SOFTMAX},
    "from softmax: C-triplet": {**loss("CTriplet"), "optim": FINE, "start": SOFTMAX},
    "from softmax: softmax + C-contrastive": {**loss("Joint"), "optim": FINE, "start": SOFTMAX},
    # What should fail, and how `normface doctor` sees it.
    "softmax, weights only": cosine(normalize="weights", scale=1.0, learn_scale=False),
    "softmax, cosines at scale 1": cosine(scale=1.0, learn_scale=False),
    "C-triplet at a large rate": {**loss("CTriplet"), "optim": {"lr": 0.5}},
}  # fmt: skip


def run(sheet: Sheet) -> None:
    """Train and judge every row; the figures of each data set by the row's name."""
    shared = real_faces()
    places = {"real": shared} if shared else {}
    places["synthetic"] = FOLDER / "faces"
    if not (places["synthetic"] / "lfw" / "pairs.txt").exists():
        write_dataset(places["synthetic"])
    sheet.figures |= {"model": MODEL, "epochs": EPOCHS, "batch": 64, "threads": torch.get_num_threads()}
    for kind, data in places.items():
        for name in ROWS:
            sheet.measure(f"{kind}/{name}", _row, kind, name, data)


def real_faces() -> Path | None:
    """NORMFACE_DATA or ../shared/data, where there are faces to train on."""
    shared = Path(os.environ.get("NORMFACE_DATA", ROOT.parent / "shared" / "data"))
    return shared if (shared / "train").exists() else None


def folder_of(name: str) -> str:
    """The folder of a row's run."""
    return "".join(c if c.isalnum() else "-" for c in name)


def trained(raw: dict[str, Any], data: Path, run: Path, progress: Progress | None = None) -> Outcome:
    """Train a configuration on `data`, from where it was stopped."""
    reader = open_reader(data / "train" / "faces-112.zip").check(fault=size_fault)
    config = TrainConfig.model_validate(raw)
    outcome = train(config, reader, run, resume=(run / "checkpoint").exists(), progress=progress)
    if not outcome.finished:
        raise KeyboardInterrupt
    return outcome


def _row(kind: str, name: str, data: Path) -> dict[str, Any]:
    run = FOLDER / kind / folder_of(name)
    kept = run / "figures.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    raw = {"model": MODEL, **ROWS[name]}
    raw["data"] = {"shift": 3.0, **raw.get("data", {})}
    raw["optim"] = {"epochs": EPOCHS, **raw.get("optim", {})}
    if "start" in raw:
        raw["start"] = {"run": str((FOLDER / kind / folder_of(raw["start"])).relative_to(ROOT)), "agents": True}
    began = time.perf_counter()
    outcome = trained(raw, data, run)
    figures: dict[str, Any] = {
        "seconds": round(time.perf_counter() - began), "images_per_second": round(outcome.images_per_second),
        "loss": outcome.loss,
    }  # fmt: skip
    lists = [data / each for each in (*inputs_of("lfw").lists, *inputs_of("lfw_view1").lists) if (data / each).exists()]
    vectors = embed_pairs(Embedder.load(run), data, [each.name for each in lists])
    judged = lfw(vectors, lists[0])
    figures["lfw"] = [judged.metrics["accuracy"].value, judged.facts["standard_error"]]
    if len(lists) == 3:
        accuracy = lfw_view1(vectors, *lists[1:]).metrics["accuracy"]
        figures["devtest"] = [accuracy.value, accuracy.low, accuracy.high]
    kept.write_text(json.dumps(figures))
    print(kind, name, figures, flush=True)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as docs/losses.md shows them, in Markdown."""
    lines = [["loss", "LFW (%)", "DevTest (%, 95 % interval)", "seconds", "last loss", "synthetic faces (%)"]]
    for name in figures["real"]:
        real, drawn = figures["real"][name], figures["synthetic"][name]
        value, low, high = (100 * number for number in real["devtest"])
        lines.append([
            name, _accuracy(real), f"{value:.1f} ({low:.1f} to {high:.1f})", str(real["seconds"]),
            f"{real['loss']:.3g}", _accuracy(drawn),
        ])  # fmt: skip
    return markdown_table(lines)


def _accuracy(found: dict[str, Any]) -> str:
    value, error = found["lfw"]
    return f"{100 * value:.2f} ± {100 * error:.2f}"
