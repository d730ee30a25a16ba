"""Images per second: decoded onto the device, and embedded there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.parts import Measurements
from benchmarks.harness.sheet import LeftOut
from normface import models
from normface.types import InputSpec

from .setting import Setting, milliseconds

BATCH = 256


def loading(setting: Setting) -> Measurements:
    """Images/s that arrive on the device, decoded from JPEGs of 112×112 in a folder."""
    yield "loader", partial(_loaded, setting)


def _loaded(setting: Setting) -> dict[str, int]:
    from benchmarks.overhead import photographs
    from normface.data import open_reader
    from normface.data.folder import write_folder
    from normface.system_facts import usable_cores
    from normface.train.config import DataConfig
    from normface.train.loader import Batches

    batch, steps, copies = setting.pick((512, 40, 16), (16, 3, 1))
    device = torch.device("cuda", torch.cuda.current_device()) if setting.cuda else torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        pictures = [
            each._replace(id=each.id.replace("/", f"/{turn}-")) for turn in range(copies) for each in photographs()
        ]
        write_folder(pictures, Path(folder) / "faces")
        spec, reader = InputSpec(112, 112, template="112x112"), open_reader(Path(folder) / "faces")
        batches, arrivals = Batches(reader, spec, DataConfig(min_images=1), batch=batch, seed=0), []
        for _ in batches.run(0, steps, device):
            if setting.cuda:
                torch.cuda.synchronize()
            arrivals.append(time.perf_counter())
    rate = batch * (steps - 1) / (arrivals[-1] - arrivals[0])
    return {"images_per_second": round(rate), "cores": usable_cores(), "batch": batch}


def embedding(setting: Setting) -> Measurements:
    """Images/s of networks that embed batches: of pixels on the device, or on the host as `Embedder` gets them."""
    name = setting.pick("iresnet50", "smallresnet")
    yield f"embedding/{name}, bf16", partial(_network, setting, name, False)
    yield f"embedding/{name}, bf16, compiled", partial(_network, setting, name, True)
    yield f"embedding/{name}, float32, from the host", partial(_from_host, setting, name)
    yield "embedding/the default model, bf16", partial(_default, setting)
    yield "embedding/the default model, by ONNX Runtime, from the host", partial(_by_onnxruntime, setting)


def _network(setting: Setting, name: str, compiled: bool) -> dict[str, float]:
    if compiled and not setting.cuda:
        raise LeftOut("on CPUs, `python -m benchmarks compile` measures it")
    model = models.build(name).eval()
    model.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = _pixels(setting, model.spec)

    def run() -> None:
        with setting.half():
            net(x)

    net: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False) if compiled else model
    return _rate(setting, run)


def _from_host(setting: Setting, name: str) -> dict[str, float]:
    from normface.embed.pytorch import TorchRun

    run = TorchRun(models.build(name).to(setting.device).eval())
    pixels = _pixels(setting, run.model.spec).cpu().numpy()
    return _rate(setting, lambda: run(pixels))


def _default(setting: Setting) -> dict[str, float]:
    from normface.embed.loading import DEFAULT
    from normface.embed.session import open_onnx
    from normface.embed.torch_graph import TorchGraph

    graph = TorchGraph(DEFAULT, dtype=torch.bfloat16, device=torch.device(setting.device))
    x = _pixels(setting, open_onnx(DEFAULT, certified=False).spec).bfloat16()
    return _rate(setting, lambda: graph(x))


def _by_onnxruntime(setting: Setting) -> dict[str, float]:
    from normface.embed.loading import DEFAULT
    from normface.embed.session import open_onnx

    network = open_onnx(DEFAULT, certified=False, device="cuda" if setting.cuda else "cpu")
    pixels = np.ascontiguousarray(_pixels(setting, network.spec).cpu().numpy())
    return _rate(setting, lambda: network(pixels))


def _pixels(setting: Setting, spec: InputSpec) -> Tensor:
    shape = setting.pick(BATCH, 4), spec.channels, spec.height, spec.width
    return torch.randn(shape, device=setting.device).contiguous(memory_format=torch.channels_last)


def _rate(setting: Setting, run: Callable[[], object]) -> dict[str, float]:
    with torch.inference_mode():
        return {"images_per_second": round(1000 * setting.pick(BATCH, 4) / milliseconds(setting, run), 1)}
