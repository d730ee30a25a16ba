"""The training loop."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import dist, losses
from ..atomic import replacing
from ..checkpoint import ORIGIN, Checkpoint, finished
from ..data import Reader
from ..errors import ConfigError, DataError, TrainingError
from ..losses.steps import grown
from ..ops.reference import widened
from . import memory
from .augment import augment, prepare
from .config import ModelConfig, OptimConfig, TrainConfig, parse_config
from .distill import Distillation, distillation_of, mixed
from .doctor import ENOUGH, Run, in_training
from .loader import UNKNOWN, Batches, Mixed
from .logs import Logs
from .monitors import EVERY, Monitors
from .shipped import Shipped, crops_for, settle, start_checkpoint
from .state import State
from .validation import BEST, Validation, judge_of

log = logging.getLogger("normface")
# A median loss, over so many steps (or of the one that is to be saved), that ends the run: so many times the first.
LATELY, WORSE = 10, 10
PEOPLE = "people.json"  # names of the classes, in their order


class Progress(Protocol):
    """Callback after every step, with steps done, steps in total, and measurements."""

    def __call__(self, done: int, total: int, measured: Mapping[str, float], /) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: `step` of `total` steps done, mean `images_per_second`, `loss` averaged over the last steps.

    If the run was finished before, the speed is 0 and the loss None.
    """

    step: int
    total: int
    images_per_second: float
    loss: float | None

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.total


