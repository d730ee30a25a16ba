"""The tiled head in half precisions against float64: it errs no more than plain PyTorch does."""

import pytest
import torch

from normface import ops
from normface.ops import Margin, blockwise


def gradients(x, w, y, scale, impl, half=None):
    """Of features and weights."""
    x, w = (t.detach().requires_grad_() for t in (x, w))
    with torch.autocast("cpu", half, enabled=half is not None):
        value = ops.cosine_cross_entropy(x, w, y, scale=scale, margin=Margin(cosine=0.2), impl=impl)
    return torch.autograd.grad(1024 * value, (x, w))  # a loss scale, as float16 needs


@pytest.mark.parametrize(("half", "most"), [(torch.bfloat16, 1.15), (torch.float16, 1.5)])
@pytest.mark.parametrize("scale", [16.0, 64.0, 200.0])  # below, at and above REACH
@pytest.mark.parametrize("size", [0.01, 1000.0])  # of the weights, which does not matter
def test_half_precision_errs_no_more_than_the_whole_head(half, most, scale, size, monkeypatch):
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: 128)
    errors = []
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        w, y = size * torch.randn(600, 64, generator=g), torch.randint(600, (64,), generator=g)
        x = w[y] / size + torch.randn(64, 64, generator=g)
        exact = gradients(x.double(), w.double(), y, scale, "reference")
        tiled, whole = (gradients(x, w, y, scale, impl, half) for impl in ("blockwise", "reference"))
        errors += [
            [((each - right).norm() / right.norm()).square() for each in (found, plain)]
            for found, plain, right in zip(tiled, whole, exact, strict=True)
        ]
    ours, plain = torch.tensor(errors).mean(0).sqrt().tolist()
    assert ours <= most * plain
