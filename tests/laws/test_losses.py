"""What every registered loss obeys."""

import numpy as np
import pytest
import torch

from normface.errors import InputError
from normface.losses import LOSSES

CLASSES, DIM = 5, 4
LABELS = torch.tensor([0, 0, 1, 1, 2, 4])
NAMES = list(LOSSES)
OWNING = [name for name in NAMES if name not in ("Contrastive", "Triplet")]  # those with class weights


def make(name, dtype=torch.float64):
    torch.manual_seed(3)
    loss = LOSSES.build(name, CLASSES, DIM).to(dtype)
    if name == "Center":
        torch.nn.init.normal_(loss.centers)
    return loss, torch.randn(6, DIM, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("name", NAMES)
class TestEveryLoss:
    def test_gradient_of_features_by_finite_differences(self, name):
        loss, x = make(name)
        assert torch.autograd.gradcheck(lambda v: loss(v, LABELS), (x,))

    def test_scalar_of_features_as_they_come(self, name):
        loss, x = make(name, torch.float32)
        value = loss(x, LABELS)
        assert value.shape == ()
        assert value.isfinite()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, name, dtype):
        loss, x = make(name, torch.float32)
        half = x.detach().to(dtype).requires_grad_()
        value = loss(half, LABELS)
        value.backward()
        assert half.grad.isfinite().all()
        assert value.item() == pytest.approx(loss(x, LABELS).item(), rel=0.05)

    def test_order_of_the_batch_does_not_matter(self, name):
        loss, x = make(name)
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        torch.testing.assert_close(loss(x[order], LABELS[order]), loss(x, LABELS))

    def test_nan_features_are_not_hidden(self, name):
        loss, x = make(name)
        broken = x.detach().clone()
        broken[0, 0] = torch.nan
        assert loss(broken, LABELS).isnan()

    def test_wrong_shapes_and_an_empty_batch(self, name):
        loss, x = make(name)
        for features, labels in ((x[0], LABELS), (x, LABELS[:3]), (x[:0], LABELS[:0])):
            with pytest.raises(InputError):
                loss(features, labels)

    def test_one_step_lowers_it(self, name):
        loss, x = make(name)
        before = loss(x, LABELS)
        (gradient,) = torch.autograd.grad(before, x)
        assert loss(x - 1e-3 * gradient, LABELS) < before


@pytest.mark.parametrize("name", OWNING)
class TestThoseWithClassWeights:
    def test_one_sample(self, name):
        loss, x = make(name)
        assert loss(x[:1], LABELS[:1]).isfinite()

    def test_labels_out_of_range(self, name):
        loss, x = make(name)
        for label in (-1, CLASSES):
            with pytest.raises(InputError, match=rf"labels in \[0, {CLASSES}\)"):
                loss(x[:1], torch.tensor([label]))

    def test_weights_start_on_the_unit_sphere(self, name):
        for key, weight in LOSSES.build(name, 50, 8).named_parameters():
            if key.endswith("weight"):
                torch.testing.assert_close(weight.norm(dim=1), torch.ones(50))


@pytest.mark.parametrize("name", [name for name in OWNING if name != "Center"])  # Wen's centres have their own rule
def test_gradient_of_class_weights_by_finite_differences(name):
    loss, x = make(name)
    for key, weight in loss.named_parameters():

        def value(changed, key=key):
            return torch.func.functional_call(loss, {key: changed}, (x, LABELS))

        assert torch.autograd.gradcheck(value, (weight.detach().clone().requires_grad_(),))


@pytest.mark.parametrize("name", ["Contrastive", "Triplet"])
def test_pairs_need_two_samples(name):
    loss, x = make(name)
    with pytest.raises(InputError, match="B ≥ 2"):
        loss(x[:1], LABELS[:1])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "Center"])
def test_length_of_features_does_not_matter_on_the_sphere(name):
    loss, x = make(name)
    lengths = torch.tensor(np.random.default_rng(0).uniform(0.5, 3, (6, 1)))
    torch.testing.assert_close(loss(x * lengths, LABELS), loss(x, LABELS))
