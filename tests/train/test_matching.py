"""How a network meets its teachers: each loss by hand in float64, and what its minimum is."""

import numpy as np
import pytest
import torch

from normface.train.matching import MATCHINGS, trust

DIM, DIMS, COUNT = 6, (6, 9), 5


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(COUNT, DIM)), [unit(rng.normal(size=(COUNT, dim))) for dim in DIMS]


def found(matching, features, targets):
    return [
        each.detach().numpy() for each in matching(torch.from_numpy(features), list(map(torch.from_numpy, targets)))
    ]


def weight(head):
    return head.weight.detach().numpy()


def build(name, dims=DIMS):
    """In float64 from the start: a head that began in float32 is an isometry to 1e-7 only."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        return MATCHINGS[name](DIM, dims)
    finally:
        torch.set_default_dtype(torch.float32)


def test_features(batch):
    features, targets = batch
    value, cos = found(build("features", DIMS[:1]), features, targets[:1])
    np.testing.assert_allclose(cos, (unit(features) * targets[0]).sum(1))
    np.testing.assert_allclose(value, 1 - cos)


def test_concatenate(batch):
    features, targets = batch
    matching = build("concatenate")
    predicted = unit(features @ weight(matching.head).T)
    value, cos = found(matching, features, targets)
    np.testing.assert_allclose(cos, (predicted * np.concatenate(targets, 1) / np.sqrt(2)).sum(1))
    np.testing.assert_allclose(value, 1 - cos)


def test_heads(batch):
    features, targets = batch
    matching = build("heads")
    cosines = [
        (unit(features @ weight(head).T) * target).sum(1) for head, target in zip(matching.heads, targets, strict=True)
    ]
    value, cos = found(matching, features, targets)
    np.testing.assert_allclose(cos, np.mean(cosines, 0))
    np.testing.assert_allclose(value, 1 - cos)


def test_similarity(batch):
    features, targets = batch
    value, cos = found(build("similarity"), features, targets)
    ours, wanted = unit(features) @ unit(features).T, sum(target @ target.T for target in targets) / 2
    by_hand = [np.mean([(ours[i, j] - wanted[i, j]) ** 2 for j in range(COUNT) if j != i]) for i in range(COUNT)]
    np.testing.assert_allclose(value, by_hand)
    assert np.isnan(cos).all()


@pytest.mark.parametrize("name", ["concatenate", "heads"])
def test_heads_keep_cosines_while_they_learn(batch, name):
    """WᵀW = 1 at the start and after steps: what the heads compare is what the features are compared by."""
    features, targets = batch
    matching = build(name)
    optimizer = torch.optim.SGD(matching.parameters(), lr=0.5, momentum=0.9)
    first = None
    for _ in range(20):
        value = matching(torch.from_numpy(features), list(map(torch.from_numpy, targets)))[0].mean()
        first = first or value.item()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < 0.8 * first
    for head in [matching.head] if name == "concatenate" else matching.heads:
        np.testing.assert_allclose(weight(head).T @ weight(head), np.eye(DIM), atol=1e-9)


def test_the_optimum_has_the_teachers_mean_cosines():
    """Features that one head maps onto the teachers' vectors side by side: cosines between images are their mean."""
    rng = np.random.default_rng(1)
    matching = build("concatenate", (3, 3))
    targets = [unit(rng.normal(size=(COUNT, 3))) for _ in range(2)]
    side_by_side = np.concatenate(targets, 1) / np.sqrt(2)
    features = side_by_side @ weight(matching.head)  # W is square here: its transpose is its inverse
    value, _ = found(matching, features, targets)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    mean = sum(target @ target.T for target in targets) / 2
    np.testing.assert_allclose(unit(features) @ unit(features).T, mean, atol=1e-12)
    np.testing.assert_allclose(found(build("similarity", (3, 3)), features, targets)[0], 0, atol=1e-12)


def test_confidence_moves_lengths_and_matching_directions(batch):
    features, targets = batch
    x = torch.from_numpy(features).requires_grad_()
    value, cos = build("features", DIMS[:1])(x, [torch.from_numpy(targets[0])])
    by_hand = (np.linalg.norm(features, axis=1) / np.sqrt(DIM) - np.maximum(cos.detach().numpy(), 0)) ** 2
    np.testing.assert_allclose(trust(x, cos).detach().numpy(), by_hand)
    assert (cos < 0).any()
    (direction,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    (length,) = torch.autograd.grad(trust(x, cos).sum(), x)
    np.testing.assert_allclose((direction * x).sum(1).detach().numpy(), 0, atol=1e-12)
    along = (length * x).sum(1, keepdim=True) / x.square().sum(1, keepdim=True) * x
    np.testing.assert_allclose(length.numpy(), along.detach().numpy(), atol=1e-12)
