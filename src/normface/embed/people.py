"""A gallery that accepts photographs, and the fusion of several photographs of one person."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import ArrayLike

from ..data import Order, Picture
from ..data.pictures import name_of
from ..errors import ConfigError, FaceError, InputError
from ..faces import Choice
from ..faces.video import is_video
from ..types import Floats, Match
from .seen import FaceRecord, covered, no_face, refuse_outside

if TYPE_CHECKING:
    from ..faces.finding import Portrait
    from ..gallery import Gallery

Keep = Literal["each", "fused", "both"]


class Sees(Protocol):
    """The methods of an `Embedder` for photographs."""

    def faces(
        self, photograph: Picture, *, faces: Choice = ..., aligned: bool = ..., order: Order = ...
    ) -> list[FaceRecord]:
        """See `Embedder.faces`."""

    def portraits(
        self,
        photographs: Sequence[Picture],
        names: Sequence[str] | None = ...,
        *,
        faces: Choice = ...,
        aligned: bool = ...,
        order: Order = ...,
    ) -> list[list[Portrait]]:
        """See `Embedder.portraits`."""

    def see(self, portraits: Sequence[Portrait]) -> list[FaceRecord]:
        """See `Embedder.see`."""


def fuse(vectors: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """See `Embedder.fuse`."""
    rows = np.asarray(vectors, np.float64)
    share = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    if rows.ndim != 2 or not rows.size or share.shape != (len(rows),) or not (share >= 0).all():
        raise InputError(
            "vectors [N, D] and N weights that are not negative", f"{list(rows.shape)} and {list(share.shape)}",
            "give one weight for each vector",
        )  # fmt: skip
    mean = share @ (rows / np.linalg.norm(rows, axis=1, keepdims=True))
    length = np.linalg.norm(mean)
    if not (np.isfinite(length) and length > 0):
        raise InputError("vectors and weights whose mean is not zero", "zero or NaN", "leave out broken vectors")
    return np.asarray((mean / length).astype(np.float32))


class FaceGallery:
    """A gallery and the embedder of its templates: enrols, verifies and searches photographs.

    Photographs are given as for `Embedder.faces`. For vectors and all other functions, use the attribute `gallery`.

    Attributes:
        embedder, gallery: its parts.
    """

    def __init__(self, embedder: Sees, gallery: Gallery) -> None:
        self.embedder, self.gallery = embedder, gallery

    def enrol(
        self,
        person: str,
        photographs: Picture | Sequence[Picture],
        *,
        faces: Choice | None = None,
        aligned: bool = False,
        order: Order = "RGB",
        keep: Keep = "both",
        consent: str | None = None,
        anyway: bool = False,
    ) -> list[FaceRecord]:
        """Add templates of a person. `keep` chooses the templates of several photographs: "each", "fused" or "both".

        See `enrollable`. Returns the faces enrolled.
        """
        pictures = list(photographs) if isinstance(photographs, list | tuple) else [photographs]
        seen = enrollable(self.embedder, pictures, faces=faces, aligned=aligned, order=order, anyway=anyway)
        vectors, quality = templates(seen, keep)
        self.gallery.enrol(person, vectors, quality=quality, consent=consent)
        return seen

    def search(
        self,
        photograph: Picture,
        k: int = 10,
        *,
        faces: Choice = "center",
        aligned: bool = False,
        order: Order = "RGB",
        anyway: bool = False,
        tag: str | None = None,
        threshold: float | None = None,
    ) -> list[Match]:
        """Return the k people most similar to the chosen face, best first: see `Gallery.search`, `search_all`."""
        if faces == "all":
            raise ConfigError("one face: center, largest or best", "all", "call search_all")
        found = self.search_all(
            photograph, k, faces=faces, aligned=aligned, order=order, anyway=anyway, tag=tag, threshold=threshold
        )
        return found[0][1]

    def search_all(
        self,
        photograph: Picture,
        k: int = 1,
        *,
        faces: Choice = "all",
        aligned: bool = False,
        order: Order = "RGB",
        anyway: bool = False,
        tag: str | None = None,
        threshold: float | None = None,
    ) -> list[tuple[FaceRecord, list[Match]]]:
        """Return each face in a photograph with the k people most similar to it. Raises FaceError for no face."""
        seen, name = self._see(photograph, faces, aligned, order), name_of(photograph)
        search = partial(self.gallery.search, k=k, tag=tag, threshold=threshold)
        return [
            (each, [covered(match, [each], [name], anyway=anyway) for match in search(each.vector)]) for each in seen
        ]

    def verify(
        self, person: str, photograph: Picture, *, faces: Choice = "center", aligned: bool = False,
        order: Order = "RGB", anyway: bool = False,
    ) -> Match:  # fmt: skip
        """Compare the chosen face with a person's templates. Raises FaceError for no face."""
        if faces == "all":
            raise ConfigError("one face: center, largest or best", "all", "give another choice")
        (seen,) = self._see(photograph, faces, aligned, order)
        match = self.gallery.verify(person, seen.vector)
        return covered(match, [seen], [name_of(photograph)], anyway=anyway)

    def _see(self, photograph: Picture, faces: Choice, aligned: bool, order: Order) -> list[FaceRecord]:
        seen = self.embedder.faces(photograph, faces=faces, aligned=aligned, order=order)
        if not seen:
            raise no_face(name_of(photograph))
        return seen

    def __len__(self) -> int:
        return len(self.gallery)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.gallery.close()


