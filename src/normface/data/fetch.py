"""Public files by name: from the network (pooch) or from a folder, the same bytes either way, by their SHA-256."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..atomic import replacing
from ..errors import ConfigError, DataError, require

LFW = (
    "Labeled Faces in the Wild (Huang, Ramesh, Berg, Learned-Miller 2007): photographs of news agencies, whose rights "
    "stay with their owners; for research only. The people shown did not consent to face recognition."
)


@dataclass(frozen=True)
class File:
    """A file that is pinned: where it lies, its SHA-256, and under which terms."""

    url: str
    sha256: str
    terms: str


@dataclass(frozen=True)
class Entry:
    """Files by their names, fetched together."""

    about: str
    files: dict[str, File]


# The hashes are those that scikit-learn pins for its mirror of LFW.
_MIRROR = "https://ndownloader.figshare.com/files/"
ENTRIES = {
    "lfw": Entry(
        "LFW's original photographs, 250×250 (180 MB), and the 6,000 pairs of View 2",
        {
            "lfw.tgz": File(
                _MIRROR + "5976018", "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0", LFW
            ),
            "pairs.txt": File(
                _MIRROR + "5976006", "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592", LFW
            ),
        },
    ),
    "lfw-funneled": Entry(
        "the same photographs, aligned by funneling (243 MB)",
        {
            "lfw-funneled.tgz": File(
                _MIRROR + "5976015", "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a", LFW
            ),
        },
    ),
    "lfw-pairs": Entry(
        "the 6,000 pairs of View 2 alone",
        {
            "pairs.txt": File(
                _MIRROR + "5976006", "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592", LFW
            ),
        },
    ),
}


def fetch(name: str, folder: Path, *, source: Path | None = None, bar: bool = False) -> list[Path]:
    """Bring an entry's files into `folder`: from the network, or from the folder `source`; their paths.

    A file that is there already with the right SHA-256 stays. Raises ConfigError for an unknown name, DataError where a
    file cannot be had or is another one than was pinned; nothing half is left.
    """
    if name not in ENTRIES:
        raise ConfigError(f"a name among {', '.join(ENTRIES)}", repr(name), "choose one of them")
    return [_bring(file, each, folder, source, bar) for file, each in ENTRIES[name].files.items()]


def _bring(name: str, file: File, folder: Path, source: Path | None, bar: bool) -> Path:
    place = folder / name
    if place.is_file() and _sha256(place) == file.sha256:
        return place
    with replacing(place) as temporary:
        if source is None:
            pooch = require("pooch", "data")
            try:
                pooch.retrieve(
                    file.url, f"sha256:{file.sha256}", fname=temporary.name, path=temporary.parent, progressbar=bar
                )
            except ValueError as error:  # another hash
                raise _other(name, file, str(error)) from error
            except Exception as error:  # requests' exceptions, and the operating system's
                raise DataError(
                    f"to fetch {name} from {file.url}", f"'{error}'", "try again, or bring it yourself: --from DIR"
                ) from error
        else:
            if not (source / name).is_file():
                raise DataError(f"{name} in {source}", "no such file", "correct --from")
            shutil.copyfile(source / name, temporary)
            if (found := _sha256(temporary)) != file.sha256:
                raise _other(name, file, found)
    return place


def _other(name: str, file: File, got: str) -> DataError:
    return DataError(f"{name} with SHA-256 {file.sha256}", got, "it is another file than was pinned: it was not kept")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
