"""The paper's results on the loss of normalized features, as plain functions of numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

# Known kissing numbers: the maximum number of unit vectors with all cosines ≤ 1/2 (Cohn's table; Musin 2008 for 4).
KISSING = {3: 12, 4: 24, 8: 240, 24: 196_560}


def loss_lower_bound(num_classes: int, scale: float) -> float:
    """Lower bound of the mean scaled-softmax loss on balanced classes, in nats (Proposition 2, with scale = ℓ²).

    log(1 + (n - 1)·exp(-n·scale / (n - 1))); a regular simplex of class weights attains it.
    Raises InputError unless num_classes ≥ 2 and scale is finite and positive.
    """
    _check_classes(num_classes)
    _check_positive("scale", scale)
    n = num_classes
    exponent = math.log(n - 1) - n * scale / (n - 1)  # log of the odds against the right class
    return exponent + math.log1p(math.exp(-exponent)) if exponent > 0 else math.log1p(math.exp(exponent))


def scale_for_probability(num_classes: int, probability: float) -> float:
    """Smallest scale at which a well-classified sample can reach `probability`: the inverse of the bound.

    (n - 1)/n · log((n - 1)·P / (1 - P)), never below 0 (any scale reaches P ≤ 1/n).
    Raises InputError unless num_classes ≥ 2 and 0 < probability < 1.
    """
    _check_classes(num_classes)
    if not 0 < probability < 1:
        raise InputError("a probability between 0 and 1, both excluded", str(probability), "correct the probability")
    n = num_classes
    return max(0.0, (n - 1) / n * (math.log(n - 1) + math.log(probability) - math.log1p(-probability)))


def initial_loss(num_classes: int, scale: float, dim: int = 512) -> float:
    """Expected scaled-softmax loss of random unit features and class weights, in nats: the loss at initialization.

    Given its feature, a sample's cosines are independent, and log Σ_j exp(s·cos_j) = E max_j(s·cos_j + G_j) - γ with
    standard Gumbel G (the own class's logit is 0 on average). With F(v) = E exp(-exp(s·cos - v)), the distribution of
    one term, this equals ∫ exp(-e^-v) - F(v)ⁿ dv, computed to 1e-6 for scales up to 1000. For s² ≪ dim it is close to
    log n + s²/(2·dim); at larger scales (such as 64) that approximation is too high.
    The loss of a batch of B samples deviates by about s/√(dim·B).
    Raises InputError unless num_classes ≥ 2, scale is finite and positive, and dim ≥ 2.
    """
    _check_classes(num_classes)
    _check_positive("scale", scale)
    step = 0.25 * max(1.0, scale / 1000)  # Gumbel's curves are analytic: the trapezoidal rule errs by e^(-π²/step)
    cosine, weight = _cosines(dim, num_classes, step / scale)
    far = scale * cosine.max()
    v = np.arange(-far - 6, far + math.log(num_classes) + 40, step)
    parts = np.array_split(v, 1 + len(v) * len(cosine) // 100_000)
    above = np.concatenate(  # 1 - F
        [-np.expm1(-np.exp(np.minimum(scale * cosine - part[:, None], 700))) @ weight for part in parts]
    )
    with np.errstate(divide="ignore"):
        largest = np.exp(num_classes * np.log1p(-np.minimum(above, 1)))
    return float(step * np.sum(np.exp(-np.exp(np.minimum(-v, 700))) - largest))


def equilibrium_norm(lr: float, weight_decay: float, gradient_norm: float) -> float:
    """Equilibrium norm under SGD with weight decay of a vector that is normalized before use: (lr·g² / (2·decay))^¼.

    The gradient at norm r is tangent to the sphere and has length g/r (eq. 4), so a step adds (lr·g/r)² to r², and
    decay subtracts 2·lr·decay·r². With momentum m, pass lr / (1 - m).

    Args:
        gradient_norm: g, the root mean square length of the tangential gradient at unit norm.

    Raises InputError unless all are finite and positive.
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("gradient_norm", gradient_norm)):
        _check_positive(name, value)
    return float((lr * gradient_norm**2 / (2 * weight_decay)) ** 0.25)


