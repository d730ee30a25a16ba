"""Images → Embeddings, by ONNX Runtime (no torch needed) or by a network in this process."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import cosine
from ..ahead import ahead
from ..data import Reader, open_reader
from ..errors import ConfigError, FaceError, InputError, ModelError
from ..faces import DETECTORS, Detector, align, central, retarget
from ..types import Embeddings, Floats, Image, InputSpec, Match, OperatingPoint

Mirror = Literal["sum", "max", "concatenate", "none"]
Precision = Literal["auto", "fp32", "bf16"]
Network = Callable[[NDArray[np.float32]], Floats]

DEFAULT = Path(str(files("normface") / "weights" / "default.onnx"))
SPEC_KEY, SHA_KEY, POINT_KEY = "normface.spec", "normface.weights_sha256", "normface.operating_point"
MERGES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "sum": np.add, "max": np.maximum, "concatenate": lambda one, other: np.concatenate([one, other], axis=1),
}  # fmt: skip
BLOCK = 64  # crops read while the ones before them are embedded
MICRO = 8  # images a thread takes at once: more leave the processor's cache, fewer cost calls (benchmarks/embed.py)
ON_GPU = 128
_log = logging.getLogger("normface")


class Embedder:
    """A network with its preprocessing; `load` makes one from an ONNX file.

    Args:
        network: [N, C, H, W] float32 → features [N, D].
        spec: what it wants to be fed.
        sha256: of the weights.
        operating_point: the certified threshold for `verify`, if there is one.
        name: shown to people.
        threads: how many calls of `network` may be under way at once; 1 where it uses all cores by itself.
        batch: how many images it takes at once.
        precision: what it computes in.

    Raises:
        ModelError: the operating point was certified on another model.
    """

    def __init__(
        self,
        network: Network,
        spec: InputSpec,
        *,
        sha256: str,
        operating_point: OperatingPoint | None = None,
        name: str = "model",
        threads: int = 1,
        batch: int = 32,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.network, self.spec, self.sha256, self.name = network, spec, sha256, name
        self.threads, self.batch, self.precision = threads, batch, precision
        self.operating_point = operating_point
        if operating_point and operating_point.model_sha256 != sha256:
            raise ModelError(
                f"an operating point certified on this model ({sha256[:12]}…)",
                f"one certified on {operating_point.model_sha256[:12]}…",
                f"calibrate {name} again: normface calibrate",
            )

    @classmethod
    def load(cls, path: str | Path | None = None, *, certified: bool = True, precision: Precision = "fp32") -> Embedder:
        """Load an ONNX face model: one of ours, any with `MODEL.spec.json` (an InputSpec) beside it, None: the default.

        `MODEL.operating_point.json` beside it, where present, takes precedence over the one in its metadata;
        `certified=False` leaves both aside, as is right where a new one is to be made.

        ONNX Runtime computes in float32, on an NVIDIA GPU where its build for them is installed, otherwise on all
        cores. `precision="bf16"` lets PyTorch compute in bfloat16, at a cosine of 0.9995 or more to float32 (measured
        on drawn faces while loading); "auto" does so where `bf16.pays`. Certificates hold for float32 alone: in
        bfloat16 there is no operating point.

        Raises ModelError where file, specification or shapes do not fit, or bfloat16 would be too inexact.
        """
        if path is None and not DEFAULT.is_file():
            raise ModelError(
                "a model", "none, and no default model ships yet",
                "name one: --model RUN or --model FILE.onnx (train it with: normface train, or: normface demo)",
            )  # fmt: skip
        if precision not in get_args(Precision):
            raise ConfigError(
                f"precision among {', '.join(get_args(Precision))}", repr(precision), "choose one of them"
            )
        path = DEFAULT if path is None else Path(path)
        session = _session(path)
        metadata = session.get_modelmeta().custom_metadata_map
        spec_file, point_file = path.with_suffix(".spec.json"), certificate(path)
        # As bytes: text that is no UTF-8 is then reported like any other damage.
        spec_text = spec_file.read_bytes() if spec_file.exists() else metadata.get(SPEC_KEY)
        point_text = point_file.read_bytes() if point_file.exists() else metadata.get(POINT_KEY)
        if spec_text is None:
            example = InputSpec(112, 112, template="112x112").to_json()
            raise ModelError(
                "an InputSpec in the model's metadata or beside it", f"neither in {path} nor at {spec_file}",
                f"write {spec_file.name}, for example {example}",
            )  # fmt: skip
        spec = InputSpec.from_json(spec_text)
        _check_shape(session, spec, path)
        on_gpu = session.get_providers()[0] != "CPUExecutionProvider"
        embedder = cls(
            partial(_run, session),
            spec,
            sha256=metadata.get(SHA_KEY) or hashlib.sha256(path.read_bytes()).hexdigest(),
            operating_point=OperatingPoint.from_json(point_text) if point_text and certified else None,
            name=path.name,
            threads=1 if on_gpu else _cores(),
            batch=ON_GPU if on_gpu else MICRO,
        )
        if precision == "fp32" or (precision == "auto" and (on_gpu or not _bf16_pays(path))):
            return embedder
        from .bf16 import in_bf16

        return in_bf16(embedder, path, precision)

    @cached_property
    def detector(self) -> Detector:
        """Finds faces in photographs; made on first use."""
        return DETECTORS.build("mtcnn")

    def features(self, crops: Image, mirror: Mirror = "sum") -> Floats:
        """Raw features [N, D] of aligned crops [N, H, W, 3] uint8 RGB on a known template's size.

        mirror: how the mirrored crop's features are merged (the paper's test-time trick): "sum", "max" of each,
        "concatenate" [N, 2D]; "none" leaves them out.
        """
        if mirror not in get_args(Mirror):
            raise ConfigError(f"mirror among {', '.join(get_args(Mirror))}", repr(mirror), "choose one of them")
        pixels = self.spec.prepare(retarget(crops, self.spec.template))
        if mirror == "none":
            return self._spread(pixels)
        features = self._spread(np.concatenate([pixels, pixels[..., ::-1]]))
        return MERGES[mirror](features[: len(crops)], features[len(crops) :])

    def _spread(self, pixels: NDArray[np.float32]) -> Floats:
        """The network's features of any number of images, a few at a time on each thread."""
        size = max(1, min(self.batch, -(-len(pixels) // self.threads)))
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        alone = self.threads == 1 or len(parts) == 1
        found = (
            map(self.network, parts) if alone else ahead(self.network, parts, depth=len(parts), threads=self.threads)
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

        The norms tell quality: a face that is blurred, small or turned away has a short feature, in most networks.
        progress is called with images done and images in all.
        Raises InputError for no images, or crops of no known template; DataError for an unreadable image.
        """
        if isinstance(images, str | Path):
            images = open_reader(images)
        if isinstance(images, np.ndarray) and images.ndim == 3:
            images = images[None]
        total = len(images)
        if not total:
            raise InputError("at least one image", "none", "give some")
        parts: list[Floats] = []

        def crops(start: int) -> Image:
            rows = range(start, min(start + BLOCK, total))
            each = images if isinstance(images, np.ndarray) else {row: images.read(row) for row in rows}
            return np.concatenate([retarget(each[row][None], self.spec.template) for row in rows])

        for block in ahead(crops, range(0, total, BLOCK)):
            parts.append(self.features(block, mirror))
            if progress:
                progress(min(BLOCK * len(parts), total), total)
        ids = [str(i) for i in range(total)] if isinstance(images, np.ndarray) else images.ids
        return Embeddings(np.concatenate(parts), np.asarray(ids))

    def crop(self, photograph: Image, name: str = "the photograph") -> Image:
        """Detect and align: photograph [H, W, 3] uint8 RGB → crop [1, height, width, 3] for this model.

        Of several faces the one nearest the centre is taken, with a warning. Raises FaceError for none; both call the
        photograph by `name`.
        """
        faces = self.detector.detect(photograph)
        if not faces:
            raise FaceError(f"a face in {name}", "none found", "give a photograph with a visible face")
        face = central(faces, photograph.shape)
        if len(faces) > 1:
            _log.warning("%d faces in %s: the one nearest its centre is taken", len(faces), name)
        return align(photograph, face.landmarks, self.spec.template)[None]

    def verify(
        self, a: Image, b: Image, *, aligned: bool = False, names: tuple[str, str] = ("the first", "the second")
    ) -> Match:
        """Compare two photographs [H, W, 3] uint8 RGB, or two aligned crops of a known template's size.

        Both orientations are embedded. The decision is the operating point's; None without one.
        Raises FaceError where no face is found.
        """
        pairs = zip((a, b), names, strict=True)
        crops = [image[None] if aligned else self.crop(image, name) for image, name in pairs]
        crops = [retarget(crop, self.spec.template) for crop in crops]
        first, second = Embeddings(self.features(np.concatenate(crops)), np.array(["first", "second"])).vectors
        score = float(cosine.paired(cosine.exact(first), cosine.exact(second)))
        return Match(score, self.operating_point.accepts(score) if self.operating_point else None)


def certificate(model: str | Path) -> Path:
    """Where a model's operating point is kept: in its run folder, or beside its file."""
    model = Path(model)
    return model / "operating_point.json" if model.is_dir() else model.with_suffix(".operating_point.json")


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise ModelError("an ONNX file or a run folder", f"nothing at {path}", "correct the path, or train it first")
    options = onnxruntime.SessionOptions()
    # Threads of ours take a few images each: never slower here than threads inside an operator, and other work on the
    # machine, for which those wait at every layer, costs its share only.
    options.intra_op_num_threads = 1
    chosen = [
        p for p in onnxruntime.get_available_providers() if p in ("CUDAExecutionProvider", "CPUExecutionProvider")
    ]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise ModelError("a readable ONNX model", f"{path} ('{error}')", "export it again") from error


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bf16_pays(path: Path) -> bool:
    try:
        from .bf16 import pays
    except ImportError:  # no torch
        return False
    return pays(path)


def _run(session: Any, pixels: NDArray[np.float32]) -> Floats:
    """Features of any number of images, also by a model whose batch size is fixed."""
    source = session.get_inputs()[0]
    fixed = source.shape[0] if isinstance(source.shape[0], int) else len(pixels)
    parts = []
    for start in range(0, len(pixels), fixed):
        part = pixels[start : start + fixed]
        full = np.concatenate([part, np.zeros_like(pixels[:1]).repeat(fixed - len(part), 0)])
        parts.append(np.asarray(session.run(None, {source.name: full})[0])[: len(part)])
    return np.concatenate(parts)


def _check_shape(session: Any, spec: InputSpec, path: Path) -> None:
    inputs = session.get_inputs()
    shape = inputs[0].shape
    wanted = (spec.channels, spec.height, spec.width)
    flat = len(session.get_outputs()[0].shape) == 2
    fits = len(inputs) == 1 and len(shape) == 4 and inputs[0].type == "tensor(float)" and flat
    if not fits or any(isinstance(s, int) and s != w for s, w in zip(shape[1:], wanted, strict=True)):
        raise ModelError(
            f"a model with one float32 input [N, {', '.join(map(str, wanted))}] as its InputSpec says, output [N, D]",
            f"{path} with {[(i.type, i.shape) for i in inputs]} and {session.get_outputs()[0].shape}",
            "correct the InputSpec, or export the model so",
        )  # fmt: skip
