"""The command `normface pack`: convert a data set to another format."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import simplejpeg
import typer

from ..data import Images, Record, format_of, open_reader, writable, write
from ..data.decoding import as_ppm
from ..data.pack import verify as verify_pack
from ..errors import ConfigError, DataError, reason
from ..faces import find_template, retarget
from .terminal import Json, LabelColumn, Strict, err, out, progress


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Images in one of the formats above.")],
    target: Annotated[Path | None, typer.Argument(metavar="DST", help="File or folder to write.")] = None,
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(writable())}. Default: by the extension of DST, else arrow.")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="File of ids to leave out, one per line, as `normface data check` writes.")
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Append to the existing pack DST.")] = False,
    label_column: LabelColumn = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Accept images that are all of one person, or without labels.")
    ] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Store decoded pixels (PPM): ten times larger, faster to read.")
    ] = False,
    shard_size: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest size of each file of an Arrow pack.")
    ] = 256,
    template: Annotated[
        str | None,
        typer.Option(help="Cut aligned crops to this template, such as 112x96, and encode them again (JPEG)."),
    ] = None,
    jpeg_quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of JPEGs that --template encodes.")] = 95,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the pack SRC against its checksums; write nothing.")
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Convert training images between formats without re-encoding them, unless `--pixels` or `--template` asks.

    SRC is a folder with one folder per person, a zip of that, a list (CSV `path,label`, or label.txt beside the
    images), an Arrow pack, InsightFace's NAME.rec or NAME.bin, WebDataset's NAME.tar (or NAME-{000..012}.tar, or a
    folder of tars), or a Hugging Face dataset from save_to_disk or as Parquet. Every image is decoded once first:
    unreadable images are reported and skipped, or refused with `--strict`.

    To carry a set to another machine in pieces of at most 60 MB, in any order, and read it there as one folder:
    `normface pack faces.zip pieces --template 112x96 --shard-size 57`.

    Example: `normface pack crops crops.tar`.
    """
    if verify:
        with progress("comparing", "files") as update:
            verify_pack(source, update)
        out.print_json(json.dumps({"pack": str(source), "intact": True})) if as_json else out.print(f"{source}: intact")
        return
    if target is None:
        raise ConfigError("DST", "nothing", "give the file or folder to write: normface pack SRC DST")
    kind = format or format_of(target)
    if template is not None:
        find_template(template)  # an unknown one is told before the images are decoded
    with progress("checking the images", "images") as update:
        reader = open_reader(source, strict, label=label_column)
        if len(reader.identities) < 2 and not unlabelled:
            raise DataError(
                f"two people or more in {source}", f"{len(reader):,} images of one, {str(reader.identities[0])!r}",
                "name the column of labels: --label-column, or say that there are none: --unlabelled",
            )  # fmt: skip
        found = len(reader)
        reader = reader.check(update)
    unreadable, left_out = reader.unreadable, 0
    if exclude is not None:
        keep = ~np.isin(reader.ids, _ids(exclude))
        left_out, reader = int((~keep).sum()), reader.select(np.flatnonzero(keep))
        if not len(reader):
            raise DataError("images left after --exclude", "none", f"remove ids from {exclude}")
    if kind == "rec":  # person by person
        reader = reader.select(np.argsort(reader.labels, kind="stable"))
    options: dict[str, Any] = {"append": append, "shard_mib": shard_size} if kind == "arrow" else {}
    for option, given in (("--append", append), ("--pixels", pixels)):
        if given and kind != "arrow":
            raise ConfigError(f"{option} with --format arrow", kind, f"drop {option}, or give --format arrow")
    with progress("packing", "images") as update:
        records = _recoded(reader, template, jpeg_quality, pixels) if pixels or template else reader.records()
        written = write(_counted(records, len(reader), update), target, kind, **options)
    alike = alike_names(reader.identities.tolist())
    sizes = images_a_person(np.bincount(reader.labels))
    told = {
        "source": str(source), "target": str(target), "format": kind, "images": written,
        "identities": len(reader.identities), "found": found, "unreadable": dict(unreadable), "excluded": left_out,
        "differ_by_case": alike, "images_a_person": sizes,
    }  # fmt: skip
    if as_json:
        out.print_json(json.dumps(told))
        return
    out.print(f"{target}: {written:,} images of {len(reader.identities):,} people", soft_wrap=True, markup=False)
    out.print("people by number of images: " + ", ".join(f"{size}: {n:,}" for size, n in sizes.items()), soft_wrap=True)
    if unreadable or left_out:
        out.print(f"left out: {len(unreadable):,} unreadable, {left_out:,} excluded", soft_wrap=True, markup=False)
    for names in alike:
        err.print(f"normface: warning: names differ only in case: {', '.join(names)}", soft_wrap=True, markup=False)


def alike_names(names: list[str]) -> list[list[str]]:
    """Return groups of identities whose names differ only in case: some file systems merge them."""
    groups = defaultdict(list)
    for name in names:
        groups[name.casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def images_a_person(counts: Any) -> dict[str, int]:
    """Count people by number of images: 1, 2 to 3, 4 to 7, and so on."""
    found: dict[str, int] = {}
    low = 1
    while low <= counts.max():
        high = 2 * low - 1
        if number := int(((counts >= low) & (counts <= high)).sum()):
            found[str(low) if low == high else f"{low} to {high}"] = number
        low *= 2
    return found


def _ids(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a text file of ids at {path}", reason(error), "correct the path") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _recoded(reader: Images, template: str | None, quality: int, pixels: bool) -> Iterator[Record]:
    """The images decoded, or cut to a template; landmarks of a crop that was cut are dropped: the template has them."""
    for place, record in enumerate(reader.records()):
        image = reader.read(place)
        if template is not None:
            image = np.ascontiguousarray(retarget(image[None], template)[0])
            record = record._replace(landmarks=None)
        yield record._replace(image=as_ppm(image) if pixels else simplejpeg.encode_jpeg(image, quality))


def _counted(records: Iterator[Record], total: int, update: Any) -> Iterator[Record]:
    for done, record in enumerate(records, 1):
        yield record
        update(done, total)
