"""Conditions as arithmetic says, and certificates that hold them."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from normface.conditions import Assessment, Conditions
from normface.errors import ConfigError, ModelError
from normface.types import Estimate, Match, OperatingPoint

# Two kinds, for vectors of two dimensions: log odds x − 3, and y + log(1 + light) − 5
CONDITIONS = Conditions(
    ranges={"light": (40, 200), "eye_distance": (15, 1000)}, kinds=("blurred", "dark"), signals=("light",),
    weights=((1, 0, 0, -3), (0, 1, 1, -5)), cut=0.5, risk_scores=(-9, 0, 2), risk_shares=(0.001, 0.025, 0.8),
)  # fmt: skip
POINT = OperatingPoint(0.3, None, Estimate(0.01, 0, 0.02, 9), Estimate(0.9, 0.8, 1, 9), "lfw", "ab", "cd")


def test_log_odds_and_score():
    odds = CONDITIONS.log_odds(np.array([[1.0, 0.0], [0.6, 0.8]]), {"light": np.array([99.0, 0.0])})
    np.testing.assert_allclose(odds, [[-2, math.log(100) - 5], [-2.4, -4.2]])


def test_an_assessment_names_what_is_outside_and_estimates_the_risk():
    signals = [{"light": 99.0}, {"light": 10.0, "eye_distance": 7.0}, {"light": 199.0, "eye_distance": 40.0}]
    inside, dark, odd = CONDITIONS.assess(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), signals)
    assert inside.inside
    # log(e^-2 + e^(4.605-5)) = -0.21; of the third e^-3 + e^(1 + log 200 - 5) = 1.30, above the cut
    assert inside.risk == 0.001
    assert [text.split(":")[0] for text in dark.outside] == [
        "too dark (light 10, below 40)", "too small (eye_distance 7, below 15)",
    ]  # fmt: skip
    assert odd.risk == 0.025
    assert "'dark'" in odd.outside[0]
    assert len(odd.outside) == 1


@pytest.mark.parametrize(
    ("risk", "words"),
    [(None, "unknown"), (0.025, "about 1 in 40 strangers"), (0.0011, "about 1 in 910 strangers"), (0.87, "87 %")],
)
def test_risk_in_words(risk, words):
    assert words in Assessment(risk).words


def test_embeddings_of_another_length_are_refused():
    with pytest.raises(ModelError, match=r"embeddings \[N, 2\]"):
        CONDITIONS.assess(np.ones((1, 3)), [{"light": 1.0}])


def test_a_certificate_holds_them():
    point = replace(POINT, conditions=CONDITIONS)
    assert OperatingPoint.from_json(point.to_json()) == point
    old = json.loads(POINT.to_json())
    del old["conditions"]
    assert OperatingPoint.from_json(json.dumps(old)) == POINT


@pytest.mark.parametrize(
    "damage",
    [{"weights": [[1, 0, 0]]}, {"weights": [[1, 0, 0, 0], [1, 0]]}, {"risk_scores": [3, 1, 2]}, {"cut": math.nan},
     {"ranges": {"light": [1]}}, {"ranges": {"beauty": [0, 1]}}, {"kinds": []}, {"weights": None}],
)  # fmt: skip
def test_others_are_refused(damage):
    with pytest.raises(ConfigError, match="conditions"):
        Conditions(**{**asdict(CONDITIONS), **damage})
    raw = {**json.loads(replace(POINT, conditions=CONDITIONS).to_json())}
    raw["conditions"] |= damage
    with pytest.raises(ConfigError):
        OperatingPoint.from_json(json.dumps(raw))


def test_a_match_without_a_certificate_is_not_undecided():
    assert not Match(0.5, None).undecided
    assert Match(0.5, None, outside=("a: dark",)).undecided
    assert not Match(0.5, True, outside=("a: dark",)).undecided
