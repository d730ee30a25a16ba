"""Shared by all verbs: common options, progress bars on stderr, consoles."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data import Reader, open_reader
from ..faces import size_fault
from ..inference import Device

if TYPE_CHECKING:
    from rich.console import Console

    out: Console
    err: Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse unreadable images instead of skipping them.")]
LabelColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column (or JSON key) of people's names, where it has no usual name."),
]
StrictRates = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse unreadable images instead of skipping them, and rates with fewer than 30 errors (Rule of 30).",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Run folder, FILE.onnx (from other tools: with FILE.spec.json beside it), or a name of `normface models`. "
        "Default: the built-in model.",
    ),
]
Computer = Annotated[
    Device,
    typer.Option(
        "--device", envvar="NORMFACE_DEVICE",
        help="What runs the networks: cpu, or an accelerator that the installed ONNX Runtime supports. "
        "auto: an NVIDIA GPU if its GPU build is installed, otherwise cpu.",
    ),
]  # fmt: skip
FaceDetector = Annotated[
    str, typer.Option("--detector", help="mtcnn, or one of `normface models`, such as yunet or scrfd-10g.")
]
GalleryUrl = Annotated[
    str,
    typer.Option(
        "--gallery", metavar="URL", envvar="NORMFACE_GALLERY",
        help="file:PATH, postgres://USER@HOST/DATABASE, qdrant://HOST, qdrant:FOLDER, milvus:http://HOST:PORT or "
        "milvus:PATH. Set NORMFACE_GALLERY_KEY if it is encrypted.",
    ),
]  # fmt: skip
Anyway = Annotated[
    bool, typer.Option("--anyway", help="Use photographs outside the conditions of the model's certificate too.")
]
GALLERY = "file:people.db"
UNDECIDED = 3  # exit code if the certificate does not cover a comparison
SILENT = 8.0  # seconds between lines without a terminal


@cache
def console(name: str) -> Console:
    """Return the console `out` or `err`, created on first use: importing rich takes longer than embedding a face."""
    from rich.console import Console

    return Console(stderr=name == "err", highlight=False)


def __getattr__(name: str) -> object:
    if name in ("out", "err"):
        return console(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar with count, rate, elapsed and remaining time; call it with (done, total[, note]).

    If stderr is not a terminal, print a line every few seconds instead.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    err = console("err")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="", note="")
        last = time.monotonic()

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal last
            if not err.is_terminal and time.monotonic() - last >= SILENT and done < total:
                last = time.monotonic()
                err.print(f"{what}: {done:,} of {total:,} {unit}{note and f', {note}'}", soft_wrap=True, markup=False)
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, note=note, rate=f"{speed:.3g} {unit}/s" if speed else "")

        yield update


@contextmanager
def training_progress(what: str) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """Show a progress bar for `train.train`, with loss and speed."""
    with progress(what, "steps") as bar:

        def update(done: int, total: int, measured: Mapping[str, float]) -> None:
            bar(done, total, f"loss {measured['loss']:.3f}, {measured['images_per_second']:.0f} images/s")

        yield update


def open_checked(path: Path, strict: bool = False, *, label: str | None = None) -> Reader:
    """Open aligned crops and decode each once; skip unusable images with a warning, or refuse them if `strict`."""
    with progress("checking the images", "images") as update:
        return open_reader(path, strict, label=label).check(update, size_fault)


def command() -> str:
    """Return the command line that is running, for a report."""
    return shlex.join(["normface", *sys.argv[1:]])
