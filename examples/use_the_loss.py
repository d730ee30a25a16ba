"""NormFace's loss with somebody else's encoder and data: scikit-learn's handwritten digits, verified by cosine."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from normface.losses import CosineSoftmax
from normface.protocols import metrics
from normface.types import Embeddings, ScoreSet

images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)

torch.manual_seed(0)
encoder = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 16))
loss = CosineSoftmax(num_classes=10, dim=16)
optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
for _ in range(30):
    for rows in torch.randperm(len(x)).split(64):
        value = loss(encoder(x[rows]), y[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
print(f"loss {value.item():.3f}, scale {loss.scale.item():.1f}")

with torch.no_grad():
    features = encoder(torch.from_numpy(test_x)).numpy()
vectors = Embeddings(features, np.arange(len(features)).astype(str)).vectors
left, right = np.random.default_rng(0).integers(len(vectors), size=(2, 5000))
same = test_y[left] == test_y[right]
scores = ScoreSet(np.einsum("nd,nd->n", vectors[left], vectors[right]), same, np.zeros(len(same), int))
error = metrics.eer(metrics.roc(scores))
print(f"equal error rate on digits kept aside: {error:.1%} of {len(same)} pairs")
assert error < 0.1
