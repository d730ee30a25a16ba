"""Figures 4, 6 and 7: gradients, agents and marginal samples on the sphere, from drawn points."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops import l2_normalize
from ..ops.agents import Dense, c_contrastive
from ..ops.reference import agent_distances
from ..report.plots import COLORS
from ..types import Floats
from . import FIGURES
from .drawing import FAINT, INK, Drawing, Progress, Sphere, label, panels, title

POINTS, STEPS, RATE = 100, 120, 0.1  # points per class; steps of gradient descent of the agents
MARGINS, WANTED = np.linspace(0, 2, 41), 0.2  # of agents; of samples (FaceNet's)


def tangents(count: int = 60, rate: float = 0.5) -> dict[str, Any]:
    """Compute gradients of ‖x̃ - t‖² at `count` random points x [N, 3] of different lengths, through `l2_normalize`.

    Returns `points` and `gradients` [N, 3], the largest |⟨x̃, g⟩|, the growth of the norm in a plain step of size
    `rate`, and the largest error of Pythagoras, |‖x - rate·g‖² - ‖x‖² - rate²‖g‖²|.
    """
    draw = torch.Generator().manual_seed(0)
    x = l2_normalize(torch.randn(count, 3, generator=draw, dtype=torch.float64))
    x = (x * (0.8 + 0.4 * torch.rand(count, 1, generator=draw, dtype=torch.float64))).requires_grad_()
    target = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    (g,) = torch.autograd.grad((l2_normalize(x) - target).square().sum(), x)
    x = x.detach()
    moved, before = (x - rate * g).square().sum(1), x.square().sum(1)
    return {
        "points": x.numpy(),
        "gradients": g.numpy(),
        "largest_radial_part": float((l2_normalize(x) * g).sum(1).abs().max()),
        "mean_norm_growth": float((moved.sqrt() - before.sqrt()).mean()),
        "least_norm_growth": float((moved.sqrt() - before.sqrt()).min()),
        "largest_error_of_pythagoras": float((moved - before - rate**2 * g.square().sum(1)).abs().max()),
    }


def clusters() -> tuple[Tensor, Tensor]:
    """Draw the paper's two classes, 100 points each from N((∓.3, 0, .3), .25²·I), normalized [200, 3]; with labels."""
    draw = torch.Generator().manual_seed(0)
    means = torch.tensor([[-0.3, 0.0, 0.3], [0.3, 0.0, 0.3]], dtype=torch.float64).repeat_interleave(POINTS, 0)
    points = l2_normalize(means + 0.25 * torch.randn(2 * POINTS, 3, generator=draw, dtype=torch.float64))
    return points, torch.arange(2).repeat_interleave(POINTS)


def paths(margin: float) -> tuple[Tensor, Tensor]:
    """Move both agents from the class means by gradient descent on C-contrastive with `margin`, with fixed points.

    Returns the agents after every step [STEPS + 1, 2, 3], on the sphere, and their first gradients [2, 3].
    """
    points, labels = clusters()
    agents = torch.stack([points[labels == one].mean(0) for one in (0, 1)])
    path, first = [], None
    for _ in range(STEPS):
        agents = l2_normalize(agents).requires_grad_()
        path.append(agents.detach())
        loss = c_contrastive(Dense(agent_distances(points, agents), labels), margin=margin)
        (gradient,) = torch.autograd.grad(loss, agents)
        first = gradient if first is None else first
        agents = agents.detach() - RATE * gradient
    assert first is not None
    return torch.stack([*path, l2_normalize(agents)]), first


def proposition3(features: Tensor, labels: Tensor) -> dict[str, Any]:
    """Test (1/n)Σ_j(d(f₀,f_j) - d(f₀,W))² ≤ (1/n)Σ_j d(f_j,W)² for each sample f₀ and each other class.

    W is the class's agent, its mean direction. Returns the counts of `violations` among `trials`, by the plain
    distance, for which the inequality is proven, and by the squared one; and the largest ratio of both sides.
    """
    agents = means_direction(features, labels)
    numbers: dict[str, Any] = {}
    for name, power in (("euclidean", 1), ("squared", 2)):
        left, right = [], []
        for one, agent in enumerate(agents):
            members, others = features[labels == one], features[labels != one]
            to_samples = torch.cdist(others, members) ** power
            to_agent = torch.cdist(others, agent[None]) ** power
            left.append((to_samples - to_agent).square().mean(1))
            spread = (torch.cdist(members, agent[None]) ** power).square().mean()
            right.append(spread.expand(len(others)))
        lhs, rhs = torch.cat(left), torch.cat(right)
        numbers[name] = {
            "trials": len(lhs), "violations": int((lhs > rhs * (1 + 1e-12)).sum()),
            "left_mean": float(lhs.mean()), "right": [float(r[0]) for r in right],
            "largest_ratio": float((lhs / rhs).max()),
        }  # fmt: skip
    return numbers


