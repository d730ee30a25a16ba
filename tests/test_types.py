import json
import math
from dataclasses import replace

import numpy as np
import pytest

from normface.errors import ConfigError, DataError, InputError
from normface.types import (
    Calibration,
    ClassShard,
    Embeddings,
    Estimate,
    InputSpec,
    OperatingPoint,
    Pairs,
    Result,
    ScoreSet,
)

RNG = np.random.default_rng(0)


class TestInputSpec:
    def test_prepare(self):
        images = RNG.integers(0, 256, (2, 4, 3, 3), dtype=np.uint8)
        pixels = InputSpec(4, 3).prepare(images)
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        expected = (images.astype(np.float64) - 127.5) / 128
        np.testing.assert_allclose(pixels, expected.transpose(0, 3, 1, 2), rtol=1e-6)

    def test_colour_order_and_own_statistics(self):
        images = RNG.integers(0, 256, (1, 2, 2, 3), dtype=np.uint8)
        spec = InputSpec(2, 2, order="BGR", mean=(1, 2, 3), std=(4, 5, 6))
        np.testing.assert_allclose(
            spec.prepare(images)[0, 0], (images[0, ..., 2].astype(np.float32) - 1) / 4, rtol=1e-6
        )

    def test_grey(self):
        white = np.full((1, 2, 2, 3), 255, np.uint8)
        pixels = InputSpec(2, 2, channels=1, mean=(0,), std=(255,)).prepare(white)
        np.testing.assert_allclose(pixels, np.ones((1, 1, 2, 2)), rtol=1e-6)

    @pytest.mark.parametrize(
        "images", [np.zeros((1, 3, 4, 3), np.uint8), np.zeros((1, 4, 3, 3), np.float32), np.zeros((4, 3, 3), np.uint8)]
    )
    def test_refuses_to_resize_or_guess(self, images):
        with pytest.raises(InputError, match="align"):
            InputSpec(4, 3).prepare(images)

    def test_round_trip(self):
        spec = InputSpec(112, 112, order="BGR", template="112x112")
        assert InputSpec.from_json(spec.to_json()) == spec

    @pytest.mark.parametrize("text", ["", "[]", '{"height": 3}', '{"height": 3, "width": 2, "colour": 1}', "{"])
    def test_foreign_json(self, text):
        with pytest.raises(ConfigError, match="InputSpec"):
            InputSpec.from_json(text)

    @pytest.mark.parametrize("change", [dict(height=0), dict(channels=2), dict(std=(1, 1, 0)), dict(order="GBR")])
    def test_refuses_nonsense(self, change):
        with pytest.raises(ConfigError, match="correct"):
            InputSpec(**({"height": 4, "width": 3} | change))


