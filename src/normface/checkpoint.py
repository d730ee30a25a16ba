"""Checkpoints by torch.distributed.checkpoint in safetensors, without pickle, written atomically.

A folder `RUN/checkpoint/step-00000200` holds one file per rank that wrote it, and `run.json`, which is written last:
a folder without it is incomplete. Any number of ranks can read a checkpoint, whatever number wrote it.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from . import dist
from .atomic import replacing
from .errors import DataError, ModelError

FOLDER, HEADER = "checkpoint", "run.json"
FORMAT = "normface-checkpoint-2"
ORIGIN = "origin"  # key in the facts: origin and license of the weights that a run started from


class RowShard:
    """Rows of a tensor [total, …] from `start` on, in `tensor`; other ranks hold the rest.

    The two methods implement torch.distributed.checkpoint's protocol for sharded tensors. DTensor is not used: it
    splits rows in its own way, which can leave a rank without any.
    """

    def __init__(self, tensor: Tensor, start: int, total: int) -> None:
        self.tensor, self.start, self.total = tensor, start, total

    @property
    def shape(self) -> torch.Size:
        """Shape of the whole tensor."""
        return torch.Size((self.total, *self.tensor.shape[1:]))

    def __create_chunk_list__(self) -> list[Any]:
        offsets = torch.Size((self.start, *[0] * (self.tensor.ndim - 1)))
        return [ChunkStorageMetadata(offsets=offsets, sizes=self.tensor.shape)]

    def __create_write_items__(self, name: str, _: object) -> list[Any]:
        (chunk,) = self.__create_chunk_list__()
        data = TensorWriteData(chunk, TensorProperties.create_from_tensor(self.tensor), self.shape)
        return [WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)]


class _Save(DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Any:
        return _tensor(self.state_dict[index.fqn])


class _Load(DefaultLoadPlanner):
    """Loads into the given tensors."""

    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None:
        super().set_up_planner({}, metadata, is_coordinator)  # which would drop everything but tensors
        self.state_dict = self.original_state_dict = state_dict

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return _tensor(self.state_dict[index.fqn])


def _tensor(held: Tensor | RowShard) -> Tensor:
    return held.tensor if isinstance(held, RowShard) else held


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps, on disk.

    Attributes:
        folder: its location.
        config: of the run, as JSON; its `model` holds the `name` and `options` of `models.build`.
        step: steps done.
        facts: about the data (number of classes and images, SHA-256 of the list of images) and the weights' `ORIGIN`.
        layout: "model.…", "average.…", "loss.…", "momentum.…" → shape and dtype of the whole, on the device "meta".
    """

    folder: Path
    config: Mapping[str, Any]
    step: int
    facts: Mapping[str, Any]
    layout: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Read the whole tensors whose names begin with `prefix` and a dot; the names returned lack it."""
        names = [name for name in self.layout if name.startswith(f"{prefix}.")]
        chosen = {name: torch.empty_like(self.layout[name], device="cpu") for name in names}
        self.fill(chosen)
        return {name[len(prefix) + 1 :]: t for name, t in chosen.items()}

    def fill(self, tensors: Mapping[str, Tensor | RowShard]) -> None:
        """Read these tensors in place. Raises ModelError if the files are damaged."""

        with _readable(self.folder), _alone():
            reader = HuggingFaceStorageReader(str(self.folder))
            load(dict(tensors), storage_reader=reader, planner=_Load(), no_dist=True)

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """Open the last complete checkpoint of a run folder, or a checkpoint folder. Raises ModelError otherwise."""

        folder = Path(path) if (Path(path) / HEADER).is_file() else _last(Path(path))
        if folder is None:
            raise ModelError(f"a run with {FOLDER}/step-…", f"nothing at {path}", "train it first: normface train")
        try:
            header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
            if header["format"] != FORMAT:
                raise ModelError(
                    f"a checkpoint of format {FORMAT}", f"{folder} with {header['format']!r}",
                    "train it with this version",
                )  # fmt: skip
            config, step, facts, files = (header[key] for key in ("config", "step", "facts", "files"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                "format, config, step, facts and files as JSON", f"{folder / HEADER} ('{error}')", "train it again"
            ) from error
        if _sizes(folder) != files:
            raise ModelError(f"files and bytes {files} in {folder}", f"{_sizes(folder)}", "copy the whole folder again")
        with _readable(folder):
            found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        layout = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for name, entry in found.items()
            if not isinstance(entry, BytesStorageMetadata)
        }
        return cls(folder, config, step, facts, layout)


def write(
    run: Path,
    tensors: Mapping[str, Tensor | RowShard],
    *,
    config: Mapping[str, Any],
    step: int,
    facts: Mapping[str, Any],
    keep: int = 1,
) -> None:
    """Save a state into the folder `run`, each rank its part, and remove all but the latest `keep` checkpoints.

    On failure raises DataError (TrainingError on ranks that did not fail) and keeps the previous checkpoint.
    """

    folder = run / FOLDER / f"step-{step:08d}"
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with dist.together(), _written(folder):
        if dist.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
            folder.mkdir(parents=True)
    with _written(folder), _alone():
        plain = {n: t if isinstance(t, RowShard) else t.detach().contiguous() for n, t in tensors.items()}
        save(plain, storage_writer=writer, planner=_Save(), no_dist=dist.world() == 1)
    with dist.together(), _written(folder):
        if dist.rank() == 0:
            header = {
                "format": FORMAT, "config": dict(config), "step": step, "facts": dict(facts),
                "files": _sizes(folder),
            }  # fmt: skip
            with replacing(folder / HEADER) as temporary:
                temporary.write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
            kept = snapshots(run)[-keep:]
            for other in folder.parent.iterdir():
                if other not in kept:
                    shutil.rmtree(other, ignore_errors=True)


def finished(run: Path) -> bool:
    """Return True if a run folder holds a complete checkpoint."""
    return _last(run) is not None


def _last(run: Path) -> Path | None:
    """The latest finished checkpoint of a run."""
    return next(reversed(snapshots(run)), None)


def snapshots(run: Path) -> list[Path]:
    """Return the folders of a run's complete checkpoints, in the order of their steps."""
    return sorted(header.parent for header in run.glob(f"{FOLDER}/step-*/{HEADER}"))


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}