def unseen(features: Tensor, labels: Tensor, margins: Floats) -> dict[str, Any]:
    """Compute the share of sample pairs and triplets that are still active when agents with margin m are not.

    `pairs`: among samples of two classes, neither nearer than m to the other's agent, the share nearer than WANTED to
    each other. `triplets`: among anchors with inactive agents (own + m ≤ other), the share of their sample triplets
    that violate a margin of WANTED. None if there is no such pair or anchor.
    """
    to_agents = torch.cdist(features, means_direction(features, labels)).square()
    to_samples = torch.cdist(features, features).square()
    rows, apart = torch.arange(len(labels)), labels[:, None] != labels
    own, other = to_agents[rows, labels], to_agents[rows, 1 - labels]
    # Share of each anchor's sample triplets; all anchors have the same number.
    cost = torch.stack(
        [
            (WANTED + d[~away & (rows != anchor), None] > d[away]).double().mean()
            for anchor, (d, away) in enumerate(zip(to_samples, apart, strict=True))
        ]
    )
    near = (to_samples < WANTED).double()
    pairs = [_mean(near[(other >= m)[:, None] & (other >= m) & apart]) for m in margins.tolist()]
    triplets = [_mean(cost[own + m <= other]) for m in margins.tolist()]
    return {"wanted": WANTED, "margin": margins.tolist(), "pairs": pairs, "triplets": triplets}


def means_direction(features: Tensor, labels: Tensor) -> Tensor:
    """Return the directions of the class means [C, D], where C-contrastive with margin 0 puts the agents."""
    return l2_normalize(torch.stack([features[labels == one].mean(0) for one in range(int(labels.max()) + 1)]))


@FIGURES.register
def gradient(progress: Progress) -> Drawing:
    """Figure 4: normalization projects the gradient onto the tangent; on the sphere all gradients are tangent."""
    numbers = tangents()
    points, gradients = numbers["points"], numbers["gradients"]
    figure, axes = panels(1, 2, 8.4, 4.3)
    _projection(axes[0, 0])
    ball = Sphere(axes[0, 1])
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    ball.scatter(points / lengths, INK, 5)
    ball.arrows(points / lengths, -0.14 * gradients, COLORS[1])
    ball.agents(np.array([[0.6, 0.0, 0.8]]), ["t"], [COLORS[0]])
    title(axes[0, 1], "Steps -∂L/∂x of L = ‖x̃ - t‖² touch the sphere")
    progress(1, 1)
    caption = (
        "The gradient of a normalized vector has no part along the vector (largest "
        f"{numbers['largest_radial_part']:.1e}), so every plain step makes it longer "
        f"(by {numbers['mean_norm_growth']:.3f} on average at rate 0.5)."
    )
    return Drawing(figure, caption, {**numbers, "points": points.tolist(), "gradients": gradients.tolist()})


@FIGURES.register
def agents(progress: Progress) -> Drawing:
    """Figure 6: paths of two agents under C-contrastive with margin 0 and with margin 1."""
    points, labels = clusters()
    figure, axes = panels(1, 2, 8.4, 4.3)
    numbers: dict[str, Any] = {"points_a_class": POINTS, "steps": STEPS, "rate": RATE}
    for panel, (margin, ax) in enumerate(zip((0, 1), axes[0], strict=True)):
        path, first = paths(margin)
        ball = Sphere(ax, azimuth=-90, elevation=45)
        for one in (0, 1):
            ball.scatter(points[labels == one].numpy(), COLORS[one])
            ball.curve(path[:, one].numpy(), INK)
        ball.arrows(path[0].numpy(), -0.5 * first.numpy(), INK)
        ball.agents(path[-1].numpy(), ["W₁", "W₂"], list(COLORS[:2]))
        start, end = (float((path[at, 0] - path[at, 1]).norm()) for at in (0, -1))
        numbers[f"margin_{margin}"] = {
            "distance_at_start": start, "distance_at_end": end, "agents": path[-1].tolist(),
            "first_gradient_norms": first.norm(dim=1).tolist(),
        }  # fmt: skip
        title(ax, f"m = {margin}: agents {end:.2f} apart")
        progress(panel + 1, 2)
    caption = (
        "Agents start at the class means; the arrows are their first steps, the lines their paths. With margin 0 they "
        "stay, with margin 1 they also flee the other class's samples."
    )
    return Drawing(figure, caption, numbers)


