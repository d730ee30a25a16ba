"""The command `normface VERB`: one thin file a verb, imported only when that verb (or --help) asks for it."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import NormfaceError

VERBS = (
    "demo fetch align data pack models adopt train evaluate calibrate compare export embed verify enrol search forget "
    "people serve bound doctor figures"
).split()


class _Verbs(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        verb = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        verb.command(cmd_name)(getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name))
        command: Any = typer.main.get_command(verb)
        command.name = cmd_name
        return command


app = typer.Typer(cls=_Verbs, add_completion=False, no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def normface() -> None:
    """Train, evaluate and use face-verification embeddings on the unit hypersphere.

    Start with `normface demo`: it does the whole job in a few minutes.
    Each verb explains itself: `normface VERB --help`.
    """


def main() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # Windows' pipes take few of our signs: better another one than an end
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Threads of OpenMP that wait for work leave their core to others, here to the thread that decodes images.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("normface: warning: %(message)s"))
    logging.getLogger("normface").addHandler(handler)
    try:
        app()
    except NormfaceError as error:
        print(f"normface: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("normface: interrupted", file=sys.stderr)
        sys.exit(130)
