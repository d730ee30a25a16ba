"""Questions that an enrolment raises: the same photograph again, a known face, another person's face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConfigError
from .base import Doubt, Enrolments
from .names import folded

Decide = Callable[[float], bool | None]
SAME = 1 - 1e-6  # cosine from which two vectors are of the same photograph
AT_ONCE = 1024  # rows of an enrolment that are compared with all others at once


@dataclass(frozen=True)
class Look:
    """What a gallery says of one row: the best cosine with the person's templates, and who else is most alike.

    `enrolled_as`: names under which the row's photograph is enrolled, by its hash.
    """

    own: float | None
    other: tuple[str, float] | None
    enrolled_as: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Settled:
    """An enrolment after the questions.

    Attributes:
        accepted: the rows to enrol; None if there are none.
        open: questions without an answer, by row.
        duplicates: number of rows left out because they are enrolled already.
        warnings: sentences about near names.
    """

    accepted: Enrolments | None
    open: Mapping[int, str]
    duplicates: int
    warnings: list[str]


def settle(some: Enrolments, doubts: Sequence[Doubt], *, same_person: bool = False, twin: bool = False) -> Settled:
    """Apply answers to the doubts about an enrolment: duplicates are left out, and open questions too.

    same_person: a face known by another name is the same person's, and is enrolled under the known name; one that is
    unlike the person's others is theirs. twin: a known face is another person's, and keeps the name given.
    """
    if same_person and twin:
        raise ConfigError("same_person or twin", "both", "give one of them")
    people, left, questions, warnings = list(some.people), set(range(len(some))), {}, []
    for doubt in doubts:
        if doubt.kind == "name":
            warnings.append(f"{doubt.person} is new, and nearly called as {doubt.other}, who is enrolled")
        elif doubt.kind == "duplicate":
            left.discard(doubt.row)
        elif doubt.kind == "known" and same_person and doubt.other:
            people[doubt.row] = doubt.other
        elif not (same_person or (twin and doubt.kind == "known")):
            left.discard(doubt.row)
            questions[doubt.row] = (
                f"a face known as {doubt.other}, cosine {doubt.score:.4f}" if doubt.kind == "known"
                else f"a face unlike the other photographs of {doubt.person}, cosine {doubt.score:.4f} at best"
            )  # fmt: skip
    accepted = replace(some, people=people).select(sorted(left)) if left else None
    return Settled(accepted, questions, sum(doubt.kind == "duplicate" for doubt in doubts), warnings)


def find_doubts(some: Enrolments, look: Sequence[Look], recognizes: Decide, accepts: Decide) -> list[Doubt]:
    """Compare each row with what the gallery says of it, and with the other rows.

    `recognizes` decides who a face is among all people, `accepts` whether it is of one given person.
    """
    names = [folded(name) for name in some.people]
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    whose = np.array([number[name] for name in names])
    sources = some.source or [None] * len(some)
    found = []
    for start in range(0, len(some), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(some)))
        scores = some.vectors[rows] @ some.vectors.T
        scores[np.arange(len(rows)), rows] = -np.inf
        own = whose[rows][:, None] == whose
        earlier = np.arange(len(some)) < rows[:, None]
        mates = np.where(own, scores, -np.inf).max(1)
        before = np.where(own & earlier, scores, -np.inf).max(1)
        strangers = np.where(~own & earlier, scores, -np.inf)
        for at, row in enumerate(rows.tolist()):
            nearest = int(strangers[at].argmax())
            others = [(some.people[nearest], float(strangers[at, nearest]))] if strangers[at, nearest] > -np.inf else []
            others += [each] if (each := look[row].other) else []
            again = sources[row] is not None and any(
                sources[mate] == sources[row] for mate in np.flatnonzero(own[at] & earlier[at]).tolist()
            )
            found += _doubts(some.people[row], row, look[row], max(mates[at], look[row].own or -1.0),
                             again or before[at] >= SAME, max(others, key=lambda other: other[1], default=None),
                             look[row].own is not None or mates[at] > -np.inf, recognizes, accepts)  # fmt: skip
    return found


def _doubts(
    name: str, row: int, look: Look, own: float, again: bool, other: tuple[str, float] | None, has_others: bool,
    recognizes: Decide, accepts: Decide,
) -> list[Doubt]:  # fmt: skip
    if again or folded(name) in {folded(each) for each in look.enrolled_as} or (look.own or 0.0) >= SAME:
        return [Doubt(row, "duplicate", name, score=float(own))]
    if look.enrolled_as:
        return [Doubt(row, "known", name, min(look.enrolled_as), 1.0)]
    if other and (other[1] >= SAME or recognizes(other[1])):
        return [Doubt(row, "known", name, other[0], other[1])]
    if has_others and accepts(float(own)) is False:
        return [Doubt(row, "unlike", name, score=float(own))]
    return []
