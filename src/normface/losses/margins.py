"""Published margins by name: each gives an `ops.Margin` per batch, and keeps its counts and averages as buffers.

θ is the own class's angle, ψ(θ) the value that replaces cos θ. "Scale" is the authors' choice.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..ops import Margin
from ..ops.margin import Quadratic
from ..ops.reference import Normalize
from ..registry import Registry
from .steps import Stepwise


class MarginRule(Stepwise):
    """Gives the margin of each batch. Counts and averages are buffers, which change once a step, in training only."""

    normalize: ClassVar[tuple[Normalize, ...]] = ("both", "weights")  # what it is defined for

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Map norms of the features [B] and cosines of the own classes [B] to a margin."""
        raise NotImplementedError

    def penalty(self, norms: Tensor) -> Tensor | float:
        """Return a scalar term of the features' norms [B] that is added to the loss."""
        return 0.0


LEAST_SHARE = 1e-3  # of a growing margin: its inverse is a factor


MARGINS: Registry[MarginRule] = Registry("margin", "normface.losses")


class Fixed(MarginRule):
    """The same margin for every sample."""

    def __init__(self, margin: Margin) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Return the margin, whatever the batch."""
        return self.margin

    def extra_repr(self) -> str:
        return repr(self.margin)


@MARGINS.register
class CosFace(Fixed):
    """ψ = cos θ - cosine (Wang et al. 2018, arXiv 1801.09414; as AM-Softmax, arXiv 1801.05599). Scale 64 (AM: 30).

    Args:
        cosine: 0.35, the authors' best on CASIA-WebFace.
    """

    def __init__(self, *, cosine: float = 0.35) -> None:
        super().__init__(Margin(cosine=cosine))


@MARGINS.register
class ArcFace(Fixed):
    """ψ = cos(θ + angle) (Deng et al. 2019, arXiv 1801.07698). Scale 64.

    Beyond π it continues to fall as -cos(θ + angle) - 2; the original uses cos θ - angle·sin(angle) there.

    Args:
        angle: 0.5 radians, the authors' best on CASIA-WebFace.
        gradient: "exact", as in the original; or "straight-through", as later in insightface (see `ops.Margin`).
    """

    def __init__(self, *, angle: float = 0.5, gradient: Literal["exact", "straight-through"] = "exact") -> None:
        super().__init__(Margin(angle=angle, gradient=gradient))


@MARGINS.register
class X2Softmax(Fixed):
    """ψ = curve·(θ - vertex)² + top: a margin that grows with the angle (Xu et al. 2023, arXiv 2312.05281). Scale 64.

    Defaults: those of the authors' training command. With them ψ lies 0.35 below cos θ at 0 and 1.6 below at π/2.

    Args:
        curve, vertex, top: a, h and k of the paper, -0.9, 0 and 0.65; curve below 0, vertex at most 0.
        gradient: "exact"; or "straight-through", the gradient of cos θ, as in the authors' code (see `ops.Margin`).
    """

    def __init__(
        self,
        *,
        curve: float = -0.9,
        vertex: float = 0.0,
        top: float = 0.65,
        gradient: Literal["exact", "straight-through"] = "exact",
    ) -> None:
        super().__init__(Quadratic(curve=curve, vertex=vertex, top=top, gradient=gradient))


@MARGINS.register
class SphereFace(MarginRule):
    """ψ = (λ·cos θ + χ)/(1 + λ), χ = (-1)ᵏ·cos(multiply·θ) - 2k, on logits ‖x‖·ψ (Liu et al. 2017, arXiv 1704.08063).

    λ = max(least, start/(1 + decay·it)) falls with the number `it` of training steps, counted from 1.
    Requires normalize="weights". Scale 1: ‖x‖ takes its place.

    Args:
        multiply: 4, the authors' best; they derive that it must be at least 3 for many classes.
        start, decay, least: 1000, 0.12 and 5, as the authors on CASIA-WebFace: the margin alone does not converge.
    """

    normalize = ("weights",)
    steps: Tensor

    def __init__(
        self, *, multiply: float = 4.0, start: float = 1000.0, decay: float = 0.12, least: float = 5.0
    ) -> None:
        super().__init__()
        _not_negative(start=start, decay=decay, least=least)
        self.multiply, self.start, self.decay, self.least = multiply, start, decay, least
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        Margin(multiply=multiply)  # raises where it makes no sense

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Return the step's margin; λ falls with each step in training."""
        if self.training:
            self.of_step(cosines)
            self.steps += 1
        blend = (self.start / (1 + self.decay * self.steps.to(cosines.dtype))).clamp(min=self.least)
        return Margin(multiply=self.multiply, blend=blend)


