"""Softmax on the hypersphere: the paper's first strategy (eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import dist, ops, theory
from ..errors import ConfigError
from ..ops import Impl, Margin, Reduction
from ..ops.reference import NORMALIZE, WEIGHTS, Normalize, Weights, widened
from ..types import ClassShard
from . import LOSSES, margins
from .partial_fc import sampled
from .steps import Stepwise
from .weights import class_weights

AUTO_PROBABILITY = 0.99  # scale="auto": a well-classified sample can reach this probability
DYNAMIC_REACH = 4.0  # times AdaCos's fixed scale; on faces the dynamic one stays below 1.6 times
LEAST_SCALE = 0.01  # a scale that changes never falls below


@LOSSES.register
class CosineSoftmax(Stepwise):
    """Scaled cosine softmax: -log softmax(s·W̃ᵀf̃)_y, averaged over the batch (eq. 6).

    Args:
        num_classes, dim: of the class weights `weight` [C·subcenters, D], initialized as random unit vectors.
        scale: s. A positive number; or
            "auto": the smallest scale at which a sample can reach probability 0.99 (Proposition 2),
            `theory.scale_for_probability(num_classes, 0.99)`; 1 with `normalize` "weights" or "none", where the length
            of the feature takes its place;
            "adacos": `theory.adacos_scale(num_classes)`;
            "adacos-dynamic": initially the same, then `ops.adacos_scale` in each training step, up to 4 times the
            fixed one: with crowded classes, as in few dimensions, it would grow without limit.
        learn_scale: learn s, starting from `scale` (the paper's preference); it never falls below 0.01. None: learn
            the scale, except with AdaCos or when "auto" gives 1.
        growth: let a scale that is not learned grow linearly to `scale` during this fraction of the run, from the
            value of "auto"; or (first, fraction), from `first`. `losses.progress` tells the progress; `normface train`
            calls it. None: constant. (first, number of steps) is deprecated.
        margin: on the own class's angle: a name in `margins.MARGINS`, a mapping of `name` and its options or of
            `ops.Margin`'s arguments (as in recipes), or an `ops.Margin`. The margins' authors fix the scale (see each
            class): `scale=64, learn_scale=False`.
        normalize: "both" (the paper), "features", "weights", or "none", which with `scale="auto"` is the plain softmax
            without bias. A margin requires "both" or "weights".
        weights: "soft": gradient through the normalization; "hard": in training, each forward pass overwrites
            `weight` by its normalized rows, and the gradient is not projected. Hard weights need 100 times the learning
            rate and no weight decay; `group_options` says so, and `train` applies it.
        subcenters: number of weights per class, of which the nearest counts; `weight` is class-major. Use 3 for noisy
            labels (Deng et al. 2020, "Sub-center ArcFace"): mislabeled samples gather around the others.
        exclude_above: leave other classes with a larger cosine out of the sum, for label noise between classes.
        sample: share of the other classes to compare with in each training step, besides the batch's own (partial FC,
            An et al. 2021: 0.1 for millions of classes); `weight` receives a sparse gradient of these rows, which
            `train.RowSGD` accepts.
        smoothing, reduction, impl: see `ops.cosine_cross_entropy`. With reduction="none" weight the samples yourself:
            `(weights * loss(features, labels)).mean()`.
        shard: the classes whose weights this rank holds (`dist.class_shard`); `weight` has only their rows, the
            features are this rank's part of the batch, and the loss is that of the whole batch, the same on every rank.
            *Sum* its gradient over ranks: DistributedDataParallel takes the mean, so multiply the loss by the world
            size there.

    Raises:
        ConfigError: fewer than 2 classes, dim < 1, a scale that is not positive, unknown names, incompatible options.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scale: float | Literal["auto", "adacos", "adacos-dynamic"] = "auto",
        learn_scale: bool | None = None,
        growth: float | tuple[float, float] | None = None,
        margin: margins.MarginRule | Margin | str | Mapping[str, Any] | None = None,
        normalize: Normalize = "both",
        weights: Weights = "soft",
        subcenters: int = 1,
        exclude_above: float | None = None,
        sample: float = 1.0,
        smoothing: float = 0.0,
        reduction: Reduction = "mean",
        impl: Impl = "auto",
        shard: ClassShard | None = None,
    ) -> None:
        super().__init__()
        initial = class_weights(num_classes, dim, subcenters, shard)
        _among("normalize", normalize, NORMALIZE)
        _among("weights", weights, WEIGHTS)
        rule = margins.build(margin)
        legal = ("both", "weights") if rule is None else rule.normalize
        for name, given in (("margin", rule), ("exclude_above", exclude_above)):
            if given is not None and normalize not in legal:
                raise ConfigError(
                    f"normalize among {', '.join(legal)} with {name}", repr(normalize), f"change one, or drop {name}"
                )
        if weights == "hard" and normalize not in ("both", "weights"):
            raise ConfigError('normalized weights with weights="hard"', f"normalize={normalize!r}", "change one")
        if exclude_above is not None and not -1 <= exclude_above <= 1:
            raise ConfigError("exclude_above between -1 and 1", str(exclude_above), "correct exclude_above")
        if scale == "adacos-dynamic" and (learn_scale or normalize != "both"):
            raise ConfigError(
                'normalize="both" and no learn_scale with scale="adacos-dynamic"',
                f"normalize={normalize!r}, learn_scale={learn_scale}", "drop both options",
            )  # fmt: skip
        if not 0 < sample <= 1 or (sample < 1 and weights == "hard"):
            raise ConfigError(
                '0 < sample ≤ 1, and sample=1 with weights="hard"', f"sample={sample}, weights={weights!r}",
                "change one of them",
            )  # fmt: skip
        self.sample = sample
        self.dynamic = scale == "adacos-dynamic"
        if learn_scale is None:
            learn_scale = scale not in ("adacos", "adacos-dynamic") and not (
                scale == "auto" and normalize in ("weights", "none")
            )
        last = _initial_scale(scale, num_classes, normalize)
        if growth is not None and isinstance(growth, float | int):
            growth = min(_initial_scale("auto", num_classes, normalize), last), growth
        if growth is not None and not (growth[0] > 0 and growth[1] > 0 and not learn_scale and not self.dynamic):
            raise ConfigError(
                "growth during a fraction of the run, from a positive first scale, and learn_scale=False",
                f"growth={growth}, learn_scale={learn_scale}", "change one of them",
            )  # fmt: skip
        self.num_classes, self.subcenters = num_classes, subcenters
        self.normalize, self.weights, self.impl, self.exclude_above = normalize, weights, impl, exclude_above
        self.margin, self.shard = rule, shard
        self.smoothing, self.reduction = smoothing, reduction
        self.weight = initial
        self.scale = nn.Parameter(torch.tensor(float(growth[0]) if growth else last), requires_grad=learn_scale)
        self.growth = growth and (*growth, last)
        self.counts_steps = growth is not None and growth[1] > 1
        if self.counts_steps:
            margins.counted("growth=(first, steps)", "growth=(first, fraction)")
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        if sample < 1:
            # Seed and step of the classes drawn: with them a run goes on where it stopped.
            self.register_buffer("draw", torch.stack([torch.randint(2**31, ()), torch.zeros((), dtype=torch.int64)]))
        if shard is not None and learn_scale:
            self.scale.register_hook(partial(dist.total, group=shard.group))  # type: ignore[no-untyped-call]

    draw: Tensor
    steps: Tensor

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, D], labels [B] int64 → scalar."""
        if self.training and self.weights == "hard":
            with torch.no_grad():
                self.weight.copy_(ops.l2_normalize(self.weight))
        if self.training:
            self.of_step(labels)
        weight: Tensor = self.weight
        shard = self.shard
        if self.training and self.sample < 1:
            ops.check(features, weight, labels, self.subcenters, shard)
            weight, labels, shard = sampled(
                weight, labels, self.sample, self.draw, subcenters=self.subcenters, shard=shard
            )
            self.draw[1] += 1
        if self.training and self.counts_steps:
            self._grow(self.steps)
            self.steps += 1
        elif self.training and self.growth:
            self.need_progress("growth")
        scale: Tensor = self.scale
        if self.training and self.dynamic:
            scale = ops.adacos_scale(
                features, weight, labels, scale=scale, subcenters=self.subcenters, impl=self.impl, shard=shard,
            )  # fmt: skip
            with torch.no_grad():
                self.scale.copy_(scale.clamp_(LEAST_SCALE, DYNAMIC_REACH * theory.adacos_scale(self.num_classes)))
        elif scale.requires_grad:
            if self.training and isinstance(self.scale, nn.Parameter) and not torch.compiler.is_compiling():
                self.scale.data.clamp_(min=LEAST_SCALE)  # or it would drift on, unseen, below the floor
            # The value is clamped, not the gradient: a scale at the floor can still grow back.
            scale = scale + (scale.clamp(min=LEAST_SCALE) - scale).detach()
        lengths = ops.norms(features)
        if self.shard is not None:
            lengths = dist.shared(dist.gather(lengths, self.shard.group), self.shard.group)
        value = ops.cosine_cross_entropy(
            features, weight, labels, scale=scale, normalize=self.normalize, weights=self.weights,
            margin=None if self.margin is None else partial(self.margin, lengths),
            subcenters=self.subcenters, exclude_above=self.exclude_above, smoothing=self.smoothing,
            reduction=self.reduction, impl=self.impl, shard=shard,
        )  # fmt: skip
        return value if self.margin is None else value + self.margin.penalty(lengths)

    def logits(self, features: Tensor) -> Tensor:
        """Scaled products with all classes [B, C] of features [B, D], without margin; of sub-centers the largest.

        Raises ConfigError if ranks share the classes.
        """
        return self.scale.clamp(min=LEAST_SCALE) * self._products(features).amax(2)

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> Tensor:
        """Share of the features [B, D] whose own class has the largest logit; a scalar."""
        return (self.logits(features).argmax(1) == labels).float().mean()

    @torch.no_grad()
    def outliers(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return True [B] for samples nearer to another sub-center than the one most of their class's samples here use.

        Deng et al. 2020 drop such samples, and train again. Pass the whole data set, or all images of some classes.
        Raises ConfigError without sub-centers, or if ranks share the classes.
        """
        if self.subcenters == 1:
            raise ConfigError("outliers with sub-centers", "subcenters=1", "set subcenters=3")
        own = self._products(features)[torch.arange(len(labels), device=labels.device), labels].argmax(1)
        counts = torch.zeros(self.num_classes, self.subcenters, device=own.device, dtype=torch.int64)
        counts.index_put_((labels, own), torch.ones_like(own), accumulate=True)
        return own != counts.argmax(1)[labels]

    def _products(self, features: Tensor) -> Tensor:
        """Products with all sub-centers [B, C, K], normalized as in the loss."""
        if self.shard is not None:
            raise ConfigError("all classes on one rank", "a shard of them", "load the checkpoint on one rank")
        wide, weight = widened(features), widened(self.weight)
        x = ops.l2_normalize(wide) if self.normalize in ("both", "features") else wide
        w = ops.l2_normalize(weight) if self.normalize in ("both", "weights") else weight
        return nn.functional.linear(x, w.to(x.dtype)).view(len(x), self.num_classes, self.subcenters)

    def begin_step(self, progress: float) -> None:
        """Set the scale by the progress of the run, 0 to 1, where it grows."""
        if self.growth and not self.counts_steps:
            self._grow(progress)
        super().begin_step(progress)

    def once_a_step(self) -> dict[str, Tensor]:
        """Return the buffers that change once a step, however many batches it has."""
        return super().once_a_step() | ({"scale": self.scale} if self.dynamic else {})

    @torch.no_grad()
    def _grow(self, done: float | Tensor) -> None:
        assert self.growth
        first, until, last = self.growth
        self.scale.copy_(first + (last - first) * torch.as_tensor(done / until).clamp(max=1))

    @property
    def grown(self) -> float | None:
        """The share of the scale's growth that is done, 0 to 1; None if it does not grow."""
        if not self.growth or self.growth[0] == self.growth[2]:
            return None
        first, _, last = self.growth
        return (float(self.scale) - first) / (last - first)

    @property
    def group_options(self) -> dict[str, dict[str, float]]:
        """Optimizer options of single parameters: name → factor of the learning rate, and weight decay."""
        return {"weight": {"rate_factor": 100.0, "weight_decay": 0.0}} if self.weights == "hard" else {}

    def extra_repr(self) -> str:
        learnt = "learned" if self.scale.requires_grad else "dynamic" if self.dynamic or self.growth else "fixed"
        parts = [f"{self.num_classes}, {self.weight.shape[1]}, scale={self.scale.item():.2f} ({learnt})"]
        parts += [f"normalize={self.normalize!r}, weights={self.weights!r}"]
        parts += [f"subcenters={self.subcenters}"] * (self.subcenters > 1)
        parts += [f"exclude_above={self.exclude_above}"] * (self.exclude_above is not None)
        parts += [f"sample={self.sample}"] * (self.sample < 1)
        return ", ".join(parts)


def _initial_scale(scale: float | str, num_classes: int, normalize: Normalize) -> float:
    if scale == "auto":
        keeps_length = normalize in ("weights", "none")
        return 1.0 if keeps_length else theory.scale_for_probability(num_classes, AUTO_PROBABILITY)
    if scale in ("adacos", "adacos-dynamic"):
        return theory.adacos_scale(num_classes)
    if isinstance(scale, str) or not 0 < scale < float("inf"):
        raise ConfigError("a positive scale, 'auto', 'adacos' or 'adacos-dynamic'", repr(scale), "correct scale")
    return float(scale)


def _among(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ConfigError(f"{name} among {', '.join(legal)}", repr(value), "choose one of them")
