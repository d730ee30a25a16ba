"""Each margin against its published formula in plain loops, and what it remembers against sums by hand."""

import math

import numpy as np
import pytest
import torch

from normface.errors import ConfigError
from normface.losses import MARGINS, CosineSoftmax, progress
from normface.losses.margins import Fixed
from normface.ops import Margin

DOUBLE = torch.float64
CLASSES, DIM, SCALE = 7, 5, 12.0
NAMES = list(MARGINS)


def make(name, dtype=DOUBLE, **options):
    torch.manual_seed(1)
    normalize = "weights" if name == "SphereFace" else "both"
    scale = 1.0 if name == "SphereFace" else SCALE
    margin = {"name": name, **options}
    loss = CosineSoftmax(CLASSES, DIM, margin=margin, normalize=normalize, scale=scale, learn_scale=False).to(dtype)
    if name == "Gradual":
        progress(loss, 0.5)
    return loss


def draw(loss, low, high, seed=0):
    """Features at own angles from 0.1 to 3.05, so beyond π with any margin, and with norms from low to high."""
    rng = np.random.default_rng(seed)
    w = loss.weight.detach().double().numpy()
    angles, labels = np.linspace(0.1, 3.05, 14), np.arange(14) % CLASSES
    rows = []
    for angle, label, norm in zip(angles, labels, rng.permutation(np.linspace(low, high, 14)), strict=True):
        own = w[label] / np.linalg.norm(w[label])
        away = rng.normal(size=DIM)
        away -= (away @ own) * own
        rows.append(norm * (math.cos(angle) * own + math.sin(angle) * away / np.linalg.norm(away)))
    return torch.tensor(np.array(rows), requires_grad=True), torch.tensor(labels)


def by_loops(loss, x, y, value, other=lambda cosine, own: cosine, scale=lambda norm: SCALE):
    """-log softmax, averaged; value(θ, ‖x‖) stands for the own class, other(cosine, own value) for the others."""
    total = 0.0
    for row, label in zip(x.detach().numpy(), y.tolist(), strict=True):
        norm = math.sqrt(sum(v * v for v in row))
        cosines = [float(row @ w) / (norm * math.sqrt(float(w @ w))) for w in loss.weight.detach().numpy()]
        own = value(math.acos(cosines[label]), norm)
        logits = [scale(norm) * (own if j == label else other(c, own)) for j, c in enumerate(cosines)]
        top = max(logits)
        total += top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label]
    return total / len(y)


def arcface(theta, margin):
    return math.cos(theta + margin) if theta + margin <= math.pi else -math.cos(theta + margin) - 2


