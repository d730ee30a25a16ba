from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors import require
from .terminal import Json, err, out, progress

BATCH, SECONDS = 16, 1.0


def models(
    names: Annotated[list[str] | None, typer.Argument(help="Networks to list. Default: all.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Benchmark them on this machine, in images/s.")] = False,
    as_json: Json = False,
) -> None:
    """List available networks with parameter count, FLOPs and input size.

    FLOPs are per image and count each multiply-add as two. `--measure` embeds batches of 16 in float32 for one second
    per network and reports the fastest batch; it does not measure training.

    Example: `normface models smallresnet iresnet18`.
    """
    require("torch", "train")
    from ..models import MODELS
    from ..models.cost import cost

    rows: list[dict[str, Any]] = []
    costs = {name: cost(name) for name in names or MODELS}  # report a wrong name before measuring
    costs = dict(sorted(costs.items(), key=lambda item: item[1].flops))
    with progress("measuring", "models") as update:
        for name, found in costs.items():
            spec = found.spec
            row: dict[str, Any] = {
                "model": name, "parameters": found.parameters, "flops": found.flops, "dim": found.dim,
                "height": spec.height, "width": spec.width, "channels": spec.channels, "template": spec.template,
            }  # fmt: skip
            rows.append(row | {"images_per_second": round(speed(name), 1)} if measure else row)
            if measure:
                update(len(rows), len(costs), name)
    if as_json:
        out.print_json(json.dumps(rows))
        return
    table = Table("model", "parameters", "GFLOPs", "dim", "input", *["images/s"] * measure)
    for row in rows:
        shape = f"{row['height']}×{row['width']} {'gray' if row['channels'] == 1 else 'color'}"
        table.add_row(
            row["model"], f"{row['parameters'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.2f}", f"{row['dim']}", shape,
            *([f"{row['images_per_second']:g}"] if measure else []),
        )  # fmt: skip
    out.print(table)
    if measure:
        err.print("normface: speeds vary with load: compare figures of one call only", soft_wrap=True)


def speed(name: str) -> float:
    """Measure a network's forward pass in float32 for one second. Returns images/s of the fastest batch."""
    import numpy as np

    from ..embed.pytorch import torch_runner
    from ..models import build

    model = build(name).eval()
    run, spec = torch_runner(model), model.spec
    pixels = np.zeros((BATCH, spec.channels, spec.height, spec.width), np.float32)
    run(pixels)
    best, stop = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < stop:
        began = time.perf_counter()
        run(pixels)
        best = min(best, time.perf_counter() - began)
    return BATCH / best
