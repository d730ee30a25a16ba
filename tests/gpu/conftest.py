"""Tests of this folder need a GPU; those of training also what reads images and recipes."""

from importlib.util import find_spec

import pytest
import torch

NEEDED = "pydantic", "simplejpeg", "cv2", "safetensors", "tensorboard", "scipy", "PIL", "onnxruntime"
collect_ignore = ["test_training.py"] if any(find_spec(name) is None for name in NEEDED) else []


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.path.parent.parts[-1:]:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
