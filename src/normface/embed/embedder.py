"""Embedding of photographs and crops by any Network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import cosine
from ..conditions import Assessment
from ..data import Order, Picture, Reader, open_reader
from ..data.folder import is_image
from ..data.pictures import decoded, name_of, open_picture
from ..errors import ConfigError, InputError
from ..faces import Choice, Detector, Template, find_template, open_detector, retarget, signals
from ..faces.finding import Portrait, find_portraits, likely
from ..faces.photographs import Photograph
from ..faces.video import RATE, is_video, read_frames
from ..inference import Device
from ..prefetch import map_ahead
from ..types import Embeddings, Floats, Image, InputSpec, Match
from .loading import RunPrecision, load_network
from .network import Network, Run
from .people import FaceGallery, fuse
from .seen import FaceRecord, covered, no_face

if TYPE_CHECKING:
    from .tracks import Track

Mirror = Literal["sum", "max", "concatenate", "none"]
MERGES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "sum": np.add, "max": np.maximum, "concatenate": lambda one, other: np.concatenate([one, other], axis=1),
}  # fmt: skip
ONE_ORIENTATION = "embedded otherwise than with both orientations, as the certificate was measured: use mirror=true"
READ_AT_ONCE = 64  # crops to read while the previous ones are embedded
FOUND_AT_ONCE = 8  # photographs for detection while the faces of the previous ones are embedded
_log = logging.getLogger("normface")


class Embedder:
    """Embeds photographs and aligned crops; `load` opens a model.

    Args:
        network: computes the features; `embed.loading.load_network` opens one.

    Attributes:
        network, spec, sha256, name, threads, batch, precision, operating_point: those of the network.
    """

    detects_by: tuple[str, Device] = ("mtcnn", "auto")  # name and device of the detector

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
        cls,
        path: str | Path | None = None,
        *,
        certified: bool = True,
        precision: RunPrecision = "fp32",
        device: Device = "auto",
        detector: str = "mtcnn",
    ) -> Embedder:
        """Load a face model: a run folder (requires torch), an ONNX file, the name of a fetched model, or the default.

        An ONNX file must be an export of this package, be in the catalogue (`normface models`), or have an InputSpec in
        `MODEL.spec.json` next to it.
        `MODEL.operating_point.json` next to it takes precedence over the one in its metadata; `certified=False` ignores
        both, for creating a new one.

        ONNX Runtime computes in float32, on an NVIDIA GPU if its GPU build is installed, otherwise on all cores; or on
        `device`, if the installed ONNX Runtime has it. The attribute `device` is the one in use. `detector` is the name
        of the face detector, see `faces.open_detector`.
        `precision="bf16"` computes in bfloat16 by PyTorch, at a cosine of 0.9995 or more to float32 (measured on drawn
        faces while loading); "auto" does so if `bf16.pays`. Certificates always describe the float32 model, so in
        bfloat16 there is no operating point. A run folder is computed in float32 by PyTorch.

        Raises ModelError if file, specification or shapes do not fit, or bfloat16 is too inexact.
        """
        found = cls(load_network(path, certified=certified, precision=precision, device=device))
        found.detects_by = detector, device
        return found

    @property
    def device(self) -> str:
        """The device on which the network runs: cpu, cuda, …."""
        return str(getattr(self.network, "device", "cpu"))

    @cached_property
    def detector(self) -> Detector:
        """The face detector, created on first use."""
        name, device = self.detects_by
        opened = open_detector(name, device=device)
        if self.operating_point and name != "mtcnn":
            _log.warning(
                "the rates of %s were measured on faces as MTCNN finds them: with %s they may differ", self.name, name
            )
        return opened

    @cached_property
    def template(self) -> Template:
        """The alignment template of crops."""
        return find_template(self.spec.template)

    def tools(self) -> dict[str, str]:
        """Return the tools behind an answer: the network's device, the detector, and the detector's device, if used."""
        told = {"device": self.device}
        if "detector" in self.__dict__:
            told |= {"detector": self.detects_by[0], "detector_device": str(getattr(self.detector, "device", "cpu"))}
        return told

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

    def faces(
        self, photograph: Picture, *, faces: Choice = "all", aligned: bool = False, order: Order = "RGB"
    ) -> list[FaceRecord]:
        """Find and embed the faces in a photograph, most certain first; an empty list where there is none.

        photograph: a path, bytes, file, Pillow image, array or tensor, see `read_image`. Large ones are looked at
        reduced; the other ways up are tried where the photograph may not be upright.
        A `FaceRecord` or `Track` stands for itself, here and wherever photographs are compared, enrolled or searched.
        The path of a video stands for its tracks (`track`), the face that is seen longest first, or with another choice
        than "all" for that face alone.
        faces: "all", or the one nearest the "center" (among plausible ones, see `Detector`), the "largest", or the one
        scored "best". aligned: the picture is an aligned crop of a known template's size. order: of an array.
        """
        return self.faces_of([photograph], [name_of(photograph)], faces=faces, aligned=aligned, order=order)[0]

    def faces_of(
        self,
        photographs: Sequence[Picture],
        names: Sequence[str],
        *,
        faces: Choice = "all",
        aligned: bool = False,
        order: Order = "RGB",
    ) -> list[list[FaceRecord]]:
        """Find and embed the faces in several photographs together, each as `faces` does; `names` are for messages."""
        unseen = [row for row, each in enumerate(photographs) if not (isinstance(each, FaceRecord) or is_video(each))]
        pictures, called = [photographs[row] for row in unseen], [names[row] for row in unseen]
        found = self.portraits(pictures, called, faces=faces, aligned=aligned, order=order) if unseen else []
        portraits = [portrait for each in found for portrait in each]
        records = iter(self.see(portraits) if portraits else [])
        seen = iter([[next(records) for _ in each] for each in found])
        return [
            [each] if isinstance(each, FaceRecord)
            else self._followed(each, faces, aligned) if is_video(each)
            else next(seen)
            for each in photographs
        ]  # fmt: skip

    def _followed(self, video: str | Path, faces: Choice, aligned: bool) -> list[FaceRecord]:
        """The faces in a video, the one seen longest first; that one alone unless all are wanted."""
        if aligned:
            raise InputError("aligned crops", f"the video {video}", "drop --aligned (in Python: aligned=True)")
        tracks = sorted(self.track(video), key=lambda track: -len(track.times))
        count = len(tracks)
        return [replace(each, found=count, likely=count) for each in tracks[: None if faces == "all" else 1]]

    def track(
        self,
        video: str | Path,
        *,
        rate: float = RATE,
        threshold: float | None = None,
        progress: Callable[[float, float], object] | None = None,
    ) -> list[Track]:
        """Follow the faces in a video: a template for each time that somebody is seen, by when they first appear.

        rate: frames looked at in a second. threshold: cosine from which two faces are one person, wherever they are;
        by default the operating point's. progress is called with seconds done and in total.
        Raises DataError for what is no video, ConfigError without an operating point or threshold.
        """
        from .tracks import Tracker  # importing SciPy's optimization takes longer than verifying a face

        if threshold is None:
            if self.operating_point is None:
                raise ConfigError(
                    "a model with an operating point, to link the faces of a video", f"{self.name} without one",
                    "make one: normface calibrate (in Python, threshold= stands in)",
                )  # fmt: skip
            threshold = self.operating_point.threshold
        tracker, frames = Tracker(threshold), read_frames(video, rate=rate)
        while block := list(islice(frames, FOUND_AT_ONCE)):
            names = [f"{video} at {frame.seconds:.2f} s" for frame in block]
            portraits = [likely(self.detector, each) for each in self.portraits([each.image for each in block], names)]
            seen = iter(self.see([each for found in portraits for each in found]) if any(portraits) else [])
            for frame, found in zip(block, portraits, strict=True):
                tracker.add(frame.seconds, [next(seen) for _ in found])
                if progress:
                    progress(frame.seconds, frame.length)
        return tracker.finish()

    def embed(
        self,
        images: Reader | Picture,
        *,
        aligned: bool | None = None,
        faces: Choice = "center",
        order: Order = "RGB",
        mirror: Mirror = "sum",
        progress: Callable[[int, int], object] | None = None,
    ) -> Embeddings:
        """Embed one face of each image.

        images: a picture as `read_image` takes it, a list of them of any sizes, an array [N, H, W, 3], a Reader, or the
        path of a folder, zip or pack.
        aligned: True for aligned crops of a known template's size; False for photographs, in which `faces` chooses as
        in `Embedder.faces`. By default Readers and their paths contain crops, and other images are photographs.

        The ids are the Reader's, or the paths if these are distinct, or "0", "1", …. The norms are the features'
        lengths. In some networks they follow quality; in the default model they do not fall with blur. progress is
        called with images done and in total.

        Raises InputError for no images or crops of an unknown template; DataError for an unreadable image; FaceError
        for a photograph without a face.
        """
        if faces == "all":
            raise ConfigError("one face of each image: center, largest or best", "all", "call Embedder.faces")
        if isinstance(images, np.ndarray) and aligned is None:
            warnings.warn(
                "Embedder.embed takes an array as aligned crops; say aligned=True, because it will take arrays as "
                "photographs, like all other pictures", DeprecationWarning, stacklevel=2,
            )  # fmt: skip
            aligned = True
        if isinstance(images, str | Path) and not is_image(str(images)):
            images = open_reader(images)
        if hasattr(images, "ids"):  # a Reader
            ids, read, aligned = images.ids, images.read, aligned is not False
        else:
            pictures = _listed(images)
            ids, read, aligned = _names(pictures), pictures.__getitem__, bool(aligned)
        total, at_once = len(ids), READ_AT_ONCE if aligned else FOUND_AT_ONCE
        if not total:
            raise InputError("at least one image", "none", "pass one or more")

        def crops(start: int) -> Image:
            rows = range(start, min(start + at_once, total))
            names = [str(ids[row]) for row in rows]
            found = self.portraits([read(row) for row in rows], names, faces=faces, aligned=aligned, order=order)
            return np.stack([_one(each, name).crop for each, name in zip(found, names, strict=True)])

        parts: list[Floats] = []
        for block in map_ahead(crops, range(0, total, at_once)):
            parts.append(self.features(block, mirror))
            if progress:
                progress(min(at_once * len(parts), total), total)
        return Embeddings(np.concatenate(parts), np.asarray(ids))

    def crop(self, photograph: Picture, name: str | None = None) -> Image:
        """Detect and align: photograph → crop [1, height, width, 3]. Otherwise as `portrait`."""
        return self.portrait(photograph, name=name).crop[None]

    def portrait(self, image: Picture, *, aligned: bool = False, name: str | None = None) -> Portrait:
        """Detect and align the face nearest a photograph's center, or take an aligned crop of a known template's size.

        Warns if there are several faces. Raises FaceError for none. `name` is the photograph's name in both messages.
        """
        names = None if name is None else [name]
        found = _one(self.portraits([image], names, faces="center", aligned=aligned)[0], name or name_of(image))
        if found.found > 1:
            _log.warning("%d faces in %s: using the one nearest the center", found.found, name or name_of(image))
        return found

    def portraits(
        self,
        photographs: Sequence[Picture],
        names: Sequence[str] | None = None,
        *,
        faces: Choice = "all",
        aligned: bool = False,
        order: Order = "RGB",
    ) -> list[list[Portrait]]:
        """Detect and align faces in several photographs, as `faces` does; an empty list for one without a face.

        names: for messages; by default the paths, or "the photograph".
        """
        called = [name_of(each) for each in photographs] if names is None else names
        opened = zip(photographs, called, strict=True)
        if aligned:
            crops = (decoded(open_picture(each, order), name) for each, name in opened)
            return [[Portrait(retarget(crop[None], self.spec.template)[0])] for crop in crops]
        found = [Photograph.open(open_picture(each, order), name) for each, name in opened]
        portraits = []
        for each in find_portraits(self.detector, found, self.template, faces):
            if isinstance(each, Exception):
                raise each
            portraits.append(each)
        return portraits

    def see(self, portraits: Sequence[Portrait], *, mirror: Mirror = "sum") -> list[FaceRecord]:
        """Embed portraits and assess them by the certificate's conditions, if it has some.

        mirror: as for `features`. Certificates are measured with "sum" and are valid only for it.
        """
        features = self.features(np.stack([each.crop for each in portraits]), mirror)
        found = Embeddings(features, np.arange(len(portraits)).astype(str))
        known = self.assess(found.vectors, portraits)
        if mirror != "sum" and self.operating_point:
            known = [replace(each, outside=(*each.outside, ONE_ORIENTATION)) for each in known]
        return [
            FaceRecord(
                each.crop, found.vectors[row], float(found.norms[row]), each.face, each.found, known[row], each.likely
            )
            for row, each in enumerate(portraits)
        ]  # fmt: skip

    def assess(self, vectors: Floats, portraits: Sequence[Portrait]) -> list[Assessment]:
        """Assess portraits with unit vectors [N, D] by the certificate's conditions, if it has some."""
        conditions = self.operating_point.conditions if self.operating_point else None
        if conditions is None:
            return [Assessment()] * len(portraits)
        return conditions.assess(vectors, [signals(each.crop, each.face, self.template) for each in portraits])

    def verify(
        self,
        a: Picture,
        b: Picture,
        *,
        faces: Choice = "center",
        aligned: bool = False,
        order: Order = "RGB",
        anyway: bool = False,
        names: tuple[str, str] | None = None,
    ) -> Match:
        """Compare two photographs, or two aligned crops of a known template's size, given as for `faces`.

        Both orientations are embedded. The decision is that of the operating point; None without one. If a photograph
        is outside the certificate's conditions, the match is undecided; `anyway` decides it. With faces="all" the best
        pair of faces is the answer; see `compare`. Raises FaceError if no face is found.
        """
        return self.compare(a, b, faces=faces, aligned=aligned, order=order, anyway=anyway, names=names)[0]

    def compare(
        self,
        a: Picture,
        b: Picture,
        *,
        faces: Choice = "all",
        aligned: bool = False,
        order: Order = "RGB",
        anyway: bool = False,
        names: tuple[str, str] | None = None,
    ) -> list[Match]:
        """Compare every chosen face of a photograph with every one of another, best pair first; otherwise as `verify`.

        More pairs make a false match among them more likely.
        """
        called = names or (name_of(a, "the first"), name_of(b, "the second"))
        sides = self.faces_of((a, b), called, faces=faces, aligned=aligned, order=order)
        for found, name in zip(sides, called, strict=True):
            if not found:
                raise no_face(name)
        seen = [*sides[0], *sides[1]]
        exact = [cosine.exact(each.vector) for each in seen]
        count = len(sides[0])
        matches = []
        for i, j in product(range(count), range(count, len(seen))):
            score = float(cosine.paired(exact[i], exact[j]))
            decision = self.operating_point.accepts(score) if self.operating_point else None
            matches.append(covered(Match(score, decision), [seen[i], seen[j]], called, anyway=anyway))
        return sorted(matches, key=lambda match: -match.score)

    @staticmethod
    def fuse(vectors: ArrayLike, weights: ArrayLike | None = None) -> Floats:
        """Fuse vectors [N, D] of one person into a template [D]: the normalized mean of the unit vectors.

        weights: [N], not negative, such as `FaceRecord.quality`; None for equal weights.
        Raises InputError for other shapes, NaN, or a sum of zero.
        """
        return fuse(vectors, weights)

    def open_gallery(self, url: str | Path, *, key: bytes | str | None = None, create: bool = True) -> FaceGallery:
        """Open a gallery of this model that enrols and searches photographs; arguments as of `gallery.open_gallery`."""
        from ..gallery import open_gallery

        return FaceGallery(self, open_gallery(
            url, model=self.sha256, operating_point=self.operating_point, key=key, create=create
        ))  # fmt: skip


def _listed(images: Any) -> list[Picture]:
    """Return several pictures, or a single one, as a list."""
    return list(images) if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4 else [images]


def _names(pictures: Sequence[Picture]) -> list[str]:
    """The pictures' paths if they are distinct, otherwise their numbers."""
    paths = [name_of(each, "") for each in pictures]
    return paths if all(paths) and len(set(paths)) == len(paths) else [str(i) for i in range(len(paths))]


def _one(found: Sequence[Portrait], name: str) -> Portrait:
    """The first of the portraits. Raises FaceError if there is none."""
    if not found:
        raise no_face(name)
    return found[0]


def verify(a: Picture, b: Picture, *, model: str | Path | None = None, order: Order = "RGB") -> Match:
    """Compare the faces in two photographs, each a path, bytes, file, Pillow image, array or tensor; see `read_image`.

    model: as for `Embedder.load`. To compare many pairs, load an Embedder once and call its `verify`.

    Raises DataError for a file that is not a photograph, FaceError if no face is found, ModelError for an invalid
    model.
    """
    return Embedder.load(model).verify(a, b, order=order)
