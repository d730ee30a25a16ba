"""Faces found in a photograph, and their effect on decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..conditions import Assessment
from ..errors import FaceError
from ..faces import eye_distance
from ..types import Face, Floats, Image, Match


@dataclass(frozen=True)
class FaceRecord:
    """A face with its embedding.

    Attributes:
        crop: [height, width, 3] uint8 RGB, aligned.
        vector: [D], unit.
        norm: length of the feature before it was normalized.
        face: in the photograph's pixels; None for an image that came aligned.
        found: how many faces the photograph has.
        assessment: what the certificate's conditions say of the photograph.
        likely: how many of the faces found may be meant (`Portrait`).
    """

    crop: Image
    vector: Floats
    norm: float
    face: Face | None
    found: int
    assessment: Assessment = field(default_factory=Assessment)
    likely: int = 1

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """x0, y0, x1, y1 in the photograph's pixels."""
        return self.face.box if self.face else None

    @property
    def landmarks(self) -> Floats | None:
        """[5, 2], see `Face`."""
        return self.face.landmarks if self.face else None

    @property
    def score(self) -> float | None:
        """The detector's score, in [0, 1]."""
        return self.face.score if self.face else None

    @property
    def eye_distance(self) -> float | None:
        """Distance between the eyes in the photograph's pixels."""
        return eye_distance(self.face.landmarks) if self.face else None

    @property
    def quality(self) -> float:
        """Weight for `Embedder.fuse`, in [0, 1]: 1 minus the estimated risk; without conditions the detector's score.

        1 for an aligned crop without conditions.
        """
        if self.assessment.risk is not None:
            return 1 - self.assessment.risk
        return 1.0 if self.face is None else self.face.score


def covered(match: Match, seen: Sequence[FaceRecord], names: Sequence[str], *, anyway: bool = False) -> Match:
    """Return the match with its faces, without its decision if a photograph is outside the certificate's conditions.

    `anyway` keeps the decision. In both cases the match says what is outside, by the photographs' names.
    """
    outside = tuple(complaints(seen, names))
    risks = [each.assessment.risk for each in seen if each.assessment.risk is not None]
    decision = match.decision if anyway or not outside else None
    return replace(
        match, decision=decision, outside=outside, risk=max(risks, default=None),
        faces=tuple(each.face for each in seen), found=tuple(each.found for each in seen),
    )  # fmt: skip


def no_face(name: str) -> FaceError:
    """Return the error for a photograph without a face."""
    return FaceError(f"a face in {name}", "none found", "give a photograph with a visible face")


def complaints(seen: Sequence[FaceRecord], names: Sequence[str]) -> list[str]:
    """Return a sentence for each photograph outside the certificate's conditions, by name."""
    return [f"{name}: {what}" for name, each in zip(names, seen, strict=True) for what in each.assessment.outside]


def refuse_outside(seen: Sequence[FaceRecord], names: Sequence[str], way: str = "--anyway") -> None:
    """Raise FaceError if a photograph is outside the certificate's conditions; `way` is the option to use it anyway."""
    if told := complaints(seen, names):
        raise FaceError(
            "photographs that the model's certificate covers", "; ".join(told), f"give others, or add {way}"
        )
