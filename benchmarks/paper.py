"""The paper's tables on the faces at hand: one softmax model, fine-tuned with every loss, judged by LFW and BLUFR.

Of every seed a softmax model (nothing normalised, dropout) is trained once. Each row goes on from it, its class weights
included, for the same budget; five snapshots of the second half are judged. Rows "from scratch" get both budgets
together: the paper leaves open whether its losses can do without the softmax model.

Whether a difference is real is asked of the pairs: the share of seeds and snapshots that decide each of LFW's 6,000
pairs rightly, row less row, under a bootstrap over people. The seeds stand beside it one by one, as three seeds alone
would make wide intervals.

A finished row of a seed is kept in build/paper and not done again; a run that was stopped goes on.
"""

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.sheet import LeftOut, Sheet
from normface.data import open_reader
from normface.embed import Embedder, embed_pairs
from normface.figures.drawing import panels, title
from normface.protocols import blufr, lfw, read_lfw_pairs, scores
from normface.protocols.intervals import percentiles, resampled_pairs
from normface.report.plots import COLORS, save
from normface.report.render import markdown_table
from normface.types import Embeddings, Floats

from .losses import AT_64, MODEL, PLAIN, ROOT, cosine, folder_of, loss, real_faces, trained

FOLDER = ROOT / "build" / "paper"
QUICK = None  # trains for hours
SEEDS, BATCH = (0, 1, 2), 64
BASE, FINE = 6.0, 2.0  # epochs of the softmax model, and of what follows
SNAPSHOTS = 5  # at 60, 70 … 100 % of what follows
DROPOUT = 0.4
BASELINE, BOTH, JOINT = "softmax, no normalisation", "softmax, both", "softmax, both + C-contrastive"
AGAINST = (BASELINE, BOTH, "ArcFace")  # what every row is compared with; the last: the best that goes on from a softmax
START = "the softmax model"
WEIGHTS = (0.001, 0.01, 0.1, 1.0)  # of the second loss, Figure 8
SOFTMAX = {"name": "CosineSoftmax", "weight": 1.0}
KINDS = {"mirror none": ("none", None), "PCA": ("none", 0.995), "mirror sum": ("sum", None), "both": ("sum", 0.995)}


def joint(weight: float, margin: float) -> dict[str, Any]:
    """Softmax + weight · C-contrastive; margin 0 leaves its pull alone: the paper's center loss."""
    return loss("Joint", terms=[SOFTMAX, {"name": "CContrastive", "weight": weight, "margin": margin}])


def grown(margin: str) -> dict[str, Any]:
    """A margin that is whole at the end of a run from scratch."""
    return {"name": "Gradual", "of": margin}


GROWING = dict(scale=30.0, learn_scale=False, growth=(12.0, 0.5), margin=grown("CosFace"))
ROWS: dict[str, dict[str, Any]] = {
    BASELINE: cosine(**PLAIN),
    "softmax, no normalisation + dropout": {**cosine(**PLAIN), "dropout": DROPOUT},
    "softmax + center, no normalisation": loss(
        "Joint", terms=[{**SOFTMAX, **PLAIN}, {"name": "Center", "weight": 1.0}]
    ),
    "softmax, features only": cosine(normalize="features"),
    "softmax, weights only": cosine(normalize="weights", scale=1.0, learn_scale=False),
    BOTH: cosine(),
    "softmax, both + center": joint(0.01, 0.0),
    "C-contrastive": loss("CContrastive"),
    "C-triplet": loss("CTriplet", pull=False),
    "C-triplet + center": loss("CTriplet"),
    JOINT: joint(0.01, 1.0),
    "CosFace": cosine(margin="CosFace", **AT_64),
    "ArcFace": cosine(margin="ArcFace", **AT_64),
    # The open question. A learned scale is its own schedule: it starts where the bound lets a sample reach 0.99, 12.
    "from scratch: softmax, no normalisation": {**cosine(**PLAIN), "scratch": 1.0},
    "from scratch: softmax, both": {**cosine(), "scratch": 1.0},
    "from scratch: " + JOINT: {**joint(0.01, 1.0), "scratch": 1.0},
    "from scratch: ArcFace": {**cosine(margin="ArcFace", **AT_64), "scratch": 1.0},
    "from scratch: CosFace, growing": {**cosine(**GROWING), "scratch": 1.0},
    "from scratch: ArcFace, growing": {
        **cosine(scale=64.0, learn_scale=False, growth=1.0, margin=grown("ArcFace")), "scratch": 1.0
    },
    "from scratch: CosFace, growing + C-contrastive": {
        **loss("Joint", terms=[{**SOFTMAX, **GROWING}, {"name": "CContrastive", "weight": 0.1}]), "scratch": 1.0
    },
    # Agents that start warm: at the class weights of a normalised softmax, not of a plain one.
    "from normalised softmax: C-contrastive": {**loss("CContrastive"), "start": "the normalised softmax model"},
    "from normalised softmax: " + JOINT: {**joint(0.01, 1.0), "start": "the normalised softmax model"},
    "from normalised softmax: ArcFace": {
        **cosine(margin="ArcFace", **AT_64), "start": "the normalised softmax model"
    },
}  # fmt: skip
STARTS: dict[str, dict[str, Any]] = {
    START: {**cosine(**PLAIN), "dropout": DROPOUT}, "the normalised softmax model": cosine(),
}  # fmt: skip
FIGURE8 = {  # lines → loss weight → row
    "C-contrastive": {w: JOINT if w == 0.01 else f"softmax, both + {w:g} C-contrastive" for w in WEIGHTS},
    "center": {w: "softmax, both + center" if w == 0.01 else f"softmax, both + {w:g} center" for w in WEIGHTS},
}
for _line, _margin in (("C-contrastive", 1.0), ("center", 0.0)):
    ROWS |= {name: joint(w, _margin) for w, name in FIGURE8[_line].items() if name not in ROWS}

