"""Memory in huge pages holds tensors like any other."""

import pytest
import torch

from normface import ops
from normface.ops import memory


@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (1200, 2048)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_shape_type_and_numbers(shape, kind, monkeypatch):
    monkeypatch.setattr(memory, "FROM", 1)
    found = memory.empty(torch.zeros(1, dtype=kind), *shape)
    assert (found.shape, found.dtype, found.is_contiguous()) == (shape, kind, True)
    assert bool((found.fill_(2) == 2).all())


def test_a_gradient_there_outlives_the_backward_pass(monkeypatch):
    monkeypatch.setattr(memory, "FROM", 1)
    g = torch.Generator().manual_seed(0)
    w, y = torch.randn(50, 8, generator=g).requires_grad_(), torch.arange(6)
    x = torch.randn(6, 8, generator=g)
    for _ in range(2):
        ops.cosine_cross_entropy(x, w, y, scale=9.0, impl="blockwise").backward()
    whole = torch.autograd.grad(ops.cosine_cross_entropy(x, w, y, scale=9.0, impl="reference"), w)[0]
    torch.testing.assert_close(w.grad, 2 * whole)