class TestPublishedFormulas:
    def agree(self, ours, theirs):
        assert ours.item() == pytest.approx(theirs, rel=1e-10)

    def test_cosface(self):
        loss = make("CosFace")
        x, y = draw(loss, 1, 9)
        self.agree(loss(x, y), by_loops(loss, x, y, lambda theta, norm: math.cos(theta) - 0.35))

    @pytest.mark.parametrize(("done", "share"), [(0.05, 0.1), (0.2, 0.4), (0.5, 1.0), (1.0, 1.0)])
    def test_gradual(self, done, share):
        """A share of CosFace's margin is a smaller one; of ArcFace's value a mean with the cosine."""
        for of, value in (
            ("CosFace", lambda theta, norm: math.cos(theta) - share * 0.35),
            ("ArcFace", lambda theta, norm: (1 - share) * math.cos(theta) + share * arcface(theta, 0.5)),
        ):
            loss = make("Gradual", of=of, until=0.5)
            progress(loss, done)
            x, y = draw(loss, 1, 9)
            self.agree(loss(x, y), by_loops(loss, x, y, value))

    @pytest.mark.parametrize("gradient", ["exact", "straight-through"])
    def test_arcface(self, gradient):
        loss = make("ArcFace", gradient=gradient)
        x, y = draw(loss, 1, 9)
        self.agree(loss(x, y), by_loops(loss, x, y, lambda theta, norm: arcface(theta, 0.5)))

    @pytest.mark.parametrize(("steps", "blend"), [(0, 1000 / 1.12), (99, 1000 / 13), (10_000, 5.0)])
    def test_sphereface(self, steps, blend):
        def value(theta, norm):
            k = math.floor(4 * theta / math.pi)
            return (blend * math.cos(theta) + (-1) ** k * math.cos(4 * theta) - 2 * k) / (1 + blend)

        loss = make("SphereFace")
        loss.margin.steps.fill_(steps)
        x, y = draw(loss, 1, 9)
        self.agree(loss(x, y), by_loops(loss, x, y, value, scale=lambda norm: norm))
        assert loss.margin.steps == steps + 1

    @pytest.mark.parametrize("gradient", ["exact", "straight-through"])
    def test_sphereface_r(self, gradient):
        loss = make("SphereFaceR", gradient=gradient)
        x, y = draw(loss, 1, 9)
        self.agree(loss(x, y), by_loops(loss, x, y, lambda theta, norm: math.cos(min(1.5 * theta, math.pi))))

    @pytest.mark.parametrize("gradient", ["exact", "straight-through"])
    def test_x2_softmax(self, gradient):
        loss = make("X2Softmax", gradient=gradient)
        x, y = draw(loss, 1, 9)
        self.agree(loss(x, y), by_loops(loss, x, y, lambda theta, norm: -0.9 * theta**2 + 0.65))
        loss = make("X2Softmax", curve=-0.5, vertex=-0.3, top=0.9)
        self.agree(loss(x, y), by_loops(loss, x, y, lambda theta, norm: -0.5 * (theta + 0.3) ** 2 + 0.9))

    def test_curricularface(self):
        loss = make("CurricularFace")
        loss.margin.t.fill_(0.6)
        x, y = draw(loss, 1, 9)
        t = 0.99 * 0.6 + 0.01 * np.cos(np.linspace(0.1, 3.05, 14)).mean()
        hard = []

        def other(cosine, own):
            hard.append(cosine > own)
            return cosine * (t + cosine) if cosine > own else cosine

        self.agree(loss(x, y), by_loops(loss, x, y, lambda theta, norm: arcface(theta, 0.5), other))
        assert 0 < sum(hard) < len(hard)

    def test_adaface(self):
        loss = make("AdaFace")
        loss.margin.mean.fill_(60.0)
        loss.margin.deviation.fill_(10.0)
        x, y = draw(loss, 1, 150)
        norms = np.minimum(np.linspace(1, 150, 14), 100)
        mean, deviation = 0.99 * 60 + 0.01 * norms.mean(), 0.99 * 10 + 0.01 * norms.std(ddof=1)
        seen = []

        def value(theta, norm):
            z = min(1.0, max(-1.0, 0.333 * (min(norm, 100) - mean) / (deviation + 1e-3)))
            seen.append(z)
            return math.cos(min(math.pi, max(0.0, theta - 0.4 * z))) - (0.4 * z + 0.4)

        self.agree(loss(x, y), by_loops(loss, x, y, value))
        assert min(seen) == -1
        assert max(seen) == 1
        assert any(-1 < z < 1 for z in seen)

    def test_magface(self):
        loss = make("MagFace")
        x, y = draw(loss, 2, 130)

        def value(theta, norm):
            return arcface(theta, 0.45 + (0.8 - 0.45) / (110 - 10) * (min(110, max(10, norm)) - 10))

        penalty = np.mean([n / 110**2 + 1 / n for n in np.clip(np.linspace(2, 130, 14), 10, 110)])
        self.agree(loss(x, y), by_loops(loss, x, y, value) + 35 * penalty)


def test_x2_softmaxs_margin_grows_with_the_angle():
    """What it is named for: cos θ - ψ(θ) grows from 1 - top on; the vertex being 0, so do both curves part."""
    angles = torch.linspace(0.01, 3.1, 60, dtype=DOUBLE)
    margin = torch.cos(angles) - MARGINS.build("X2Softmax").margin(torch.cos(angles))
    assert margin[0].item() == pytest.approx(0.35, abs=1e-3)
    assert (margin.diff() > 0).all()
    assert margin[0] + 5 < margin[-1]