def train(
    config: TrainConfig,
    reader: Reader,
    run: Path,
    *,
    unlabelled: Reader | None = None,
    resume: bool = False,
    plan: Callable[[TrainConfig, Reader | Mixed], TrainConfig] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train a model into the run folder `run`.

    The folder has checkpoints, config.json, environment.json, metrics.jsonl, TensorBoard events, warnings.jsonl with
    diagnoses (`train.doctor`), and with `config.validate_on` the best network so far in `run/best`.

    In a process group (`dist.joined`, `torchrun`) every rank calls this, processes its even part of each batch and of
    the classes, and the result is that of one rank; rank 0 writes the logs.

    Args:
        reader: aligned crops with labels.
        unlabelled: additional crops for distillation only (`config.distill`).
        resume: continue from the checkpoint in `run`, on any number of ranks; the result is the same as without the
            interruption.
        plan: called with the configuration and the images of a new run; returns the one to train, such as with as many
            epochs as fit into a time (`speed.within`). A resumed run keeps the epochs that were planned.

    Returns:
        The Outcome; not finished if SIGINT or SIGTERM asked to stop (after saving a checkpoint).

    Raises:
        ConfigError: `run` contains another run, the configuration differs from the one resumed, or unlabeled crops
            are given without a teacher or on several ranks.
        DataError: too few people or images, other images than before, or a folder that cannot be written.
        InputError: a crop of no known template.
        TrainingError: the loss or a weight is not finite, the loss has diverged, or memory is exhausted.
    """
    memory.keep()
    config = _with_network(config, run if resume else None)
    reader, left_out = _enough_images(reader, config.data.min_images)
    reader, judge = judge_of(reader, config)
    images = mixed(config, reader, unlabelled)
    if plan is not None:
        config = _with_epochs_of(run, config) if resume else plan(config, images)
    state = State(config, len(reader.identities))
    teacher = distillation_of(config, state.model, run, images.ids.tolist(), state.device)
    if teacher:
        state.add("distill", teacher.matching)
    batches = Batches(images, teacher.view_spec if teacher else state.model.spec, config.data,
                      batch=config.optim.batch, seed=config.seed, part=(dist.rank(), dist.world()),
                      views=config.distill.views)  # fmt: skip
    facts = _data_facts(images) | left_out | (teacher.facts if teacher else {})
    people = reader.identities.tolist()
    start, facts = _restore(run, state, facts) if resume else _begin(run, state, facts, people, reader)
    done = start
    total = max(1, round(config.optim.epochs * batches.per_epoch))
    validation = Validation(config, judge, run, steps=batches.per_epoch) if judge else None
    began, recent = time.perf_counter(), deque[float](maxlen=50)
    limit, scales = math.inf, dict[str, float]()
    rates = [config.optim.lr * rate_factor(config.optim, step / total) for step in range(total)]
    enough = validation is not None and validation.enough(start)

    with _stop_signals() as stop, _logs(run, start) as logs:
        looks = [record for record in logs.past if "feature_norm" in record] if logs else []
        monitors = Monitors(state.loss, len(reader.identities), looks)
        for batch in batches.run(start, start if enough else total, state.device):
            state.set_rate(rates[done], rates[done - 1] if done else None)
            torch.manual_seed(hash((config.seed, done, dist.rank())) % 2**63)  # dropout, after a stop as without one
            with _enough_memory(config):
                value, features = learn(state, batch, teacher, batches.view(done), (done + 1) / total)
                state.step(done / total)

            done += 1
            # The host waits for the GPU here, once a step.
            loss, scalars = _numbers(value, {name: p for name, p in state.loss.named_parameters() if p.ndim == 0})
            recent.append(loss)
            if done == start + 1:  # of a resumed run small: no less than what guessing costs
                limit = WORSE * (1 + max(abs(loss), math.log(len(reader.identities))))
                scales = {name: value for name, value in scalars.items() if name.endswith("scale")}
            larger = max([1.0, *(scalars[name] / value for name, value in scales.items())])  # and the loss with it
            measured = {
                "loss": loss, "lr": rates[done - 1], "epoch": done / batches.per_epoch,
                "images_per_second": (done - start) * config.optim.batch / (time.perf_counter() - began),
                **scalars,
                **({} if (share := grown(state.loss)) is None else {"grown": share}),
            }  # fmt: skip
            if done % EVERY == 0:
                measured |= _memory(state.device)
                if config.distill.labels:
                    known = batch[1] != UNKNOWN
                    measured |= monitors(done, features[known], batch[1][known])
            if validation and validation.due(done, total):
                measured |= validation(state, done, facts)
                enough = validation.enough(done)
            if logs:
                logs.write(done, measured)
            due = done % config.save_every == 0 or done == total
            lost = _diverged(recent, larger * limit, 1 if due else LATELY)
            if done % EVERY == 0 and config.distill.labels:
                looks.append({"step": done, **measured})
                if logs and len(looks) % ENOUGH == 0:
                    _warn(Run(config, looks), logs)
            if progress and logs:
                progress(done, total, measured)
            # What one rank decides, all do: a rank that stopped alone would leave the others waiting.
            decisions = torch.tensor([stop.is_set(), lost is not None], dtype=torch.float32)
            if dist.world() > 1:
                decisions = decisions.to(state.device)  # over NCCL, as everything else in a step
            asked, ended = dist.maximum(decisions).tolist()
            if ended:  # the last checkpoint stands
                bad = int((~features.isfinite().all(1)).sum())
                raise TrainingError(
                    lost or "a finite loss on every rank",
                    f"{loss:.4g} at step {done} of {total}" + f" (features of {bad} images are not finite)" * (bad > 0),
                    f"lower optim.lr (now {config.optim.lr}) or lengthen optim.warmup, and train again",
                )  # fmt: skip
            if due or asked or enough:
                if logs:
                    logs.flush()  # a process killed after the save still has all steps before it
                state.save(run, done, facts)
            if asked or enough:
                break
    speed = (done - start) * config.optim.batch / (time.perf_counter() - began)
    return Outcome(done, done if enough else total, speed, sum(recent) / len(recent) if recent else None)


def learn(
    state: State, batch: tuple[Tensor, ...], teacher: Distillation | None, view: int, progress: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a batch at a fraction of the run, without waiting for a GPU.

    Returns the loss, a scalar, and the features [b, D]; both without gradient.
    """
    if state.graphs:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    state.optimizer.zero_grad()
    losses.progress(state.loss, progress)
    parts = list(zip(*(part.chunk(state.config.optim.accumulate) for part in batch), strict=True))
    values, found = [], []
    for number, (crops, labels, numbers, rows) in enumerate(parts, 1):
        moved = state.device.type != "cuda"
        pixels = augment(crops, numbers, state.config.data, moved=moved)
        x = prepare(pixels, state.model.spec).contiguous(memory_format=state.layout)
        with state.not_yet_summed() if number < len(parts) else nullcontext():
            with torch.autocast(state.device.type, torch.bfloat16, enabled=state.half):
                features = widened(state.net(x))
                if teacher:
                    shown = teacher.shown(crops, numbers, pixels, moved=moved)
                    loss = teacher(state.loss, features, labels, shown, rows, view)
                else:
                    loss = state.loss(features, labels)
            loss = loss * (len(labels) / len(batch[1]))
            loss.backward()  # type: ignore[no-untyped-call]
        values.append(loss.detach())
        found.append(features.detach())
    return torch.stack(values).sum(), torch.cat(found)


def _numbers(loss: Tensor, scalars: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
    """Copy the loss and named scalars from the device, all at once."""
    first, *others = torch.stack([loss, *(each.detach().to(loss.dtype) for each in scalars.values())]).tolist()
    return first, dict(zip(scalars, others, strict=True))


@contextmanager
def _enough_memory(config: TrainConfig) -> Iterator[None]:
    """Raise TrainingError where a GPU's memory is exhausted, with the settings that lower it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"memory for batches of {config.optim.batch} images in {config.optim.accumulate} parts", "too little of it",
            f"raise optim.accumulate to {2 * config.optim.accumulate}, lower optim.batch, or use more ranks",
        ) from error  # fmt: skip


def _diverged(recent: Sequence[float], limit: float, lately: int) -> str | None:
    """Return why training diverged (the loss expected instead), or None."""
    if not math.isfinite(recent[-1]):
        return "a finite loss"
    if len(recent) >= lately and median(list(recent)[-lately:]) > limit:
        return f"a loss below {limit:.3g}"
    return None


def _memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory in MiB, of the GPU or, if known, of the process."""
    if device.type == "cuda":
        return {"memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
    if sys.platform == "win32":
        return {}
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_mib": most / (2**20 if sys.platform == "darwin" else 2**10)}


def _logs(run: Path, after: int) -> Logs | nullcontext[None]:
    """Open the logs on rank 0; None on other ranks."""
    return Logs(run, after=after) if dist.rank() == 0 else nullcontext()


def _warn(run: Run, logs: Logs) -> None:
    """Log each kind of fault in the run once."""
    for found in in_training(run):
        if found.name not in logs.warned:
            logs.warn(found.name, str(found))
            log.warning("step %d: %s", run.looks[-1]["step"], found)


def rate_factor(config: OptimConfig, progress: float) -> float:
    """Return the factor of the learning rate at `progress` in [0, 1): linear warm-up, then by `schedule`."""
    if progress < config.warmup:
        # Never zero, so that the first step already moves.
        return max(progress, 0.02 * config.warmup) / config.warmup
    if config.schedule == "step":
        return float(0.1 ** sum(progress >= milestone for milestone in config.milestones))
    if config.schedule == "poly":
        return float((1 - (progress - config.warmup) / (1 - config.warmup)) ** config.power)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup))


def _enough_images(reader: Reader, least: int) -> tuple[Reader, dict[str, Any]]:
    """Select people with at least this many images, and count the others. Raises DataError for fewer than two."""
    counts = np.bincount(reader.labels, minlength=len(reader.identities))
    if (counts >= least).sum() < 2:
        raise DataError(
            f"at least 2 people with {least} images or more", f"{(counts >= least).sum()}",
            "add people, or lower data.min_images",
        )  # fmt: skip
    kept = counts[reader.labels] >= least
    people, images = int(((counts > 0) & (counts < least)).sum()), int((~kept).sum())
    if people and dist.rank() == 0:
        log.warning(
            "%s of %s people left out: they have fewer than %d images (%s images in all); set data.min_images=1 to "
            "keep them", f"{people:,}", f"{len(counts):,}", least, f"{images:,}",
        )  # fmt: skip
    return reader.select(np.flatnonzero(kept)), {"left_out": {"people": people, "images": images}}


def _data_facts(reader: Reader | Mixed) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(reader.ids).encode()).hexdigest()
    return {"classes": len(reader.identities), "images": len(reader), "ids_sha256": digest}


