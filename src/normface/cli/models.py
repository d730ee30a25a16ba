"""The command `normface models`: list the networks that can be trained."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..data.catalogue import Listed, catalogue
from ..errors import ConfigError, require
from ..registry import meant
from .terminal import Json, err, out, progress

BATCH, SECONDS = 16, 1.0
OPTIONS = {"recognizer": "--model", "detector": "--detector", "quality": "--quality"}


def models(
    names: Annotated[list[str] | None, typer.Argument(help="Networks or models to list. Default: all.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Benchmark trainable networks on this machine, in images/s.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List networks that can be trained, and models and detectors of other projects that can be fetched.

    Of a trainable network: parameter count, FLOPs and input size; these need PyTorch. Of a fetchable one: its license
    with what it allows, the published accuracy, and whether it was fetched. `--json` adds addresses and hashes.

    FLOPs are per image and count each multiply-add as two. `--measure` embeds batches of 16 in float32 for one second
    per network and reports the fastest batch; it does not measure training.

    Examples: `normface models smallresnet iresnet18`, `normface models sface yunet`.
    """
    listed = [each for name, each in catalogue().items() if not names or name in names]
    theirs = {each.name for each in listed}
    wanted = [name for name in names or () if name not in theirs]
    rows: list[dict[str, Any]] = []
    if wanted or not names:
        if wanted or measure or find_spec("torch"):
            rows = _trainable(wanted, measure)
        else:
            err.print("normface: trainable networks are not listed: install PyTorch with pip install 'normface[train]'",
                      soft_wrap=True, markup=False)  # fmt: skip
    if as_json:
        out.print_json(json.dumps(rows + [_told(each) for each in listed]))
        return
    if rows:
        _show_trainable(rows, measure)
    if listed:
        _show_fetchable(listed)


def _trainable(names: list[str], measure: bool) -> list[dict[str, Any]]:
    require("torch", "train")
    from ..models import MODELS
    from ..models.cost import cost

    if unknown := [name for name in names if name not in MODELS]:
        known = [*MODELS, *catalogue()]
        raise ConfigError("names of networks or models", repr(unknown[0]), meant(unknown[0], known))
    rows: list[dict[str, Any]] = []
    costs = {name: cost(name) for name in names or MODELS}
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
    return rows


def _show_trainable(rows: list[dict[str, Any]], measure: bool) -> None:
    table = Table("trainable", "parameters", "GFLOPs", "dim", "input", *["images/s"] * measure)
    for row in rows:
        shape = f"{row['height']}×{row['width']} {'gray' if row['channels'] == 1 else 'color'}"
        table.add_row(
            row["model"], f"{row['parameters'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.2f}", f"{row['dim']}", shape,
            *([f"{row['images_per_second']:g}"] if measure else []),
        )  # fmt: skip
    out.print(table)
    if measure:
        err.print("normface: speeds vary with load: compare figures of one call only", soft_wrap=True)


def _show_fetchable(listed: list[Listed]) -> None:
    table = Table("fetchable", "option", "MB", "commercial use", "fetched", "what, published accuracy", box=SIMPLE_HEAD)
    for each in listed:
        table.add_row(
            each.name, OPTIONS[each.kind],
            f"{each.bytes / 1e6:.1f}" if each.bytes else "?", each.commercial, "yes" if each.path.is_file() else "no",
            each.about + (f"; {each.accuracy}" if each.accuracy else ""),
        )  # fmt: skip
    out.print(table)
    out.print("Fetch one with: normface fetch NAME. Its license: normface models NAME --json.", soft_wrap=True)


def _told(listed: Listed) -> dict[str, Any]:
    return {
        "model": listed.name, "kind": listed.kind, "project": listed.project, "about": listed.about,
        "url": listed.url, "sha256": listed.sha256, "hash_sources": list(listed.hash_sources),
        "bytes": listed.bytes or None, "license": listed.license, "commercial": listed.commercial,
        "accuracy": listed.accuracy or None, "accuracy_source": listed.accuracy_source or None,
        "detector": listed.detector or None, "spec": asdict(listed.spec) if listed.spec else None,
        "path": str(listed.path), "fetched": listed.path.is_file(),
    }  # fmt: skip


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
