"""Fine-tuning from the model that ships: what it computes is kept, and batch norm works again."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from normface import models
from normface.checkpoint import ORIGIN
from normface.data import open_reader
from normface.embed import Embedder
from normface.errors import ModelError
from normface.models import Model
from normface.train import Checkpoint, load_config, train
from normface.train.shipped import NETWORK, crops_for, settle, start_checkpoint, unfolded
from normface.types import InputSpec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reader(drawn):
    return open_reader(drawn / "train" / "faces-112.zip")


@pytest.fixture(scope="module")
def theirs(reader):
    """What the file computes."""
    return Embedder.load().embed(reader, mirror="none").vectors


def network():
    model = models.build(NETWORK["name"], **NETWORK["options"])
    model.load_state_dict(start_checkpoint("default").part("model"))
    return model


def embedded(model, reader):
    with torch.no_grad():
        return nn.functional.normalize(torch.cat([model(x) for x in crops_for(model, reader)])).numpy()


def cosines(model, reader, theirs):
    rows = np.linspace(0, len(reader) - 1, min(512, len(reader))).astype(int)
    return (embedded(model, reader) * theirs[rows]).sum(1)


def test_computes_what_the_file_does(reader, theirs):
    """Weights are codes times scales on both sides; the file's gate asks int8 for 0.99 beside the float network."""
    assert cosines(network().eval(), reader, theirs).min() > 0.99999


def test_batch_norm_takes_up_its_work(reader, theirs):
    """Measured, the network computes the same, and nearly so in training; before, in training not at all."""
    model = network()
    assert cosines(model.train(), reader, theirs).mean() < 0.5
    model = network()
    settle(model, crops_for(model, reader))
    assert cosines(model.eval(), reader, theirs).min() > 0.9999
    assert cosines(model.train(), reader, theirs).mean() > 0.95


def test_settling_by_hand():
    """y = 2x + 1 stays, by the mean and variance of the images."""
    model = Model(InputSpec(1, 4), 1)
    model.norm = nn.BatchNorm2d(1, eps=1e-12)
    model.forward = lambda x: model.norm(x)
    with torch.no_grad():
        model.norm.weight.fill_(2)
        model.norm.bias.fill_(1)
    x = torch.tensor([1.0, 2, 3, 6]).view(1, 1, 1, 4)
    settle(model, [x, x + 2])
    assert model.norm.running_mean.item() == pytest.approx(4)
    assert model.norm.running_var.item() == pytest.approx((9 + 4 + 1 + 4 + 1 + 0 + 1 + 16) / 8)
    for mode in (False, True):
        model.train(mode)
        torch.testing.assert_close(model(torch.cat([x, x + 2])), 2 * torch.cat([x, x + 2]) + 1)


def test_a_run_goes_on_from_it(reader, theirs, tmp_path):
    """At a rate of nearly 0 it stays the shipped model, and says whose it is."""
    options = ["start.run=default", "optim.epochs=0.3", "optim.batch=16", "precision=fp32", "optim.lr=1e-12"]
    train(load_config("finetune", options), reader, tmp_path / "run")
    checkpoint = Checkpoint.read(tmp_path / "run")
    assert checkpoint.config["model"] == NETWORK
    assert checkpoint.facts[ORIGIN]["name"] == "normface's default model"
    assert "research only" in checkpoint.facts[ORIGIN]["licence"]
    vectors = Embedder.load(tmp_path / "run").embed(reader, mirror="none").vectors
    assert (vectors * theirs).sum(1).min() > 0.99
    assert json.loads((tmp_path / "run" / "people.json").read_text("utf-8")) == reader.identities.tolist()


def test_another_network_is_refused(reader, tmp_path):
    options = ["start.run=default", "model.name=mobilefacenet", "optim.batch=16"]
    with pytest.raises(ModelError, match="model 'mobilefacenet'"):
        train(load_config("finetune", options), reader, tmp_path / "run")
    with pytest.raises(ModelError, match="missing"):
        unfolded(models.build("smallresnet"), {"body.0.weight": torch.zeros(16, 3, 3, 3)})
