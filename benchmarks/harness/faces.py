"""The faces and the model of others that benchmarks run on: real ones where they are, drawn ones elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from normface.data.synthetic import write_dataset
from normface.types import InputSpec

from .sheet import ROOT, LeftOut

SPEC = InputSpec(112, 112, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), template="112x112")
DRAWN = ROOT / "build" / "benchmarks" / "faces"


def shared() -> Path:
    """NORMFACE_DATA, or ../shared/data beside the project; whether it exists or not."""
    return Path(os.environ.get("NORMFACE_DATA", ROOT.parent / "shared" / "data"))


def faces() -> Path:
    """A folder laid out as the README says: real faces, or drawn ones (made once, in build/benchmarks)."""
    if (shared() / "lfw" / "pairs.txt").exists() and (shared() / "train" / "faces-112.zip").exists():
        return shared()
    if not (DRAWN / "lfw" / "pairs.txt").exists():
        print("no real faces (set NORMFACE_DATA or --data DIR): drawing some, a minute …", file=sys.stderr, flush=True)
        write_dataset(DRAWN, people=96, images=12, folds=2, fold_people=20, fold_images=5, fold_pairs=60)
    return DRAWN


def kind_of_faces() -> str:
    """For the record: "real" or "drawn"."""
    return "real" if faces() == shared() else "drawn"


def third_party(folder: Path) -> Path:
    """A link in `folder` to MobileFaceNet by foamliu, its specification beside it. Raises LeftOut without the file."""
    found = shared().parent / "weights" / "mobilefacenet-foamliu.onnx"
    if not found.exists():
        raise LeftOut("mobilefacenet-foamliu.onnx is not in ../shared/weights; lay it there, or go without")
    file = folder / found.name
    if not file.exists():
        file.symlink_to(found.resolve())
        file.with_suffix(".spec.json").write_text(SPEC.to_json())
    return file
