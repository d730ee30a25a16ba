"""The model card: rates turned around, gates against another card, the page."""

import numpy as np
import pytest

from benchmarks import model_card

ROW = {"value": 0.95, "low": 0.94, "high": 0.96, "n": 1000, "better": "higher"}
CARD = {
    "name": "default", "quick": False, "cores": 2, "processor": "A processor", "kind": "avx2", "gpu": None,
    "left_out": {"rows/blufr": "too long"}, "threshold": 0.3, "facts": {"model": "default", "megabytes": 4.1},
    "speed": {"median_ms": 6.0}, "rows": {"lfw": {"accuracy": ROW}},
}  # fmt: skip


def card(**changes):
    return CARD | {"rows": {"lfw": {"accuracy": ROW | changes}}}


def test_a_rate_of_misses_is_told_as_one_of_hits():
    far = {"value": 0.001, "low": 0.0005, "high": 0.002, "n": 10}
    frr = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 10}
    rows = model_card.rows_of_rates({"far": far, "frr_per_person": frr})
    assert rows["far"] == far | {"better": "lower"}
    assert [rows["tar_per_person"][end] for end in ("value", "low", "high")] == pytest.approx([0.9, 0.8, 0.95])
    assert rows["tar_per_person"]["better"] == "higher"


@pytest.mark.parametrize(("value", "verdict"), [(0.97, "better"), (0.96, "undecided"), (0.93, "worse")])
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_gates(value, verdict, better):
    """Half widths of 0.01 each: the difference's is 0.01 · √2. Where lower is better, everything is turned around."""

    def turned(row):
        ends = {"value": 1 - row["value"], "low": 1 - row["high"], "high": 1 - row["low"]}
        return row | (ends if better == "lower" else {}) | {"better": better}

    new = turned(ROW | {"value": value, "low": value - 0.01, "high": value + 0.01})
    (gate,) = model_card.compared(card(**new), card(**turned(ROW)))
    assert gate["verdict"] == verdict
    assert gate["gain"] == pytest.approx(value - 0.95)
    assert (gate["low"], gate["high"]) == pytest.approx((value - 0.95 - np.sqrt(2e-4), value - 0.95 + np.sqrt(2e-4)))


def test_the_page_has_every_row_and_what_was_left_out():
    page = model_card.markdown(CARD, model_card.compared(CARD, CARD))
    for text in (
        "# default",
        "lfw: accuracy",
        "95",
        "94 to 96",
        "undecided",
        "rows/blufr: too long",
        "4.1",
        "A processor",
    ):
        assert text in page