@FIGURES.register
def marginal(progress: Progress) -> Drawing:
    """Figure 7: agents do not represent marginal samples of their class, hence larger margins (Proposition 3)."""
    points, labels = clusters()
    numbers = {"proposition3": proposition3(points, labels), **unseen(points, labels, MARGINS)}
    progress(1, 1)
    figure, axes = panels(1, 2, 9, 4.3)
    ball = Sphere(axes[0, 0], azimuth=-90, elevation=45)
    centers = means_direction(points, labels)
    distance = torch.cdist(points, centers).square()
    for one in (0, 1):
        ball.scatter(points[labels == one].numpy(), COLORS[one])
        ball.curve(circle(centers[one].numpy(), 0.5), COLORS[one])
    outside = (distance[torch.arange(len(labels)), labels] > 0.5).numpy()
    seen, front = ball.project(points.numpy())
    axes[0, 0].scatter(*seen[outside & front].T, s=22, facecolors="none", edgecolors=INK, linewidths=0.8)
    ball.agents(centers.numpy(), ["W₁", "W₂"], list(COLORS[:2]))
    title(axes[0, 0], "Marginal samples (ringed) lie beyond d = 0.5 of their agent")
    for name, color, style in (("pairs", COLORS[0], "-"), ("triplets", COLORS[1], "--")):
        values = [np.nan if v is None else 100 * v for v in numbers[name]]
        axes[0, 1].plot(MARGINS, values, style, color=color, label=f"sample {name}")
    axes[0, 1].set_xlabel("Margin m towards agents, of squared distance", color=INK)
    axes[0, 1].set_ylabel(f"Not satisfied at a margin of {WANTED} (%)", color=INK)
    axes[0, 1].legend(frameon=False, fontsize=9, labelcolor=INK)
    plain, squared = numbers["proposition3"]["euclidean"], numbers["proposition3"]["squared"]
    caption = (
        f"Right: samples satisfied with the agents at margin m, but not with each other at {WANTED}: the larger m, the "
        f"fewer. Proposition 3 bounds what agents hide: mean d(f, W)² is "
        f"{plain['right'][0]:.2f} and {plain['right'][1]:.2f} here, {plain['violations']} violations in "
        f"{plain['trials']} trials ({squared['violations']} by squared distance, for which it is not claimed)."
    )
    return Drawing(figure, caption, numbers)


def circle(center: Floats, squared: float) -> Floats:
    """Points [121, 3] of the unit sphere at squared distance `squared` from the unit vector `center`."""
    cosine = 1 - squared / 2
    across = np.linalg.svd(center[None])[2][1:]  # two orthogonal unit vectors
    turn = np.linspace(0, 2 * np.pi, 121)[:, None]
    ring: Floats = cosine * center + np.sqrt(1 - cosine**2) * (np.cos(turn) * across[0] + np.sin(turn) * across[1])
    return ring


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _projection(axes: Any) -> None:
    """Draw eq. 4 in the plane: u = ∂L/∂x̃, its part along x̃, and the remainder."""
    turn = np.linspace(0, 2 * np.pi, 121)
    axes.plot(np.cos(turn), np.sin(turn), color=FAINT, linewidth=0.8)
    unit = np.array([np.cos(0.9), np.sin(0.9)])
    u = np.array([0.95, 0.05])
    tangent = u - unit * (u @ unit)
    for start, vector, color, name, shift in (
        (np.zeros(2), 1.45 * unit, FAINT, "x", (0.08, 0.03)),
        (np.zeros(2), unit, INK, "x̃", (-0.1, 0.04)),
        (unit, u, COLORS[0], "u", (0.08, 0.02)),
        (unit, tangent, COLORS[1], "u - x̃⟨u, x̃⟩", (0.3, -0.12)),
    ):
        axes.annotate("", start + vector, start, arrowprops=dict(arrowstyle="-|>", color=color, shrinkA=0, shrinkB=0))
        label(axes, start + vector + shift, name, INK if color == FAINT else color)
    axes.plot(*np.stack([unit + u, unit + tangent]).T, color=INK, linewidth=0.8, linestyle=":")
    axes.set_aspect("equal")
    axes.set(xlim=(-1.15, 1.9), ylim=(-1.15, 1.4))
    axes.axis("off")
    title(axes, "The part of u along x̃ is taken away (eq. 4)")
