"""Public files by name, downloaded (pooch) or copied from a folder, and verified by SHA-256."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..errors import ConfigError, DataError, require

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


# The hashes are those that scikit-learn pins for its mirror of LFW.
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
    # Hash and size as three projects pin them, each on its own; the size is that of the tensors its code names.
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
    # The hash is the one that the repository itself keeps for its large files.
    "ediffiqa": Entry(
        "eDifFIQA(T), a network that judges the quality of faces, for evaluate --quality (7.3 MB)",
        {
            "ediffiqa_tiny_jun2024.onnx": File(
                "https://github.com/opencv/opencv_zoo/raw/main/models/face_image_quality_assessment_ediffiqa/"
                "ediffiqa_tiny_jun2024.onnx",
                "9426c899cc0f01665240cb7d9e7f98e18e24e456c178326c771a43da289bfc6a",
                "CC-BY-4.0 (eDifFIQA(T): Babnik, Peer, Štruc 2024; from OpenCV Zoo)",
            )
        },
    ),
}


def fetch(name: str, folder: Path, *, source: Path | None = None, bar: bool = False) -> list[Path]:
    """Fetch an entry's files into `folder`, from the network or from the folder `source`. Returns their paths.

    Files already present with the right SHA-256 are kept. Raises ConfigError for an unknown name, DataError if a file
    is unavailable or differs from the pinned one; no partial files remain.
    """
    if name not in ENTRIES:
        raise ConfigError("the name of something to fetch", repr(name), "list the names: normface fetch")
    entry = ENTRIES[name]
    by_hand = (
        "normface adopt FILE knows it under any name" if isinstance(entry, Weights) else "give its folder: --from DIR"
    )
    return [_bring(file, each, folder, source, bar, by_hand) for file, each in entry.files.items()]


def weights() -> dict[str, Weights]:
    """Return the entries that are state dicts, by SHA-256 of their file."""
    found = (entry for entry in ENTRIES.values() if isinstance(entry, Weights))
    return {file.sha256: entry for entry in found for file in entry.files.values()}


def _bring(name: str, file: File, folder: Path, source: Path | None, bar: bool, by_hand: str) -> Path:
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
                    f"to fetch {name} from {file.url}", f"'{error}'",
                    f"try again, or download it as {name} yourself: {by_hand}",
                ) from error  # fmt: skip
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