# Percent: LFW (Wen's ResNet, mean of 5 snapshots), BLUFR VR at FAR 0.1 % and DIR at FAR 1 %.
PAPER: dict[str, tuple[str, str]] = {
    BASELINE: ("98.28", ""), "softmax, no normalisation + dropout": ("98.35", ""),
    "softmax + center, no normalisation": ("99.03", "93.35 / 67.86"),
    "softmax, features only": ("98.72", ""), "softmax, weights only": ("98.95", ""),
    BOTH: ("99.16 ± .025", "95.77 / 73.92"), "softmax, both + center": ("99.17 ± .017", ""),
    "C-contrastive": ("99.15 ± .017", ""), "C-triplet": ("99.11 ± .008", ""),
    "C-triplet + center": ("99.13 ± .017", "95.73 / 76.12"), JOINT: ("99.19 ± .008", "95.83 / 77.18"),
}  # fmt: skip


def run(sheet: Sheet) -> None:
    """Figures of every row: LFW in four ways, BLUFR, differences from the baseline and from the normalised softmax."""
    data = real_faces()
    if data is None:
        raise LeftOut("there are no real faces; give --data DIR (laid out as the README says), or set NORMFACE_DATA")
    by_seed = [{name: _cell(name, seed, data) for name in ROWS} for seed in SEEDS]  # one seed whole, then the next
    cells = {name: [found[name] for found in by_seed] for name in ROWS}
    right = np.array([[_right(name, seed) for seed in SEEDS] for name in ROWS])  # [rows, seeds, snapshots, pairs]
    named, decided = read_lfw_pairs(data / "lfw" / "pairs.txt"), right.mean((1, 2))
    samples = resampled_pairs(lambda weights: decided @ weights / weights.sum(), named.people, named.same, 1000)
    of_rows = dict(zip(ROWS, zip(right.mean((2, 3)), samples.T, strict=True), strict=True))  # by seed, by sample
    figures = sheet.figures
    figures |= {
        "model": MODEL, "epochs": {"softmax model": BASE, "each row": FINE}, "batch": BATCH, "seeds": list(SEEDS),
        "rows": {},
    }  # fmt: skip
    for name, found in cells.items():
        row: dict[str, Any] = {"seconds": sum(cell["seconds"] for cell in found)}
        for kind in KINDS:
            row[kind] = _mean([value for cell in found for value in cell["lfw"][kind]])
        for metric in ("vr", "dir"):
            row[metric] = _mean([cell[metric] for cell in found])
        for other in AGAINST:
            if name != other:
                row[f"less {other}"] = _difference(*map(np.subtract, of_rows[name], of_rows[other]))
                row[f"vr less {other}"] = [a["vr"] - b["vr"] for a, b in zip(found, cells[other], strict=True)]
        figures["rows"][name] = row
    picture(figures)
    print(table(figures), differences(figures), sep="\n\n")


