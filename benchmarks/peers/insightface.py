"""`verification.evaluate` of github deepinsight/insightface, from a checkout whose folder INSIGHTFACE names.

It imports mxnet, for reading alone; and its `interp1d(kind="slinear")` fails on equal rates with SciPy since 1.9.
Both are replaced at run time: the second by `kind="linear"`, the same line through the same points.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from scipy import interpolate

from benchmarks.harness.sheet import MissingPeer


def load() -> Any:
    """Its module `verification`."""
    path = Path(os.environ.get("INSIGHTFACE", ""), "recognition", "arcface_torch", "eval", "verification.py")
    if not path.exists():
        raise MissingPeer(
            "insightface",
            "git clone --depth 1 https://github.com/deepinsight/insightface && export INSIGHTFACE=$PWD/insightface",
        )
    mxnet = ModuleType("mxnet")
    vars(mxnet)["ndarray"] = ModuleType("mxnet.ndarray")
    sys.modules.setdefault("mxnet", mxnet)
    module = imported(path)
    module.interpolate = SimpleNamespace(interp1d=lambda x, y, kind: interpolate.interp1d(x, y, kind="linear"))
    return module


def imported(path: Path) -> Any:
    """A module by its file."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
