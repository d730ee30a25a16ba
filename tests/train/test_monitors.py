"""The figures of a step against geometry laid out by hand, plain counting, and other definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from normface import theory
from normface.losses import LOSSES
from normface.train import monitors
from normface.train.monitors import WINDOW, Monitors, effective_rank

C, D, B = 7, 5, 20
X = torch.randn(B, D, generator=torch.Generator().manual_seed(1))
Y = torch.arange(B) % 3
WITHOUT_WEIGHTS = ("Contrastive", "Triplet", "UnifiedThreshold")


def build(name, **options):
    torch.manual_seed(0)
    return LOSSES.build(name, C, D, **options)


def distances(x, w):
    x, w = (np.asarray(t.detach(), float) for t in (x, w))
    x, w = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (x, w))
    return ((x[:, None] - w[None]) ** 2).sum(2)


class TestEveryLoss:
    @pytest.mark.parametrize("name", list(LOSSES))
    def test_finite_figures_and_nothing_touched(self, name):
        loss = build(name)
        if name == "Center":
            torch.nn.init.normal_(loss.centers)
        x, before = X.clone().requires_grad_(), torch.get_rng_state()
        figures = Monitors(loss, C)(10, x, Y)
        assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in figures.values())
        assert {"feature_norm", "genuine_angle", "nearest_angle", "features_rank"} <= figures.keys()
        assert ("agents_rank" in figures) == (name not in WITHOUT_WEIGHTS)
        assert torch.equal(torch.get_rng_state(), before)
        assert x.grad is None

    @pytest.mark.parametrize("name", list(LOSSES))
    def test_nan_is_survived_and_shown(self, name):
        look = Monitors(build(name), C)
        x = X.clone()
        x[0, 0] = torch.nan
        figures = look(10, x, Y)
        assert math.isnan(figures["feature_norm"])
        assert math.isnan(figures["features_rank"])
        if "own_distance" in figures:
            assert math.isfinite(look(20, X, Y)["own_distance"])

    @pytest.mark.parametrize("name", list(LOSSES))
    def test_a_batch_of_one_class(self, name):
        figures = Monitors(build(name), C)(10, X, torch.zeros_like(Y))
        assert math.isfinite(figures["feature_norm"])


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in WITHOUT_WEIGHTS])
def test_by_tiles_the_figures_are_the_same(name, monkeypatch):
    loss = build(name)
    whole = Monitors(loss, C)(10, X, Y)
    monkeypatch.setattr(monitors, "TILE", 3)
    assert Monitors(loss, C)(10, X, Y) == pytest.approx(whole, rel=1e-5, nan_ok=True)


class TestGeometry:
    def test_angles_norms_and_accuracy(self):
        """Class weights on two axes, 2 and 4 long; samples of class 0 at 20° and 70° from the first."""
        loss = LOSSES.build("CosineSoftmax", 2, 2, scale=3.0)
        loss.weight.data = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        angle = torch.deg2rad(torch.tensor([20.0, 70.0]))
        x = torch.tensor([[1.0], [3.0]]) * torch.stack([angle.cos(), angle.sin()], 1)
        figures = Monitors(loss, 2)(10, x, torch.tensor([0, 0]))
        assert figures["genuine_angle"] == pytest.approx(45, abs=1e-3)
        assert figures["nearest_angle"] == pytest.approx(45, abs=1e-3)
        assert (figures["feature_norm"], figures["feature_norm_std"]) == pytest.approx((2, 1))
        assert (figures["class_weight_norm"], figures["accuracy"], figures["scale"]) == pytest.approx((3, 0.5, 3))
        assert figures["bound"] == theory.loss_lower_bound(2, 3.0)
        own = [1 / (1 + math.exp(3 * (math.sin(a) - math.cos(a)))) for a in angle.tolist()]
        assert figures["wrong_mass"] == pytest.approx(1 - np.mean(own), abs=1e-6)
        assert figures["agents_rank"] == pytest.approx(2)
        assert figures["own_distance"] == pytest.approx(np.mean(2 - 2 * np.cos(angle.numpy())), abs=1e-6)

    @pytest.mark.parametrize("normalize", ["both", "features", "weights", "none"])
    def test_wrong_mass_is_of_the_losss_own_logits(self, normalize):
        loss = build("CosineSoftmax", normalize=normalize, scale=2.0)
        loss.weight.data *= torch.linspace(1, 3, C)[:, None]
        figures = Monitors(loss, C)(10, X[:1], Y[:1])
        assert figures["wrong_mass"] == pytest.approx(1 - math.exp(-loss(X[:1], Y[:1]).item()), abs=1e-6)
        assert ("bound" in figures) == (normalize == "both")

    def test_joint_looks_at_the_first_with_class_weights(self):
        terms = [{"name": "Triplet", "weight": 1.0}, {"name": "CosineSoftmax", "weight": 0.5, "scale": 8.0}]
        loss = LOSSES.build("Joint", C, D, terms=terms)
        figures = Monitors(loss, C)(10, X, Y)
        assert figures["bound"] == pytest.approx(0.5 * theory.loss_lower_bound(C, 8.0))
        assert figures["class_weight_norm"] == pytest.approx(1)

    def test_of_several_weights_a_class_the_nearest_counts(self):
        loss = build("CContrastive")
        loss.weight.data = torch.cat([-loss.weight, loss.weight], 1).view(2 * C, D)
        figures = Monitors(loss, C)(10, X, Y)
        d = distances(X, loss.weight).reshape(B, C, 2).min(2)
        assert figures["accuracy"] == pytest.approx(np.mean(d.argmin(1) == Y.numpy()))
        assert figures["own_distance"] == pytest.approx(d[np.arange(B), Y].mean(), abs=1e-5)


class TestNegatives:
    def test_of_agents(self):
        loss = build("CContrastive", margin=1.3)
        d = distances(X, loss.weight)
        active = [d[i, j] < 1.3 for i in range(B) for j in range(C) if j != Y[i]]
        assert 0 < np.mean(active) < 1
        assert Monitors(loss, C)(10, X, Y)["active_negatives"] == pytest.approx(np.mean(active))

    def test_of_agent_triplets(self):
        loss = build("CTriplet", margin=0.4)
        d = distances(X, loss.weight)
        active = [0.4 + d[i, Y[i]] - d[i, j] > 0 for i in range(B) for j in range(C) if j != Y[i]]
        assert 0 < np.mean(active) < 1
        assert Monitors(loss, C)(10, X, Y)["active_negatives"] == pytest.approx(np.mean(active))

    def test_of_pairs_and_triplets(self):
        d, y = distances(X, X), Y.numpy()
        pairs = [d[i, j] < 1.0 for i in range(B) for j in range(B) if y[i] != y[j]]
        triplets = [
            0.2 + d[i, p] - d[i, j] > 0
            for i in range(B) for p in range(B) for j in range(B) if i != p and y[i] == y[p] and y[i] != y[j]
        ]  # fmt: skip
        contrastive = Monitors(build("Contrastive", margin=1.0), C)(10, X, Y)
        assert contrastive["active_negatives"] == pytest.approx(np.mean(pairs))
        assert Monitors(build("Triplet", margin=0.2), C)(10, X, Y)["active_negatives"] == pytest.approx(
            np.mean(triplets)
        )


class TestProposition3:
    def test_moving_average_keeps_99_hundredths_a_step(self):
        loss = build("CContrastive", margin=0.7)
        monitors = Monitors(loss, C)
        means = [distances(x, loss.weight)[np.arange(B), Y].mean() for x in (X, -X)]
        assert monitors(10, X, Y)["own_distance"] == pytest.approx(means[0], abs=1e-5)
        figures = monitors(20, -X, Y)
        expected = 0.99**10 * means[0] + (1 - 0.99**10) * means[1]
        assert figures["own_distance"] == pytest.approx(expected, abs=1e-5)
        assert figures["suggested_margin"] == pytest.approx(0.7 + min(expected, 1.2), abs=1e-5)

    def test_goes_on_after_a_resumption(self):
        loss = build("CContrastive")
        whole = Monitors(loss, C)
        past = [{"step": 10, **whole(10, X, Y)}]
        assert Monitors(loss, C, past)(20, -X, Y)["own_distance"] == whole(20, -X, Y)["own_distance"]

    def test_an_adaptive_margin_is_not_counted_twice(self):
        loss = build("CContrastive", margin=0.5, adaptive_margin=True)
        loss.mean_distance.fill_(0.9)
        figures = Monitors(loss, C)(10, X, Y)
        assert figures["suggested_margin"] == pytest.approx(0.5 + min(1.2, figures["own_distance"]))
        d = distances(X, loss.weight)
        active = [d[i, j] < 1.4 for i in range(B) for j in range(C) if j != Y[i]]
        assert figures["active_negatives"] == pytest.approx(np.mean(active))


class TestEffectiveRank:
    def test_against_its_definition(self):
        for shape in ((30, 8), (8, 30), (1, 4)):
            rows = torch.randn(shape)
            values = np.linalg.svd(rows.numpy(), compute_uv=False)
            assert effective_rank(rows) == pytest.approx(np.exp(entropy(values)), rel=1e-5)

    def test_of_known_shapes(self):
        assert effective_rank(torch.eye(6)) == pytest.approx(6)
        assert effective_rank(torch.ones(300, 64)) == pytest.approx(1, abs=1e-5)
        circle = torch.linspace(0, 2 * math.pi, 101)[:-1]
        assert effective_rank(torch.stack([circle.cos(), circle.sin()], 1)) == pytest.approx(2)
        assert math.isnan(effective_rank(torch.full((3, 3), torch.inf)))

    def test_window_forgets(self):
        monitors = Monitors(build("CosineSoftmax"), C)
        for step in range(0, 10 * (WINDOW // B + 2), 10):
            figures = monitors(step, X, Y)
        assert figures["features_rank"] > 3
        for step in range(10 * (WINDOW // B + 2)):
            figures = monitors(1000 + step, torch.ones(B, D), Y)
        assert figures["features_rank"] == pytest.approx(1, abs=1e-4)
