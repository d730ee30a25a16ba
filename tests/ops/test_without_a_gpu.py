"""What the head does on a GPU, checked without one: by tensors without numbers, and by compiling its kernels."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from normface import ops
from normface.errors import InputError
from normface.losses import LOSSES, MARGINS, progress
from normface.ops import FusedSGD, Margin, blockwise, c_contrastive, c_triplet
from normface.ops.steps import Plain


class NotLaunched:
    def __getitem__(self, grid):
        assert all(n > 0 for n in grid)
        return lambda *arguments, **options: None


@pytest.fixture(params=["blockwise", "triton"])
def impl(request, monkeypatch):
    """By PyTorch's operators, and by kernels, which tensors without numbers cannot be given to.

    The tensors say that they are on a GPU; a value that the host asks for raises DataDependentOutputException.
    """
    monkeypatch.setattr(FakeTensor, "is_cuda", True, raising=False)
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: 128)
    if request.param == "triton":
        kernels = pytest.importorskip("normface.ops.triton", reason="Triton is not installed")
        for name in ("_rows", "_take_softmax", "_slopes_softmax", "_take_hinge", "_slopes_hinge", "_finish"):
            monkeypatch.setattr(kernels, name, NotLaunched())
    return request.param


def draw(batch=8, classes=300, dim=16):
    x, w = (torch.randn(n, dim, requires_grad=True) for n in (batch, classes))
    return x, w, torch.randint(classes, (batch,))


LOSSES_HERE = {
    "plain": {},
    "learned scale": {"scale": None},
    "curriculum": {"margin": Margin(angle=0.5, curriculum=0.3)},
    "exclusion": {"exclude_above": 0.5},
    "sub-centers": {"subcenters": 3},
    "hard weights": {"weights": "hard"},
    "no normalization": {"normalize": "none"},
    "update": {"update": 0.1},
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", LOSSES_HERE)
def test_a_step_does_not_wait_for_the_gpu(name, half, impl):
    options = {"scale": 30.0} | LOSSES_HERE[name]
    with FakeTensorMode():
        x, w, y = draw()
        if options["scale"] is None:
            options["scale"] = torch.ones((), requires_grad=True)
        if "update" in options:
            options["update"] = FusedSGD(options["update"])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = ops.cosine_cross_entropy(x, w, y % 100, impl=impl, **options)
        value.backward()
    assert x.grad.shape == x.shape
    assert (w.grad is None) == (name == "update")


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_no_margin_waits_for_the_gpu(name, impl):
    with FakeTensorMode():
        x, _, y = draw()
        normalize = "weights" if name == "SphereFace" else "both"
        loss = LOSSES.build("CosineSoftmax", 300, 16, margin=name, normalize=normalize, impl=impl)
        progress(loss, 0.5)
        loss(x, y).backward()
    assert loss.weight.grad.shape == loss.weight.shape


@pytest.mark.parametrize("hardest", [False, True])
def test_no_agent_waits_for_the_gpu(hardest, impl):
    with FakeTensorMode():
        x, w, y = draw()
        agents = ops.before_agents(x, w, y, impl=impl)
        value = c_contrastive(agents, hardest_negative=hardest, normalize_negatives=1.0)
        (value + c_triplet(agents, hardest=hardest)).backward()
    assert w.grad.shape == w.shape


@pytest.mark.parametrize(("installed", "kernels"), [(None, False), (True, True)])
def test_without_triton_operators_take_its_place(installed, kernels, monkeypatch):
    found = []
    monkeypatch.setattr(ops, "find_spec", lambda name: installed)
    monkeypatch.setattr(ops, "require", lambda *_: None)
    monkeypatch.setitem(sys.modules, "normface.ops.triton", SimpleNamespace(check_device=lambda x: None))
    monkeypatch.setattr(ops, "Blockwise", lambda *arguments: found.append(arguments[0]) or blockwise.PLAIN)
    monkeypatch.setattr(blockwise, "block_rows", lambda *_: 4096)
    monkeypatch.setattr(FakeTensor, "is_cuda", True, raising=False)
    with FakeTensorMode():
        x, w, y = draw(256, 5000)
        ops.cosine_cross_entropy(x, w, y, scale=30.0)
        ops.cosine_cross_entropy(x.double(), w.double(), y, scale=30.0)
    assert found == [kernels, False]


@pytest.mark.parametrize("compute", [torch.float16, torch.float32])
@pytest.mark.parametrize("samples", [1, 64, 256, 1024, 4096, 65536])
def test_blocks_fit_the_cache_and_the_budget(samples, compute, monkeypatch):
    cache = 50 * 2**20  # of an H100
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=cache))
    rows = blockwise.block_rows(samples, 512, compute, torch.device("cuda"))
    assert rows % 128 == 0
    if rows > 128:
        assert rows * samples * compute.itemsize <= cache
        assert rows * (samples + 512) * compute.itemsize <= blockwise.MEMORY
    assert rows * max(samples, 512) < 2**31  # a kernel's numbers of elements
    if samples <= 1024 and compute == torch.float16:
        assert rows >= 16 * 1024  # below, launches take longer than the work (GPU.md)


def test_lack_of_memory_says_what_to_make_smaller(monkeypatch):
    def lack(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    x, w = torch.randn(4, 3, requires_grad=True), torch.randn(9, 3, requires_grad=True)
    value = ops.cosine_cross_entropy(x, w, torch.arange(4), scale=9.0, impl="blockwise")
    for step, work in (("take", lambda: ops.cosine_cross_entropy(x, w, torch.arange(4), scale=9.0, impl="blockwise")),
                       ("finish", value.backward)):  # fmt: skip
        monkeypatch.setattr(Plain, step, lack)
        with pytest.raises(InputError, match=r"got out of memory; lower normface\.ops\.blockwise\.MEMORY or the batch"):
            work()


@pytest.mark.slow
def test_more_than_two_billion_weights():
    """All classes alike: the loss is log C."""
    classes, dim = 2**19 + 3, 4096
    w = torch.randn(1, dim, generator=torch.Generator().manual_seed(0)).expand(classes, dim)
    assert w.numel() > 2**31
    value = ops.cosine_cross_entropy(w[:1] * 2, w, torch.tensor([classes - 1]), scale=5.0, impl="blockwise")
    torch.testing.assert_close(value, torch.tensor(float(classes)).log())


COMPILE = """
import json, re, subprocess, sys, tempfile
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from normface import ops
from normface.ops import Margin, blockwise, triton as kernels

