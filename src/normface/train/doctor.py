"""Diagnosis of a run from its configuration and log: symptom, reason by the paper's theory, and remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from .. import theory
from ..errors import DataError
from ..losses.softmax import LEAST_SCALE
from .config import TrainConfig, parse_config
from .logs import FILE, WARNINGS, read_lines
from .monitors import EVERY, SAMPLES

Record = Mapping[str, float | None]
ENOUGH = 10  # looks before a run is judged: the first hundred steps are the start, not the training
LEAST_PROBABILITY = 0.5  # less, and the right class never outweighs all the others together
CLOSE = 30.0  # degrees: d = 0.27, a third of C-triplet's margin. Random agents lie near 90, learned ones beyond 45
SAME = 0.8  # own angle / nearest other: towards 1 the classes lie in one another
LINE = 1.5  # effective rank: of an arc of 30° 1.5, of one direction 1, of a whole circle 2
SLOWER = 100.0  # times: a plain step turns class weights by lr / norm², and moves the network by lr / features' norm


@dataclass(frozen=True)
class Diagnosis:
    """A fault: `name`; `severity`; `seen`, the measurement; `why`, the reason; `do`, the remedy."""

    name: str
    severity: Literal["error", "warning", "note"]
    seen: str
    why: str
    do: str

    def __str__(self) -> str:
        return f"{self.seen}. {self.why}. {self.do}."


@dataclass(frozen=True)
class Run:
    """A run read from its folder: `records` of its steps in order, and the error that `ended` it, if any."""

    config: TrainConfig
    records: Sequence[Record]
    ended: str | None = None

    @property
    def looks(self) -> Sequence[Record]:
        """The records of monitored steps."""
        return [record for record in self.records if "feature_norm" in record]

    @property
    def tail(self) -> Sequence[Record]:
        """The last tenth of the monitored steps, at least 3."""
        return self.looks[-max(3, len(self.looks) // 10) :]

    def late(self, name: str) -> float:
        """Mean of a figure over the tail; NaN if it was not measured."""
        return _mean(self.tail, name)

    def early(self, name: str) -> float:
        """Mean of a figure over the first 3 monitored steps."""
        return _mean(self.looks[:3], name)


def read(folder: Path) -> Run:
    """Read a run folder; ignores a truncated last line. Raises DataError if there is no run."""
    for name in ("config.json", FILE):
        if not (folder / name).is_file():
            raise DataError(f"a run with {name}", f"none in {folder}", "give the --out folder of normface train")
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("config.json of normface train", f"'{error}' in {folder}", "restore the file") from error
    records = [line for line in read_lines(folder / FILE) if {"loss", "lr", "epoch"} <= line.keys()]
    if not records:
        raise DataError(f"steps in {folder / FILE}", "none", "wait for the first steps, or train again")
    ended = [line["words"] for line in read_lines(folder / WARNINGS) if line.get("name") == "ended"]
    return Run(parse_config(raw, str(folder / "config.json")), records, ended[-1] if ended else None)


def diagnose(run: Run) -> list[Diagnosis]:
    """Return all faults, worst first; none for a healthy run."""
    found = list(_ending(run))
    if not _long_enough(run):
        found.append(
            Diagnosis(
                "too-short", "note",
                f"Only {len(run.looks)} monitored steps in {run.records[-1]['epoch'] or 0:.2g} epochs",
                "That is too early for a diagnosis",
                f"Run doctor again after {ENOUGH} monitored steps and one epoch (one step in {EVERY} is monitored)",
            )
        )  # fmt: skip
    else:
        found += in_training(run)
    return sorted(found, key=lambda d: ("error", "warning", "note").index(d.severity))


def in_training(run: Run) -> list[Diagnosis]:
    """Return the faults visible during a run; none while it is too early for a diagnosis."""
    return [found for check in CHECKS if (found := check(run)) is not None] if _long_enough(run) else []


def summary(run: Run) -> str:
    """Summarize the key figures at the end."""
    last = run.records[-1]
    names = {
        "loss": "loss {:.4g}", "bound": "lower bound {:.2g}", "scale": "scale {:.4g}",
        "accuracy": "training accuracy {:.0%}",
        "genuine_angle": "own class at {:.0f}°", "nearest_angle": "nearest other at {:.0f}°",
        "features_rank": "effective rank {:.1f}",
    }  # fmt: skip
    figures = [text.format(value) for name, text in names.items() if math.isfinite(value := run.late(name))]
    return ", ".join([f"step {last['step']:.0f}, epoch {last['epoch'] or 0:.3g}", *figures])


def _long_enough(run: Run) -> bool:
    return len(run.looks) >= ENOUGH and (run.looks[-1]["epoch"] or 0) >= 1


def _ending(run: Run) -> Iterator[Diagnosis]:
    broken = next((record for record in run.records if record["loss"] is None), None)
    if broken is not None or run.ended:
        finite = [f"{r['loss']:.4g}" for r in run.records if r["loss"] is not None][-3:]
        seen = f"The loss is not finite at step {broken['step']}" if broken else f"The run failed: {run.ended}"
        yield Diagnosis(
            "not-finite" if broken else "broke-off", "error",
            f"{seen}; the losses before were {', '.join(finite) or 'none'}, at a rate of {run.records[-1]['lr']:.3g}",
            "Steps are too long: they leave the region where the gradient is valid, and a normalized vector has no "
            "gradient that shortens it",
            f"Lower optim.lr (now {run.config.optim.lr:g}) or lengthen optim.warmup, and train again",
        )  # fmt: skip
        return
    grown = run.records[-1].get("grown")  # share of the schedules of scale and margin
    at = "" if grown is None or grown > 0.999 else f", its scale and margin at {grown:.0%} of their growth"
    if (run.records[-1]["epoch"] or 0) < 0.999 * run.config.optim.epochs:
        yield Diagnosis(
            "unfinished", "note",
            f"The run is at epoch {run.records[-1]['epoch'] or 0:.3g} of {run.config.optim.epochs:g}{at}",
            "It was stopped, is still running, or validate_on.patience ended it",
            "If it was stopped, continue with --resume",
        )  # fmt: skip
    elif at:
        yield Diagnosis(
            "schedule-unfinished", "warning",
            f"The run ended{at}: the scale is {run.late('scale'):.3g}",
            "The growth counts steps, and the run has fewer of them; it trained for another loss than the recipe's",
            "Give fractions of the run: loss.options.growth=0.8, and until=0.8 of the margin Gradual in place of steps",
        )  # fmt: skip


def _scale_too_small(run: Run) -> Diagnosis | None:
    """Detect a high lower bound with a scale that does not change, or a loss that is halfway to the bound."""
    bound, scale, n = run.late("bound"), run.late("scale"), run.late("classes")
    best = math.exp(-bound)
    stuck = math.isclose(scale, run.early("scale"), rel_tol=0.01)
    near = run.late("loss") - bound < (math.log(n) - bound) / 2 if n >= 2 else False
    if not best < LEAST_PROBABILITY or not (stuck or near) or _scale_at_floor(run):
        return None
    needed = theory.scale_for_probability(int(n), 0.99)
    return Diagnosis(
        "scale-too-small", "error",
        f"At scale {scale:.3g} and {n:,.0f} classes the loss ({run.late('loss'):.4g}) cannot fall below {bound:.4g}: "
        f"a sample can reach probability {best:.2g} at best",
        "Cosines lie in [-1, 1], so easy samples keep a large gradient at the expense of hard ones (Proposition 2)",
        f"Set loss.options.scale to {needed:.1f} or more (for probability 99 %), or set loss.options.learn_scale=true",
    )  # fmt: skip


def _scale_at_floor(run: Run) -> Diagnosis | None:
    if not run.late("scale") <= 1.01 * LEAST_SCALE:
        return None
    return Diagnosis(
        "scale-at-floor", "error", f"The learned scale has fallen to its floor, {LEAST_SCALE:g}",
        "While features are worse than chance a smaller scale lowers the loss, and at the floor all gradients are "
        "nearly 0",
        "Fix the scale (loss.options.learn_scale=false), or lower optim.lr",
    )  # fmt: skip


def _collapsed(run: Run) -> Diagnosis | None:
    """Detect features in one direction, or own and other classes' agents at the same distance."""
    rank, own, other = (run.late(name) for name in ("features_rank", "genuine_angle", "nearest_angle"))
    mixed = math.isfinite(run.late("accuracy")) and max(own, other) < CLOSE and own > SAME * other
    if not (rank < LINE or mixed):
        return None
    return Diagnosis(
        "collapsed", "error",
        f"Features fill {rank:.2f} dimensions (effective rank); the own class lies at {own:.1f}°, the nearest other at "
        f"{other:.1f}°",
        "While only the pull acts, mapping all samples to one point minimizes the loss: random agents are about 2 "
        "apart, beyond the margin, so none pushes at first; a triplet loss then stays at its margin",
        "Start from a softmax model or train jointly (Joint), or lower optim.lr",
    )  # fmt: skip