def _mean(values: list[float]) -> list[float]:
    """Mean and standard deviation, which is 0 of a single one."""
    return [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0]


def _difference(seeds: Floats, samples: Floats) -> dict[str, Any]:
    """Of two rows' accuracies, with the interval over people, and of each seed; `real`: both agree on its sign."""
    (low,), (high,) = percentiles(samples[:, None])
    real = bool((seeds > 0).all() and low > 0) or bool((seeds < 0).all() and high < 0)
    return {"value": float(seeds.mean()), "low": float(low), "high": float(high), "seeds": seeds.tolist(), "real": real}


def _configuration(raw: dict[str, Any], seed: int) -> dict[str, Any]:
    """Of a row or a start: what `TrainConfig` takes."""
    options = {**MODEL["options"], "dropout": raw.get("dropout", 0.0)}  # type: ignore[dict-item]
    return {"model": {**MODEL, "options": options}, "loss": raw["loss"], "data": {"shift": 3.0}, "seed": seed}


def _start(name: str, seed: int, data: Path) -> Path:
    """The run that rows go on from."""
    place = FOLDER / f"seed-{seed}" / folder_of(name)
    raw = _configuration(STARTS[name], seed) | {"optim": {"epochs": BASE}}
    if not (place / "done").exists():
        trained(raw, data, place)
        (place / "done").touch()
    return place


def _cell(name: str, seed: int, data: Path) -> dict[str, Any]:
    place = FOLDER / f"seed-{seed}" / folder_of(name)
    raw = _configuration(ROWS[name], seed)
    every, per_epoch = _rhythm(data)
    epochs = (BASE + FINE if "scratch" in ROWS[name] else FINE) / FINE * 10 * every / per_epoch
    raw |= {"optim": {"epochs": epochs}, "save_every": every}
    if "scratch" not in ROWS[name]:  # as the paper fine-tunes: a tenth of the rate, with a last step
        raw["optim"] |= {"lr": 0.01, "schedule": "step", "milestones": [0.5]}
        origin = _start(ROWS[name].get("start", START), seed, data)
        raw["start"] = {"run": str(origin.relative_to(ROOT)), "agents": True}
    if (place / "figures.json").exists():
        kept = dict(json.loads((place / "figures.json").read_text()))
        if kept.pop("configuration") != json.loads(json.dumps(raw)):  # a tuple comes back as a list
            raise SystemExit(f"{place} holds a run of another configuration: remove it, or restore the constants")
        return kept
    began = time.perf_counter()

    def keep(done: int, total: int, _: object) -> None:
        # Called before this step's checkpoint takes the place of the one before.
        if (done - 1) % every == 0 and done - 1 >= total - (SNAPSHOTS - 1) * every:
            _copy(place, done - 1)

    outcome = trained(raw, data, place, progress=keep)
    _copy(place, outcome.total)
    figures = _judge(place, data)
    figures["seconds"] = round(time.perf_counter() - began)
    (place / "figures.json").write_text(json.dumps({"configuration": raw, **figures}))
    shutil.rmtree(place / "snapshots")
    shutil.rmtree(place / "checkpoint")
    print(seed, name, figures, flush=True)
    return figures


def _rhythm(data: Path) -> tuple[int, int]:
    """Steps from one snapshot to the next, a tenth of what a row is fine-tuned for, and steps of an epoch."""
    counts = np.bincount(open_reader(data / "train" / "faces-112.zip").labels)
    per_epoch = int(counts[counts >= 2].sum()) // BATCH
    return max(1, round(FINE / 10 * per_epoch)), per_epoch


def _copy(place: Path, step: int) -> None:
    saved, copy = place / "checkpoint" / f"step-{step:08d}", place / "snapshots" / f"step-{step:08d}"
    if saved.exists() and not copy.exists():
        shutil.copytree(saved, copy.with_suffix(".part"), dirs_exist_ok=True)
        copy.with_suffix(".part").rename(copy)


