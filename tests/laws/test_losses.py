"""What every registered loss obeys, and the softmax with every registered margin."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from normface.errors import InputError
from normface.losses import LOSSES, MARGINS, progress
from normface.ops import blockwise

CLASSES, DIM = 5, 4
LABELS = torch.tensor([0, 0, 1, 1, 2, 4])
WITH = "CosineSoftmax with "
MARGINED = [WITH + name for name in MARGINS]
NAMES = list(LOSSES) + MARGINED
NOT_THE_GRADIENT = [WITH + "SphereFaceR", WITH + "AdaFace"]  # straight-through; ‖x‖ taken as constant
# With products by tiles, which differentiate once.
STREAMED = ["CContrastive", "CosineSoftmax", "Joint", "UnifiedThreshold", *MARGINED]
OWNING = [name for name in NAMES if name not in ("Contrastive", "Triplet")]  # those with class weights


def build(name, classes, dim):
    if name not in MARGINED:
        return LOSSES.build(name, classes, dim)
    margin = name.removeprefix(WITH)
    normalize = MARGINS.build(margin).normalize[0]
    return LOSSES.build("CosineSoftmax", classes, dim, margin=margin, normalize=normalize)


def make(name, dtype=torch.float64):
    torch.manual_seed(3)
    loss = build(name, CLASSES, DIM).to(dtype).eval()  # what a margin averages would change between calls
    progress(loss, 0.5)
    if name == "Center":
        torch.nn.init.normal_(loss.centers)
    if name == "UnifiedThreshold":
        torch.nn.init.normal_(loss.memory)
    return loss, torch.randn(6, DIM, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("name", NAMES)
class TestEveryLoss:
    def test_gradient_of_features_by_finite_differences(self, name):
        if name in NOT_THE_GRADIENT:
            pytest.skip("by definition another gradient; see tests/losses/test_margins.py")
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

    def test_autocast(self, name):
        loss, x = make(name, torch.float32)
        exact = loss(x, LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(x, LABELS)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.dtype == torch.float32
        assert gradient.isfinite().all()
        assert value.item() == pytest.approx(exact.item(), rel=0.03)

    def test_training_mode(self, name):
        loss, x = make(name, torch.float32)
        value = loss.train()(x, LABELS)
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()
        assert all(buffer.isfinite().all() for buffer in loss.buffers())

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


def as_it_is(name, impl, monkeypatch):
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: 2)
    loss, x = make(name)
    for module in loss.modules():
        if hasattr(module, "impl"):
            module.impl = impl
    return loss, x


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_THE_GRADIENT])
def test_second_derivatives_are_right_or_refused(name, impl, monkeypatch):
    loss, x = as_it_is(name, impl, monkeypatch)
    refused = pytest.raises(InputError, match='set impl="reference"')
    with refused if impl == "blockwise" and name in STREAMED else nullcontext():
        assert torch.autograd.gradgradcheck(lambda v: loss(v, LABELS), (x,))


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("name", NAMES)
def test_a_zero_feature_has_no_direction_and_no_long_gradient(name, impl, monkeypatch):
    """Of x / √(‖x‖² + ε) the derivative is 10⁶ there: one dark picture would end a run."""
    loss, x = as_it_is(name, impl, monkeypatch)
    with torch.no_grad():
        x[1] = 0
    (gradient,) = torch.autograd.grad(loss(x, LABELS), x)
    assert gradient.norm(dim=1).max() < 100
    assert (gradient[[0, 2, 3, 4, 5]].norm(dim=1) > 0).any()


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
        for key, weight in build(name, 50, 8).named_parameters():
            if key.endswith("weight"):
                torch.testing.assert_close(weight.norm(dim=1), torch.ones(50))


@pytest.mark.parametrize("name", [n for n in OWNING if n not in ["Center", WITH + "SphereFaceR"]])  # have their own
def test_gradient_of_class_weights_by_finite_differences(name):
    loss, x = make(name)
    for key, weight in loss.named_parameters():

        def value(changed, key=key):
            return torch.func.functional_call(loss, {key: changed}, (x, LABELS))

        assert torch.autograd.gradcheck(value, (weight.detach().clone().requires_grad_(),))


@pytest.mark.parametrize("options", [{}, {"mining": "hard"}, {"mining": "semi-hard"}])
@pytest.mark.parametrize("name", ["Contrastive", "Triplet"])
def test_a_batch_of_one_has_no_pairs(name, options):
    loss, x = LOSSES.build(name, **options if name == "Triplet" else {}), make(name)[1]
    value = loss(x[:1], LABELS[:1])
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("name", ["CContrastive", "CTriplet", "CosineSoftmax", *MARGINED])
def test_one_value_per_sample(name, impl, monkeypatch):
    """Their mean is the loss; each is that of its sample alone."""
    loss, x = as_it_is(name, impl, monkeypatch)
    whole = loss(x, LABELS)
    if name.startswith("CosineSoftmax"):
        loss.reduction = "none"
    else:
        loss.options["reduction"] = "none"
    each = loss(x, LABELS)
    assert each.shape == LABELS.shape
    torch.testing.assert_close(each.mean(), whole)
    torch.testing.assert_close(loss(x[2:3], LABELS[2:3])[0], each[2]) if name != WITH + "MagFace" else None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_graph(name):
    """No value is looked at on the way: one graph for torch.compile, and for torch.export."""
    torch._dynamo.reset()  # it counts compilations of one code over all tests
    loss, x = make(name)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, LABELS), loss(x, LABELS))
    exported = torch.export.export(loss, (x.detach(), LABELS)).module()
    torch.testing.assert_close(exported(x.detach(), LABELS), loss(x, LABELS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CContrastive", "CosineSoftmax", *MARGINED])
def test_gradients_of_each_sample_by_vmap(name):
    loss, x = make(name)
    x = x.detach()
    each = torch.func.vmap(torch.func.grad(lambda f, y: loss(f[None], y[None])))(x, LABELS)
    for row in range(2):
        alone = x[row : row + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(alone, LABELS[row : row + 1]), alone)
        torch.testing.assert_close(each[row], gradient[0])


BY_LENGTH = ["Center", *(WITH + name for name in ("SphereFace", "AdaFace", "MagFace"))]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in BY_LENGTH])
def test_length_of_features_does_not_matter_on_the_sphere(name):
    loss, x = make(name)
    lengths = torch.tensor(np.random.default_rng(0).uniform(0.5, 3, (6, 1)))
    torch.testing.assert_close(loss(x * lengths, LABELS), loss(x, LABELS))


@pytest.mark.parametrize("name", [n for n in OWNING if n != "Center"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_by_blocks_it_is_the_same(name, dtype, monkeypatch):
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: 2)
    loss, x = make(name, dtype)
    learned = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    found = []
    for impl in ("reference", "blockwise"):
        for module in loss.modules():
            if hasattr(module, "impl"):
                module.impl = impl
        value = loss(x, LABELS)
        found.append([value, *torch.autograd.grad(value, (x, *learned))])
    torch.testing.assert_close(*found)
