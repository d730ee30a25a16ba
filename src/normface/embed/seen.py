"""What is seen in a photograph, and what follows for decisions on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..conditions import Assessment
from ..errors import FaceError
from ..types import Face, Floats, Image, Match


class Portrait(NamedTuple):
    """A face cut out of a photograph.

    Attributes:
        crop: [height, width, 3] uint8 RGB, aligned.
        face: in the photograph's pixels; None for an image that came aligned.
        found: how many faces there were; the one nearest the center is `face`.
    """

    crop: Image
    face: Face | None = None
    found: int = 1


@dataclass(frozen=True)
class Seen:
    """A portrait with its embedding.

    Attributes:
        crop, face, found: as in `Portrait`.
        vector: [D], unit.
        norm: length of the feature before it was normalized.
        assessment: what the certificate's conditions say of the photograph.
    """

    crop: Image
    vector: Floats
    norm: float
    face: Face | None
    found: int
    assessment: Assessment = field(default_factory=Assessment)


def covered(match: Match, seen: Sequence[Seen], names: Sequence[str], *, anyway: bool = False) -> Match:
    """The match without its decision where one of the photographs lies outside the certificate's conditions.

    `anyway` keeps the decision. Either way the match says what lies outside, by the photographs' names.
    """
    outside = tuple(complaints(seen, names))
    risks = [each.assessment.risk for each in seen if each.assessment.risk is not None]
    decision = match.decision if anyway or not outside else None
    return replace(match, decision=decision, outside=outside, risk=max(risks, default=None))


def complaints(seen: Sequence[Seen], names: Sequence[str]) -> list[str]:
    """What lies outside the certificate's conditions, a sentence each, by the photographs' names."""
    return [f"{name}: {what}" for name, each in zip(names, seen, strict=True) for what in each.assessment.outside]


def refuse_outside(seen: Sequence[Seen], names: Sequence[str], way: str = "--anyway") -> None:
    """Raise FaceError where a photograph lies outside the certificate's conditions; `way` is how to use it anyway."""
    if told := complaints(seen, names):
        raise FaceError(
            "photographs that the model's certificate covers", "; ".join(told), f"give others, or add {way}"
        )