def _dead_negatives(run: Run) -> Diagnosis | None:
    """Detect that no negative is active although a tenth of the samples or more are nearest to another agent."""
    if not (run.late("active_negatives") == 0 and run.late("accuracy") < 0.9):
        return None
    return Diagnosis(
        "dead-negatives", "warning",
        f"No negative is active, yet only {run.late('accuracy'):.0%} of the samples lie nearest to their own agent "
        f"(own at {run.late('genuine_angle'):.0f}°, nearest other at {run.late('nearest_angle'):.0f}°)",
        "Agents beyond the margin have no gradient; in many dimensions, random agents are all about 2 apart",
        f"Raise the margin (the paper's bound suggests {run.late('suggested_margin'):.2f}), or train jointly (Joint)",
    )  # fmt: skip


def _norm_blow_up(run: Run) -> Diagnosis | None:
    """Detect growing norms of class weights, which start at 1, or of features."""
    weights, before, features = run.late("class_weight_norm"), run.early("feature_norm"), run.late("feature_norm")
    if not (weights**2 > SLOWER or features > SLOWER * before):
        return None
    of_weights = f"Class weights have grown to a norm of {weights:.3g}, " if math.isfinite(weights) else ""
    return Diagnosis(
        "norm-blow-up", "warning", f"{of_weights}features from {before:.3g} to {features:.3g}",
        "Gradients of normalized vectors are tangent, so each step lengthens them, and the next one turns them less",
        f"Lower optim.lr (now {run.config.optim.lr:g}) or raise optim.class_decay and optim.weight_decay "
        f"(now {run.config.optim.class_decay:g} and {run.config.optim.weight_decay:g})",
    )  # fmt: skip


