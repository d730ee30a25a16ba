"""The tiled head against the whole one, in float64, over tiles smaller and larger than the classes."""

import itertools

import pytest
import torch

from normface.ops import blockwise
from normface.ops.agents import Dense, agent_distances, c_contrastive, c_triplet
from normface.ops.blockwise import Tiled

B, C, D = 9, 40, 6


@pytest.fixture(params=[1, 7, 40, 2048], autouse=True)
def tile(request, monkeypatch):
    monkeypatch.setattr(blockwise, "TILE", request.param)


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
    same(c_contrastive(Tiled(x, w, y), **options), whole, (x, w))


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("pull", [True, False])
@pytest.mark.parametrize("gradient", ["exact", "caffe"])
def test_c_triplet(hardest, pull, gradient):
    x, w, y = draw()
    options = dict(hardest=hardest, pull=pull, gradient=gradient)
    whole = c_triplet(Dense(agent_distances(x, w), y), **options)
    same(c_triplet(Tiled(x, w, y), **options), whole, (x, w))
