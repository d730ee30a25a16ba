"""What is learned of kinds of photographs that are known."""

import numpy as np
import pytest
from tests.embed.networks import network, write_crops

from normface.conditions import scores
from normface.data import open_reader
from normface.embed import Embedder
from normface.embed import conditions as learning
from normface.embed.conditions import Sample, fit, learn
from normface.errors import DataError

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def sample(middle, count, spread=0.3, light=100.0, people=None):
    """Unit vectors around a direction, with signals."""
    vectors = np.asarray(middle) + spread * RNG.normal(size=(count, len(middle)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    signals = {name: light * RNG.uniform(0.9, 1.1, count) for name in learning.USED}
    names = np.array([f"{RNG.integers(1 << 40)}" for _ in range(count)]) if people is None else people
    return Sample(vectors, signals, names)


def everywhere(count, dim=8):
    """Ordinary people: directions that are spread evenly."""
    return sample(np.zeros(dim), count, 1)


class TestFit:
    def test_the_cut_leaves_its_share_inside_and_finds_the_kind(self):
        kind = sample(np.eye(8)[0] * 2, 300, 0.3)
        found = fit(everywhere(2000), [everywhere(500)], {"odd": kind}, threshold=0.8, share=0.02)
        fresh, odd = everywhere(4000), sample(np.eye(8)[0] * 2, 500, 0.3)
        beyond = scores(found.log_odds(fresh.vectors, fresh.signals)) > found.cut
        assert 0.01 < beyond.mean() < 0.035  # 0.02 and three standard errors of both samples
        assert (scores(found.log_odds(odd.vectors, odd.signals)) > found.cut).mean() > 0.5
        assert found.facts["undecided"]["inside"] == pytest.approx(0.02, abs=1e-3)

    def test_the_risk_is_the_share_of_pairs_accepted(self):
        """Photographs of one direction are all alike; of others, cosines above 0.9 are rare in 16 dimensions."""
        found = fit(everywhere(1000, 16), [], {"same": sample(np.eye(16)[0], 400, 0.01)}, threshold=0.9)
        assert found.risk(50) == pytest.approx(1, abs=0.02)
        assert found.risk(-50) < 0.001
        assert list(found.risk_shares) == sorted(found.risk_shares)

    def test_one_persons_pictures_are_no_strangers(self):
        alone = sample(np.eye(16)[0], 200, 0.001, people=np.array(["Ann"] * 200))
        found = fit(everywhere(600, 16), [], {"Ann": alone}, threshold=0.9)
        assert max(found.risk_shares) < 0.01

    def test_weights_are_those_of_scikit_learn(self):
        linear = pytest.importorskip("sklearn.linear_model")
        x = np.column_stack([RNG.normal(size=(300, 3)) * (1, 5, 0.1) + (0, 3, 1), np.ones(300)])
        target = (x[:, 0] + 0.2 * x[:, 1] + RNG.normal(size=300) > 1).astype(int)
        found = learning._logistic(x, target, 1)[0]
        middle, spread = x[:, :3].mean(0), x[:, :3].std(0)
        weight = np.where(target == 0, 0.5 / (target == 0).sum(), 0.5 / (target == 1).sum())
        theirs = linear.LogisticRegression(C=1 / learning.PENALTY, tol=1e-9, max_iter=1000)
        theirs.fit((x[:, :3] - middle) / spread, target, weight)
        np.testing.assert_allclose(found[:3], theirs.coef_[0] / spread, rtol=2e-3)
        np.testing.assert_allclose(found[3], theirs.intercept_[0] - found[:3] @ middle, rtol=2e-3)

    def test_rising_shares_are_isotonic_regression(self):
        isotonic = pytest.importorskip("sklearn.isotonic")
        pairs = RNG.integers(1, 50, 40).astype(float)
        hits = np.floor(pairs * RNG.uniform(0, 1, 40) * np.linspace(0.1, 1, 40))
        theirs = isotonic.isotonic_regression(hits / pairs, sample_weight=pairs)
        np.testing.assert_allclose(learning._rising(hits, pairs), theirs)

    def test_too_few_are_refused(self):
        with pytest.raises(DataError, match="at least 50 photographs for the condition odd, got 49"):
            fit(everywhere(100), [], {"odd": everywhere(49)}, threshold=0.5)


def test_learning_from_crops(tmp_path):
    embedder = Embedder.load(network(tmp_path / "model.onnx"))
    faces = open_reader(write_crops(tmp_path / "faces", 60))
    inside, bright = (open_reader(write_crops(tmp_path / name, 60, light)) for name, light in (("in", 110), ("b", 240)))
    done = []
    found = learn(embedder, inside, [faces], {"bright": bright}, threshold=0.3, progress=lambda *x: done.append(x))
    assert found.kinds[-1] == "bright"
    assert "eyes covered" in found.kinds
    assert found.facts["outside"] == dict.fromkeys(found.kinds, 60)
    assert done[-1] == (done[-1][1],) * 2
    again = learn(embedder, inside, [faces], {"bright": bright}, threshold=0.3)
    assert again == found  # nothing is drawn otherwise
    known = learn(embedder, inside, [faces], {"bright": bright}, threshold=0.3, vectors=embedder.embed(inside))
    np.testing.assert_allclose(known.weights, found.weights, rtol=1e-3, atol=1e-3)
