"""A model is known by its weights: their hash is computed, whatever the file says of itself."""

import hashlib
import logging
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.embed.networks import network

from normface.embed import Embedder
from normface.embed.loading import DEFAULT
from normface.embed.network import CONSTANTS_KEY, SHA_KEY, certificate
from normface.embed.weights import fingerprint
from normface.errors import DataError, ModelError
from normface.types import OperatingPoint


def oracle(proto):
    """The same hash by the package onnx."""
    digest = hashlib.sha256()
    for held in sorted(proto.graph.initializer, key=lambda each: each.name):
        values = numpy_helper.to_array(held)
        digest.update(f"{held.name} {values.dtype.str} {values.shape}\n".encode() + values.tobytes())
    return digest.hexdigest()


def change(path, edit):
    """Save a model with the values of its largest constant edited; metadata stays."""
    proto = onnx.load(path)
    held = max(proto.graph.initializer, key=lambda each: numpy_helper.to_array(each).nbytes)
    held.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(held)), held.name))
    onnx.save(proto, path)


def name(path, **entries):
    """Write metadata, and a certificate of the weights that it names."""
    proto = onnx.load(path)
    for key, value in entries.items():
        proto.metadata_props.add(key={"sha": SHA_KEY, "constants": CONSTANTS_KEY}[key], value=value)
    onnx.save(proto, path)
    kept = certificate(path)
    kept.write_text(replace(OperatingPoint.from_json(kept.read_bytes()), model_sha256=entries["sha"]).to_json())


@pytest.fixture
def model(tmp_path):
    return network(tmp_path / "model.onnx")


@pytest.mark.parametrize("dtype", "f4 f8 f2 i1 i2 i4 i8 u1 u2 u4 u8 ?".split())
def test_the_hash_is_that_of_the_values(dtype, model):
    proto = onnx.load(model)
    for label, value in (("é", np.arange(6).reshape(2, 1, 3)), ("scalar", np.array(1)), ("none", np.zeros((0, 4)))):
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(dtype), label))
    assert fingerprint(proto.SerializeToString()) == oracle(proto)


def test_the_default_model_has_the_hash_that_it_names():
    assert fingerprint(DEFAULT.read_bytes()) == oracle(onnx.load(DEFAULT)) == Embedder.load().sha256


def test_permuted_weights_are_another_model_whatever_the_metadata_say(tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(DEFAULT.read_bytes())
    certificate(copy).write_bytes(certificate(DEFAULT).read_bytes())
    whole = Embedder.load(copy)
    assert whole.operating_point
    change(copy, lambda values: np.random.default_rng(0).permutation(values))
    with pytest.raises(ModelError, match="certified on this model"):
        Embedder.load(copy)
    assert Embedder.load(copy, certified=False).sha256 not in (whole.sha256, None)


def test_a_float32_export_has_its_runs_hash_while_its_constants_are_those_it_names(model):
    name(model, sha="run", constants=oracle(onnx.load(model)))
    assert Embedder.load(model).sha256 == "run"
    change(model, lambda values: -values)
    with pytest.raises(ModelError, match="certified on this model"):
        Embedder.load(model)


def test_an_older_float32_export_is_read_with_a_warning(model, caplog):
    name(model, sha="run")
    with caplog.at_level(logging.WARNING, "normface"):
        assert Embedder.load(model).sha256 == "run"
    assert "cannot be checked: export it again" in caplog.text


def test_weights_kept_outside_the_file_count(tmp_path, model):
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(model), apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    first = fingerprint(apart.read_bytes(), tmp_path)
    values = bytearray((tmp_path / "apart.bin").read_bytes())
    values[100] ^= 1
    (tmp_path / "apart.bin").write_bytes(values)
    assert fingerprint(apart.read_bytes(), tmp_path) != first
    (tmp_path / "apart.bin").unlink()
    with pytest.raises(ModelError, match=r"apart\.bin"):
        fingerprint(apart.read_bytes(), tmp_path)


@pytest.mark.parametrize("damage", [b"\xff" * 20, b"\x3a\xff\xff\xff\x0f", b"\x3f"])
def test_other_bytes_are_refused(damage):
    with pytest.raises(DataError, match="an ONNX model"):
        fingerprint(damage)