def _begin(
    run: Path, state: State, facts: dict[str, Any], people: list[str], reader: Reader
) -> tuple[int, dict[str, Any]]:
    """Prepare a new run. Returns 0 steps done, and facts with the origin of its initial weights."""
    config = state.config
    if finished(run):
        raise ConfigError("a new folder for the run, or --resume", f"{run} with a checkpoint", "use one of them")
    if config.start.run is not None:
        if config.start.run.endswith(".onnx"):
            raise ConfigError(
                "start.run with the folder of a run", f"an ONNX file ({config.start.run})",
                "distill from it instead: normface train distill --set distill.teacher=FILE.onnx",
            )  # fmt: skip
        origin = start_checkpoint(config.start.run)
        state.start_from(origin)
        if isinstance(origin, Shipped):
            settle(state.model, crops_for(state.model, reader))
        if config.start.agents and not origin.facts["classes"]:
            log.info("%s has no class weights: those of all people start at random", config.start.run)
        elif config.start.agents:
            theirs = _people(origin, people, facts)
            if not (common := state.start_agents(origin, theirs, people)):
                raise DataError(
                    f"people of {config.start.run}, such as {theirs[0]!r}", f"none among {len(people)}",
                    "train on crops of the same people, or set start.agents=false",
                )  # fmt: skip
            if dist.rank() == 0:
                log.info("%d people keep their class weights, %d are new", common, len(people) - common)
        facts = facts | _origin(origin)
    elif config.start.agents:
        raise ConfigError("start.run with start.agents", "start.agents alone", "set start.run to the run to start from")
    with dist.together():
        if dist.rank() == 0:
            shutil.rmtree(run / BEST, ignore_errors=True)  # of a run that was stopped before its first checkpoint
            with replacing(run / "config.json") as temporary:
                temporary.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
            with replacing(run / PEOPLE) as temporary:
                temporary.write_text(json.dumps(people, ensure_ascii=False) + "\n", encoding="utf-8")
            with replacing(run / "environment.json") as temporary:
                temporary.write_text(json.dumps(_environment(state) | {"data": facts}, indent=2) + "\n", "utf-8")
    return 0, facts


