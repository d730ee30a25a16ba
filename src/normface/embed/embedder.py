"""Embedding of photographs and crops by any Network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import cosine
from ..conditions import Assessment
from ..data import Reader, open_reader, read_image
from ..errors import ConfigError, FaceError, InputError
from ..faces import DETECTORS, Detector, align, central, retarget, signals
from ..prefetch import map_ahead
from ..types import Embeddings, Floats, Image, InputSpec, Match
from .loading import RunPrecision, load_network
from .network import Network, Run
from .seen import Portrait, Seen, covered

Mirror = Literal["sum", "max", "concatenate", "none"]
MERGES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "sum": np.add, "max": np.maximum, "concatenate": lambda one, other: np.concatenate([one, other], axis=1),
}  # fmt: skip
ONE_ORIENTATION = "embedded otherwise than with both orientations, as the certificate was measured: use mirror=true"
READ_AT_ONCE = 64  # crops read while the ones before them are embedded
_log = logging.getLogger("normface")


class Embedder:
    """Embeds photographs and aligned crops; `load` opens a model.

    Args:
        network: computes the features; `embed.loading.load_network` opens one.

    Attributes:
        network, spec, sha256, name, threads, batch, precision, operating_point: those of the network.
    """

    def __init__(self, network: Network | Run, spec: InputSpec | None = None, **known: Any) -> None:
        if not isinstance(network, Network):
            warnings.warn(
                "Embedder(run, spec, sha256=…) is deprecated: use Embedder(Network(run, spec, sha256=…))",
                DeprecationWarning, stacklevel=2,
            )  # fmt: skip
            network = Network(network, *(() if spec is None else (spec,)), **known)
        self.network: Run = network
        self.spec, self.sha256, self.name = network.spec, network.sha256, network.name
        self.threads, self.batch, self.precision = network.threads, network.batch, network.precision
        self.operating_point = network.operating_point

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, certified: bool = True, precision: RunPrecision = "fp32"
    ) -> Embedder:
        """Load a face model: a run folder (requires torch), an ONNX file, or with None the default model.

        An ONNX file must be an export of this package, or have an InputSpec in `MODEL.spec.json` next to it.
        `MODEL.operating_point.json` next to it takes precedence over the one in its metadata; `certified=False` ignores
        both, for creating a new one.

        ONNX Runtime computes in float32, on an NVIDIA GPU if its GPU build is installed, otherwise on all cores.
        `precision="bf16"` computes in bfloat16 by PyTorch, at a cosine of 0.9995 or more to float32 (measured on drawn
        faces while loading); "auto" does so if `bf16.pays`. Certificates always describe the float32 model, so in
        bfloat16 there is no operating point. A run folder is computed in float32 by PyTorch.

        Raises ModelError if file, specification or shapes do not fit, or bfloat16 is too inexact.
        """
        return cls(load_network(path, certified=certified, precision=precision))

    @cached_property
    def detector(self) -> Detector:
        """The face detector, created on first use."""
        return DETECTORS.build("mtcnn")

    def features(self, crops: Image, mirror: Mirror = "sum") -> Floats:
        """Compute unnormalized features [N, D] of aligned crops [N, H, W, 3] uint8 RGB of a known template's size.

        mirror: how to merge the features of the crop and its mirror image (the paper's test-time augmentation): "sum",
        elementwise "max", "concatenate" [N, 2D], or "none" for the crop alone.
        """
        if mirror not in get_args(Mirror):
            raise ConfigError(f"mirror among {', '.join(get_args(Mirror))}", repr(mirror), "correct mirror")
        pixels = self.spec.prepare(retarget(crops, self.spec.template))
        if mirror == "none":
            return self._spread(pixels)
        features = self._spread(np.concatenate([pixels, pixels[..., ::-1]]))
        return MERGES[mirror](features[: len(crops)], features[len(crops) :])

    def _spread(self, pixels: NDArray[np.float32]) -> Floats:
        """Compute features of any number of images, in batches on each thread."""
        size = max(1, min(self.batch, -(-len(pixels) // self.threads)))
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        alone = self.threads == 1 or len(parts) == 1
        found = (
            map(self.network, parts)
            if alone
            else map_ahead(self.network, parts, depth=len(parts), threads=self.threads)
        )
        return np.concatenate(list(found))

    def embed(
        self,
        images: Reader | Image | str | Path,
        *,
        mirror: Mirror = "sum",
        progress: Callable[[int, int], object] | None = None,
    ) -> Embeddings:
        """Embed aligned crops: one [H, W, 3] uint8 RGB, several [N, H, W, 3] (ids "0", "1", …), a Reader or its path.

        The norms are the features' lengths. In some networks they follow quality; in the default model they do not.
        progress is called with images done and in total.
        Raises InputError for no images or crops of no known template; DataError for an unreadable image.
        """
        if isinstance(images, str | Path):
            images = open_reader(images)
        if isinstance(images, np.ndarray) and images.ndim == 3:
            images = images[None]
        total = len(images)
        if not total:
            raise InputError("at least one image", "none", "pass one or more crops")
        parts: list[Floats] = []

        def crops(start: int) -> Image:
            rows = range(start, min(start + READ_AT_ONCE, total))
            each = images if isinstance(images, np.ndarray) else {row: images.read(row) for row in rows}
            return np.concatenate([retarget(each[row][None], self.spec.template) for row in rows])

        for block in map_ahead(crops, range(0, total, READ_AT_ONCE)):
            parts.append(self.features(block, mirror))
            if progress:
                progress(min(READ_AT_ONCE * len(parts), total), total)
        ids = [str(i) for i in range(total)] if isinstance(images, np.ndarray) else images.ids
        return Embeddings(np.concatenate(parts), np.asarray(ids))

    def crop(self, photograph: Image, name: str = "the photograph") -> Image:
        """Detect and align: photograph [H, W, 3] uint8 RGB → crop [1, height, width, 3]. Otherwise as `portrait`."""
        return self.portrait(photograph, name=name).crop[None]

    def portrait(self, image: Image, *, aligned: bool = False, name: str = "the photograph") -> Portrait:
        """Detect and align a photograph [H, W, 3] uint8 RGB, or take an aligned crop of a known template's size.

        If there are several faces, uses the one nearest the center, with a warning. Raises FaceError for none. `name`
        stands for the photograph in both messages.
        """
        if aligned:
            return Portrait(retarget(image[None], self.spec.template)[0])
        faces = self.detector.detect(image)
        if not faces:
            raise FaceError(f"a face in {name}", "none found", "give a photograph with a visible face")
        face = central(faces, image.shape)
        if len(faces) > 1:
            _log.warning("%d faces in %s: using the one nearest the center", len(faces), name)
        return Portrait(align(image, face.landmarks, self.spec.template), face, len(faces))

    def see(self, portraits: Sequence[Portrait], *, mirror: Mirror = "sum") -> list[Seen]:
        """Embed portraits and assess them by the certificate's conditions where it has some.

        mirror: as for `features`. Certificates are measured with "sum" and do not cover anything else.
        """
        features = self.features(np.stack([each.crop for each in portraits]), mirror)
        found = Embeddings(features, np.arange(len(portraits)).astype(str))
        known = self.assess(found.vectors, portraits)
        if mirror != "sum" and self.operating_point:
            known = [replace(each, outside=(*each.outside, ONE_ORIENTATION)) for each in known]
        return [
            Seen(each.crop, found.vectors[row], float(found.norms[row]), each.face, each.found, known[row])
            for row, each in enumerate(portraits)
        ]

    def assess(self, vectors: Floats, portraits: Sequence[Portrait]) -> list[Assessment]:
        """What the certificate's conditions say of portraits with these unit vectors [N, D]; without any, nothing."""
        conditions = self.operating_point.conditions if self.operating_point else None
        if conditions is None:
            return [Assessment()] * len(portraits)
        return conditions.assess(vectors, [signals(each.crop, each.face) for each in portraits])

    def verify(
        self,
        a: Image,
        b: Image,
        *,
        aligned: bool = False,
        anyway: bool = False,
        names: tuple[str, str] = ("the first", "the second"),
    ) -> Match:
        """Compare two photographs [H, W, 3] uint8 RGB, or two aligned crops of a known template's size.

        Both orientations are embedded. The decision is the operating point's; None without one. Where the certificate
        has conditions and a photograph lies outside, the match is undecided; `anyway` decides all the same.
        Raises FaceError where no face is found.
        """
        images = zip((a, b), names, strict=True)
        seen = self.see([self.portrait(image, aligned=aligned, name=name) for image, name in images])
        score = float(cosine.paired(*(cosine.exact(each.vector) for each in seen)))
        decision = self.operating_point.accepts(score) if self.operating_point else None
        return covered(Match(score, decision), seen, names, anyway=anyway)


def verify(a: str | Path | Image, b: str | Path | Image, *, model: str | Path | None = None) -> Match:
    """Compare the faces in two photographs, given as files or as [H, W, 3] uint8 RGB.

    model: as for `Embedder.load`; to compare many pairs, load an Embedder once and call its `verify`.

    Raises DataError for a file that is no photograph, FaceError where no face is found, ModelError for another model.
    """
    pairs = ((a, "the first"), (b, "the second"))
    names = [str(each) if isinstance(each, str | Path) else place for each, place in pairs]
    images = [read_image(each) if isinstance(each, str | Path) else each for each in (a, b)]
    return Embedder.load(model).verify(images[0], images[1], names=(names[0], names[1]))
