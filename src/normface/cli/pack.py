from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..data import Images, Record, format_of, open_reader, writable, write
from ..data.decoding import as_ppm
from ..data.pack import verify as verify_pack
from ..errors import ConfigError, DataError
from .terminal import Json, Strict, err, out, progress


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Images in any format (see below).")],
    target: Annotated[Path | None, typer.Argument(metavar="DST", help="What to write.")] = None,
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(writable())}; by DST's ending, arrow where it has none.")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="A list of ids to leave out, one a line (`normface data check` writes one).")
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the pack DST.")] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Store decoded pixels in the pack: large, and read without decoding.")
    ] = False,
    shard_size: Annotated[int, typer.Option(min=1, metavar="MIB", help="Of an Arrow pack's files.")] = 256,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the pack SRC with its checksums; writes nothing.")
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Convert training images from any format into any other; the images' bytes stay as they are.

    But with `--pixels` every image becomes an uncompressed PPM, ten times as large and several times as fast to read.

    SRC may be a folder of one folder a person, a zip of that, an Arrow pack, InsightFace's NAME.rec or NAME.bin,
    WebDataset's NAME.tar (or NAME-{000..012}.tar, or a folder of tars), or what Hugging Face's save_to_disk wrote.
    Every image is decoded once before: what cannot be read is named and left out, or refused with --strict.
    """
    if verify:
        with progress("comparing", "files") as update:
            verify_pack(source, update)
        out.print_json(json.dumps({"pack": str(source), "intact": True})) if as_json else out.print(f"{source}: intact")
        return
    if target is None:
        raise ConfigError("DST", "nothing", "name what to write: normface pack SRC DST")
    kind = format or format_of(target)
    with progress("checking the images", "images") as update:
        reader = open_reader(source, strict)
        found = len(reader)
        reader = reader.check(update)
    unreadable, left_out = reader.unreadable, 0
    if exclude is not None:
        keep = ~np.isin(reader.ids, _ids(exclude))
        left_out, reader = int((~keep).sum()), reader.select(np.flatnonzero(keep))
        if not len(reader):
            raise DataError("images that are not excluded", "none", f"correct {exclude}")
    if kind == "rec":  # person by person
        reader = reader.select(np.argsort(reader.labels, kind="stable"))
    options: dict[str, Any] = {"append": append, "shard_mib": shard_size} if kind == "arrow" else {}
    for option, given in (("--append", append), ("--pixels", pixels)):
        if given and kind != "arrow":
            raise ConfigError(f"{option} with an Arrow pack", kind, f"drop {option}, or choose --format arrow")
    with progress("packing", "images") as update:
        records = _decoded(reader) if pixels else reader.records()
        written = write(_counted(records, len(reader), update), target, kind, **options)
    alike = alike_names(reader.identities.tolist())
    told = {
        "source": str(source), "target": str(target), "format": kind, "images": written,
        "identities": len(reader.identities), "found": found, "unreadable": dict(unreadable), "excluded": left_out,
        "differ_by_case": alike,
    }  # fmt: skip
    if as_json:
        out.print_json(json.dumps(told))
        return
    out.print(f"{target}: {written:,} images of {len(reader.identities):,} people", soft_wrap=True, markup=False)
    if unreadable or left_out:
        out.print(f"left out: {len(unreadable):,} unreadable, {left_out:,} excluded", soft_wrap=True, markup=False)
    for names in alike:
        err.print(f"normface: names that differ by case alone: {', '.join(names)}", soft_wrap=True, markup=False)


def alike_names(names: list[str]) -> list[list[str]]:
    """Groups of identities that some file systems would take for one."""
    groups = defaultdict(list)
    for name in names:
        groups[name.casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _ids(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a text file of ids at {path}", f"'{error}'", "correct the path") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _decoded(reader: Images) -> Iterator[Record]:
    for place, record in enumerate(reader.records()):
        yield record._replace(image=as_ppm(reader.read(place)))


def _counted(records: Iterator[Record], total: int, update: Any) -> Iterator[Record]:
    for done, record in enumerate(records, 1):
        yield record
        update(done, total)
