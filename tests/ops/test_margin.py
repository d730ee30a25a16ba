import math

import pytest
import torch
from pytorch_metric_learning import losses as pml

from normface import ops
from normface.errors import ConfigError, InputError
from normface.ops import Margin

DOUBLE = torch.float64
ARCFACE = Margin(angle=0.5)


def cosine(degrees):
    return torch.tensor([math.cos(math.radians(degrees))], dtype=DOUBLE, requires_grad=True)


@pytest.mark.parametrize("margin", [ARCFACE, Margin(cosine=0.35), Margin(multiply=4), Margin(1.35, 0.2, 0.1)])
def test_values_and_gradients_in_the_open(margin):
    angles = torch.linspace(0.05, 3.1, 60, dtype=DOUBLE)
    c = torch.cos(angles).requires_grad_()
    assert torch.autograd.gradcheck(margin, (c,))
    low = margin.multiply * angles + margin.angle < math.pi
    plain = torch.cos(margin.multiply * angles + margin.angle) - margin.cosine
    torch.testing.assert_close(margin(c)[low].detach(), plain[low])
    assert (margin(c)[1:] < margin(c)[:-1]).all()  # a larger angle always costs more, also beyond π
    assert (margin(c) <= c + 1e-12).all()


@pytest.mark.parametrize(("degrees", "factor"), [(10, 3.6), (30, 1.71), (90, 0.88)])
def test_arcfaces_exact_gradient_and_insightfaces(degrees, factor):
    """The straight-through gradient misses sin(θ + m) / sin θ: 3.6 at 10°, 1.71 at 30°, 0.88 at 90°."""
    c = cosine(degrees)
    (exact,) = torch.autograd.grad(ARCFACE(c), c)
    h = 1e-6
    numeric = (ARCFACE(c + h) - ARCFACE(c - h)) / (2 * h)
    assert exact.item() == pytest.approx(numeric.item(), rel=1e-6)
    assert exact.item() == pytest.approx(factor, abs=0.02)
    through = Margin(angle=0.5, gradient="straight-through")
    torch.testing.assert_close(through(c), ARCFACE(c))
    assert torch.autograd.grad(through(c), c)[0].item() == 1


@pytest.mark.parametrize("gradient", ["exact", "straight-through"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_finite_at_the_poles(gradient, dtype):
    c = torch.tensor([-1.0, 1.0], dtype=dtype, requires_grad=True)
    for margin in (Margin(angle=0.5, gradient=gradient), Margin(multiply=4, gradient=gradient)):
        value = margin(c)
        (slope,) = torch.autograd.grad(value.sum(), c)
        assert value.isfinite().all()
        assert slope.isfinite().all()
        assert (slope > 0).all()


def test_nothing_is_cut_without_an_arccosine():
    c = torch.tensor([1.0, -1.0], requires_grad=True)
    Margin(cosine=0.2)(c).sum().backward()
    assert c.grad.tolist() == [1, 1]


class TestSamplesOfTheirOwn:
    angles = torch.tensor([0.3, 1.2, 2.0, 3.0], dtype=DOUBLE)

    def test_angle_and_cosine_of_either_sign(self):
        angle = torch.tensor([0.4, -0.4, -0.1, 0.5], dtype=DOUBLE)
        cosine = torch.tensor([0.0, 0.8, 0.3, -0.1], dtype=DOUBLE)
        values = Margin(angle=angle, cosine=cosine)(torch.cos(self.angles))
        for value, theta, a, b in zip(values, self.angles, angle, cosine, strict=True):
            total = float(theta + a)
            expected = math.cos(total) if total <= math.pi else -math.cos(total) - 2
            assert value.item() == pytest.approx(expected - float(b), abs=1e-12)

    @pytest.mark.parametrize("beyond", ["continue", "clamp"])
    def test_gradients_reach_them(self, beyond):
        cosines = torch.cos(self.angles).requires_grad_()
        angle = torch.tensor([0.4, -0.2, 0.5, 0.6], dtype=DOUBLE, requires_grad=True)
        cosine = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE, requires_grad=True)
        blend = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)

        def value(cosines, angle, cosine, blend):
            return Margin(2.0, angle, cosine, beyond=beyond, blend=blend)(cosines)

        assert torch.autograd.gradcheck(value, (cosines, angle, cosine, blend))

    def test_nan_reaches_the_loss(self):
        assert Margin(angle=torch.tensor([math.nan]))(torch.zeros(1)).isnan()


