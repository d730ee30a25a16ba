"""Distillation: teachers' embeddings of the same view as targets, with or without labels.

"Function matching" in the sense of Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and
consistent": teacher and network see one view, views vary strongly, mixed faces give any number of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import dist
from ..data import Reader
from ..data.held_out import held_out
from ..embed.loading import load_network, model_path
from ..embed.torch_graph import CPU, TorchGraph
from ..errors import ConfigError, DataError, InputError, ModelError
from ..models import Model
from ..ops import l2_normalize
from ..types import InputSpec, Ints
from .augment import clean, prepare
from .config import TrainConfig
from .loader import UNKNOWN, Mixed
from .matching import MATCHINGS, trust

_log = logging.getLogger("normface")
CACHE = "teacher-{key}.npy"


class Distillation:
    """The teachers of a run, and the loss by which the network meets their embeddings of the very same view.

    Args:
        config: of the run.
        model: the student network.
        run: with `config.distill.views`, embeddings are stored here, in files named for all that they depend on.
        images: ids of the run's images [N].
        device: where the network is trained; on a GPU the teachers run there too, if PyTorch can run them.

    Attributes:
        matching: the loss, with the heads that are trained beside the network and dropped afterwards.
        view_spec: InputSpec of the views: the largest crop of all networks, which holds the others.

    Raises:
        ConfigError: templates that differ by more than a border, or heads on several ranks.
        ModelError: a missing model, or embeddings of other dimensions than the matching needs.
        DataError: not enough disk space for the stored embeddings.
    """

    def __init__(
        self, config: TrainConfig, model: Model, run: Path, images: Sequence[str], device: torch.device = CPU
    ) -> None:
        self.config, self.data = config.distill, config.data
        self.teachers = [Teacher(path, device) for path in self.config.teachers]
        specs = sorted([model.spec, *(each.spec for each in self.teachers)], key=lambda spec: spec.width * spec.height)
        self.view_spec: InputSpec = specs[-1]
        blank = torch.zeros(1, 3, self.view_spec.height, self.view_spec.width)
        for spec in specs[:-1]:
            try:
                prepare(blank, spec)
            except InputError as error:
                raise ConfigError(
                    "templates that differ only by a border, such as 112x112 and 112x96",
                    f"{spec.template} and {self.view_spec.template}", "use a model with the teacher's template",
                ) from error  # fmt: skip
        dims = [each(blank).shape[1] for each in self.teachers]
        self.matching = MATCHINGS[self.config.match](model.dim, dims).to(device)
        alone = next(self.matching.parameters(), None) is not None or self.config.match == "similarity"
        if dist.world() > 1 and (alone or self.config.confidence):
            raise ConfigError(
                "one rank with distill.match other than features, or distill.confidence", f"{dist.world()} ranks",
                "train on one rank",
            )  # fmt: skip
        self.facts = {"teacher_sha256": ", ".join(each.sha256 for each in self.teachers)}
        self.kept: list[Any] = [None] * len(self.teachers)
        if self.config.views:
            files = [run / CACHE.format(key=self._key(each, config, images)) for each in self.teachers]
            for other in [] if dist.rank() else set(run.glob(CACHE.format(key="*"))).difference(files):
                other.unlink()
            shapes = [(self.config.views, len(images), dim) for dim in dims]
            self.kept = [_kept(file, shape) for file, shape in zip(files, shapes, strict=True)]

    def __call__(
        self, loss: nn.Module, features: Tensor, labels: Tensor, pixels: Tensor, rows: Tensor, view: int
    ) -> Tensor:
        """Return labels · loss over labeled images + weight · mean of the matching + confidence · mean of `trust`.

        Args:
            features: of the network [b, D].
            labels: [b] int64, -1 if unknown.
            pixels: the view that the teachers see [b, 3, H, W] in [0, 255], see `shown`.
            rows, view: number of each image, and of the stored view.
        """
        targets = [each.to(features.device) for each in self.embed(pixels, rows.cpu().numpy(), view)]
        with torch.autocast(features.device.type, enabled=False):
            apart, cos = self.matching(features, targets)
            # As the losses on labels: the mean over all ranks' images, of which this rank differentiates its part.
            total = self.config.weight * dist.total(apart.mean()) / dist.world()
            if self.config.confidence:
                total = total + self.config.confidence * trust(features, cos).mean()
        known = labels != UNKNOWN
        if self.config.labels and known.any():
            total = total + self.config.labels * loss(features[known], labels[known])
        return total

    def shown(self, crops: Tensor, numbers: Tensor, pixels: Tensor, *, moved: bool) -> Tensor:
        """Return what the teachers see of a batch [b, 3, H, W]: the network's view, or for a share the clean one."""
        if not self.config.clean:
            return pixels
        return clean(crops, numbers, self.data, pixels, self.config.clean, moved=moved)

    def embed(self, pixels: Tensor, rows: Ints, view: int) -> list[Tensor]:
        """Return each teacher's unit embeddings [b, D] of a view, from disk if stored (as 16-bit floats)."""
        found = []
        for teacher, kept in zip(self.teachers, self.kept, strict=True):
            if kept is None:
                found.append(teacher(pixels))
                continue
            new = np.isnan(kept[view, rows]).any(axis=1)
            if new.any():
                kept[view, rows[new]] = teacher(pixels[torch.from_numpy(new).to(pixels.device)]).cpu().numpy()
            found.append(l2_normalize(torch.from_numpy(kept[view, rows].astype(np.float32))))
        return found

    def _key(self, teacher: Teacher, config: TrainConfig, images: Sequence[str]) -> str:
        """Hash of the teacher's weights, the crops it sees, and the random numbers of each view."""
        specs, views = (self.view_spec.to_json(), teacher.spec.to_json()), config.data.model_dump_json()
        known = [teacher.sha256, *specs, views, str(config.distill.clean), str(config.seed), *images]
        return hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]


