"""The command `normface VERB`: one file per verb or group, imported only when that verb (or --help) runs."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from ..errors import ConfigError, NormfaceError
from ..registry import meant

VERBS = (
    "demo fetch align data pack models adopt train evaluate calibrate compare export embed verify group enrol search "
    "forget people gallery serve keys bound doctor figures"
).split()
GROUPS = {
    "data": ("Check training data.", "check"),
    "gallery": (
        "Manage a gallery: people and their templates, the log, backups, export, another model.",
        "list show remove rename merge split tag log backup export compact migrate",
    ),
    "keys": ("Manage the API keys of `normface serve`.", "add list revoke"),
}  # fmt: skip
ALIASES = {"enroll": "enrol"}
RENAMED = {  # old spellings of options, which still work
    "train": {"--data": "--crops"}, "fetch": {"--to": "--out"}, "figures": {"--list": "--names"},
}  # fmt: skip
SETTINGS = {"help_option_names": ["-h", "--help"]}


class _Verb(TyperCommand):
    """A command that accepts its options' old spellings.

    It imports pydantic only for types that `_convert_plainly` does not handle.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        renamed = RENAMED.get(self.name or "", {})
        _convert_plainly(self.get_params(ctx))
        return list(super().parse_args(ctx, [_renamed(word, renamed) for word in args]))


class _Plain:
    """Converts an argument to `str` or `Path`; a flag is a `bool` already."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return None if value is None else self.kind(value)


class _OneOf:
    """Checks that an argument is one of the words of a `Literal`."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or value in self.words:
            return value
        raise ConfigError(f"{param.opts[-1]} among {', '.join(self.words)}", repr(value), f"correct {param.opts[-1]}")


def _convert_plainly(parameters: list[Any]) -> None:
    """Convert plain arguments without typer, which would import pydantic: a fifth of the time of `verify`."""
    for parameter in parameters:
        kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
        if parameter.nargs != 1 or parameter.multiple:
            continue
        if kind in (str, Path, bool):
            parameter._runtime_param = _Plain(kind)
        elif get_origin(kind) is Literal:
            parameter._runtime_param = _OneOf(get_args(kind))


def _renamed(word: str, renamed: dict[str, str]) -> str:
    option, equals, value = word.partition("=")
    return renamed.get(option, option) + equals + value


class _Commands(TyperGroup):
    """Commands whose modules are imported on use: one module per command, or `module` for a whole group."""

    names: tuple[str, ...] = tuple(VERBS)
    module = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _convert_plainly(self.get_params(ctx))
        return list(super().parse_args(ctx, args))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in self.names:
            return None
        if not self.module and name in GROUPS:
            about, names = GROUPS[name]
            group = _Commands(name=name, help=about, context_settings=SETTINGS, rich_markup_mode="markdown")
            group.names, group.module = tuple(names.split()), name
            return group
        module = import_module(f"{__name__}.{self.module or name}")
        # `list_`, because modules need the builtin.
        function = getattr(module, "list_" if name == "list" else name)
        verb = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        verb.command(name, cls=_Verb, context_settings=SETTINGS)(function)
        command: Any = typer.main.get_command(verb)
        command.name = name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            what = "an option" if args[0].startswith("-") else "a command"
            do = meant(args[0], [*self.names, *ALIASES])
            do = do if do.startswith("did") else f"see: {ctx.command_path} --help"
            raise ConfigError(f"{what} of {ctx.command_path}", repr(args[0]), do)
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Commands, context_settings=SETTINGS, rich_markup_mode="markdown")


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(f"normface {__version__}")
        raise typer.Exit


@app.callback()
def normface(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, evaluate and use face-verification embeddings on the unit hypersphere.

    Start with `normface demo`: it trains, evaluates and verifies in a few minutes.
    For the options of a command: `normface COMMAND --help`.
    """


def main() -> None:
    """Run the command line; report a user's mistake in one line on stderr, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # Windows pipes cannot encode every character: replace, don't crash
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Waiting OpenMP threads release their core to others, here to the thread that decodes images.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("normface: warning: %(message)s"))
    logging.getLogger("normface").addHandler(handler)
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="normface", standalone_mode=False)
    except NormfaceError as error:
        sys.exit(_told(str(error)))
    except TyperException as error:
        sys.exit(_told(str(_usage(error))))
    except (KeyboardInterrupt, typer.Abort):
        print("normface: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        logging.getLogger("normface").removeHandler(handler)
    sys.exit(code if isinstance(code, int) else 0)


def _told(line: str) -> int:
    print(f"normface: error: {line}", file=sys.stderr)
    return 2


def _usage(error: TyperException) -> ConfigError:
    """Convert a parser error to a ConfigError."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    command = context.command_path if context else "normface"
    see = f"see: {command} --help"
    label = parameter.opts[-1] if parameter is not None else ""
    label = label if label.startswith("-") else label.upper()
    message = " ".join(error.format_message().split()).rstrip(".")
    if option := getattr(error, "option_name", None):
        if not hasattr(error, "possibilities"):
            return ConfigError(f"a value for {option}", "none", see)
        known = [name for each in context.command.params for name in each.opts] if context else []
        do = meant(option, known)
        return ConfigError(f"an option of {command}", option, do if do.startswith("did") else see)
    if message.startswith("Missing"):
        return ConfigError(label or f"a command of {command}", "nothing", see)
    if label:
        want = message.partition(": ")[2].removeprefix("Input should be ").partition(",")[0]
        return ConfigError(f"{label} to be {want or 'valid'}", "another value", see)
    return ConfigError(f"valid arguments of {command}", message.removeprefix("Got "), see)
