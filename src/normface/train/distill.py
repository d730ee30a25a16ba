"""Distillation: a teacher's embeddings of the same view as target, with or without labels.

"Consistent" in the sense of Beyer et al. 2021, "Knowledge distillation: A good teacher is patient and consistent".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import dist
from ..data import Reader
from ..embed import Embedder
from ..errors import ConfigError, DataError, InputError, ModelError
from ..models import Model
from ..ops import l2_normalize
from ..ops.reference import directed
from ..types import InputSpec, Ints
from .augment import prepare
from .config import TrainConfig
from .loader import UNKNOWN, Mixed

CACHE = "teacher-{key}.npy"


class Teacher:
    """An ONNX model whose normalized embeddings are the network's targets.

    Args:
        path: of the ONNX file, with its InputSpec (`Embedder.load`).
        config: of the run.
        model: the student network.
        run: with `config.distill.views`, embeddings are stored here, in a file named for all that they depend on.
        images: ids of the run's images [N].

    Raises:
        ConfigError: the templates of both models differ by more than a border.
        ModelError: a missing model, or embeddings of another dimension than the network's.
        DataError: not enough disk space for the stored embeddings.
    """

    def __init__(self, path: str, config: TrainConfig, model: Model, run: Path, images: Sequence[str]) -> None:
        self.embedder, self.config = Embedder.load(path, certified=False), config.distill
        specs = sorted((self.embedder.spec, model.spec), key=lambda spec: spec.width * spec.height)
        self.view_spec: InputSpec = specs[-1]  # the larger crop, which holds the other
        blank = torch.zeros(1, 3, self.view_spec.height, self.view_spec.width)
        try:
            prepare(blank, specs[0])
        except InputError as error:
            raise ConfigError(
                "templates that differ only by a border, such as 112x112 and 112x96",
                " and ".join(spec.template for spec in specs), "use a model with the teacher's template",
            ) from error  # fmt: skip
        dim = self._ask(blank).shape[1]
        if dim != model.dim:
            raise ModelError(
                f"a network with the teacher's {dim} dimensions", f"{model.dim}", f"set model.options.dim={dim}"
            )
        self.facts = {"teacher_sha256": self.embedder.sha256}
        self.kept = None
        if self.config.views:
            cache = run / CACHE.format(key=self._key(config, images))
            self.kept = _kept(cache, (self.config.views, len(images), dim))

    def __call__(
        self, loss: nn.Module, features: Tensor, labels: Tensor, pixels: Tensor, rows: Tensor, view: int
    ) -> Tensor:
        """Return labels' weight · loss over labeled images + weight · mean(1 - cos to the teacher), a scalar.

        Args:
            features: of the network [b, D].
            labels: [b] int64, -1 if unknown.
            pixels: the view [b, 3, H, W] in [0, 255].
            rows, view: number of each image, and of the stored view.
        """
        targets = self.embed(pixels, rows.cpu().numpy(), view).to(features.device)
        # As the losses on labels: the mean over all ranks' images, of which this rank differentiates its part.
        near = (1 - (l2_normalize(directed(features)) * targets).sum(1)).mean()
        total = self.config.weight * dist.total(near) / dist.world()
        known = labels != UNKNOWN
        if self.config.labels and known.any():
            total = total + self.config.labels * loss(features[known], labels[known])
        return total

    def _key(self, config: TrainConfig, images: Sequence[str]) -> str:
        """Hash of the teacher's weights, the crops it sees, and the random numbers of each view."""
        spec = self.view_spec.to_json(), self.embedder.spec.to_json()
        told = [self.embedder.sha256, *spec, config.data.model_dump_json(), str(config.seed), *images]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]

    def embed(self, pixels: Tensor, rows: Ints, view: int) -> Tensor:
        """Return unit embeddings [b, D] of a view, from disk if stored (as 16-bit floats)."""
        if self.kept is None:
            return self._ask(pixels)
        new = np.isnan(self.kept[view, rows]).any(axis=1)
        if new.any():
            self.kept[view, rows[new]] = self._ask(pixels[torch.from_numpy(new).to(pixels.device)]).numpy()
        return l2_normalize(torch.from_numpy(self.kept[view, rows].astype(np.float32)))

    def _ask(self, pixels: Tensor) -> Tensor:
        x = prepare(pixels, self.embedder.spec).cpu().numpy()
        return l2_normalize(torch.from_numpy(np.asarray(self.embedder.network(x), np.float32)))


def _kept(path: Path, shape: tuple[int, ...]) -> Any:
    """Map the stored embeddings of a run [views, images, D], NaN where missing; all ranks share the file."""
    with dist.together():
        if dist.rank() == 0 and not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                for other in path.parent.glob(CACHE.format(key="*")):
                    other.unlink()
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


def teacher_of(config: TrainConfig, model: Model, run: Path, images: Sequence[str]) -> Teacher | None:
    """Return the teacher in a configuration, if any."""
    return None if config.distill.teacher is None else Teacher(config.distill.teacher, config, model, run, images)


def mixed(config: TrainConfig, reader: Reader, unlabelled: Reader | None) -> Reader | Mixed:
    """Return the images of a run. Raises ConfigError for unlabeled images that the configuration cannot use."""
    if unlabelled is None:
        return reader
    facts: Mapping[str, bool] = {
        "distill.teacher, for what has no labels": config.distill.teacher is None,
        "plain shuffling (no data.per_person, no data.balance)": bool(config.data.per_person or config.data.balance),
        "one rank": dist.world() > 1,
    }
    for wanted, missing in facts.items():
        if missing:
            raise ConfigError(
                f"{wanted}, with --unlabelled", "another configuration", "change the recipe, or drop --unlabelled"
            )
    return Mixed(reader, unlabelled)
