"""What the demo says to a reader who has not read the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import report
from ..types import Estimate
from .demo_plan import GROWING, NORMFACE, PLAIN, UNSCALED

IDEAS = {
    PLAIN: "The usual classifier: it scores a picture for each person by multiplying the embedding with that person's "
    "vector. Lengths count too, although two faces are compared by angles alone.",
    UNSCALED: "Brings the embedding and each person's vector to length 1. Training now sees only angles, as the "
    "comparison does.",
    NORMFACE: "Does the same, and multiplies the cosines by a number that is learned, the scale.",
    GROWING: "Counts a picture as right only if it lies closer to its own person's vector than to every other by an "
    "angle, the margin of ArcFace. The angle grows during training.",
}


def introduction(images: int, people: int, pairs: int, faces_are: str) -> str:
    """Describe the experiment."""
    return (
        "A face network turns a picture of a face into a list of numbers, its embedding. Two pictures count as the "
        "same person if their embeddings point in nearly the same direction: if the cosine of the angle between "
        f"them is high. Here one small network was trained on {images:,} {faces_are} of {people:,} people, several "
        f"times from the same initialization. Then it had to decide for {pairs:,} pairs of pictures of other people "
        "whether both show the same person. Guessing is right for half of them. Only the loss, the number that "
        "training minimizes, differs."
    )


def told(rows: Sequence[report.Row], people: int) -> str:
    """Summarize the figures in a few sentences."""
    by_name = {each.name: each for each in rows}
    sentences = []
    if (unscaled := by_name.get(UNSCALED)) and unscaled.bound is not None:
        final = float(np.mean(unscaled.losses[-25:]))
        sentences.append(
            f"Without a scale, the loss cannot fall below {unscaled.bound:.2f}, even if every picture lies exactly on "
            f"its person's vector and the vectors of the {people:,} people are spread as evenly as can be (Proposition "
            "2 of the NormFace paper, arXiv 1704.06369). Even then each person gets a probability of only "
            f"{100 * np.exp(-unscaled.bound):.1f} %, so pictures that are right already pull on the network nearly as "
            f"hard as wrong ones. The loss ended at {final:.2f} (mean of the last 25 steps; guessing gives "
            f"{np.log(people):.2f}). With a scale it can fall further: this is NormFace."
        )
    sentences += [f"{name} {_against(by_name[name].difference)}." for name in (NORMFACE, GROWING)]
    sentences.append("Each was trained once: another seed (--seed) changes these differences by a point or so.")
    return " ".join(sentences)


def _against(difference: Estimate | None) -> str:
    assert difference is not None
    verdict = (
        "decides more pairs correctly than plain softmax" if difference.low > 0
        else "decides fewer pairs correctly than plain softmax" if difference.high < 0
        else "does not differ significantly from plain softmax on these pairs"
    )  # fmt: skip
    return f"{verdict} ({report.points(difference)} points)"


def what_next(exported: Path, faces_are: str) -> str:
    """Suggest next steps to a newcomer."""
    return (
        "Compare two photographs of your own with the built-in model: `normface verify a.jpg b.jpg`. Or train a "
        "network on your own faces, with one folder per person: `normface align PHOTOGRAPHS CROPS`, then "
        f"`normface train scratch --crops CROPS --out RUN`. The last network of this demo is used by `--model "
        f"{exported}`; it knows only these {faces_are}."
    )