class TestGradients:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", [name for name in NAMES if name not in ("AdaFace", "SphereFaceR")])
    def test_by_finite_differences(self, name):
        loss = make(name).eval()
        x, y = draw(loss, 12, 100)  # within MagFace's bounds, where its margin and its penalty move with ‖x‖
        assert torch.autograd.gradcheck(lambda v: loss(v, y), (x,))

    def test_magfaces_norms_receive_one(self):
        rule = MARGINS.build("MagFace")
        norms = torch.tensor([5.0, 60.0, 200.0], dtype=DOUBLE, requires_grad=True)
        angles, penalty = rule(norms, torch.zeros(3)).angle, rule.penalty(norms)
        torch.testing.assert_close(angles.tolist(), [0.45, 0.625, 0.8])
        assert torch.autograd.grad(angles.sum(), norms)[0].tolist() == pytest.approx([0, 0.0035, 0])
        slopes = torch.autograd.grad(penalty, norms)[0].tolist()
        assert slopes == pytest.approx([0, 35 / 3 * (1 / 110**2 - 1 / 60**2), 0])

    def test_adafaces_norms_receive_none(self):
        """So the gradient is tangent to the sphere, and that of the margins held fixed."""
        loss = make("AdaFace").eval()
        x, y = draw(loss, 1, 150)
        (gradient,) = torch.autograd.grad(loss(x, y), x)
        torch.testing.assert_close((gradient * x).sum(1), torch.zeros(14, dtype=DOUBLE), atol=1e-10, rtol=0)
        norms = x.detach().norm(dim=1, keepdim=True)
        assert torch.autograd.gradcheck(lambda v: loss(norms * v / v.norm(dim=1, keepdim=True), y), (x,))

    def test_sphereface_rs_is_the_cosines(self):
        loss = make("SphereFaceR").eval()
        x, y = draw(loss, 1, 9)
        (gradient,) = torch.autograd.grad(loss(x, y), x)
        unit = torch.nn.functional.normalize(loss.weight.detach())
        cosines = torch.nn.functional.normalize(x) @ unit.T
        theta = torch.acos(cosines.gather(1, y[:, None]))
        p = (SCALE * cosines.scatter(1, y[:, None], torch.cos((1.5 * theta).clamp(max=math.pi)))).softmax(1).detach()
        surrogate = SCALE * ((p - torch.nn.functional.one_hot(y, CLASSES)) * cosines).sum() / len(y)
        torch.testing.assert_close(gradient, torch.autograd.grad(surrogate, x)[0])


@pytest.mark.parametrize("name", NAMES)
class TestEveryMargin:
    def test_finite_at_the_poles(self, name):
        loss = make(name, torch.float32)
        for sign in (1, -1):
            x = (sign * 20 * loss.weight.detach()).requires_grad_()
            value = loss(x, torch.arange(CLASSES))
            value.backward()
            assert value.isfinite()
            assert x.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, name, dtype):
        loss = make(name, torch.float32).eval()
        x, y = draw(loss, 12, 100)
        exact = loss(x.detach().float(), y)
        half = x.detach().to(dtype).requires_grad_()
        value = loss(half, y)
        value.backward()
        assert value.dtype == torch.float32
        assert half.grad.isfinite().all()
        assert value.item() == pytest.approx(exact.item(), rel=0.02)

    def test_one_sample_in_training(self, name):
        loss = make(name)
        x, y = draw(loss, 1, 9)
        assert loss(x[:1], y[:1]).isfinite()
        assert all(t.isfinite().all() for t in loss.state_dict().values())

    def test_evaluation_changes_no_state(self, name):
        loss = make(name).eval()
        x, y = draw(loss, 1, 9)
        before = {key: t.clone() for key, t in loss.state_dict().items()}
        loss(x, y).backward()
        assert all(torch.equal(t, before[key]) for key, t in loss.state_dict().items())

    def test_state_is_saved_whole(self, name):
        loss, other = make(name), make(name)
        x, y = draw(loss, 1, 60)
        for _ in range(3):
            loss(x, y)
        other.load_state_dict(loss.state_dict())
        assert torch.equal(other(x, y), loss(x, y))
        assert torch.equal(other.eval()(x, y), loss.eval()(x, y))

    def test_two_passes_before_one_backward(self, name):
        loss = make(name)
        x, y = draw(loss, 1, 9)
        (loss(x, y) + loss(x, y)).backward()
        assert x.grad.isfinite().all()

    def test_by_name_by_mapping_and_as_it_is(self, name):
        normalize = MARGINS.build(name).normalize[0]
        for margin in (name, {"name": name}, MARGINS.build(name)):
            assert type(CosineSoftmax(5, 4, margin=margin, normalize=normalize).margin).__name__ == name