class TestBeyond:
    def test_the_angle_stops(self):
        margin = Margin(multiply=1.5, beyond="clamp")
        c = torch.cos(torch.tensor([0.5, 2.0, 2.2, 3.1], dtype=DOUBLE)).requires_grad_()
        expected = [math.cos(0.75), math.cos(3.0), -1.0, -1.0]
        torch.testing.assert_close(margin(c).tolist(), expected)
        (slope,) = torch.autograd.grad(margin(c).sum(), c)
        assert (slope[:2] > 0).all()
        assert slope[2:].tolist() == [0, 0]
        through = Margin(multiply=1.5, beyond="clamp", gradient="straight-through")
        assert torch.autograd.grad(through(c).sum(), c)[0].tolist() == [1, 1, 1, 1]

    def test_at_zero_too(self):
        margin = Margin(angle=torch.tensor([-0.4], dtype=DOUBLE), beyond="clamp")
        assert margin(cosine(10)).item() == 1

    @pytest.mark.parametrize("beyond", ["continue", "clamp"])
    @pytest.mark.parametrize("angle", [-0.4, 0.5])
    def test_finite_at_the_poles(self, beyond, angle):
        for dtype in (torch.float32, DOUBLE):
            c = torch.tensor([-1.0, 1.0], dtype=dtype, requires_grad=True)
            value = Margin(angle=torch.full((2,), angle, dtype=dtype), beyond=beyond)(c)
            (slope,) = torch.autograd.grad(value.sum(), c)
            assert value.isfinite().all()
            assert slope.isfinite().all()


def test_blend_is_sphereface_annealing():
    c = torch.cos(torch.tensor([0.3, 1.0, 3.0], dtype=DOUBLE))
    expected = [(5 * math.cos(t) + v) / 6 for t, v in
                ((0.3, math.cos(1.2)), (1.0, -math.cos(4.0) - 2), (3.0, -math.cos(12.0) - 6))]  # fmt: skip
    torch.testing.assert_close(Margin(multiply=4, blend=5.0)(c).tolist(), expected)


def test_curriculum_weighs_the_hard_by_their_cosine():
    margin = Margin(angle=0.5, curriculum=0.3)
    others = torch.tensor([[0.5, 0.4, -0.9], [0.5, 0.4, -0.9]], dtype=DOUBLE)
    own = torch.tensor([[0.45], [-0.95]], dtype=DOUBLE)
    expected = [[0.5 * 0.8, 0.4, -0.9], [0.5 * 0.8, 0.4 * 0.7, -0.9 * -0.6]]
    torch.testing.assert_close(margin.others(others, own).tolist(), expected)
    assert ARCFACE.others(others, own) is others


def test_every_column_of_the_others_is_computed_alone():
    torch.manual_seed(0)
    margin, others, own = Margin(curriculum=torch.tensor(0.2)), torch.rand(4, 6) * 2 - 1, torch.rand(4, 1) * 2 - 1
    tiles = torch.cat([margin.others(others[:, i : i + 2], own) for i in (0, 2, 4)], 1)
    torch.testing.assert_close(tiles, margin.others(others, own), rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [dict(multiply=0.5), dict(angle=-1), dict(cosine=math.nan), dict(blend=-1.0), dict(gradient="none"),
     dict(beyond="stop")],
)  # fmt: skip
def test_nonsense_is_refused(change):
    with pytest.raises(ConfigError, match="correct it"):
        Margin(**change)


@pytest.mark.parametrize("normalize", ["features", "none"])
@pytest.mark.parametrize("option", [dict(margin=ARCFACE), dict(exclude_above=0.5)])
def test_needs_cosines(option, normalize):
    x, y = torch.randn(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"change normalize, or leave (margin|exclude_above) out"):
        ops.cosine_cross_entropy(x, x, y, scale=1.0, normalize=normalize, **option)


@pytest.mark.parametrize(
    ("theirs", "margin", "scale"),
    [
        (pml.NormalizedSoftmaxLoss(7, 4, temperature=0.05), None, 20.0),
        (pml.CosFaceLoss(7, 4, margin=0.35, scale=30), Margin(cosine=0.35), 30.0),
        (pml.ArcFaceLoss(7, 4, margin=math.degrees(0.3), scale=30), Margin(angle=0.3), 30.0),
        (pml.SphereFaceLoss(7, 4, margin=4, scale=1), Margin(multiply=4), None),
    ],
    ids=["NormalizedSoftmax", "CosFace", "ArcFace", "SphereFace"],
)
def test_agrees_with_pytorch_metric_learning(theirs, margin, scale):
    torch.manual_seed(0)
    theirs = theirs.double()
    w = torch.randn(7, 4, dtype=DOUBLE)
    y = torch.randint(7, (16,))
    # Angles below π - margin, where all agree on what a margin does
    x = (w[y] / w[y].norm(dim=1, keepdim=True) + 0.4 * torch.randn(16, 4, dtype=DOUBLE)).requires_grad_()
    theirs.W.data = w.T.clone()
    value = theirs(x, y)
    (gradient,) = torch.autograd.grad(value, x)
    # SphereFace scales each row by its feature's norm.
    normalize, scale = ("weights", 1.0) if scale is None else ("both", scale)
    ours = ops.cosine_cross_entropy(x, w, y, scale=scale, margin=margin, normalize=normalize)
    (our_gradient,) = torch.autograd.grad(ours, x)
    assert ours.item() == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-5, atol=1e-7)