def _judge(place: Path, data: Path) -> dict[str, Any]:
    """LFW of every snapshot in four ways, BLUFR of the last; which pairs are decided rightly goes into right.npy."""
    named = read_lfw_pairs(data / "lfw" / "pairs.txt")
    accuracies: dict[str, list[float]] = {kind: [] for kind in KINDS}
    right, figures = [], {}
    snapshots = sorted((place / "snapshots").iterdir())
    for snapshot in snapshots:
        lists = ["pairs.txt", "blufr_lfw_config.mat"] if snapshot == snapshots[-1] else ["pairs.txt"]
        both = embed_pairs(Embedder.load(snapshot), data, [lists[-1]], mirror="concatenate")
        one, mirrored = np.split(both.vectors, 2, axis=1)
        merged = {"none": Embeddings(one, both.ids), "sum": Embeddings(one + mirrored, both.ids)}
        for kind, (how, pca) in KINDS.items():
            judged = lfw(merged[how], data / "lfw" / "pairs.txt", pca=pca)
            accuracies[kind].append(judged.metrics["accuracy"].value)
            if kind == "mirror sum":
                cosines = scores(merged[how], named.within(merged[how])).scores
                right.append((cosines >= np.array(judged.facts["fold_threshold"])[named.fold]) == named.same)
        if len(lists) == 2:
            found = blufr(merged["sum"], data / "lfw" / "blufr_lfw_config.mat", replicates=20).metrics
            figures = {"vr": found["vr@far=0.001"].value, "dir": found["dir@far=0.01,rank=1"].value}
    np.save(place / "right.npy", np.array(right))
    return {"lfw": accuracies, **figures}


def _right(name: str, seed: int) -> NDArray[np.bool_]:
    return np.asarray(np.load(FOLDER / f"seed-{seed}" / folder_of(name) / "right.npy"))


def table(figures: dict[str, Any]) -> str:
    """The rows beside the paper's, in Markdown; after ± the deviation over seeds and snapshots."""
    lines = [["loss", *("LFW", "+ PCA", "+ mirror", "+ both"), "BLUFR VR / DIR", "paper: LFW", "paper: BLUFR"]]
    for name, row in figures["rows"].items():
        accuracies = [f"{100 * row[kind][0]:.2f} ± {100 * row[kind][1]:.2f}" for kind in KINDS]
        rates = f"{100 * row['vr'][0]:.1f} / {100 * row['dir'][0]:.1f}"
        lines.append([name, *accuracies, rates, *PAPER.get(name, ("", ""))])
    return markdown_table(lines)


def differences(figures: dict[str, Any]) -> str:
    """Each row less those of `AGAINST`, in points: LFW (mirror sum) with its interval, BLUFR's VR from seed to seed."""
    lines = [["loss", *(f"LFW less *{other}*" for other in AGAINST), f"VR less *{BASELINE}*"]]
    for name, row in figures["rows"].items():
        found = [_signed(row.get(f"less {other}")) for other in AGAINST]
        seeds = ", ".join(f"{100 * value:+.1f}" for value in row.get(f"vr less {BASELINE}", [])).replace("-", "−")
        lines.append([name, *found, seeds])
    return markdown_table(lines)


def _signed(found: dict[str, Any] | None) -> str:
    """Value and interval; bold where the difference is real."""
    if found is None:
        return ""
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    text = f"{value:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")
    return f"**{text}**" if found["real"] else text


def picture(figures: dict[str, Any]) -> None:
    """Figure 8: accuracy against the weight of the second loss, into docs/figures/paper.png."""
    canvas, ((axes,),) = panels(1, 1, 6.0, 4.2)
    for color, aside, (line, rows) in zip(COLORS, (0.94, 1.06), FIGURE8.items(), strict=False):
        means, deviations = zip(*(figures["rows"][name]["mirror sum"] for name in rows.values()), strict=True)
        axes.errorbar(
            [aside * weight for weight in rows], [100 * m for m in means], [100 * d for d in deviations], marker=".",
            capsize=3, color=color, label=f"softmax + {line}",
        )  # fmt: skip
    axes.axhline(100 * figures["rows"][BOTH]["mirror sum"][0], color="#999999", linestyle=":", label="softmax alone")
    bars = f"bars: deviation of {SNAPSHOTS} snapshots of {len(SEEDS)} seeds"
    axes.set(xscale="log", xlabel=f"weight of the second loss ({bars})")
    title(axes, "LFW accuracy (%), mirror sum")
    axes.legend(fontsize=8)
    save(canvas, Path(__file__).parents[1] / "docs" / "figures" / "paper.png", "Accuracy against the loss weight")
