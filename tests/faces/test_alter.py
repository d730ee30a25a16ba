"""Degraded crops: what each alteration does to light, detail and shape, whatever is drawn."""

import numpy as np
import pytest

from normface.faces import TEMPLATES, signals
from normface.faces.alter import alterations

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("template", ["112x96", "112x112", "128x128"])
def test_each_gives_a_crop_of_the_same_size_and_the_same_again(template):
    goal = TEMPLATES[template]
    crop = RNG.integers(0, 256, (goal.height, goal.width, 3), dtype=np.uint8)
    before = crop.copy()
    for name, alter in alterations(goal).items():
        found = alter(crop, np.random.default_rng(1))
        assert (found.shape, found.dtype) == (crop.shape, np.uint8), name
        assert (found != crop).mean() > 0.1, name
        np.testing.assert_array_equal(found, alter(crop, np.random.default_rng(1)))
    np.testing.assert_array_equal(crop, before)


def test_what_they_do_is_seen_in_the_signals():
    coarse = RNG.integers(0, 256, (28, 24, 3), dtype=np.uint8)
    crop = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
    ways, plain = alterations(TEMPLATES["112x96"]), signals(crop)
    for seed in range(5):
        found = {name: signals(alter(crop, np.random.default_rng(seed))) for name, alter in ways.items()}
        for name in ("blurred", "small"):
            assert found[name]["sharpness"] < plain["sharpness"] / 2
            assert found[name]["detail"] < plain["detail"]
        assert found["noisy"]["detail"] > plain["detail"]
        assert found["dark"]["light"] == pytest.approx(plain["light"] * 0.105, rel=0.65)


def test_a_squeezed_crop_has_its_middle_where_it_was():
    """Columns of a ramp: after squeezing by f at the same area, slopes grow by 1/√f about the middle."""
    crop = np.repeat(np.repeat(np.linspace(60, 190, 96)[None, :, None], 112, 0), 3, 2).round().astype(np.uint8)
    found = alterations(TEMPLATES["112x96"])["squeezed"](crop, np.random.default_rng(3))[56, 30:66, 0].astype(float)
    slope = np.polyfit(np.arange(36), found, 1)[0] / (130 / 95)
    assert 1.09 < slope < 1.36  # 1/√0.83 and 1/√0.55
    assert found[18] == pytest.approx(125, abs=3)
