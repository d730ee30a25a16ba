"""The head with Triton kernels against the reference in float64: on a GPU, or in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from normface import ops
from normface.errors import InputError
from normface.losses import LOSSES
from normface.ops import FusedSGD, Margin, blockwise
from normface.ops.agents import c_contrastive, c_triplet
from normface.types import ClassShard

pytest.importorskip("triton", reason="Triton is not installed")
from normface.ops import triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.slow  # in the interpreter


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, programs and parts even with few classes."""
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: 40)
    monkeypatch.setattr(kernels, "COLUMNS", 32)
    monkeypatch.setattr(kernels, "TILE", 1024)
    monkeypatch.setattr(kernels, "PROGRAMS", 6)


@pytest.fixture(autouse=True)
def rounded(monkeypatch):
    """The interpreter cuts float32 off to bfloat16, where processors round to the nearest."""
    if not kernels.INTERPRETED:
        return
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    plain = interpreter._convert_float

    def convert(numbers, given, wanted, mode):
        if (given, wanted) != (float32, bfloat16):
            return plain(numbers, given, wanted, mode)
        return torch.from_numpy(numbers.copy()).bfloat16().view(torch.uint16).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def draw(batch=3, classes=50, dim=24, seed=0):
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


@pytest.mark.parametrize("options", [{"weights": "hard"}, {"subcenters": 5}, {"subcenters": 2, "weights": "hard"}])
def test_rows_of_classes(options):
    x, w, y = draw()
    check(both(x, w, y % (50 // options.get("subcenters", 1)), **options))


@pytest.mark.parametrize(
    "options",
    [
        {"margin": Margin(cosine=0.35)},
        {"margin": Margin(angle=0.5, curriculum=0.3)},
        {"exclude_above": 0.1},
        {"exclude_above": -2.0},  # nobody is left
        {"margin": Margin(angle=0.5, curriculum=0.3), "exclude_above": 0.1, "subcenters": 2},
    ],
)
def test_rules(options):
    x, w, y = draw()
    scale = 12.0 if "margin" in options else 300.0  # below and above REACH
    check(both(x, w, y % (50 // options.get("subcenters", 1)), scale, **options), 3e-7 * scale + 1e-5)


@pytest.mark.parametrize(
    "how",
    [
        dict(margin=2.0),
        dict(margin=2.0, exponential=True, normalize_negatives=1.0),
        dict(margin=2.5, hardest_negative=True),
    ],
)
def test_agents(how):
    x, w, y = draw()
    found = []
    for impl, kind in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [t.detach().to(kind).requires_grad_() for t in (x, w)]
        first = c_contrastive(ops.before_agents(*leaves, y, impl=impl), **how)
        second = c_triplet(ops.before_agents(*leaves, y, impl=impl), hardest="hardest_negative" in how)
        (first + second).backward()
        found.append([first.detach(), second.detach(), *(leaf.grad for leaf in leaves)])
    check(zip(*found, strict=True))


@pytest.mark.parametrize("name", ["CosineSoftmax", "CTriplet"])
def test_sampled_and_adaptive_losses(name):
    x, _, y = draw()
    found = []
    for impl, kind in (("triton", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        options = dict(sample=0.5, scale="adacos-dynamic") if name == "CosineSoftmax" else {}
        loss = LOSSES.build(name, 50, 24, impl=impl, **options).to(DEVICE, kind)
        value = loss(x.detach().to(kind), y)
        value.backward()
        found.append([value.detach(), loss.weight.grad.to_dense()])
    check(zip(*found, strict=True))


@pytest.mark.parametrize(("batch", "classes", "dim"), [(1, 2, 3), (1, 1, 4), (3, 17, 5), (2, 41, 1100)])
def test_odd_shapes(batch, classes, dim):
    check(both(*draw(batch, classes, dim)))


def test_labels_at_the_edges_of_programs_and_blocks():
    x, w, _ = draw(6)
    check(both(x, w, torch.tensor([0, 31, 32, 39, 40, 49], device=DEVICE)))


def test_large_scale_and_cosine_one():
    x, w, y = draw()
    with torch.no_grad():
        w[y[0]] = x[0]
        w[(y[1] + 1) % 50] = x[1]
    check(both(x, w, y, scale=64.0), 3e-5)
    check(both(x, w, y, scale=200.0), 3e-5)


def test_tensors_that_are_not_contiguous():
    x, w, y = draw(dim=48)
    check(both(x[:, ::2], w[:, ::2], y))
    check(both(x[:, :24].T.contiguous().T, w[:, :24].T.contiguous().T, y))


@pytest.mark.parametrize("broken", ["feature", "weight"])
def test_nan_comes_through(broken):
    x, w, y = draw()
    with torch.no_grad():
        (x if broken == "feature" else w)[2, 5] = torch.nan
    for options in ({}, {"subcenters": 2}, {"exclude_above": 0.5}):
        assert ops.cosine_cross_entropy(x, w, y % 25, scale=9.0, impl="triton", **options).isnan()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options", [{"normalize": "features", "scale": 1.0}, {"margin": Margin(angle=0.5, curriculum=0.3)}]
)
def test_half_precision(half, options, monkeypatch):
    # Cosines err by the numbers' precision 2⁻⁸ (2⁻¹¹) over √D at most; scale 12.
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[half]
    monkeypatch.setattr(blockwise.Blockwise, "compute", lambda *_, **__: half)
    for ours, right in both(*draw(), half=half, **options):
        assert (ours.double() - right).abs().max() <= 12 * unit * max(0.05, float(right.abs().max()))


def test_cosines_are_multiplied_in_float16(monkeypatch):
    """Whatever autocast's half precision is: their error is that of float16."""
    x, w, y = draw(dim=64)
    worst = [max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in both(x, w, y, half=torch.bfloat16))]
    monkeypatch.setattr(blockwise.Blockwise, "compute", lambda *_, **__: torch.bfloat16)
    worst += [max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in both(x, w, y, half=torch.bfloat16))]
    assert worst[0] < worst[1] / 3


def test_small_probabilities_do_not_vanish_in_float16():
    """One class has all the softmax but e⁻²⁰, less than float16's least number."""
    w = torch.eye(4, 32, device=DEVICE)
    x = torch.zeros(1, 32, device=DEVICE)
    x[0, :4] = torch.tensor([0.0, 1.0, 1 / 3, 1 / 3])
    y = torch.tensor([0], device=DEVICE)
    pairs = list(both(x, w, y, scale=30.0 * float(x.norm()), half=torch.float16))
    row, right = pairs[2][0][2], pairs[2][1][2]
    assert 1e-9 < right.norm() < 1e-7
    assert (row.double() - right).norm() < 2e-2 * right.norm()


@pytest.mark.parametrize("impl", ["triton", "blockwise"])
@pytest.mark.parametrize("weights", ["soft", "hard"])
def test_fused_steps_equal_those_of_sgd(impl, weights):
    x, w, y = draw()
    p, q = (w.detach().clone().requires_grad_() for _ in range(2))
    settings = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01}
    update, theirs = FusedSGD(**settings), torch.optim.SGD([q], **settings)
    for step in range(2):  # the second has momentum
        a, b = (x.detach().clone().requires_grad_() for _ in range(2))
        labels = (y + step) % 50
        ops.cosine_cross_entropy(a, p, labels, scale=12.0, weights=weights, impl=impl, update=update).backward()
        theirs.zero_grad()
        ops.cosine_cross_entropy(b, q, labels, scale=12.0, weights=weights, impl="reference").backward()
        theirs.step()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert p.grad is None
    torch.testing.assert_close(update.buffer, theirs.state[q]["momentum_buffer"], rtol=1e-4, atol=1e-6)


def test_within_a_shard():
    x, w, y = draw()
    leaves = [t.detach().clone().requires_grad_() for t in (x, w)]
    value = ops.cosine_cross_entropy(*leaves, y, scale=5.0, impl="triton", shard=ClassShard(0, 50, 50))
    value.backward()
    torch.testing.assert_close(value, ops.cosine_cross_entropy(x, w, y, scale=5.0))


def test_two_backward_passes_give_the_same():
    x, w, y = draw()
    value = ops.cosine_cross_entropy(x, w, y, scale=12.0, impl="triton")
    once = torch.autograd.grad(value, (x, w), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, (x, w)), once, rtol=0, atol=0)


def test_what_is_not_theirs_is_refused():
    x, w, y = draw()
    with pytest.raises(InputError, match="float64"):
        ops.cosine_cross_entropy(x.double(), w, y, scale=1.0, impl="triton")
    for weight in (2 * w, w.double()):
        with pytest.raises(InputError, match="pass the parameter itself to the loss"):
            ops.cosine_cross_entropy(x, weight, y, scale=1.0, impl="blockwise", update=FusedSGD(0.1))
    with pytest.raises(InputError, match='impl="blockwise"'):
        ops.cosine_cross_entropy(x, w, y, scale=1.0, impl="reference", update=FusedSGD(0.1))


def test_the_options_of_earlier_kernels_warn():
    x, w, y = draw()
    with pytest.warns(DeprecationWarning, match='impl="triton" and update'):
        options = kernels.Kernels(update=FusedSGD(0.1))
    before = w.detach().clone()
    ops.cosine_cross_entropy(x, w, y, scale=1.0, impl=options).backward()
    assert not torch.equal(w, before)


def test_a_cpu_without_interpreter_is_told(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(InputError, match='expected tensors on a GPU for impl="triton", got cpu; use impl="auto"'):
        ops.cosine_cross_entropy(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 1]), scale=1.0, impl="triton")


def test_a_cpu_without_interpreter_is_told_in_a_process_of_its_own():
    code = (
        "import torch; from normface import ops; x = torch.ones(2, 3)\n"
        "try: ops.cosine_cross_entropy(x, x, torch.tensor([0, 1]), scale=1.0, impl='triton')\n"
        "except Exception as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert 'expected tensors on a GPU for impl="triton", got cpu; use impl="auto"' in said.stdout
