"""A training loop to paste into a project of your own: your encoder, your DataLoader, one of normface's losses."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from normface import theory
from normface.losses import CosineSoftmax

# Your data: any (input, int64 label) pairs with labels from 0. Here 50 noisy classes in 64 dimensions.
torch.manual_seed(0)
classes, dim = 50, 32
centers = torch.randn(classes, 64)
labels = torch.randint(classes, (4000,))
data = TensorDataset(centers[labels] + 0.7 * torch.randn(4000, 64), labels)
loader = DataLoader(data, batch_size=128, shuffle=True, drop_last=True)

# Your encoder: the loss wants its last linear output as it is. No activation after it, and do not normalize it.
encoder = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, dim))

# The scale starts where the class count demands (Proposition 2) and is learned.
loss = CosineSoftmax(classes, dim)

# The loss has parameters too. What is normalized needs weight decay, or its norm only grows.
optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10 * len(loader))
for epoch in range(10):
    total = 0.0
    for inputs, targets in loader:
        value = loss(encoder(inputs), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        total += value.item()
    scale = loss.scale.item()
    least = theory.loss_lower_bound(classes, scale)
    print(f"epoch {epoch}: loss {total / len(loader):.3f} (at scale {scale:.1f} no lower than {least:.3f})")

# Afterwards the encoder alone is kept; two inputs are compared by the cosine of their features.
encoder.eval()
with torch.no_grad():
    a, b = (nn.functional.normalize(encoder(inputs), dim=1) for inputs in data.tensors[0][:2000].split(1000))
    cosines, same = (a * b).sum(1), labels[:1000] == labels[1000:2000]
print(f"mean cosine of the same class {cosines[same].mean():.2f}, of others {cosines[~same].mean():.2f}")
assert cosines[same].mean() > cosines[~same].mean() + 0.5
