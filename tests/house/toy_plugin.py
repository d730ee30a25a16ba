"""What somebody else might publish: one entry of each kind, known to normface by entry points alone."""

import numpy as np
import torch
from torch import nn

from normface.data import READERS, Format
from normface.data.folder import open_folder
from normface.faces import DETECTORS
from normface.gallery import GALLERIES, open_gallery
from normface.losses import LOSSES
from normface.models import MODELS, Model
from normface.protocols import PROTOCOLS, inputs_of, reads
from normface.types import Estimate, Face, InputSpec, Result


@PROTOCOLS.register
@reads("toy/pairs.txt", ids="Name/Name_0001.jpg", pairs=inputs_of("lfw").pairs)
def toy_protocol(embeddings, pairs_file, *, conditions=None):
    """How many vectors there are."""
    n = len(embeddings)
    facts = {"threshold": 0.5, "pairs_sha256": "toy", **(conditions or {})}
    return Result("toy_protocol", {"accuracy": Estimate(1.0, 1.0, 1.0, n)}, {}, facts)


@DETECTORS.register
class toy_detector:
    """A face in the middle of each photograph."""

    def detect(self, image):
        height, width = image.shape[:2]
        points = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]]) * [width, height]
        return [Face((0.0, 0.0, float(width), float(height)), points, 1.0)]

    def detect_many(self, images):
        return [self.detect(image) for image in images]


@READERS.register
class toy_reader(Format):
    """A folder beside a file that names it."""

    suffix = ".toy"

    def open(self, path, strict=False):
        return open_folder(path.with_name(path.read_text()), strict)


@GALLERIES.register
def toy(place, *, model, operating_point, key, create):
    """A gallery in memory, under another name."""
    return open_gallery(f"file:{place}.db", model=model, operating_point=operating_point, key=key, create=create)


@MODELS.register
class toy_model(Model):
    """Mean colors of tiles, and one matrix."""

    def __init__(self, dim=8):
        super().__init__(InputSpec(112, 96, template="112x96"), dim)
        self.pool, self.matrix = nn.AdaptiveAvgPool2d(4), nn.Linear(48, dim)

    def forward(self, images):
        return self.matrix(self.pool(images).flatten(1))


@LOSSES.register
class toy_loss(nn.Module):
    """A plain softmax."""

    def __init__(self, num_classes, dim):
        super().__init__()
        self.classes = nn.Linear(dim, num_classes, bias=False)

    def forward(self, features, labels):
        return nn.functional.cross_entropy(self.classes(features), torch.as_tensor(labels))
