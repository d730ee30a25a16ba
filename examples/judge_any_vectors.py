"""Evaluate vectors of any system with the LFW protocol, here raw pixels of synthetic faces."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from normface.data import open_reader
from normface.data.synthetic import write_dataset
from normface.protocols import lfw
from normface.report import render_markdown, write_report
from normface.types import Embeddings

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
write_dataset(folder, people=2, images=2, folds=4, fold_people=5, fold_images=3, fold_pairs=10)
faces = open_reader(folder / "lfw" / "lfw-112x96.zip")
pixels = np.stack([faces.read(i).ravel() for i in range(len(faces))]).astype(np.float32)
embeddings = Embeddings(pixels - pixels.mean(0), faces.ids)
embeddings.save(folder / "pixels.npz")  # now also: normface evaluate lfw --data FOLDER --embeddings pixels.npz

result = lfw(embeddings, folder / "lfw" / "pairs.txt")
print(render_markdown({"raw pixels": result}))
write_report(folder / "report.html", {"raw pixels": result}, title="Raw pixels", command="python judge_any_vectors.py")
print(f"report: {folder / 'report.html'}")
