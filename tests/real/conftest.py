"""The third-party model that lies beside the real faces."""

import shutil

import pytest

from normface.types import InputSpec


@pytest.fixture(scope="session")
def foamliu(data_dir, tmp_path_factory):
    """foamliu's MobileFaceNet in ONNX, its InputSpec beside it; skips where it is absent."""
    source = data_dir.parent / "weights" / "mobilefacenet-foamliu.onnx"
    if not source.exists():
        pytest.skip(f"no model at {source}")
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    shutil.copy(source, path)
    mean, std = (tuple(255 * v for v in values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    path.with_suffix(".spec.json").write_text(InputSpec(112, 112, mean=mean, std=std, template="112x112").to_json())
    return path
