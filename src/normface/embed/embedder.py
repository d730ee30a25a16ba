"""Images → Embeddings, by ONNX Runtime (no torch needed) or by a network in this process."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..ahead import ahead
from ..data import Reader
from ..errors import ConfigError, FaceError, InputError, ModelError
from ..faces import DETECTORS, Detector, align, central, retarget
from ..types import Embeddings, Floats, Image, InputSpec, Match, OperatingPoint

Mirror = Literal["sum", "max", "concatenate", "none"]
Network = Callable[[NDArray[np.float32]], Floats]

SPEC_KEY, SHA_KEY, POINT_KEY = "normface.spec", "normface.weights_sha256", "normface.operating_point"
BATCH = 32
MERGES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "sum": np.add, "max": np.maximum, "concatenate": lambda one, other: np.concatenate([one, other], axis=1),
}  # fmt: skip
_log = logging.getLogger("normface")


class Embedder:
    """A network with its preprocessing; `load` makes one from an ONNX file.

    Args:
        network: [N, C, H, W] float32 → features [N, D].
        spec: what it wants to be fed.
        sha256: of the weights.
        operating_point: the certified threshold for `verify`, if there is one.
        name: shown to people.

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
    ) -> None:
        self.network, self.spec, self.sha256, self.name = network, spec, sha256, name
        self.operating_point = operating_point
        if operating_point and operating_point.model_sha256 != sha256:
            raise ModelError(
                f"an operating point certified on this model ({sha256[:12]}…)",
                f"one certified on {operating_point.model_sha256[:12]}…",
                f"calibrate {name} again: normface calibrate",
            )

    @classmethod
    def load(cls, path: str | Path | None = None, *, certified: bool = True) -> Embedder:
        """Load an ONNX face model: one of ours, or any with `MODEL.spec.json` (an InputSpec) beside it.

        `MODEL.operating_point.json` beside it, where present, takes precedence over the one in its metadata;
        `certified=False` leaves both aside, as is right where a new one is to be made.
        Raises ModelError where file, specification or shapes do not fit.
        """
        if path is None:
            raise ModelError(
                "a model", "none, and no default model ships yet",
                "name one: --model RUN or --model FILE.onnx (train it with: normface train, or: normface demo)",
            )  # fmt: skip
        path = Path(path)
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
        return cls(
            partial(_run, session),
            spec,
            sha256=metadata.get(SHA_KEY) or hashlib.sha256(path.read_bytes()).hexdigest(),
            operating_point=OperatingPoint.from_json(point_text) if point_text and certified else None,
            name=path.name,
        )

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
        features = self.network(pixels)
        if mirror != "none":
            features = MERGES[mirror](features, self.network(np.ascontiguousarray(pixels[..., ::-1])))
        return features

    def embed(
        self,
        images: Reader | Image,
        *,
        mirror: Mirror = "sum",
        progress: Callable[[int, int], object] | None = None,
    ) -> Embeddings:
        """Embed aligned crops: an array [N, H, W, 3] uint8 RGB (ids "0", "1", …) or a Reader (its ids).

        progress is called with images done and images in all.
        Raises InputError for no images, or crops of no known template; DataError for an unreadable image.
        """
        total = len(images)
        if not total:
            raise InputError("at least one image", "none", "give some")
        parts: list[Floats] = []

        def crops(start: int) -> Image:
            rows = range(start, min(start + BATCH, total))
            each = images if isinstance(images, np.ndarray) else {row: images.read(row) for row in rows}
            return np.concatenate([retarget(each[row][None], self.spec.template) for row in rows])

        for batch in ahead(crops, range(0, total, BATCH)):
            parts.append(self.features(batch, mirror))
            if progress:
                progress(min(BATCH * len(parts), total), total)
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
        crops = [(image[None] if aligned else self.crop(image, name)) for image, name in pairs]
        first, second = (Embeddings(self.features(c), np.array(["image"])).vectors[0] for c in crops)
        score = float(first @ second)
        return Match(score, self.operating_point.accepts(score) if self.operating_point else None)


def certificate(model: str | Path) -> Path:
    """Where a model's operating point is kept: in its run folder, or beside its file."""
    model = Path(model)
    return model / "operating_point.json" if model.is_dir() else model.with_suffix(".operating_point.json")


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise ModelError("an ONNX file or a run folder", f"nothing at {path}", "correct the path, or train it first")
    try:
        return onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise ModelError("a readable ONNX model", f"{path} ('{error}')", "export it again") from error


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
