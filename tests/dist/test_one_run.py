"""A fresh run on k ranks is the run on one: every loss, every margin and the teacher, three steps in float64."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.distributed as td
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.multiprocessing import start_processes

from normface.losses import LOSSES, MARGINS
from normface.models import MODELS, Model
from normface.train import load_config
from normface.train.augment import draw
from normface.train.distill import Distillation
from normface.train.loader import Batch
from normface.train.loop import learn
from normface.train.state import State
from normface.types import InputSpec

WORLD, STEPS, BATCH, CLASSES, DIM = 4, 3, 12, 17, 6
CASES = {
    **{name: (name, {}) for name in LOSSES},
    **{name: ("CosineSoftmax", {"margin": name, "normalize": MARGINS.build(name).normalize[0]}) for name in MARGINS},
    "AdaCos": ("CosineSoftmax", {"scale": "adacos-dynamic"}),
    "hard weights": ("CosineSoftmax", {"weights": "hard"}),
    "sampled, 2 sub-centers": ("CosineSoftmax", {"sample": 0.6, "subcenters": 2}),
    "adaptive margin": ("CContrastive", {"adaptive_margin": True, "margin": 2.0}),
    "center in a joint loss": (
        "Joint", {"terms": [{"name": name, "weight": 1.0} for name in ("CosineSoftmax", "Center", "Triplet")]}
    ),
    "teacher": ("CosineSoftmax", {}),
    "teacher alone": ("CosineSoftmax", {}),
}  # fmt: skip


class mean_of_squares(Model):
    """A linear network in float64 on the means over 8×8 squares."""

    def __init__(self) -> None:
        super().__init__(InputSpec(112, 96), DIM)
        self.linear = nn.Linear(3 * 14 * 12, DIM)

    def forward(self, images):
        return self.linear(nn.functional.avg_pool2d(images.double(), 8).flatten(1))


def onnx_teacher(path):
    mix = np.random.default_rng(3).standard_normal((3 * 14 * 12, DIM)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["images"], ["squares"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Flatten", ["squares"], ["flat"]),
            helper.make_node("MatMul", ["flat", "mix"], ["embeddings"]),
        ],
        "mixture",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 112, 96])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", DIM])],
        [numpy_helper.from_array(mix, "mix")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    path.with_suffix(".spec.json").write_text(InputSpec(112, 96).to_json())


def batch(step):
    rng = np.random.default_rng(step)
    labels = rng.integers(CLASSES, size=BATCH)
    labels[BATCH // 2 :] = labels[: BATCH // 2]  # genuine pairs for losses of pairs
    return Batch(rng.integers(0, 256, (BATCH, 112, 96, 3), np.uint8), labels, draw(BATCH, rng), np.arange(BATCH))


def run(name, folder, rank, world):
    loss, options = CASES[name]
    config = load_config("normface", [f"loss.name={loss}", "model.name=mean_of_squares", f"optim.batch={BATCH}"])
    raw = config.model_dump() | {"loss": {"name": loss, "options": options}, "model": {"name": "mean_of_squares"}}
    raw["distill"] = {"labels": 0.0 if name == "teacher alone" else 1.0, "teacher": str(folder / "teacher.onnx")}
    config = type(config).model_validate(raw)
    torch.set_default_dtype(torch.float64)
    state = State(config, CLASSES)
    torch.set_default_dtype(torch.float32)
    teacher = None
    if name.startswith("teacher"):
        teacher = Distillation(config, state.model, folder, [])
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    losses = []
    for step in range(STEPS):
        state.set_rate(0.05)
        part = tuple(torch.from_numpy(each[mine]) for each in batch(step))
        losses.append(learn(state, part, teacher, 0)[0].item())
        state.step(step / STEPS)
    network = {key: t.detach().clone() for key, t in state.model.state_dict().items()}
    classes = {key: p.detach().clone() for key, p in state.loss.named_parameters()}
    return losses, network, classes


def work(rank, folder):
    MODELS.register(mean_of_squares)
    torch.set_num_threads(1)
    folder, found = Path(folder), {}
    for world in range(1, WORLD + 1):
        if rank >= world:
            continue
        td.init_process_group("gloo", init_method=f"file://{folder}/{world} meet", rank=rank, world_size=world)
        for name in CASES:
            found[world, name] = run(name, folder, rank, world)
        td.destroy_process_group()
    if rank == 0:
        for name in CASES:
            found[0, name] = run(name, folder, 0, 1)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    onnx_teacher(folder / "teacher.onnx")
    start_processes(work, (str(folder),), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("world", range(1, WORLD + 1))
@pytest.mark.parametrize("name", CASES)
def test_k_ranks_are_one(ranks, name, world):
    losses, network, classes = ranks[0][0, name]
    found = [rank[world, name] for rank in ranks[:world]]
    for each in found:
        assert each[0] == pytest.approx(losses, rel=1e-9)  # every rank logs the whole loss
        torch.testing.assert_close(each[1], network, rtol=1e-8, atol=1e-10)
    for key, whole in classes.items():
        parts = [each[2][key] for each in found]
        theirs = torch.cat(parts) if whole.ndim == 2 else parts[0]
        torch.testing.assert_close(theirs, whole, rtol=1e-8, atol=1e-10)
