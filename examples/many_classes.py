"""A million classes on a laptop: each step uses the batch's own classes and a thousandth of the others.

Random features replace the network. The weights and their momentum take 2 × 256 MB, and the rest takes little.
"""

import time

import torch

from normface.losses import CosineSoftmax
from normface.train import RowSGD

CLASSES, DIM, BATCH = 1_000_000, 64, 256

torch.manual_seed(0)
loss = CosineSoftmax(CLASSES, DIM, sample=0.001)
optimizer = RowSGD(loss.parameters(), lr=1.0, momentum=0.9)  # updates only the sampled rows
print(loss)

labels = torch.randint(CLASSES, (BATCH,))
features = torch.randn(BATCH, DIM)
for step in range(5):
    began = time.perf_counter()
    optimizer.zero_grad()
    value = loss(features, labels)
    value.backward()
    optimizer.step()
    print(f"step {step}: loss {value.item():.3f}, {time.perf_counter() - began:.2f} s")
