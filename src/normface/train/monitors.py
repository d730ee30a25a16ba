"""Monitored figures from the paper's theory: distance to the loss bound, collapse, active negatives.

Shape suffixes: S samples monitored, C classes, D dimensions. Distances are squared, on the unit sphere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import theory
from ..losses import CosineSoftmax, CTriplet, Joint, Triplet
from ..losses.agents import MEAN_CAP, MEAN_KEEPS
from ..losses.softmax import LEAST_SCALE
from ..ops import l2_normalize

EVERY = 10  # steps from one look to the next; 0.06 to 0.4 % of smallresnet's time at 100 to 10,572 classes (one thread)
SAMPLES = 64  # of a batch, compared with every agent: for means that is enough
TILE = 4096  # classes compared at a time: nothing of the size of all class weights is made
WINDOW = 256  # recent features, and class weights, whose effective rank is taken


class Monitors:
    """Monitors steps of one run: `monitors(step, features [B, D], labels [B])` → {name: figure}.

    Figures, with angles in degrees; those that do not apply to the loss are omitted:
        classes; accuracy: share of samples whose own class weight is the nearest.
        scale, bound: of a softmax; Proposition 2's lower bound of the loss, if features and weights are normalized.
        wrong_mass: of a softmax, the mean probability of all classes but the own, without margin.
        active_negatives: of agents and pairs, the share of negatives that push.
        feature_norm, feature_norm_std, class_weight_norm: means and standard deviation.
        genuine_angle, nearest_angle: between samples and their own class weight, and the nearest other one; between
            samples for losses without class weights, or if ranks share them.
        own_distance: the right side of Proposition 3, (1/n_C) Σ_j d(f_j, W)² with the plain Euclidean d, computed as
            the mean over the batch; a moving average with decay 0.99 per step.
        suggested_margin: the margin of an agent loss + own_distance (at most 1.2), as in the adaptive margin.
        features_rank, agents_rank: effective ranks of recent unit features and of unit class weights.

    Of `Joint`, the first term with class weights is monitored. With K weights per class ([C·K, D]), the nearest counts.

    Args:
        past: figures of earlier steps (after resuming), to continue the moving average.
    """

    def __init__(self, loss: nn.Module, num_classes: int, past: Sequence[Mapping[str, float | None]] = ()) -> None:
        self.part, self.share = _first_with_weights(loss)
        self.num_classes = num_classes
        self.step, self.own_distance = 0, math.nan
        for record in past:
            self.step, self.own_distance = int(record["step"] or 0), record.get("own_distance") or self.own_distance
        self.recent: deque[Tensor] = deque(maxlen=WINDOW)

    @torch.no_grad()
    def __call__(self, step: int, features: Tensor, labels: Tensor) -> dict[str, float]:
        norms = features.float().norm(dim=1)
        figures = {"feature_norm": norms.mean(), "feature_norm_std": norms.std(correction=0)}
        x_SD, y_S = features[:SAMPLES].float(), labels[:SAMPLES]
        unit_SD = l2_normalize(x_SD)
        self.recent.extend(unit_SD)
        found = {"features_rank": effective_rank(torch.stack(tuple(self.recent)))}
        weights = class_weights(self.part)
        if weights is None:
            cosines = unit_SD @ unit_SD.T
            own = y_S[:, None] == y_S
            other, own = ~own, own.fill_diagonal_(False)
            distances = 2 - 2 * cosines
            figures |= {
                "genuine_angle": _degrees(cosines[own]).mean(),
                "nearest_angle": _degrees(cosines.masked_fill(~other, -torch.inf).amax(1)[other.any(1)]).mean(),
            }
            if (margin := _margin(self.part)) is not None:
                figures["active_negatives"] = _active(self.part, distances, own, other, margin)
        else:
            seen, margin = self._classes(x_SD, unit_SD, y_S, weights), _margin(self.part)
            figures |= seen
            found |= {"classes": self.num_classes, "agents_rank": effective_rank(l2_normalize(_spread(weights)))}
            found |= self._proposition_3(step, figures.pop("own_distance").item(), margin)
            if isinstance(self.part, CosineSoftmax):
                found["scale"] = scale = max(float(self.part.scale), LEAST_SCALE)
                # A loss that leaves other classes out of the sum may fall below the bound.
                whole = self.part.normalize == "both" and self.part.exclude_above is None
                if whole and math.isfinite(scale):
                    found["bound"] = self.share * theory.loss_lower_bound(self.num_classes, scale)
        return found | {name: value.item() for name, value in figures.items()}

    def _classes(self, x_SD: Tensor, unit_SD: Tensor, y_S: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Figures of samples against all class weights [C·K, D], tile by tile."""
        each, margin, part = len(weights) // self.num_classes, _margin(self.part), self.part
        normalize = part.normalize if isinstance(part, CosineSoftmax) else "both"
        side_SD = unit_SD if normalize in ("both", "features") else x_SD
        own_S, logit_S, nearest_S, rest_S = (unit_SD.new_full((len(y_S),), -torch.inf) for _ in range(4))
        lengths = weights.new_zeros(())
        for at in range(0, self.num_classes, TILE):
            tile = weights[at * each : (at + TILE) * each].float()
            unit = l2_normalize(tile)
            lengths += tile.norm(dim=1).sum()
            cosines_ST = functional.linear(unit_SD, unit).view(len(y_S), -1, each).amax(2)
            side = unit if normalize in ("both", "weights") else tile
            logits_ST = functional.linear(side_SD, side).view(len(y_S), -1, each).amax(2)
            here = ((y_S >= at) & (y_S < at + cosines_ST.shape[1])).nonzero()[:, 0]
            place = here, y_S[here] - at
            own_S[here], logit_S[here] = cosines_ST[place], logits_ST[place]
            cosines_ST[place] = -torch.inf
            nearest_S = torch.maximum(nearest_S, cosines_ST.amax(1))
            if isinstance(part, CosineSoftmax):
                logits_ST[place] = -torch.inf
                scale = max(float(part.scale), LEAST_SCALE)
                rest_S = torch.logaddexp(rest_S, (scale * logits_ST).logsumexp(1))
        distance_S = 2 - 2 * own_S
        figures = {
            "class_weight_norm": lengths / len(weights), "accuracy": (own_S > nearest_S).float().mean(),
            "genuine_angle": _degrees(own_S).mean(), "nearest_angle": _degrees(nearest_S).mean(),
            "own_distance": distance_S.mean(),
        }  # fmt: skip
        if isinstance(part, CosineSoftmax):
            figures["wrong_mass"] = torch.sigmoid(rest_S - scale * logit_S).mean()
        if margin is not None:
            level_S = margin + distance_S if isinstance(part, CTriplet) else torch.full_like(distance_S, margin)
            figures["active_negatives"] = self._share_within(unit_SD, y_S, weights, level_S)
        return figures

    def _share_within(self, unit_SD: Tensor, y_S: Tensor, weights: Tensor, level_S: Tensor) -> Tensor:
        """Share of the other classes' agents nearer than a squared distance per sample."""
        each, count = len(weights) // self.num_classes, unit_SD.new_zeros(())
        for at in range(0, self.num_classes, TILE):
            tile = l2_normalize(weights[at * each : (at + TILE) * each].float())
            cosines_ST = functional.linear(unit_SD, tile).view(len(y_S), -1, each).amax(2)
            near_ST = 2 - 2 * cosines_ST < level_S[:, None]
            here = ((y_S >= at) & (y_S < at + near_ST.shape[1])).nonzero()[:, 0]
            near_ST[here, y_S[here] - at] = False
            count += near_ST.sum()
        return count / (len(y_S) * (self.num_classes - 1))

    def _proposition_3(self, step: int, now: float, margin: float | None) -> dict[str, float]:
        if math.isfinite(now):
            keeps = MEAN_KEEPS ** (step - self.step) if math.isfinite(self.own_distance) else 0.0
            self.step, self.own_distance = step, keeps * self.own_distance + (1 - keeps) * now if keeps else now
        found = {"own_distance": self.own_distance}
        if margin is not None:
            found["suggested_margin"] = _configured(self.part, margin) + min(self.own_distance, MEAN_CAP)
        return found


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the normalized singular values of rows [N, D] (Roy & Vetterli 2007); NaN if not finite.

    1 if all rows lie on one line, min(N, D) if they fill the space evenly.
    """
    rows = rows.double()  # squared in the Gram matrix: in float32 zeros would come out as 3e-4
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    if not gram.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(gram.cpu()).clamp(min=0).sqrt()
    p = values / values.sum()
    return float(torch.special.entr(p).sum().exp())


def class_weights(loss: nn.Module) -> Tensor | None:
    """Class weights, agents or centers [C, D] or [C·K, D] of a loss; None for pairwise and sharded losses."""
    if getattr(loss, "shard", None) is not None:
        return None
    found = getattr(loss, "weight", getattr(loss, "centers", None))
    return found.detach() if isinstance(found, Tensor) and found.ndim == 2 else None


def _first_with_weights(loss: nn.Module) -> tuple[nn.Module, float]:
    """The loss looked at, and its share in the whole."""
    if not isinstance(loss, Joint):
        return loss, 1.0
    terms = list(zip(loss.terms, loss.weights, strict=True))
    return next((term for term in terms if class_weights(term[0]) is not None), terms[0])


def _spread(weights: Tensor) -> Tensor:
    """At most WINDOW rows, evenly spaced: classes come in no order that matters."""
    return weights[:: -(-len(weights) // WINDOW)]


def _degrees(cosines: Tensor) -> Tensor:
    return torch.rad2deg(torch.acos(cosines.clamp(-1, 1)))


def _margin(loss: nn.Module) -> float | None:
    """The margin of squared distance in force; None of losses without one."""
    if isinstance(loss, CosineSoftmax):
        return None  # its margin is one of the angle
    margin = getattr(loss, "margin", getattr(loss, "options", {}).get("margin"))
    if margin is None:
        return None
    adaptive = getattr(loss, "adaptive_margin", False)
    return float(margin) + (float(loss.mean_distance) if adaptive else 0.0)  # type: ignore[arg-type]


def _configured(loss: nn.Module, margin: float) -> float:
    return float(loss.margin) if getattr(loss, "adaptive_margin", False) else margin  # type: ignore[arg-type]


def _active(loss: nn.Module, d: Tensor, own: Tensor, other: Tensor, margin: float) -> Tensor:
    """Share of the negatives within the margin: of the sample, or (triplets) of its positives' reach."""
    if isinstance(loss, Triplet):
        pushed = d[:, None, :] < margin + d[:, :, None]  # [anchor, positive, negative]
        return pushed[own[:, :, None] & other[:, None, :]].float().mean()
    return (d < margin)[other].float().mean()
