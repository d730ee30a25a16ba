"""A protocol on every snapshot of a run: mean ± standard deviation, as the paper reports its five."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..errors import ConfigError, require
from ..protocols import PROTOCOLS
from ..report.wording import label
from .terminal import out
from .vectors import judged_system


def evaluate_snapshots(
    protocol: str, lists: Sequence[Path], model: Path | None, options: Mapping[str, Any], *, as_json: bool, **given: Any
) -> None:
    """Evaluate each snapshot of the run `model`, and print mean and standard deviation of every metric.

    Raises ConfigError unless `model` is a run with two snapshots or more (`keep` in its recipe).
    """
    require("torch", "train")
    from ..checkpoint import snapshots

    found = [] if model is None else snapshots(model)
    if len(found) < 2:
        raise ConfigError(
            "--snapshots with --model RUN, a run that kept several", f"{len(found)} in {model}",
            "train it with --set keep=5",
        )  # fmt: skip
    values: dict[str, list[float]] = {}
    for folder in found:
        system = judged_system(protocol, lists, model=folder, embeddings=None, **given)
        result = PROTOCOLS.build(protocol, system.vectors, *lists, conditions=system.conditions, **options)
        for name, estimate in result.metrics.items():
            values.setdefault(name, []).append(estimate.value)
    steps = [int(folder.name.rpartition("-")[2]) for folder in found]
    metrics = {name: {"mean": mean(v), "deviation": stdev(v), "values": v} for name, v in values.items() if len(v) > 1}
    if as_json:
        out.print_json(json.dumps({"protocol": protocol, "run": str(model), "steps": steps, "metrics": metrics}))
        return
    out.print(f"{model}: {len(found)} snapshots, steps {', '.join(map(str, steps))}", soft_wrap=True, markup=False)
    for name, figures in metrics.items():
        out.print(f"  {label(name)}: {figures['mean']:.4f} ± {figures['deviation']:.4f}", soft_wrap=True, markup=False)
