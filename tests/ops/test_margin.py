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


@pytest.mark.parametrize("change", [dict(multiply=0.5), dict(angle=-1), dict(cosine=math.nan), dict(gradient="none")])
def test_nonsense_is_refused(change):
    with pytest.raises(ConfigError, match="correct it"):
        Margin(**change)


def test_needs_cosines():
    x, y = torch.randn(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match="a margin is defined on cosines only"):
        ops.cosine_cross_entropy(x, x, y, scale=1.0, margin=ARCFACE, normalize="none")


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
    if scale is None:  # SphereFace there scales each row by its feature's norm
        own = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T
        logits = own.scatter(1, y[:, None], margin(own.gather(1, y[:, None])))
        ours = torch.nn.functional.cross_entropy(x.norm(dim=1, keepdim=True) * logits, y)
    else:
        ours = ops.cosine_cross_entropy(x, w, y, scale=scale, margin=margin)
    (our_gradient,) = torch.autograd.grad(ours, x)
    assert ours.item() == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-5, atol=1e-7)