class Absent:
    get_current_target = lambda self: GPUTarget("cuda", int(sys.argv[1]), 32)
    get_current_device = get_current_stream = lambda self, *device: 0

triton.runtime.driver.set_active(Absent())
compiled, plain = {}, JITFunction.run
def compile_only(self, *arguments, grid, warmup, **options):
    found = plain(self, *arguments, grid=grid, warmup=True, **options)
    compiled[found.hash] = found
JITFunction.run = compile_only
kernels.INTERPRETED = True  # tensors on the host are good enough where nothing is run

x, w = torch.randn(16, 512, requires_grad=True), torch.randn(96, 512, requires_grad=True)
y = torch.arange(16)
curriculum = Margin(angle=0.5, curriculum=0.3)
for half, options in (
    (torch.float16, {}), (None, {}), (torch.bfloat16, {"normalize": "weights"}),
    (torch.float16, {"margin": curriculum, "exclude_above": 0.5, "subcenters": 3}),
    (torch.float16, {"update": ops.FusedSGD(0.1)}),
):
    with torch.autocast("cpu", half or torch.float16, enabled=half is not None):
        ops.cosine_cross_entropy(x, w, y, scale=30.0, impl="triton", **options).backward()
for exponential in (False, True):
    with torch.autocast("cpu", torch.float16):
        ops.c_contrastive(ops.before_agents(x, w, y, impl="triton"), exponential=exponential).backward()

program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
for kernel in compiled.values():
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        used = subprocess.check_output([program, "--dump-resource-usage", file.name], text=True)
    registers, stack, local = (int(re.search(name + r":(\\d+)", used).group(1)) for name in ("REG", "STACK", "LOCAL"))
    constants = {kernel.src.fn.arg_names[place]: value for (place,), value in kernel.src.constants.items()}
    wide = re.search(r"ld\\.global\\.v[248]\\.", kernel.asm["ptx"]) is not None
    print(json.dumps([kernel.name, registers, stack, local, wide or constants.get("K", 1) > 1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", [90, pytest.param(75, marks=pytest.mark.nightly)])
def test_kernels_compile_for_gpus_that_are_absent(target, tmp_path):
    """No number leaves the registers; half of 255 lets twice as many threads run. Several numbers are read at once.

    No kernel multiplies matrices, so there is no `wgmma` to look for.
    """
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run(
        [sys.executable, "-c", COMPILE, str(target)], capture_output=True, text=True,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    if "unsupported target" in said.stderr.lower():
        pytest.skip(f"this Triton does not compile for sm_{target}")
    assert said.returncode == 0, said.stderr[-2000:]
    found = [json.loads(line) for line in said.stdout.splitlines()]
    names = {name for name, *_ in found}
    assert names == {"_rows", "_take_softmax", "_slopes_softmax", "_take_hinge", "_slopes_hinge", "_finish"}
    for name, registers, stack, local, wide in found:
        assert registers <= 128, name
        assert stack == local == 0, name
        assert wide, name
