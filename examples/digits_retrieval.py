"""Image retrieval with NormFace's loss on scikit-learn's handwritten digits.

Each test image searches all others. The mean average precision measures how high images of its own digit rank.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from torch import nn

from normface.losses import CosineSoftmax


def mean_average_precision(vectors: np.ndarray, labels: np.ndarray) -> float:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    others = ~np.eye(len(labels), dtype=bool)
    found = [average_precision_score(labels[o] == y, c[o]) for o, c, y in zip(others, cosines, labels, strict=True)]
    return float(np.mean(found))


images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
x, y = torch.from_numpy(train_x).reshape(-1, 1, 8, 8), torch.from_numpy(train_y)

torch.manual_seed(0)
encoder = nn.Sequential(
    *(nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(256, 32)),
)
loss = CosineSoftmax(num_classes=10, dim=32)
optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
for _ in range(10):
    for rows in torch.randperm(len(x)).split(64):
        value = loss(encoder(x[rows]), y[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

with torch.no_grad():
    features = encoder.eval()(torch.from_numpy(test_x).reshape(-1, 1, 8, 8)).numpy()
before, after = mean_average_precision(test_x, test_y), mean_average_precision(features, test_y)
print(f"mean average precision over {len(test_y)} searches: pixels {before:.3f}, embedding {after:.3f}")
assert after > 0.9 > before + 0.2
