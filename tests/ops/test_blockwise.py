"""The tiled head against the whole one, in float64, over tiles smaller and larger than the classes."""

import itertools

import pytest
import torch

from normface import ops
from normface.errors import InputError
from normface.ops import Margin, blockwise, reference, softmax
from normface.ops.agents import Dense, Streamed, c_contrastive, c_triplet
from normface.ops.head import Head
from normface.ops.reference import agent_distances
from normface.ops.steps import RowRule
from normface.types import ClassShard

B, C, D = 9, 40, 6


@pytest.fixture(params=[(1, 0), (7, 3 * 7 * 9 * 8), (40, 0), (2048, 1 << 20)], autouse=True)
def tile(request, monkeypatch):
    """Blocks of one class, of several (three of which are kept) and of all."""
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: request.param[0])
    monkeypatch.setattr(blockwise, "KEEP", request.param[1])


def draw(classes=C, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, D, generator=g, dtype=dtype).requires_grad_() for n in (B, classes))
    return x, w, torch.randint(classes, (B,), generator=g)


def same(one, two, parameters, **tolerance):
    torch.testing.assert_close(one, two, **tolerance)
    for a, b in zip(torch.autograd.grad(one, parameters), torch.autograd.grad(two, parameters), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


OPTIONS = [dict(zip(("exponential", "hardest_negative", "positive_first"), on, strict=True))
           for on in itertools.product([False, True], repeat=3)]  # fmt: skip


@pytest.mark.parametrize("options", [*OPTIONS, dict(margin=3.0, normalize_negatives=0.5), dict(hardest_positive=True)])
@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_c_contrastive(options, margin):
    x, w, y = draw()
    options = {"margin": margin} | options
    whole = c_contrastive(Dense(agent_distances(x, w), y), **options)
    same(c_contrastive(Streamed(Head(x, w, y)), **options), whole, (x, w))


@pytest.mark.parametrize("way", ["dense", "streamed"])
@pytest.mark.parametrize("margin", [0.8, 2.0])
def test_equations_10_and_11(way, margin):
    """Value and gradient, whole and by tiles, against their plain lines in `reference`."""
    x, w, y = draw()

    def agents():
        return Dense(agent_distances(x, w), y) if way == "dense" else Streamed(Head(x, w, y))

    plain = reference.c_contrastive(agent_distances(x, w), y, margin=margin)
    same(c_contrastive(agents(), margin=margin), plain, (x, w))
    plain = reference.c_triplet(agent_distances(x, w), y, margin=margin)
    same(c_triplet(agents(), margin=margin, hardest=False, pull=False), plain, (x, w))


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("pull", [True, False])
@pytest.mark.parametrize("gradient", ["exact", "caffe"])
def test_c_triplet(hardest, pull, gradient):
    x, w, y = draw()
    options = dict(hardest=hardest, pull=pull, gradient=gradient)
    whole = c_triplet(Dense(agent_distances(x, w), y), **options)
    same(c_triplet(Streamed(Head(x, w, y)), **options), whole, (x, w))


def both(x, w, y, scale, *, normalize="both", weights="soft", subcenters=1, margin=None, exclude_above=None):
    """The loss by tiles, and the whole one."""
    head = Head(x, w, y, RowRule(subcenters, normalize in ("both", "weights"), weights == "soft"))
    shared = dict(scale=scale, margin=margin, normalize=normalize, exclude_above=exclude_above)
    whole = reference.cosine_cross_entropy(x, w, y, weights=weights, subcenters=subcenters, **shared)
    return softmax.cosine_cross_entropy(head, **shared).mean(), whole


MARGINS = {
    "none": None,
    "CosFace": Margin(cosine=0.35),
    "ArcFace": Margin(angle=0.5),
    "straight-through": Margin(angle=0.5, gradient="straight-through"),
    "SphereFace": Margin(multiply=4, blend=5),
    "SphereFace-R": Margin(multiply=1.5, beyond="clamp"),
    "CurricularFace": Margin(angle=0.5, curriculum=0.3),
    "by sample": lambda cosines: Margin(angle=0.1 * torch.arange(B), cosine=0.3 * cosines),
}


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("normalize", ["both", "weights"])
@pytest.mark.parametrize("scale", [0.5, 20.0, 300.0])
def test_softmax_of_every_margin(margin, normalize, scale):
    x, w, y = draw()
    s = torch.tensor(scale, dtype=x.dtype, requires_grad=True)
    same(*both(x, w, y, s, normalize=normalize, margin=MARGINS[margin]), (x, w, s))


@pytest.mark.parametrize("normalize", reference.NORMALIZE)
@pytest.mark.parametrize("weights", reference.WEIGHTS)
@pytest.mark.parametrize("subcenters", [1, 3])
def test_softmax_of_every_normalisation(normalize, weights, subcenters):
    x, w, y = draw(C * subcenters)
    s = torch.tensor(7.0, dtype=x.dtype, requires_grad=True)
    options = dict(normalize=normalize, weights=weights, subcenters=subcenters)
    same(*both(x, w, y % C, s, **options), (x, w, s))


@pytest.mark.parametrize("exclude_above", [-2.0, 0.1, 0.5])
@pytest.mark.parametrize("margin", ["none", "CurricularFace"])
def test_exclusion(exclude_above, margin):
    x, w, y = draw()
    s = torch.tensor(20.0, dtype=x.dtype, requires_grad=True)
    same(*both(x, w, y, s, exclude_above=exclude_above, margin=MARGINS[margin]), (x, w, s))


def test_adacos():
    x, w, y = draw()
    s = torch.tensor(9.0, dtype=x.dtype)
    whole = reference.adacos_scale(x, w, y, scale=s, subcenters=1)
    torch.testing.assert_close(softmax.adacos_scale(Head(x, w, y), scale=s), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adacos_normalizes_half_precision_weights_in_float32(dtype):
    """Unit rows rounded to half precision would err by 1e-3."""
    x, w, y = (t.to(d) for t, d in zip(draw(), (torch.float32, dtype, torch.int64), strict=True))
    exact = reference.adacos_scale(x.double(), w.double(), y, scale=torch.tensor(9.0), subcenters=1)
    found = reference.adacos_scale(x, w, y, scale=torch.tensor(9.0), subcenters=1)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)


def test_nan_comes_through():
    x, w, y = draw()
    broken = x.detach().clone()
    broken[0, 0] = torch.nan
    assert both(broken, w, y, 20.0)[0].isnan()


def through_the_front_door(x, w, y, impl):
    leaves = [t.detach().clone().requires_grad_() for t in (x, w)]
    value = ops.cosine_cross_entropy(*leaves, y, scale=8.0, impl=impl)
    return [value, *torch.autograd.grad(value, leaves)]


def test_tensors_that_are_not_contiguous():
    g = torch.Generator().manual_seed(1)
    x, w = torch.randn(2 * D, B, generator=g).T[:, ::2], torch.randn(3 * C, 2 * D, generator=g)[::3, ::2]
    y = torch.randint(C, (2 * B,), generator=g)[::2]
    for a, b in zip(*(through_the_front_door(x, w, y, impl) for impl in ("blockwise", "reference")), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "kinds", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float32)]
)
def test_mixed_dtypes(kinds):
    x, w, y = draw(dtype=torch.float32)
    x, w = x.to(kinds[0]), w.to(kinds[1])
    for a, b in zip(*(through_the_front_door(x, w, y, impl) for impl in ("blockwise", "reference")), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=2e-2 if torch.bfloat16 in kinds else 1e-5, atol=1e-4)


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
def test_tensors_on_several_devices_are_refused(impl):
    x, w, y = draw()
    with pytest.raises(InputError, match="on one device"):
        ops.cosine_cross_entropy(x, w.detach().to("meta"), y, scale=1.0, impl=impl)


class TestOneShard:
    """A rank alone, whose shard is all the classes."""

    def test_is_the_whole_head(self):
        x, w, y = draw()
        options = dict(scale=7.0, margin=Margin(angle=0.3))
        found = ops.cosine_cross_entropy(x, w, y, impl="blockwise", shard=ClassShard(0, C, C), **options)
        same(found, ops.cosine_cross_entropy(x, w, y, impl="reference", **options), (x, w))

    @pytest.mark.parametrize("shard", [(0, C, C + 1), (1, C + 1, C + 1)])
    def test_that_lacks_classes_is_refused(self, shard):
        x, w, y = draw()
        with pytest.raises(InputError, match=f"shards that cover {shard[2]} classes.*{shard[0]} to {shard[1]}"):
            ops.cosine_cross_entropy(x, w, y, scale=7.0, impl="blockwise", shard=ClassShard(*shard))