class TestMemory:
    def test_adaface_by_hand(self):
        rule = MARGINS.build("AdaFace").double()
        rule(torch.tensor([3.0, 5.0], dtype=DOUBLE), torch.zeros(2))  # mean 4, deviation √2
        assert rule.mean.item() == pytest.approx(0.99 * 20 + 0.04)
        rule(torch.tensor([10.0, 30.0], dtype=DOUBLE), torch.zeros(2))  # mean 20, deviation √200
        assert rule.mean.item() == pytest.approx(0.99 * 19.84 + 0.2)
        assert rule.deviation.item() == pytest.approx(0.99 * (99 + 0.01 * 2**0.5) + 0.01 * 200**0.5)
        rule(torch.tensor([1e6], dtype=DOUBLE), torch.zeros(1))  # cut to 100; no deviation of one
        assert rule.mean.item() == pytest.approx(0.99 * (0.99 * 19.84 + 0.2) + 1)
        assert rule.deviation.item() == pytest.approx(0.99 * (99 + 0.01 * 2**0.5) + 0.01 * 200**0.5)

    def test_curricularface_by_hand(self):
        rule = MARGINS.build("CurricularFace").double()
        first = rule(torch.ones(2), torch.tensor([0.2, 0.6], dtype=DOUBLE))
        assert rule.t.item() == pytest.approx(0.004)
        margin = rule(torch.ones(2), torch.tensor([1.0, 0.0], dtype=DOUBLE))
        assert rule.t.item() == pytest.approx(0.99 * 0.004 + 0.005)
        assert margin.curriculum == rule.t
        assert first.curriculum.item() == pytest.approx(0.004)  # a margin given does not change

    def test_sphereface_by_hand(self):
        rule = MARGINS.build("SphereFace")
        blends = [rule(torch.ones(1), torch.zeros(1)).blend.item() for _ in range(3)]
        assert blends == pytest.approx([1000 / 1.12, 1000 / 1.24, 1000 / 1.36])


class TestErrors:
    @pytest.mark.parametrize(
        ("margin", "message"),
        [
            ("ArcFac", "did you mean 'ArcFace'"),
            ({"name": "ArcFace", "cosine": 0.1}, "arguments of ArcFace"),
            ({"name": "ArcFace", "angle": -0.1}, "angle"),
            ({"name": "SphereFace", "least": -1}, "least ≥ 0"),
            ({"name": "MagFace", "least": 200.0}, "least < most"),
            ({"name": "X2Softmax", "curve": 0.9}, "curve < 0"),
            ({"name": "X2Softmax", "vertex": 0.1}, "vertex ≤ 0"),
            ({"name": "AdaFace", "momentum": 0.0}, "momentum"),
            ({"name": "AdaFace", "margin": math.nan}, "margin ≥ 0"),
            ({"name": "CurricularFace", "angle": math.inf}, "angle"),
            ({"degrees": 30}, "arguments of Margin"),
            ({"angle": "large"}, "arguments of Margin"),
            (0.5, "a margin, its name or a mapping"),
        ],
    )
    def test_nonsense_is_refused(self, margin, message):
        with pytest.raises(ConfigError, match=message):
            CosineSoftmax(5, 4, margin=margin, normalize="weights")

    def test_sphereface_needs_the_features_lengths(self):
        with pytest.raises(ConfigError, match="normalize among weights with margin"):
            CosineSoftmax(5, 4, margin="SphereFace")


def test_a_mapping_without_a_name_is_margins_arguments():
    loss = CosineSoftmax(5, 4, margin={"angle": 0.3, "gradient": "straight-through"})
    assert isinstance(loss.margin, Fixed)
    assert loss.margin.margin == Margin(angle=0.3, gradient="straight-through")
