"""The Triton kernels against the reference in float64: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from normface import ops
from normface.errors import InputError
from normface.losses import MARGINS, CosineSoftmax, progress
from normface.ops import Margin
from normface.types import ClassShard

pytest.importorskip("triton", reason="Triton is not installed")
from normface.ops import triton as kernels
from normface.ops.triton import FusedSGD, Kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = kernels.INTERPRETED
pytestmark = pytest.mark.slow  # in the interpreter


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks and parts of them even with few classes."""
    monkeypatch.setattr(kernels, "BLOCK", 40)
    monkeypatch.setattr(kernels, "PARTS", 2)
    monkeypatch.setattr(kernels, "FORWARD_PARTS", 2)


def draw(batch=20, classes=50, dim=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, dim, generator=g).to(DEVICE).requires_grad_() for n in (batch, classes))
    return x, w, torch.randint(classes, (batch,), generator=g).to(DEVICE)


def both(x, w, y, scale=12.0, impl="triton", half=None, **options):
    """Value and gradients of features, weights and scale: by the kernels, and by the reference in float64."""
    found = []
    for how, kind in ((impl, torch.float32), ("reference", torch.float64)):
        leaves = [t.detach().to(kind).requires_grad_() for t in (x, w, torch.tensor(scale, device=x.device))]
        with torch.autocast(DEVICE, half or torch.bfloat16, enabled=half is not None and how != "reference"):
            value = ops.cosine_cross_entropy(leaves[0], leaves[1], y, scale=leaves[2], impl=how, **options)
        value.backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    return zip(*found, strict=True)


def check(pairs, tolerance=1e-5):
    for got, right in pairs:
        assert (got.double() - right).abs().max() <= tolerance * max(1e-2, right.abs().max())


@pytest.mark.parametrize("normalize", ["both", "features", "weights", "none"])
def test_equals_the_reference(normalize):
    check(both(*draw(), scale=12.0 if normalize == "both" else 1.0, normalize=normalize))


def test_hard_weights():
    check(both(*draw(), weights="hard"))


@pytest.mark.parametrize(
    "margin",
    [
        Margin(cosine=0.35),
        pytest.param(Margin(angle=0.5), marks=pytest.mark.slow),
        pytest.param(Margin(angle=0.5, gradient="straight-through"), marks=pytest.mark.slow),
        Margin(angle=0.5, curriculum=0.3),
    ],
)
def test_margins(margin):
    check(both(*draw(), margin=margin))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MARGINS))