def enrollable(
    embedder: Sees,
    photographs: Sequence[Picture],
    *,
    faces: Choice | None = None,
    aligned: bool = False,
    order: Order = "RGB",
    anyway: bool = False,
) -> list[FaceRecord]:
    """Return the face of each photograph of one person.

    faces: None refuses a photograph with two plausible faces, or a video in which two are followed; "center",
    "largest" or "best" chooses, in a video the face seen longest. Photographs that the model's certificate does not
    cover are refused, unless `anyway`.
    Raises FaceError for what is refused, and for a photograph without a face.
    """
    if faces == "all":
        raise ConfigError("one face of each photograph: center, largest or best", "all", "give another choice")
    names = [name_of(each) for each in photographs]
    known = [
        [each] if isinstance(each, FaceRecord) else embedder.faces(each, aligned=aligned) if is_video(each) else None
        for each in photographs
    ]
    unseen = [row for row, each in enumerate(known) if each is None]
    pictures, called, choice = [photographs[row] for row in unseen], [names[row] for row in unseen], faces or "center"
    found = embedder.portraits(pictures, called, faces=choice, aligned=aligned, order=order) if unseen else []
    likely = {row: portraits[0].likely for row, portraits in zip(unseen, found, strict=True) if portraits}
    likely |= {row: len(each) for row, each in enumerate(known) if each}
    for row, name in enumerate(names):
        if row not in likely:
            raise no_face(name)
        if faces is None and likely[row] > 1:
            raise FaceError(
                f"one face in {name}", f"{likely[row]} that may be meant",
                "choose one by --faces center, largest or best (in Python: faces=), or cut the photograph",
            )  # fmt: skip
    records = iter(embedder.see([portraits[0] for portraits in found]) if found else [])
    seen = [each[0] if each else next(records) for each in known]
    if not anyway:
        refuse_outside(seen, names)
    return seen


def templates(seen: Sequence[FaceRecord], keep: Keep = "both") -> tuple[Floats, Floats]:
    """Return vectors [N, D] and norms [N] to enrol from one person's faces: each, their weighted mean, or both."""
    if keep not in get_args(Keep):
        raise ConfigError(f"templates among {', '.join(get_args(Keep))}", repr(keep), "correct it")
    vectors, norms = np.stack([each.vector for each in seen]), np.array([each.norm for each in seen])
    if len(seen) == 1 or keep == "each":
        return vectors, norms
    fused, norm = fuse(vectors, [each.quality for each in seen])[None], norms.mean(keepdims=True)
    return (fused, norm) if keep == "fused" else (np.concatenate([vectors, fused]), np.concatenate([norms, norm]))
