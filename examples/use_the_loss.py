"""NormFace's loss with somebody else's encoder: handwritten digits from scikit-learn, verified by cosine."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from normface.losses import CosineSoftmax
from normface.protocols import metrics
from normface.types import Embeddings, ScoreSet

images, labels = load_digits(return_X_y=True)
known = labels < 7  # digits 7, 8, 9 are never trained on
x, y = torch.tensor(images[known] / 16, dtype=torch.float32), torch.tensor(labels[known])

torch.manual_seed(0)
encoder = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 16))
loss = CosineSoftmax(num_classes=7, dim=16)
optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
for _ in range(30):
    for rows in torch.randperm(len(x)).split(64):
        value = loss(encoder(x[rows]), y[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
print(f"loss {value.item():.3f}, scale {loss.scale.item():.1f}")

with torch.no_grad():
    features = encoder(torch.tensor(images[~known] / 16, dtype=torch.float32)).numpy()
vectors = Embeddings(features, np.arange(len(features)).astype(str)).vectors
left, right = np.random.default_rng(0).integers(len(vectors), size=(2, 5000))
same = labels[~known][left] == labels[~known][right]
scores = ScoreSet(np.einsum("nd,nd->n", vectors[left], vectors[right]), same, np.zeros(len(same), int))
error = metrics.eer(metrics.roc(scores))
print(f"equal error rate on unseen digits: {error:.1%} of {len(same)} pairs")
assert error < 0.35