@contextmanager
def _alone() -> Iterator[None]:
    """Without torch's warning that there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


@contextmanager
def _written(folder: Path) -> Iterator[None]:

    try:
        yield
    except (OSError, CheckpointException) as error:
        causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        raise DataError(
            f"to write {folder}", f"'{causes[0]}'",
            "free disk space, or choose another --out; the previous checkpoint is intact",
        ) from error  # fmt: skip


@contextmanager
def _readable(folder: Path) -> Iterator[None]:

    try:
        yield
    except (OSError, SafetensorError, CheckpointException, KeyError, ValueError) as error:
        raise ModelError(f"intact safetensors in {folder}", f"'{error}'", "copy it again, or train again") from error


def check_fit(what: str, own: Mapping[str, torch.Size], saved: Mapping[str, torch.Size]) -> None:
    """Raise ModelError with the first keys and shapes of a saved state that do not fit, of both sides."""
    faults = {
        "missing": [key for key in own if key not in saved],
        "unknown": [key for key in saved if key not in own],
        "of another shape": [
            f"{key} {list(saved[key])} instead of {list(own[key])}"
            for key in own
            if key in saved and own[key] != saved[key]
        ],
    }
    told = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for kind, keys in faults.items()
        if keys
    ]
    if told:
        raise ModelError(
            f"a checkpoint of this {what}", f"tensors {', '.join(told)}",
            "use the configuration the checkpoint was trained with",
        )  # fmt: skip


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict strictly. Raises ModelError with the first key or shape that does not fit."""
    shapes = ({name: t.shape for name, t in each.items()} for each in (module.state_dict(), state))
    check_fit(what, *shapes)
    module.load_state_dict(dict(state))
