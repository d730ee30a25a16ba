from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import report
from ..protocols import compare as compare_systems
from ..types import Embeddings
from .evaluate import embed_pairs
from .terminal import Json, load_embedder, out


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run, FILE.onnx, or vectors: FILE.npz.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other one.")],
    data: Annotated[Path, typer.Option(help="Folder with lfw/pairs.txt and the aligned crops, as for evaluate.")],
    far: Annotated[float, typer.Option(help="False accept rate at which TAR is compared.")] = 0.01,
    replicates: Annotated[int, typer.Option(min=100, help="Of the bootstrap over people.")] = 1000,
    as_json: Json = False,
) -> None:
    """Say whether one system is better than another on the same pairs of LFW, with interval and p."""
    conditions = {"first": first.name, "second": second.name}
    result = compare_systems(
        _vectors(first, data), _vectors(second, data), data / "lfw" / "pairs.txt", far=far, replicates=replicates,
        conditions=conditions,
    )  # fmt: skip
    if as_json:
        out.print_json(result.to_json())
        return
    out.print(report.render_markdown({f"{first.name} and {second.name}": result}), soft_wrap=True)
    facts, change = result.facts, result.metrics["accuracy_difference"]
    better = first.name if change.value > 0 else second.name
    clear = facts["p_mcnemar"] < 0.05 and (change.low > 0 or change.high < 0)
    words = f"{better} is more accurate" if clear else "these pairs cannot tell which is more accurate"
    alone = (
        f"only {first.name} is right in {facts['only_first']:,} pairs, only {second.name} in {facts['only_second']:,}"
    )
    out.print(f"{words}: {alone}; McNemar p = {facts['p_mcnemar']:.2g}", soft_wrap=True, markup=False)


def _vectors(path: Path, data: Path) -> Embeddings:
    return Embeddings.load(path) if path.suffix == ".npz" else embed_pairs(load_embedder(path, certified=False), data)
