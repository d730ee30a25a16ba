"""What the paper proves about the loss of normalised features, as plain functions of numbers."""

from __future__ import annotations

import math

from .errors import InputError


def loss_lower_bound(num_classes: int, scale: float) -> float:
    """Least mean scaled-softmax loss on balanced classes, in nats (Proposition 2, with scale = ℓ²).

    log(1 + (n - 1)·exp(-n·scale / (n - 1))); a regular simplex of class weights attains it.
    Raises InputError unless num_classes ≥ 2 and scale is finite and positive.
    """
    _check_classes(num_classes)
    if not (math.isfinite(scale) and scale > 0):
        raise InputError("a positive, finite scale", str(scale), "correct it")
    n = num_classes
    exponent = math.log(n - 1) - n * scale / (n - 1)  # log of the odds against the right class
    return exponent + math.log1p(math.exp(-exponent)) if exponent > 0 else math.log1p(math.exp(exponent))


def scale_for_probability(num_classes: int, probability: float) -> float:
    """Least scale at which a well-classified sample can reach `probability`: the bound inverted.

    (n - 1)/n · log((n - 1)·P / (1 - P)), never below 0 (any scale reaches P ≤ 1/n).
    Raises InputError unless num_classes ≥ 2 and 0 < probability < 1.
    """
    _check_classes(num_classes)
    if not 0 < probability < 1:
        raise InputError("a probability between 0 and 1, both excluded", str(probability), "correct it")
    n = num_classes
    return max(0.0, (n - 1) / n * (math.log(n - 1) + math.log(probability) - math.log1p(-probability)))


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise InputError("at least 2 classes", str(num_classes), "correct the number of classes")


def adacos_scale(num_classes: int) -> float:
    """AdaCos's fixed scale √2·log(n - 1): own angles about π/4, all others π/2 (Zhang et al. 2019).

    Raises InputError unless num_classes ≥ 3 (for 2 it would be 0).
    """
    if num_classes < 3:
        raise InputError("at least 3 classes for AdaCos", str(num_classes), "give the scale as a number")
    return math.sqrt(2) * math.log(num_classes - 1)
