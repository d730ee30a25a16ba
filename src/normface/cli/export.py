from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..embed import certificate
from ..errors import require
from ..types import OperatingPoint
from .terminal import Json, err, out


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    file: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    as_json: Json = False,
) -> None:
    """Write a trained network as ONNX, checked against PyTorch.

    Its metadata hold the InputSpec, the weights' SHA-256, the licence of adopted ones and, where `normface evaluate …
    --certify` made one, the operating point. It runs without torch: `normface verify A B --model FILE.onnx`.
    """
    require("torch", "train")
    difference, sha256, point = write_onnx(run, file)
    if (old := certificate(file)).exists():
        old.unlink()
        err.print(f"normface: warning: removed {old}, the certificate of the model that was here", soft_wrap=True)
    size = file.stat().st_size
    if as_json:
        out.print_json(json.dumps({
            "file": str(file), "bytes": size, "weights_sha256": sha256, "parity": difference,
            "operating_point": point is not None,
        }))  # fmt: skip
    else:
        threshold = f"threshold {point.threshold:.4f}" if point else "no operating point (evaluate with --certify)"
        out.print(
            f"{file}: {size / 1e6:.1f} MB, {threshold}; differs from PyTorch by at most {difference:.1e}",
            soft_wrap=True,
        )


def write_onnx(run: Path, file: Path) -> tuple[float, str, OperatingPoint | None]:
    """Export a run with its operating point; the parity reached, the weights' SHA-256, and that point."""
    from ..embed.network import export as write
    from ..train import Checkpoint, load_model, operating_point

    model, sha256 = load_model(run)
    point, origin = operating_point(run), Checkpoint.read(run).facts.get("origin")
    return write(model, file, sha256=sha256, operating_point=point, origin=origin), sha256, point
