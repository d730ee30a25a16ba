"""normface export: what goes together, and what the gate lets through."""

import numpy as np
import pytest

from normface.cli.export import _judge
from normface.embed import Embedder, Network
from normface.errors import ConfigError, ModelError
from normface.types import Estimate, InputSpec, OperatingPoint

from .conftest import one_line

SPEC = InputSpec(112, 96, template="112x96")


def embedder(noise, sha256, target=0.25, far=0.1):
    """A network that sees colors by position, and errs."""
    point = OperatingPoint(0.5, target, Estimate(far, 0, 1, 12), Estimate(1, 0, 1, 12), "lfw", "full", "d")

    def network(pixels):
        seen = pixels.reshape(len(pixels), 3, 7, 16, 6, 16).mean((3, 5)).reshape(len(pixels), -1)
        return seen + noise * np.random.default_rng(0).standard_normal(seen.shape)

    return Embedder(Network(network, SPEC, sha256, point if sha256 == "full" else None))


def judge(full, smaller, data, max_loss=0.005, far=None):
    return _judge(full, smaller, data=data, far=far, max_loss=max_loss)


def test_a_model_that_loses_nothing_gets_its_own_certificate(drawn):
    point, found = judge(embedder(0, "full"), embedder(0, "small"), drawn)
    assert (point.model_sha256, point.target_far, point.protocol) == ("small", 0.25, "lfw, mirror sum")
    assert point.far.value <= 0.25
    assert point.tar.value == found.metrics["tar_smaller"].value
    assert found.facts["far"] == 0.25
    # A run certified at best accuracy is judged at the rate that it had there; --far is another
    full = embedder(0, "full", target=None)
    point, found = judge(full, embedder(0, "small"), drawn)
    assert (point.target_far, found.facts["far"]) == (None, 0.1)
    assert judge(full, embedder(0, "small"), drawn, far=0.5)[1].facts["far"] == 0.5
    with pytest.raises(ConfigError, match=r"--far, or a run with an operating point"):
        judge(embedder(0, "full", target=None, far=0), embedder(0, "small"), drawn)


def test_a_model_that_loses_is_refused_with_the_numbers(drawn):
    words = r"ends at 0\.005 or less, got TAR \d\.\d+ → \d\.\d+ at FAR 0\.25, loss \+0\.\d+ \[.*over 12 genuine pairs"
    with pytest.raises(ModelError, match=words):
        judge(embedder(0, "full"), embedder(5, "small"), drawn)


def test_mistakes(run, tmp_path):
    words = ["export", tmp_path, tmp_path / "m.onnx"]
    assert one_line(run(*words, "--int8", "--fp16")[2], "both")
    assert one_line(run(*words, "--gate", "lfw", "--data", tmp_path)[2], "--gate with --int8 or --fp16")
    assert one_line(run(*words, "--int8", "--gate", "lfw")[2], "--gate lfw with --data")
    assert one_line(run(*words, "--int8", "--far", 0.1)[2], "--far with --gate lfw")
    assert run(*words, "--int8", "--gate", "cfp", "--data", tmp_path)[0] == 2
    assert not (tmp_path / "m.onnx").exists()