def separable_vectors(dim: int, distance: float) -> tuple[float, float]:
    """Bounds (lower, upper) on the number of unit vectors with pairwise squared distances of at least `distance`.

    Both bounds are equal where the number is known: above 2 (a simplex, at most dim + 1) and at 2 (2·dim, ± an
    orthonormal basis; both Rankin 1955), in 2 dimensions, and at 1 (the margin of C-contrastive) in 3, 4, 8 and 24
    dimensions, the kissing numbers. Otherwise the lower bound is 2·dim or the number of caps of that radius that cover
    the sphere (Gilbert's argument: vectors can be added until they do), whichever is larger; the upper bound is the
    number of disjoint caps of half the angle.
    Infinite if distance ≤ 0, or if the number exceeds the range of floats.
    Raises InputError unless dim ≥ 2 and distance is a number.
    """
    _check_dim(dim)
    if math.isnan(distance):
        raise InputError("a squared distance that is a number", str(distance), "correct distance")
    cosine = 1 - distance / 2
    if distance <= 0:
        return math.inf, math.inf
    slack = 1 + 1e-12  # distances such as 8/3 are not exact in binary
    if distance > 4 * slack:
        return 1.0, 1.0
    if cosine < 0:
        exact = min(dim + 1, math.floor((1 - 1 / cosine) * slack))
    elif dim == 2:
        exact = math.floor(2 * math.pi / math.acos(cosine) * slack)
    elif cosine == 0:
        exact = 2 * dim
    elif cosine == 0.5 and dim in KISSING:
        exact = KISSING[dim]
    else:
        half = 2 - 2 * math.sqrt((1 + cosine) / 2)
        covering, packing = (near_probability(dim, d) for d in (distance, half))
        least = max(2.0 * dim, math.ceil(1 / covering) if covering > 0 else math.inf)
        return float(least), float(math.floor(1 / packing)) if packing > 0 else math.inf
    return float(exact), float(exact)


def near_probability(dim: int, distance: float) -> float:
    """Probability that the squared distance of two random unit vectors is below `distance`.

    A quarter of the squared distance is Beta((dim - 1)/2, (dim - 1)/2)-distributed: mean 2, deviation 2/√dim.
    Raises InputError unless dim ≥ 2.
    """
    _check_dim(dim)
    return float(_near(dim, np.array(distance)))


def expected_active_negatives(num_classes: int, dim: int, margin: float, *, own_distance: float | None = 0.0) -> float:
    """Expected number of other agents that push a sample at random initialization: (n - 1)·P(d < margin + own).

    Args:
        margin: of squared distance.
        own_distance: squared distance of the sample to its own agent. 0 gives the condition of C-contrastive (eq. 10),
            which has no such term; None treats it as random too: C-triplet (eq. 11) at initialization.

    Raises InputError unless num_classes ≥ 2 and dim ≥ 2.
    """
    _check_classes(num_classes)
    if own_distance is not None:
        return (num_classes - 1) * near_probability(dim, margin + own_distance)
    cosine, weight = _cosines(dim, 1, 1e-3)
    return float((num_classes - 1) * (weight @ _near(dim, margin + 2 - 2 * cosine)))


def _near(dim: int, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import betainc  # imported here, because it loads slowly

    return np.asarray(betainc((dim - 1) / 2, (dim - 1) / 2, np.clip(distances / 4, 0, 1)))


def _cosines(dim: int, count: int, spacing: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Quadrature nodes and weights for the cosine of two random unit vectors: density ∝ sin^(dim-2) of the angle.

    Nodes are at most `spacing` apart (Gauss-Legendre, 16 per panel). The ends that fewer than one in 1e18 · `count`
    vectors reach are left out.
    """
    _check_dim(dim)
    reach = math.acos(math.sqrt(-math.expm1(-2 * (math.log(count) + 41) / (dim - 2)))) if dim > 2 else 0.0
    node, weight = np.polynomial.legendre.leggauss(16)
    edge = np.linspace(reach, math.pi - reach, 8 + math.ceil((math.pi - 2 * reach) / (8 * spacing)))
    angle = (edge[:-1, None] + np.diff(edge)[:, None] * (node + 1) / 2).ravel()
    density = np.tile(weight, len(edge) - 1) * np.sin(angle) ** (dim - 2)
    return np.cos(angle), density / density.sum()


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"a positive, finite {name}", str(value), f"correct {name}")


def _check_dim(dim: int) -> None:
    if dim < 2:
        raise InputError("at least 2 dimensions", str(dim), "correct dim")


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
