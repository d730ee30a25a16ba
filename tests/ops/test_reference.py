"""The definition of right, against finite differences, hand-written formulas and autograd-free NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from normface import ops, theory
from normface.errors import InputError

DOUBLE = torch.float64


def draw(b=5, c=7, d=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, d, generator=g, dtype=DOUBLE).requires_grad_()
    w = torch.randn(c, d, generator=g, dtype=DOUBLE).requires_grad_()
    return x, w, torch.randint(c, (b,), generator=g)


class TestL2Normalize:
    def test_gradient_by_finite_differences(self):
        x, _, _ = draw()
        assert torch.autograd.gradcheck(ops.l2_normalize, (x,))
        assert torch.autograd.gradcheck(lambda v: ops.l2_normalize(v, eps=0.3), (x,))

    def test_gradient_is_the_papers_and_tangent(self):
        x, u, _ = draw(6, 6)
        u = u.detach()
        unit = ops.l2_normalize(x, eps=0.0)
        (gradient,) = torch.autograd.grad(unit, x, u)
        norm = x.norm(dim=1, keepdim=True)
        expected = (u - unit * (u * unit).sum(1, keepdim=True)) / norm  # eq. 4
        torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close((gradient * x).sum(1), torch.zeros(6, dtype=DOUBLE), atol=1e-12, rtol=0)

    def test_radial_part_with_eps(self):
        x, u, _ = draw(6, 6)
        u, eps = u.detach(), 0.5
        (gradient,) = torch.autograd.grad(ops.l2_normalize(x, eps), x, u)
        norm = (x.square().sum(1) + eps).sqrt()
        torch.testing.assert_close((gradient * x).sum(1), eps * (x * u).sum(1) / norm**3)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_at_zero(self, dtype):
        x = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
        unit = ops.l2_normalize(x)
        unit.sum().backward()
        torch.testing.assert_close(unit, torch.zeros(2, 3, dtype=dtype), atol=0, rtol=0)
        # 1/√ε; float16 ends at 65,504 and rounds it to infinity.
        torch.testing.assert_close(x.grad, torch.full((2, 3), 1e6).to(dtype))

    def test_half_precision_norms_do_not_overflow(self):
        x = torch.full((1, 512), 300.0, dtype=torch.float16)  # the sum of squares is far above 65504
        torch.testing.assert_close(ops.l2_normalize(x).float().norm(), torch.tensor(1.0), atol=1e-3, rtol=0)


class TestTheNormIsTheScale:
    """A side that is not normalized has its norm in the scale's place in Proposition 2 (the paper's open point)."""

    def at(self, normalize, norm, n=7):
        simplex = np.eye(n) - 1 / n
        unit = torch.tensor(simplex / np.linalg.norm(simplex, axis=1, keepdims=True))
        x, w = unit.clone().requires_grad_(), unit.clone().requires_grad_()
        sides = {"weights": (norm * x, 0.3 * w), "features": (0.3 * x, norm * w)}[normalize]
        value = ops.cosine_cross_entropy(*sides, torch.arange(n), scale=1.0, normalize=normalize)
        free = x if normalize == "weights" else w
        (gradient,) = torch.autograd.grad(value, free)
        return value.item(), (gradient * unit).sum(1)

    @pytest.mark.parametrize("normalize", ["weights", "features"])
    @pytest.mark.parametrize("norm", [1.0, 4.0, 10.0])
    def test_loss_at_a_simplex_is_the_bound_of_the_norm(self, normalize, norm):
        value, radial = self.at(normalize, norm)
        assert value == pytest.approx(theory.loss_lower_bound(7, norm), rel=1e-9)
        assert (radial < 0).all()  # a longer vector lowers it: nothing projects this away

    @pytest.mark.parametrize("normalize", ["weights", "features"])
    def test_the_norm_that_a_probability_asks_for(self, normalize):
        value, _ = self.at(normalize, theory.scale_for_probability(7, 0.99))
        assert np.exp(-value) == pytest.approx(0.99, rel=1e-9)


class TestCosineCrossEntropy:
    @pytest.mark.parametrize("normalize", ["both", "features", "weights", "none"])
    def test_gradcheck(self, normalize):
        x, w, y = draw()
        scale = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x, w, s: ops.cosine_cross_entropy(x, w, y, scale=s, normalize=normalize), (x, w, scale)
        )

    def test_against_loops(self):
        x, w, y = draw()
        total = 0.0
        for row, label in zip(x.detach().numpy(), y.tolist(), strict=True):
            cosines = [row @ v / (np.linalg.norm(row) * np.linalg.norm(v)) for v in w.detach().numpy()]
            total -= np.log(np.exp(12 * cosines[label]) / sum(np.exp(12 * c) for c in cosines))
        assert ops.cosine_cross_entropy(x, w, y, scale=12.0).item() == pytest.approx(total / len(y), rel=1e-9)

    def test_equals_softmax_over_squared_distances(self):  # eq. 9
        x, w, y = draw()
        s = 7.0
        distances = torch.cdist(functional.normalize(x), functional.normalize(w)).square()
        torch.testing.assert_close(
            ops.cosine_cross_entropy(x, w, y, scale=s), functional.cross_entropy(-s / 2 * distances, y)
        )

    def test_gradients_are_the_papers(self):
        x, w, y = draw()
        s = torch.tensor(5.0, dtype=DOUBLE, requires_grad=True)
        ops.cosine_cross_entropy(x, w, y, scale=s).backward()
        xn, wn = functional.normalize(x.detach()), functional.normalize(w.detach())
        cosines, b = xn @ wn.T, len(y)
        p = (s.detach() * cosines).softmax(1)
        own = functional.one_hot(y, len(w)).to(DOUBLE)
        torch.testing.assert_close(s.grad, ((p - own) * cosines).sum() / b)
        u = s.detach() / b * (p - own) @ wn
        tangent = (u - xn * (u * xn).sum(1, keepdim=True)) / x.detach().norm(dim=1, keepdim=True)
        torch.testing.assert_close(x.grad, tangent)

    def test_none_is_plain_softmax(self):
        x, w, y = draw()
        torch.testing.assert_close(
            ops.cosine_cross_entropy(x, w, y, scale=1.0, normalize="none"), functional.cross_entropy(x @ w.T, y)
        )

    @pytest.mark.parametrize("n", [2, 10, 100])
    def test_never_below_the_bound_on_balanced_data(self, n):
        g = torch.Generator().manual_seed(n)
        for scale in (1.0, 8.0, 40.0):
            for _ in range(20):
                # Features near their class weights are where the loss is least.
                w = torch.randn(n, 5, generator=g, dtype=DOUBLE)
                x = w + 0.1 * torch.randn(n, 5, generator=g, dtype=DOUBLE)
                loss = ops.cosine_cross_entropy(x, w, torch.arange(n), scale=scale)
                assert loss.item() >= theory.loss_lower_bound(n, scale) - 1e-12

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_features(self, dtype):
        x, w, y = draw(64, 50, 32)
        exact = ops.cosine_cross_entropy(x, w, y, scale=30.0)
        half = x.detach().to(dtype).requires_grad_()
        loss = ops.cosine_cross_entropy(half, w.detach().float(), y, scale=30.0)
        loss.backward()
        assert loss.dtype == torch.float32
        assert half.grad.isfinite().all()
        assert loss.item() == pytest.approx(exact.item(), rel=2e-2)

    def test_under_autocast(self):
        x, w, y = draw(64, 50, 32)
        exact = ops.cosine_cross_entropy(x, w, y, scale=30.0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = ops.cosine_cross_entropy(x.float(), w.float(), y, scale=30.0)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=2e-2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(y=torch.tensor([0, 1, 2, 3, 7])), r"labels in \[0, 7\)"),
            (dict(y=torch.tensor([0, 1, 2, 3, -1])), r"labels in \[0, 7\)"),
            (dict(y=torch.zeros(4, dtype=torch.int64)), "labels"),
            (dict(y=torch.zeros(5)), "int64"),
            (dict(x=torch.zeros(5, 3, dtype=DOUBLE)), "make their B and D agree"),
            (dict(x=torch.zeros(0, 4, dtype=DOUBLE), y=torch.zeros(0, dtype=torch.int64)), "empty batch"),
            (dict(x=torch.zeros(5, 4, dtype=torch.int32)), "floating-point"),
            (dict(normalize="all"), "normalize among"),
            (dict(impl="fast"), "impl among"),
        ],
    )
    def test_errors(self, change, message):
        x, w, y = draw()
        arguments = {"x": x, "w": w, "y": y, "scale": 1.0} | change
        with pytest.raises(InputError, match=message):
            ops.cosine_cross_entropy(**arguments)