def test_every_margin_of_the_registry(name):
    x, _, y = draw()
    options = {"normalize": "weights"} if name == "SphereFace" else {}
    values = []
    for impl, kind in (("triton", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        loss = CosineSoftmax(50, 24, margin=name, impl=impl, **options).to(DEVICE, kind)
        progress(loss, 0.5)
        value = loss(x.detach().to(kind), y)
        value.backward()
        values.append((value.detach(), loss.weight.grad))
    check(zip(*values, strict=True), 2e-5)


@pytest.mark.parametrize(
    ("batch", "classes", "dim"),
    [(1, 2, 3), (3, 17, 5), (17, 41, 17), (16, 40, 16), pytest.param(50, 200, 70, marks=pytest.mark.slow)],
)
def test_odd_shapes(batch, classes, dim):
    check(both(*draw(batch, classes, dim)))


def test_labels_at_the_edges_of_tiles_and_blocks():
    x, w, _ = draw(8)
    check(both(x, w, torch.tensor([0, 15, 16, 24, 25, 39, 40, 49], device=DEVICE)))


def test_large_scale_and_cosine_one():
    x, w, y = draw()
    with torch.no_grad():
        w[y[0]] = x[0]
        w[(y[1] + 1) % 50] = x[1]
    check(both(x, w, y, scale=64.0), 3e-5)


def test_tensors_that_are_not_contiguous():
    x, w, y = draw(dim=48)
    check(both(x[:, ::2], w[:, ::2], y))
    check(both(x[:, :24].T.contiguous().T, w[:, :24].T.contiguous().T, y))


@pytest.mark.parametrize("half", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision(half):
    # Cosines err by the numbers' precision 2⁻⁸ (2⁻¹¹) over √D at most; scale 12.
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[half]
    for ours, right in both(*draw(), half=half):
        assert (ours.double() - right).abs().max() <= 12 * unit * max(0.05, float(right.abs().max()))


def test_skipping_loses_no_more_than_it_says():
    x, w, y = draw(17)  # in one sample's tiles all values are small now and then
    threshold = 0.02
    exact = [a for a, _ in both(x, w, y, scale=30.0)]
    close = [a for a, _ in both(x, w, y, scale=30.0, impl=Kernels(skip_below=threshold))]
    assert torch.equal(exact[0], close[0])
    assert not torch.equal(exact[2], close[2])
    # Each softmax value left out is below the threshold; its part of a feature's gradient is at most that times
    # scale / (batch·length); of a weight's the sum over the batch, over the weight's length.
    lengths = x.detach().norm(dim=1)
    assert ((exact[1] - close[1]).norm(dim=1) <= 50 * threshold * 30 / 17 / lengths).all()
    assert ((exact[2] - close[2]).norm(dim=1) <= 17 * threshold * 30 / 17 / w.detach().norm(dim=1)).all()
    tiny = [a for a, _ in both(x, w, y, scale=30.0, impl=Kernels(skip_below=2.0**-24))]
    torch.testing.assert_close(tiny[1], exact[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", ["soft", pytest.param("hard", marks=pytest.mark.slow)])
def test_fused_steps_equal_those_of_sgd(weights):
    x, w, y = draw()
    p, q = (w.detach().clone().requires_grad_() for _ in range(2))
    settings = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01}
    update, theirs = FusedSGD(**settings), torch.optim.SGD([q], **settings)
    for step in range(2):  # the second has momentum
        a, b = (x.detach().clone().requires_grad_() for _ in range(2))
        labels = (y + step) % 50
        ops.cosine_cross_entropy(a, p, labels, scale=12.0, weights=weights, impl=Kernels(update=update)).backward()
        theirs.zero_grad()
        ops.cosine_cross_entropy(b, q, labels, scale=12.0, weights=weights, impl="reference").backward()
        theirs.step()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert p.grad is None
    torch.testing.assert_close(update.buffer, theirs.state[q]["momentum_buffer"], rtol=1e-4, atol=1e-6)


def test_within_a_shard():
    x, w, y = draw()
    for how in ("triton", "blockwise"):
        leaves = [t.detach().clone().requires_grad_() for t in (x, w)]
        value = ops.cosine_cross_entropy(leaves[0], leaves[1], y, scale=5.0, impl=how, shard=ClassShard(0, 50, 50))
        value.backward()
        torch.testing.assert_close(value, ops.cosine_cross_entropy(x, w, y, scale=5.0))


def test_what_is_not_theirs_is_refused():
    x, w, y = draw()
    for options, message in (
        ({"subcenters": 2}, "no sub-centers"),
        ({"impl": Kernels(update=FusedSGD(0.1)), "exclude_above": 0.5}, "exclude_above with FusedSGD"),
    ):
        with pytest.raises(InputError, match=message):
            ops.cosine_cross_entropy(x, w, y % 25, scale=1.0, **{"impl": "triton", **options})
    with pytest.raises(InputError, match="float64"):
        ops.cosine_cross_entropy(x.double(), w, y, scale=1.0, impl="triton")
    with pytest.raises(InputError, match="pass the parameter itself to the loss"):
        ops.cosine_cross_entropy(x, 2 * w, y, scale=1.0, impl=Kernels(update=FusedSGD(0.1)))


def test_a_cpu_without_interpreter_is_told(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(InputError, match='expected tensors on a GPU for impl="triton", got cpu; use impl="auto"'):
        ops.cosine_cross_entropy(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 1]), scale=1.0, impl="triton")


@pytest.mark.slow
def test_a_cpu_without_interpreter_is_told_in_a_process_of_its_own():
    code = (
        "import torch; from normface import ops; x = torch.ones(2, 3)\n"
        "try: ops.cosine_cross_entropy(x, x, torch.tensor([0, 1]), scale=1.0, impl='triton')\n"
        "except Exception as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert 'expected tensors on a GPU for impl="triton", got cpu; use impl="auto"' in said.stdout