def _with_network(config: TrainConfig, resumed: Path | None) -> TrainConfig:
    """Take the network of the run to start from, if the configuration names none."""
    source = resumed or config.start.run
    if config.start.run is None or "model" in config.model_fields_set or str(source).endswith(".onnx"):
        return config
    assert source is not None
    return config.model_copy(update={"model": ModelConfig(**start_checkpoint(str(source)).config["model"])})


def _with_epochs_of(run: Path, config: TrainConfig) -> TrainConfig:
    """Take the number of epochs of a run that is resumed."""
    epochs = Checkpoint.read(run).config["optim"]["epochs"]
    return config.model_copy(update={"optim": config.optim.model_copy(update={"epochs": epochs})})


def _people(origin: Checkpoint, people: list[str], facts: Mapping[str, Any]) -> list[str]:
    """Return the names of another run's classes. Raises DataError if it kept none, and its images are not these."""
    folder = next((each for each in origin.folder.parents if (each / PEOPLE).is_file()), None)
    if folder is not None:
        return list(json.loads((folder / PEOPLE).read_text(encoding="utf-8")))
    if any(origin.facts.get(name) != facts.get(name) for name in ("classes", "ids_sha256")):
        raise DataError(
            f"the people of {origin.folder} ({origin.facts['classes']}), a run that keeps no names",
            f"others ({facts['classes']})", "train on the same --crops, or set start.agents=false",
        )  # fmt: skip
    return people


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the origin of pretrained weights that a run started from: their license covers the trained model."""
    return {ORIGIN: checkpoint.facts[ORIGIN]} if ORIGIN in checkpoint.facts else {}


def _environment(state: State) -> dict[str, Any]:
    """Describe machine, software and settings of a run."""
    packages = {name: metadata.version(name) for name in ("normface", "torch", "numpy", "onnxruntime")}
    cuda = state.device.type == "cuda"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(), **packages,
        "machine": platform.machine(), "system": platform.system(), "ranks": dist.world(),
        "threads": torch.get_num_threads(), "precision": "bf16" if state.half else "fp32", "compiled": state.compiled,
        "device": torch.cuda.get_device_name() if cuda else torch.cpu.get_capabilities().get("cpu_name", "cpu"),
        "parameters": sum(p.numel() for p in state.model.parameters()),
    }  # fmt: skip


def _restore(run: Path, state: State, facts: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    checkpoint = Checkpoint.read(run)
    old = parse_config(dict(checkpoint.config), str(checkpoint.folder)).model_dump(mode="json")
    new = state.config.model_dump(mode="json")
    for each in (old, new):
        each.pop("compile")  # how it is computed, not what
    old, new = _flat(old), _flat(new)
    different = [
        f"{key} was {old.get(key)}, now {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    if different:
        raise ConfigError(f"the configuration of {run}", "; ".join(different), "resume with the same recipe")
    facts = facts | _origin(checkpoint)
    if any(facts.get(name) != fact for name, fact in checkpoint.facts.items()):
        raise DataError(
            f"the images the run began with ({checkpoint.facts['images']})", f"others ({facts['images']})",
            "resume with the same --crops",
        )  # fmt: skip
    state.load(checkpoint)
    return checkpoint.step, facts


def _flat(raw: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return flat


@contextmanager
def _stop_signals() -> Iterator[Event]:
    """Return an event that SIGINT or SIGTERM sets; a second signal ends the process at once."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, ask)
    except ValueError:  # not in the main thread, which alone receives signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
