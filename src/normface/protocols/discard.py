"""Error-versus-discard curves (ISO/IEC 29794-1): error rates without the images of the lowest quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..errors import DataError
from ..types import Floats, Result
from .comparisons import Comparisons
from .group_rates import rates_of

DISCARDED = tuple(k / 40 for k in range(21))  # shares of images, up to one half
CURVE = "discard_"  # followed by the name of the quality


def with_discard(result: Result, comparisons: Comparisons, threshold: float, qualities: Mapping[str, Floats]) -> Result:
    """Return the result with an error-versus-discard curve `discard_NAME` for each quality of images.

    At one threshold (fact `discard_threshold`) the curve leaves out the share `discarded` of the images with the lowest
    quality, and every comparison with such an image. `comparisons` is the share of the remaining comparisons. The rates
    are `frr`, `far`, `frr_per_person` and `far_per_person`, each with the ends `_low` and `_high` of its 95 % interval
    over people. A curve ends when one kind of comparison has run out.

    qualities: name → quality of each image [N], higher is better. Images of equal quality are left out together.

    Raises DataError if the number of qualities is wrong, one is not finite, or all are equal.
    """
    curves = {f"{CURVE}{name}": _curve(comparisons, threshold, name, each) for name, each in qualities.items()}
    return replace(result, curves={**result.curves, **curves}, facts={**result.facts, "discard_threshold": threshold})


def _curve(comparisons: Comparisons, threshold: float, name: str, quality: Floats) -> dict[str, list[float]]:
    if quality.shape != comparisons.ids.shape or not np.isfinite(quality).all():
        raise DataError(f"a finite {name} of each image", "others", "measure each image that is compared")
    if not np.ptp(quality):
        raise DataError(f"images that differ in {name}", f"{quality[0]:g} for all", "choose another quality")
    ordered = np.sort(quality)
    found: dict[str, list[float]] = {}
    total = comparisons.n_genuine + comparisons.n_impostor
    left, right = comparisons.left, comparisons.right
    for share in DISCARDED:
        kept = quality >= ordered[int(share * len(ordered))]
        impostors = comparisons.impostors(kept, kept)
        rates = rates_of(comparisons, threshold, kept[left] & kept[right], impostors)
        if not (rates["far"] and rates["frr"]):
            break
        point = {
            "discarded": 1 - float(kept.mean()), "comparisons": (rates["far"].n + rates["frr"].n) / total,
            **{f"{rate}{end}": getattr(each.estimate, of) for rate, each in rates.items() if each
               for end, of in (("", "value"), ("_low", "low"), ("_high", "high"))},
        }  # fmt: skip
        if found and point["discarded"] <= found["discarded"][-1]:
            continue  # images of equal quality are left out together
        for axis, value in point.items():
            found.setdefault(axis, []).append(value)
    return found
