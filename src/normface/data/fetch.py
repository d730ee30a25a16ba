"""Public files by name, downloaded or copied from a folder, and verified by SHA-256."""

from __future__ import annotations

import http.client
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..errors import ConfigError, DataError, reason
from ..registry import meant
from .catalogue import Listed, catalogue, models_folder, set_aside, sha256_of

CHUNK = 1 << 20
SECONDS = 30  # without a response
Progress = Callable[[int, int], object]

LFW = (
    "Labeled Faces in the Wild (Huang, Ramesh, Berg, Learned-Miller 2007): photographs of news agencies, whose rights "
    "stay with their owners; for research only. The people shown did not consent to face recognition."
)


@dataclass(frozen=True)
class File:
    """A pinned file: address, SHA-256 and terms."""

    url: str
    sha256: str
    terms: str


@dataclass(frozen=True)
class Entry:
    """Files by name, fetched together."""

    about: str
    files: Mapping[str, File]


@dataclass(frozen=True)
class Weights(Entry):
    """A published state dict, which `normface adopt` recognizes by SHA-256.

    Attributes:
        size: of the file, in bytes.
        model, options: its network, as arguments of `models.build`; `Model.origin` has the origin.
    """

    size: int
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Published(Entry):
    """A model of the catalogue, which `--model` or `--detector` takes by name."""

    listed: Listed


# scikit-learn pins the same hashes for its mirror of LFW.
_MIRROR = "https://ndownloader.figshare.com/files/"
_PAIRS = File(_MIRROR + "5976006", "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592", LFW)
ENTRIES: dict[str, Entry] = {
    "lfw": Entry(
        "LFW's original photographs, 250×250 (180 MB), and the 6,000 pairs of View 2",
        {
            "lfw.tgz": File(
                _MIRROR + "5976018", "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0", LFW
            ),
            "pairs.txt": _PAIRS,
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
    "lfw-pairs": Entry("the 6,000 pairs of View 2 alone", {"pairs.txt": _PAIRS}),
    # Three independent projects pin this hash and size; the size matches the tensors in its code.
    "mobilefacenet-foamliu": Weights(
        "weights: MobileFaceNet, trained by foamliu on MS-Celeb-1M (4.1 MB); then normface adopt",
        {
            "mobilefacenet-foamliu.pt": File(
                "https://github.com/foamliu/MobileFaceNet/releases/download/v1.0/mobilefacenet.pt",
                "90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
                "Apache-2.0 (the repository's); trained on MS-Celeb-1M, whose photographs are for research",
            )
        },
        size=4_135_271,
        model="mobilefacenet_relu6",
    ),
}


ENTRIES |= {
    name: Published(each.about, {each.file: File(each.url, each.sha256, each.terms)}, each)
    for name, each in catalogue().items()
}


def fetch(
    name: str, folder: Path | None = None, *, source: Path | None = None, progress: Progress | None = None
) -> list[Path]:
    """Fetch an entry's files into `folder`, from the network or from the folder `source`. Returns their paths.

    folder: by default the folder of fetched models for a model of the catalogue, `data` for others.
    progress: called with bytes received and in total (0: unknown).

    Files that exist with the right SHA-256 are kept. A file with another one is renamed to `NAME.rejected`.
    Raises ConfigError for an unknown name, DataError if a file is unavailable or differs from the pinned one.
    """
    if name not in ENTRIES:
        do = meant(name, ENTRIES)
        raise ConfigError("the name of something to fetch", repr(name),
                          do if do.startswith("did") else "list the names: normface fetch")  # fmt: skip
    entry = ENTRIES[name]
    by_hand = (
        "normface adopt FILE knows it under any name" if isinstance(entry, Weights) else "give its folder: --from DIR"
    )
    if folder is None:
        folder = models_folder() if isinstance(entry, Published) else Path("data")
    return [_bring(file, each, folder, source, progress, by_hand) for file, each in entry.files.items()]


def needs_consent(entry: Entry) -> bool:
    """Return True if the terms must be accepted first: always, except for models that may be used for any purpose."""
    return not (isinstance(entry, Published) and entry.listed.commercial == "yes")


def weights() -> dict[str, Weights]:
    """Return the entries that are state dicts, by SHA-256 of their file."""
    found = (entry for entry in ENTRIES.values() if isinstance(entry, Weights))
    return {file.sha256: entry for entry in found for file in entry.files.values()}


def _bring(name: str, file: File, folder: Path, source: Path | None, progress: Progress | None, by_hand: str) -> Path:
    place = folder / name
    if place.is_file() and sha256_of(place) == file.sha256:
        return place
    with replacing(place) as temporary:
        if source is None:
            try:
                _download(file.url, temporary, progress)
            except (OSError, http.client.HTTPException, ValueError) as error:  # urllib's are OSErrors
                cause = getattr(error, "reason", None)  # urllib wraps the system's error
                raise DataError(
                    f"to fetch {name} from {file.url}", reason(cause if isinstance(cause, Exception) else error),
                    f"try again, or download it as {name} yourself: {by_hand}",
                ) from error  # fmt: skip
        else:
            if not (source / name).is_file():
                raise DataError(f"{name} in {source}", "no such file", "correct --from")
            shutil.copyfile(source / name, temporary)
        if (found := sha256_of(temporary)) != file.sha256:
            size = temporary.stat().st_size
            raise DataError(
                f"{name} with SHA-256 {file.sha256}", f"{found} ({size:,} bytes)",
                f"it is another file than was pinned: look at {set_aside(temporary, place)}",
            )  # fmt: skip
    return place


def _download(url: str, path: Path, progress: Progress | None) -> None:
    """Write the content of an address to a file. Raises OSError, HTTPException or ValueError on failure."""
    request = urllib.request.Request(url, headers={"User-Agent": "normface"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer, path.open("wb") as file:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while part := answer.read(CHUNK):
            file.write(part)
            done += len(part)
            if progress:
                progress(done, total)
    if done < total:
        raise ValueError(f"{done:,} of {total:,} bytes, then nothing")
