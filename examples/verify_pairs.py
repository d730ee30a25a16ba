"""Verify four pairs of drawn photographs by the default model, and draw the picture of the README.

The people are drawn, not photographed: `normface.data.synthetic.photograph(0, person, picture)` with (person, picture)
(17, 0) and (17, 2) for Ann, (35, 1) and (35, 2) for Bob, (39, 1) for Carl. Run: python examples/verify_pairs.py OUT.png
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from normface.data import read_image
from normface.embed import Embedder

PHOTOGRAPHS = Path(__file__).with_name("photographs")
PAIRS = (("ann-1", "ann-2"), ("bob-1", "bob-2"), ("ann-1", "bob-1"), ("ann-1", "carl-1"))
RIGHT, WRONG = "#117733", "#aa3311"

embedder = Embedder.load()
figure = Figure(figsize=(9, 1.95), layout="constrained")
for axes, (a, b) in zip(figure.subplots(1, len(PAIRS)), PAIRS, strict=True):
    pictures = [read_image(PHOTOGRAPHS / f"{name}.jpg") for name in (a, b)]
    match = embedder.verify(*pictures, names=(a, b))
    same = a.partition("-")[0] == b.partition("-")[0]
    print(f"{a} {b}: cosine {match.score:.2f}, {'same person' if match.decision else 'different people'}")
    crops = [picture[25:225, 25:225] for picture in pictures]
    axes.imshow(np.hstack([crops[0], np.full((200, 8, 3), 255, np.uint8), crops[1]]))
    axes.axis("off")
    people = " and ".join(dict.fromkeys(name.partition("-")[0].title() for name in (a, b)))
    axes.set_title(people + (" twice" if same else ""), fontsize=9, color="#333333")
    verdict = ("same person" if match.decision else "different people") + ("" if match.decision == same else ": wrong")
    words = dict(transform=axes.transAxes, ha="center", va="top", fontsize=9)
    axes.text(0.5, -0.04, f"cosine {match.score:.2f}", color="#333333", **words)
    color = RIGHT if match.decision == same else WRONG
    axes.text(0.5, -0.22, verdict, color=color, weight="bold", **words)

raster = BytesIO()
figure.savefig(raster, format="png", dpi=130, bbox_inches="tight", pad_inches=0.06)
target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "pairs.png"
with Image.open(raster) as image:
    image.convert("RGB").quantize(256).save(target, optimize=True)
print(f"picture: {target}; threshold {embedder.operating_point.threshold:.4f}")