class TestEmbeddings:
    def test_normalises_and_keeps_norms(self):
        e = Embeddings(np.array([[3.0, 4.0], [0.0, 2.0]]), ["a", "b"])
        np.testing.assert_allclose(e.vectors, [[0.6, 0.8], [0, 1]])
        np.testing.assert_allclose(e.norms, [5, 2])

    def test_round_trip(self, tmp_path):
        e = Embeddings(RNG.normal(size=(3, 4)).astype(np.float32), ["a", "b", "ü/ü_0001.jpg"])
        e.save(tmp_path / "e.npz")
        again = Embeddings.load(tmp_path / "e.npz")
        np.testing.assert_allclose(again.vectors, e.vectors, rtol=1e-6)
        np.testing.assert_array_equal(again.norms, e.norms)
        assert list(again.ids) == list(e.ids)

    def test_anybodys_npz(self, tmp_path):
        np.savez(tmp_path / "f.npz", vectors=np.eye(2, dtype=np.float16) * 3, ids=["a", "b"])
        e = Embeddings.load(tmp_path / "f.npz")
        assert e.vectors.dtype == np.float32
        np.testing.assert_array_equal(e.norms, [3, 3])

    @pytest.mark.parametrize(
        ("vectors", "ids", "message"),
        [
            (np.array([[1.0, np.nan], [1, 1]]), ["a", "b"], r"1 of 2 with NaN.*first: a"),
            (np.array([[1.0, 1], [0, 0]]), ["a", "b"], r"first: b"),
            (np.array([[1, 2], [3, 4]]), ["a", "b"], "floating-point vectors, got int64"),
            (np.ones((2, 2)), ["a", "a"], "1 repetitions"),
            (np.ones((2, 2)), ["a"], "one id for each"),
            (np.ones(2), ["a", "b"], r"\[N, D\]"),
            (np.ones((0, 2)), [], "N, D ≥ 1"),
        ],
    )
    def test_errors(self, vectors, ids, message):
        with pytest.raises(DataError, match=message):
            Embeddings(vectors, ids)

    def test_foreign_files(self, tmp_path):
        (tmp_path / "text.npz").write_text("no archive")
        np.savez(tmp_path / "other.npz", weights=np.ones(3))
        np.savez(tmp_path / "pickle.npz", vectors=np.ones((1, 1)), ids=np.array([object()]))
        for name in ("text", "other", "pickle", "absent"):
            with pytest.raises(DataError, match=f"{name}.npz"):
                Embeddings.load(tmp_path / f"{name}.npz")

    def test_unwritable(self, tmp_path):
        with pytest.raises(DataError, match="to write"):
            Embeddings(np.ones((1, 2)), ["a"]).save(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_index_arrays_have_one_length():
    with pytest.raises(InputError, match="one length"):
        Pairs(np.zeros(2, int), np.zeros(3, int), np.zeros(2, bool), np.zeros(2, int))


def test_scores_need_both_kinds():
    with pytest.raises(DataError, match="only genuine"):
        ScoreSet(np.ones(2), np.ones(2, bool), np.zeros(2, int))
    with pytest.raises(DataError, match="finite"):
        ScoreSet(np.array([1, np.nan]), np.array([True, False]), np.zeros(2, int))


def test_result_round_trip():
    result = Result("lfw", {"accuracy": Estimate(0.9, 0.8, 1.0, 10)}, {"roc": {"far": [0.0], "tar": [1.0]}}, {"n": 1})
    assert Result.from_json(result.to_json()) == result
    assert json.loads(result.to_json())["metrics"]["accuracy"]["low"] == 0.8


def test_operating_point_round_trip():
    point = OperatingPoint(0.3, None, Estimate(0.01, 0, 0.02, 9), Estimate(0.9, 0.8, 1, 9), "lfw", "ab", "cd")
    assert OperatingPoint.from_json(point.to_json()) == point
    assert point.accepts(0.3)
    assert not point.accepts(0.29)
    for text in ("{}", "[]", "nonsense"):
        with pytest.raises(ConfigError, match="operating point"):
            OperatingPoint.from_json(text)


class TestCalibration:
    made = Calibration(10.0, -3.0, (-1.0, 0.2, 0.5), (-4.0, 0.5, 3.0), 0.2, 0.1)

    def test_a_score_becomes_a_likelihood_ratio_within_what_data_support(self):
        assert self.made.llr(0.4) == pytest.approx(1.0)
        assert (self.made.llr(-1), self.made.llr(1)) == (-4, 3)
        assert Calibration(10.0, -3.0, (), (), 0.2, 0.1).llr(1) == 7  # no steps, no limit

    @pytest.mark.parametrize("prior", [0.5, 0.01, 0.999])
    def test_probability_is_bayes_rule(self, prior):
        odds = prior / (1 - prior) * math.e  # at score 0.4
        assert self.made.probability(0.4, prior) == pytest.approx(odds / (1 + odds))

    def test_refusals(self):
        with pytest.raises(InputError, match="prior"):
            self.made.probability(0.4, 1)
        with pytest.raises(ConfigError, match="rising"):
            Calibration(1.0, 0.0, (0.5, 0.2), (1.0, 2.0), 0.2, 0.1)
        with pytest.raises(ConfigError, match="as many"):
            Calibration(1.0, 0.0, (0.5,), (), 0.2, 0.1)

    def test_travels_in_a_certificate_and_old_ones_are_read(self):
        bare = OperatingPoint(0.3, None, Estimate(0.01, 0, 0.02, 9), Estimate(0.9, 0.8, 1, 9), "lfw", "ab", "cd")
        point = replace(bare, calibration=self.made)
        assert OperatingPoint.from_json(point.to_json()) == point
        old = {name: value for name, value in json.loads(bare.to_json()).items() if name != "calibration"}
        assert OperatingPoint.from_json(json.dumps(old)) == bare


def test_class_shard():
    assert ClassShard(2, 4, 9).stop == 4
    with pytest.raises(InputError, match="start < stop"):
        ClassShard(4, 4, 9)
