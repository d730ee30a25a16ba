"""The command `normface export`: write a trained model as ONNX."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..embed import Embedder, certificate
from ..errors import ConfigError, ModelError, require
from ..protocols import gate as judged
from ..protocols import of_list, operating_point, read_lfw_pairs
from ..types import OperatingPoint, Result
from .terminal import Json, err, out
from .vectors import embed_pairs

if TYPE_CHECKING:
    from ..embed.export import Exported, Judge
    from ..embed.precision import StoredPrecision

MAX_LOSS = 0.01  # the smallest loss that 3,000 genuine and 3,000 impostor pairs can exclude: docs/decisions/0006


def export(
    run: Annotated[Path, typer.Argument(help="Run folder of `normface train` or `normface adopt`.")],
    file: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store weights in 8 bits: a quarter of the size.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store weights in 16 bits: half the size.")] = False,
    gate: Annotated[
        Literal["lfw"] | None, typer.Option(help="Write the file only if it is as accurate as the run on these pairs.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="For --gate: data folder, as for `normface evaluate`.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help=f"Largest loss of TAR that --gate allows (95 % limit). Default: {MAX_LOSS}.")
    ] = None,
    far: Annotated[
        float | None, typer.Option(help="False accept rate for --gate. Default: that of the run's operating point.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a trained network as ONNX and check its output against PyTorch.

    The file's metadata contain the InputSpec, the SHA-256 of the weights, the license of adopted weights, and the
    operating point if `normface calibrate` made one. It runs without torch: `normface verify A B --model FILE.onnx`.

    With `--int8` or `--fp16` the result is a different model, so the run's operating point does not apply. `--gate lfw`
    compares the two models, writes the file only if TAR falls by no more than `--max-loss`, and adds a new operating
    point.

    Example: `normface export RUN small.onnx --int8 --gate lfw --data DATA`
    """
    if int8 and fp16:
        raise ConfigError("--int8 or --fp16", "both", "give one of them")
    if gate and not (int8 or fp16):
        raise ConfigError("--gate with --int8 or --fp16", "--gate alone", "drop --gate: 32 bits lose no accuracy")
    if gate is not None and data is None:
        raise ConfigError("--gate lfw with --data DIR", "--gate alone", "add --data DIR")
    if gate is None:
        for option, given in (("--data", data), ("--max-loss", max_loss), ("--far", far)):
            if given is not None:
                raise ConfigError(f"{option} with --gate lfw", f"{option} alone", f"add --gate lfw, or drop {option}")
    require("torch", "train")
    limit = MAX_LOSS if max_loss is None else max_loss
    judge = None if data is None else partial(_judge, data=data, far=far, max_loss=limit)
    made = write_onnx(run, file, "int8" if int8 else "fp16" if fp16 else "fp32", judge)
    if (old := certificate(file)).exists():
        old.unlink()
        err.print(f"normface: warning: removed {old}, the operating point of the replaced model", soft_wrap=True)
    size = file.stat().st_size
    if as_json:
        out.print_json(json.dumps({
            "file": str(file), "bytes": size, "precision": made.precision, "weights_sha256": made.sha256,
            "parity": made.difference, "min_cosine": made.cosine, "operating_point": made.operating_point is not None,
            "gate": made.gate and json.loads(made.gate.to_json()),
        }))  # fmt: skip
        return
    point = made.operating_point
    with_gate = "" if made.precision == "fp32" else "export with --gate, or "
    threshold = f"threshold {point.threshold:.4f}" if point else (
        f"no operating point ({with_gate}create one with: normface calibrate)"
    )  # fmt: skip
    out.print(
        f"{file}: {size / 1e6:.1f} MB, {threshold}; differs from PyTorch by at most {made.difference:.1e}"
        f" (cosine {made.cosine:.6f})",
        soft_wrap=True,
    )
    if made.gate:
        out.print(f"gate passed: {_words(made.gate)}", soft_wrap=True, markup=False)


def write_onnx(run: Path, file: Path, precision: StoredPrecision = "fp32", judge: Judge | None = None) -> Exported:
    """Export a run with its operating point; in fewer bits, with the one that `judge` returns."""
    from ..embed.export import export as write
    from ..train import Checkpoint, load_model
    from ..train import operating_point as certified

    model, sha256 = load_model(run)
    return write(
        model, file, sha256=sha256, operating_point=certified(run), origin=Checkpoint.read(run).facts.get("origin"),
        precision=precision, judge=judge,
    )  # fmt: skip


def _judge(
    full: Embedder, smaller: Embedder, *, data: Path, far: float | None, max_loss: float
) -> tuple[OperatingPoint, Result]:
    """Compare both models on LFW. Returns the smaller one's operating point and the comparison.

    Raises ModelError if the loss of TAR is too large.
    """
    point, pairs = full.operating_point, data / "lfw" / "pairs.txt"
    rate = far or (point and (point.target_far or point.far.value))
    if not rate:
        raise ConfigError(
            "--far, or a run with an operating point whose FAR is above zero", "neither",
            "give --far, or first run: normface calibrate lfw",
        )  # fmt: skip
    one, other = (embed_pairs(each, data) for each in (full, smaller))
    found = judged(one, other, pairs, far=rate, max_loss=max_loss, conditions={"protocol": "lfw, mirror sum"})
    if not found.facts["passed"]:
        raise ModelError(
            f"a loss of TAR whose 95 % interval ends at {max_loss:g} or less", _words(found),
            "export with --fp16 or in 32 bits, or raise --max-loss; nothing was written",
        )  # fmt: skip
    named = read_lfw_pairs(pairs)
    made = operating_point(
        of_list(other, named), target_far=point.target_far if point else rate, protocol="lfw, mirror sum",
        model_sha256=smaller.sha256, data_sha256=named.sha256,
    )  # fmt: skip
    return made, found


def _words(found: Result) -> str:
    full, smaller, loss = (found.metrics[f"tar_{name}"] for name in ("full", "smaller", "loss"))
    return (
        f"TAR {full.value:.4f} → {smaller.value:.4f} at FAR {found.facts['far']:.4g}, loss {loss.value:+.4f} "
        f"[{loss.low:+.4f}, {loss.high:+.4f}] over {loss.n:,} genuine pairs, "
        f"least cosine {found.facts['min_cosine']:.5f}"
    )
