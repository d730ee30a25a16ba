"""The softmax head on a GPU: right, without waiting for the host, and replayed as a CUDA graph."""

import pytest
import torch

from normface import ops
from normface.losses import MARGINS, CosineSoftmax, progress
from normface.ops import Margin
from normface.types import ClassShard

BATCH, CLASSES, DIM = 96, 20_000, 128
RULES = {
    "cosines": {}, "hard weights": {"weights": "hard"}, "ArcFace": {"margin": Margin(angle=0.5)},
    "CosFace": {"margin": Margin(cosine=0.35)}, "a curriculum": {"margin": Margin(angle=0.5, curriculum=0.3)},
    "exclusion": {"exclude_above": 0.6}, "2 sub-centers": {"subcenters": 2},
    "normalized features": {"normalize": "features", "scale": 2.0},
    "normalized weights": {"normalize": "weights", "scale": 1.0},
    "nothing normalized": {"normalize": "none", "scale": 0.2}, "sharded": {"shard": ClassShard(0, CLASSES, CLASSES)},
}  # fmt: skip


def draw(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, DIM, generator=g, dtype=dtype).cuda() for n in (BATCH, CLASSES))
    return x.requires_grad_(), w.requires_grad_(), torch.randint(CLASSES // 2, (BATCH,), generator=g).cuda()


def results(x, w, y, half, **options):
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        value = ops.cosine_cross_entropy(x, w, y, **{"scale": 30.0, **options})
    return [value.detach(), *torch.autograd.grad(value, (x, w))]


def errors(found, exact):
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_errs_no_more_than_plain_pytorch(name, half):
    x, w, y = draw()
    whole = {key: value for key, value in RULES[name].items() if key != "shard"}
    exact = results(x.detach().double().requires_grad_(), w.detach().double().requires_grad_(), y, False,
                    impl="reference", **whole)  # fmt: skip
    plain = errors(results(x, w, y, half, impl="reference", **whole), exact)
    for ours, theirs in zip(errors(results(x, w, y, half, **RULES[name]), exact), plain, strict=True):
        assert ours <= max(2 * theirs, 2**-9 if half else 1e-5)


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_every_margin(name):
    options = {"normalize": MARGINS.build(name).normalize[0]}
    found = []
    for impl, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        loss = CosineSoftmax(CLASSES, DIM, margin=name, impl=impl, **options).cuda().to(dtype)
        progress(loss, 0.5)
        x, _, y = draw(dtype)
        value = loss(x, y)
        found.append([value.detach(), *torch.autograd.grad(value, (x, loss.weight))])
    assert max(errors(*found)) < 1e-4


def test_a_step_does_not_wait_for_the_host():
    x, w, y = draw()
    results(x, w, y, True)  # compiles and loads
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results(x, w, y, True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_replayed_as_a_cuda_graph():
    x, w, y = draw()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            results(x, w, y, True)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(x, w, y, True)
    with torch.no_grad():
        x.mul_(-1)  # other values in the same places
    graph.replay()
    for one, other in zip(captured, results(x, w, y, True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_batch_of_one_and_products_of_more_than_int32():
    """2³¹ numbers of class weights, 4.3 GB in half: places are counted in 64 bits."""
    classes = 2**31 // 1024 + 7
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    x, y = torch.randn(1, 1024, device="cuda"), torch.tensor([classes - 1], device="cuda")
    w = torch.randn(classes, 1024, device="cuda").requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        value = ops.cosine_cross_entropy(x, w, y, scale=30.0)
    value.backward()
    assert value.isfinite()
    assert w.grad[-1].abs().sum() > 0