@MARGINS.register
class SphereFaceR(Fixed):
    """ψ = cos(min(multiply·θ, π)) (SphereFace-R v1, Liu et al. 2021, arXiv 2109.05565). Scale 30.

    Args:
        multiply: 1.5, as in the authors' code: without annealing it must be far below SphereFace's 4.
        gradient: "straight-through", as the authors (characteristic gradient detachment: more stable, and effective
            beyond π); or "exact", which is 0 beyond π.
    """

    def __init__(
        self, *, multiply: float = 1.5, gradient: Literal["exact", "straight-through"] = "straight-through"
    ) -> None:
        super().__init__(Margin(multiply=multiply, gradient=gradient, beyond="clamp"))


@MARGINS.register
class CurricularFace(MarginRule):
    """ψ = cos(θ + angle); other cosines above ψ become cos·(t + cos) (Huang et al. 2020, arXiv 2004.00288). Scale 64.

    t is a moving average of the own classes' mean cosine, starting at 0 and including the current batch: easy samples
    dominate at first (t + cos < 1), hard ones later. Beyond π as `ArcFace`.

    Args:
        angle: 0.5, as ArcFace.
        momentum: 0.01, weight of the batch in t.
    """

    t: Tensor

    def __init__(self, *, angle: float = 0.5, momentum: float = 0.01) -> None:
        super().__init__()
        _share(momentum)
        self.angle, self.momentum = angle, momentum
        self.register_buffer("t", torch.zeros(()))
        Margin(angle=angle)  # raises where it makes no sense

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Return the margin with the moving average t, which takes in the batch in training."""
        if self.training:
            _average(self.t, self.of_step(cosines).mean(), self.momentum)
        return Margin(angle=self.angle, curriculum=self.t.clone())


@MARGINS.register
class AdaFace(MarginRule):
    """ψ = cos(θ - m·ẑ) - (m·ẑ + m), ẑ = h·(‖x‖ - μ)/σ within ±1 (Kim et al. 2022, arXiv 2204.00964). Scale 64.

    ‖x‖ serves as the image's quality. ẑ = -1 gives ArcFace's margin m, which emphasizes easy samples; ẑ = 0 that of
    CosFace; ẑ = 1 a negative angle, which emphasizes hard samples. So unrecognizable images count less.
    μ and σ are moving averages of mean and standard deviation of ‖x‖ per step, including the current batch. ‖x‖ is
    clipped to [0.001, 100] and receives no gradient here. The angle is clamped to [0, π] (original: 0.001 inside).

    Args:
        margin: m, 0.4, the authors' best.
        concentration: h, 0.333: ‖x‖ is roughly normal, so two thirds of ẑ lie within ±0.333 and nearly all within ±1.
        momentum: 0.01, weight of the batch in μ (initially 20) and σ (initially 100). A batch of one keeps σ.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, margin: float = 0.4, concentration: float = 0.333, momentum: float = 0.01) -> None:
        super().__init__()
        _not_negative(margin=margin, concentration=concentration)
        _share(momentum)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("deviation", torch.tensor(100.0))

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Return each sample's margin by its norm; μ and σ take in the batch in training."""
        norms = norms.detach().clamp(1e-3, 100)
        if self.training:
            whole = self.of_step(norms)
            _average(self.mean, whole.mean(), self.momentum)
            if len(whole) > 1:
                _average(self.deviation, whole.std(), self.momentum)
        # The original's 0.001: equal norms have no deviation.
        z = (self.concentration * (norms - self.mean) / (self.deviation + 1e-3)).clamp(-1, 1)
        return Margin(angle=-self.margin * z, cosine=self.margin * z + self.margin, beyond="clamp")


@MARGINS.register
class MagFace(MarginRule):
    """ψ = cos(θ + m(a)), a = clip(‖x‖, least, most), m linear in a (Meng et al. 2021, arXiv 2103.06627). Scale 64.

    The penalty weight·mean(a/most² + 1/a) pulls ‖x‖ towards `most`; the growing margin holds hard samples back, so ‖x‖
    becomes a measure of quality. The gradient passes through a, in margin and penalty; it is 0 where ‖x‖ is clipped.
    The authors' code gives own cosines below 0 no margin ("easy margin"); here all have it, beyond π as `ArcFace`.

    Args:
        least, most: 10 and 110, the range of the norms.
        least_angle, most_angle: m(least) = 0.45 and m(most) = 0.8.
        weight: λ_g, 35, as the authors for these margins; a unique best norm exists only if it is large enough.
    """

    def __init__(
        self,
        *,
        least: float = 10.0,
        most: float = 110.0,
        least_angle: float = 0.45,
        most_angle: float = 0.8,
        weight: float = 35.0,
    ) -> None:
        super().__init__()
        _not_negative(least_angle=least_angle, weight=weight)
        if not (0 < least < most < math.inf and least_angle <= most_angle < math.inf):
            raise ConfigError(
                "0 < least < most and least_angle ≤ most_angle", f"{least}, {most} and {least_angle}, {most_angle}",
                "correct them",
            )  # fmt: skip
        self.least, self.most, self.least_angle, self.weight = least, most, least_angle, weight
        self.slope = (most_angle - least_angle) / (most - least)

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Return each sample's margin by its norm."""
        return Margin(angle=self.least_angle + self.slope * (norms.clamp(self.least, self.most) - self.least))

    def penalty(self, norms: Tensor) -> Tensor:
        """Return weight·mean(a/most² + 1/a), a scalar."""
        a = norms.clamp(self.least, self.most)
        return self.weight * (a / self.most**2 + 1 / a).mean()