def _not_learning(run: Run) -> Diagnosis | None:
    """Detect accuracy at chance or, if accuracy was not measured, a loss that has not fallen by 5 %."""
    accuracy, n = run.late("accuracy"), run.late("classes")
    before, now = _mean(run.looks[: ENOUGH // 2], "loss"), run.late("loss")
    if math.isfinite(accuracy):
        # 3 standard errors above chance, of as many samples as were looked at
        samples = len(run.tail) * min(SAMPLES, run.config.optim.batch)
        failed = accuracy < 1 / n + 3 * math.sqrt((1 - 1 / n) / n / samples)
        seen = f"{accuracy:.1%} of the samples lie nearest to their own class, where chance is {1 / n:.1%}"
    else:
        failed, seen = now > 0.95 * before, "The loss does not fall"
    if not failed:
        return None
    return Diagnosis(
        "not-learning", "error",
        f"{seen}; the loss went from {before:.4g} to {now:.4g} in {run.records[-1]['epoch']:.3g} epochs",
        "Steps are too long or too short, the scale is too small, or the labels do not match the images",
        f"Try optim.lr (now {run.config.optim.lr:g}) ten times smaller, then larger; compare with the recipe normface",
    )  # fmt: skip


CHECKS: tuple[Callable[[Run], Diagnosis | None], ...] = (
    _scale_too_small, _scale_at_floor, _collapsed, _dead_negatives, _norm_blow_up, _not_learning,
)  # fmt: skip


def _mean(records: Sequence[Record], name: str) -> float:
    values = [value for record in records if (value := record.get(name)) is not None and math.isfinite(value)]
    return mean(values) if values else math.nan
