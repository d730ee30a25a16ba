"""The catalogue of other projects' networks: what they are, where they lie, and their hashes."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, ModelError
from ..registry import meant
from ..types import InputSpec

FOLDER = "NORMFACE_MODELS"  # environment variable: the folder of fetched models


@dataclass(frozen=True)
class Listed:
    """A model in the catalogue.

    Attributes:
        project: the publisher.
        kind: of model; a "quality" network judges faces, for `evaluate --quality`.
        detector: name in `faces.DETECTORS` of the reader of a detector's output.
        bytes: size of the file; 0 if no public source states it.
        license: of the weights, in words. commercial: whether it permits commercial use.
        accuracy, accuracy_source: as published, or empty.
        hash_sources: public sources that agree on `sha256`.
        spec: input of a recognizer.
    """

    name: str
    about: str
    project: str
    kind: Literal["recognizer", "detector", "quality"]
    url: str
    sha256: str
    license: str
    commercial: Literal["yes", "no", "unclear"]
    hash_sources: tuple[str, ...]
    bytes: int = 0
    accuracy: str = ""
    accuracy_source: str = ""
    detector: str = ""
    spec: InputSpec | None = None

    @property
    def file(self) -> str:
        """Name of the fetched file."""
        return f"{self.name}.onnx"

    @property
    def path(self) -> Path:
        """Path of the fetched file."""
        return models_folder() / self.file

    @property
    def terms(self) -> str:
        """The license and what it means for commercial use."""
        return f"{self.license}. Commercial use: {self.commercial}."


@cache
def catalogue() -> Mapping[str, Listed]:
    """Return the catalogue by name, in its order."""
    import tomllib  # imported only when needed, because `verify` starts in a fraction of a second

    text = (files(__package__) / "catalogue.toml").read_text("utf-8")
    found = {}
    for name, told in tomllib.loads(text).items():
        spec = InputSpec(**told.pop("spec")) if "spec" in told else None
        found[name] = Listed(name, spec=spec, hash_sources=tuple(told.pop("hash_sources")), **told)
    return found


def find(name: str, kind: str) -> Listed:
    """Return the model of a kind called `name`. Raises ConfigError for another name."""
    known = [each for each, listed in catalogue().items() if listed.kind == kind]
    if name not in known:
        raise ConfigError(f"a {kind} among {', '.join(known)}", repr(name), meant(name, known))
    return catalogue()[name]


def listed_as(model: str | Path) -> Listed | None:
    """Return the model of the catalogue called `model`, or None for a path; an existing file has priority."""
    return None if Path(model).exists() else catalogue().get(str(model))


def by_sha256(sha256: str) -> Listed | None:
    """Return the model whose file has this hash, if there is one."""
    return next((listed for listed in catalogue().values() if listed.sha256 == sha256), None)


def models_folder() -> Path:
    """Return the folder of fetched models: NORMFACE_MODELS, or the user's folder for application data."""
    if set_by_user := os.environ.get(FOLDER):
        return Path(set_by_user)
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "normface" / "models"


def fetched(listed: Listed) -> Path:
    """Return the path of a model that was fetched. Raises ModelError if it was not, or has other bytes by now."""
    path = listed.path
    if not path.is_file():
        raise ModelError(f"the file of {listed.name}", f"nothing at {path}", f"fetch it: normface fetch {listed.name}")
    if (got := sha256_of(path)) != listed.sha256:
        aside = set_aside(path, path)
        raise ModelError(
            f"{path} with SHA-256 {listed.sha256}", f"{got}, moved to {aside.name}",
            f"fetch it again: normface fetch {listed.name}",
        )  # fmt: skip
    return path


def set_aside(file: Path, path: Path) -> Path:
    """Rename a wrong file at `path` to `NAME.rejected` in the same folder. Returns the new path."""
    return file.replace(path.with_name(f"{path.name}.rejected"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