@MARGINS.register
class Gradual(MarginRule):
    """Another margin, growing from zero: ψ = (1 - t)·cos θ + t·ψ', t = min(1, progress / until).

    A randomly initialized network sees no margin at first. With `CosFace` the margin itself grows linearly.
    `losses.progress` tells the progress; `normface train` calls it.

    Args:
        of: the final margin, as in recipes.
        until: fraction of the run after which it is complete.
        steps: deprecated: number of training steps, counted from 1, after which it is complete.
    """

    share: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        of: MarginRule | Margin | str | Mapping[str, Any] = "CosFace",
        until: float = 1.0,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        rule = build(of)
        if rule is None or not 0 < until <= 1 or (steps is not None and steps < 1):
            raise ConfigError(
                "a margin and until above 0 and at most 1", f"{of!r} and {until if steps is None else steps}",
                "correct of or until, a fraction of the run",
            )  # fmt: skip
        self.rule, self.until, self.steps, self.normalize = rule, until, steps, rule.normalize  # type: ignore[misc]
        if steps is None:
            self.register_buffer("share", torch.zeros(()))
        else:
            counted("Gradual(steps=…)", "until")
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def begin_step(self, progress: float) -> None:
        """Set the margin's share by the progress of the run, 0 to 1."""
        if self.steps is None:
            self.share.fill_(min(1.0, progress / self.until))
        super().begin_step(progress)

    def forward(self, norms: Tensor, cosines: Tensor) -> Margin:
        """Return the final margin, blended with none by its share."""
        if self.steps is None:
            if self.training:
                self.need_progress("Gradual")
            share = self.share.to(cosines.dtype)
        else:
            if self.training:
                self.of_step(cosines)
                self.seen += 1
            share = self.seen.to(cosines.dtype) / self.steps
        margin: Margin = self.rule(norms, cosines)
        return replace(margin, blend=(1 + margin.blend) / share.clamp(LEAST_SHARE, 1) - 1)

    @property
    def grown(self) -> float:
        """The share t of the final margin, 0 to 1."""
        return min(1.0, float(self.share) if self.steps is None else int(self.seen) / self.steps)

    def penalty(self, norms: Tensor) -> Tensor | float:
        """Return the final margin's penalty."""
        return self.rule.penalty(norms)


def build(margin: MarginRule | Margin | str | Mapping[str, Any] | None) -> MarginRule | None:
    """Build a margin rule from what a recipe may contain; None stays None.

    Args:
        margin: a registered name; a mapping of `name` and options, or of arguments of `ops.Margin`; a Margin; or a
            rule.

    Raises:
        ConfigError: an unknown name or argument.
    """
    if isinstance(margin, str):
        return MARGINS.build(margin)
    if isinstance(margin, Mapping):
        options = dict(margin)
        if "name" in options:
            return MARGINS.build(options.pop("name"), **options)
        try:
            margin = Margin(**options)
        except TypeError as error:
            raise ConfigError("name and options, or arguments of Margin", f"'{error}'", "correct the margin") from error
    if not isinstance(margin, Margin | MarginRule | None):
        raise ConfigError("a margin, its name or a mapping of its options", repr(margin), "correct the margin")
    return Fixed(margin) if isinstance(margin, Margin) else margin


def counted(option: str, instead: str) -> None:
    """Warn of a schedule by the number of steps, which does not know how long the run is."""
    warnings.warn(
        f"{option} counts steps, whatever the length of the run: use {instead}, a fraction of the run",
        DeprecationWarning, stacklevel=4,
    )  # fmt: skip


def _average(average: Tensor, now: Tensor, share: float) -> None:
    """Move an average in place: share·now + (1 - share)·average."""
    average.mul_(1 - share).add_(share * now)


def _not_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} ≥ 0", str(value), f"correct {name}")


def _share(momentum: float) -> None:
    if not 0 < momentum <= 1:
        raise ConfigError("momentum above 0 and at most 1", str(momentum), "correct momentum")
