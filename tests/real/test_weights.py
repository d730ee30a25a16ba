"""The published weights of foamliu's MobileFaceNet, taken out of their ONNX file and adopted under their own names.

Nobody here has the published file itself. The ONNX file holds its weights with batch norm folded into the convolutions:
undone, it is a state dict of their names, that computes the same.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from normface.data import open_reader
from normface.faces import retarget
from normface.models import build
from normface.train import adopt, embedder

pytestmark = [pytest.mark.real, pytest.mark.slow]
NAME = "mobilefacenet_relu6"
# Convolutions whose batch norm is not the next module of theirs: github foamliu/MobileFaceNet, mobilefacenet.py
NORMS = {
    "dw_conv.depthwise": "dw_conv.bn1", "dw_conv.pointwise": "dw_conv.bn2", "gdconv.depthwise": "gdconv.bn",
    "conv3": "bn",
}  # fmt: skip


def state_of(file):
    """Each filter as it is, followed by a batch norm that only adds what the file adds."""
    held = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in onnx.load(file).graph.initializer}
    state = {}
    for key, weight in held.items():
        if weight.ndim != 4:
            continue
        conv = key.removesuffix(".weight")
        *above, last = conv.split(".")
        norm = NORMS.get(conv) or ".".join([*above, "1" if last == "0" else "3"])
        added = held.get(f"{key}_bias", held.get(f"{conv}.bias"))
        state |= {key: weight, f"{norm}.weight": torch.ones(len(weight)), f"{norm}.bias": added}
        state[f"{norm}.running_mean"] = torch.zeros(len(weight))
        state[f"{norm}.running_var"] = torch.full((len(weight),), 1 - 1e-5)  # with batch norm's epsilon: 1
    return state | {"conv3.bias": torch.zeros(128)}


def test_adopted_they_embed_as_they_do_in_onnx(data_dir, foamliu, tmp_path):
    torch.save(state_of(foamliu), tmp_path / "theirs.pt", _use_new_zipfile_serialization=False)
    assert adopt(tmp_path / "theirs.pt", tmp_path / "run", NAME)["licence"].startswith("Apache-2.0")
    reader = open_reader(data_dir / "lfw" / "lfw-112x96.zip")
    crops = retarget(np.stack([reader.read(row) for row in range(32)]), "112x112")
    ours = embedder(tmp_path / "run").embed(crops, aligned=True, mirror="none").vectors
    session = onnxruntime.InferenceSession(foamliu)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: build(NAME).spec.prepare(crops)})
    assert np.abs(ours - theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).max() < 1e-5