class Teacher:
    """A recognizer of photographs, as targets for another network: pixels → unit embeddings.

    Args:
        path: ONNX file with its InputSpec, or a name in the catalogue (`Embedder.load`).
        device: on a GPU it runs there by PyTorch; otherwise, and where PyTorch cannot run it, by ONNX Runtime.
    """

    def __init__(self, path: str, device: torch.device = CPU) -> None:
        network = load_network(path, certified=False)
        self.spec, self.sha256, self.network = network.spec, network.sha256, network
        self.graph, self.device = None, device
        file = model_path(path)
        if device.type == "cuda" and file.is_file():
            try:
                self.graph = TorchGraph(file, device=device)
            except ModelError as error:
                _log.warning("the teacher %s runs by ONNX Runtime on %s: %s", file.name, network.device, error.got)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return unit embeddings [b, D] float32 of pixels [b, 3, H, W] in [0, 255] of any template that fits."""
        x = prepare(pixels.to(self.device), self.spec)
        if self.graph is None:
            return l2_normalize(torch.from_numpy(np.asarray(self.network(x.cpu().numpy()), np.float32)))
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return l2_normalize(self.graph(x.contiguous(memory_format=torch.channels_last)).float())


def _kept(path: Path, shape: tuple[int, ...]) -> Any:
    """Map the stored embeddings of a run [views, images, D], NaN where missing; all ranks share the file."""
    with dist.together():
        if dist.rank() == 0 and not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial.npy")
                new = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
                new[:] = np.nan
                new.flush()
                del new  # Windows renames no file that is mapped
                partial.rename(path)
            except OSError as error:
                raise DataError(
                    f"room for {2 * int(np.prod(shape)) >> 20:,} MiB of the teacher's embeddings in {path.parent}",
                    f"'{error.strerror}'", "free disk space or lower distill.views",
                ) from error  # fmt: skip
    kept = np.lib.format.open_memmap(path, "r+")
    if kept.shape != shape:
        raise DataError(f"the teacher's embeddings {list(shape)}", f"{list(kept.shape)} in {path}", "remove that file")
    return kept


def distillation_of(
    config: TrainConfig, model: Model, run: Path, images: Sequence[str], device: torch.device
) -> Distillation | None:
    """Return the distillation in a configuration, if any."""
    return Distillation(config, model, run, images, device) if config.distill.teachers else None


def mixed(config: TrainConfig, reader: Reader, unlabelled: Reader | None) -> Reader | Mixed:
    """Return the images of a run. Raises ConfigError for unlabeled images that the configuration cannot use."""
    if unlabelled is None:
        return reader
    facts: Mapping[str, bool] = {
        "distill.teacher, for what has no labels": not config.distill.teachers,
        "plain shuffling (no data.per_person, no data.balance)": bool(config.data.per_person or config.data.balance),
        "one rank": dist.world() > 1,
    }
    for wanted, missing in facts.items():
        if missing:
            raise ConfigError(
                f"{wanted}, with --unlabelled", "another configuration", "change the recipe, or drop --unlabelled"
            )
    if prefix := config.distill.hold_out:
        apart = np.array([id.startswith(prefix) and held_out(id) for id in unlabelled.ids.tolist()])
        unlabelled = unlabelled.select(np.flatnonzero(~apart))
    return Mixed(reader, unlabelled)
