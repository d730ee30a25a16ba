import json
import os
import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from tests.conftest import ROOT

from normface.errors import DataError
from normface.protocols import certified, detailed, lfw, of_list, operating_point, read_lfw_pairs
from normface.report import evidence, render_html, render_markdown, write_folder, write_report
from normface.report.curves import calibration, cmc, det, histogram, identification, roc
from normface.report.wording import (
    conditions,
    crosses,
    discards,
    estimate,
    label,
    notes,
    protocol_title,
    short_percent,
    slices,
    summary,
)
from normface.types import Calibration, Embeddings, Estimate, Result

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    path = tmp_path_factory.mktemp("lfw") / "pairs.txt"
    lines = ["2\t10"]
    for fold in "AB":
        lines += [f"{fold}{k}\t1\t2" for k in range(10)]
        lines += [f"{fold}{k}\t1\t{fold}{(k + 1) % 10}\t1" for k in range(10)]
    path.write_text("\n".join(lines))
    ids = [f"{f}{p}/{f}{p}_000{k}.jpg" for f in "AB" for p in range(10) for k in (1, 2)]
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(20, 4)), 2, axis=0)
    one, two = (Embeddings(x + s * rng.normal(size=x.shape), ids) for s in (0.3, 1))
    return path, one, two


@pytest.fixture(scope="module")
def results(systems):
    path, one, two = systems
    return {"<script>alert(1)</script>": lfw(one, path), "two & more": lfw(two, path)}


@pytest.fixture(scope="module")
def full(systems):
    """A result with all that is shown beside figures, and its certificate's."""
    path, _, two = systems
    pairs = of_list(two, read_lfw_pairs(path))
    groups = {"sex & more": np.where(np.arange(40) // 2 % 2, "<F>", "M")}
    point = operating_point(pairs, target_far=0.1, protocol="p", model_sha256="m", data_sha256="d")
    return detailed(lfw(two, path), pairs, 0.5, groups), certified(point, pairs, groups)


@pytest.fixture(scope="module")
def page(results):
    return render_html(results, title="A <b>title</b>", command="normface evaluate lfw --data 'x & y'")


def test_page_is_whole_and_self_contained(page):
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "A &lt;b&gt;title&lt;/b&gt;" in page
    assert "normface evaluate lfw --data &#39;x &amp; y&#39;" in page
    assert page.count("<svg") == 4  # ROC, DET and two histograms
    assert all(label for label in re.findall(r'aria-label="([^"]*)"', page))
    assert not re.search(r'(?:src|href)="(?!#)', page)  # nothing is fetched
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 1_000_000


def test_every_figure_is_shown_with_interval_and_count(results, page):
    text = render_markdown(results)
    for result in results.values():
        for found in result.metrics.values():
            figure = f"{100 * found.value:.2f} % ({100 * found.low:.2f} to {100 * found.high:.2f})"
            assert figure in page
            assert figure in text
        for value in result.facts["fold_accuracy"]:
            assert f"{100 * value:.2f} %" in page
    assert "impostor pairs cannot resolve it" in page


def test_equal_results_give_equal_pictures(results):
    assert roc(results) == roc(results)


def test_written_whole_or_not_at_all(results, tmp_path):
    bare = {name: replace(result, curves={}) for name, result in results.items()}
    write_report(tmp_path / "new" / "r.html", bare, title="t", command="c")
    assert os.listdir(tmp_path / "new") == ["r.html"]
    with pytest.raises(DataError, match="to write"):
        write_report(tmp_path / "new", bare, title="t", command="c")


class TestSchema:
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text("utf-8"))

    def test_is_one(self):
        jsonschema.Draft202012Validator.check_schema(self.schema)

    def test_every_result_keeps_it(self, results, full):
        for result in (*results.values(), *full):
            jsonschema.validate(json.loads(result.to_json()), self.schema)

    def test_it_refuses(self, full):
        broken = json.loads(full[1].to_json())
        del broken["facts"]["operating_point"]["threshold"]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, self.schema)


def test_a_folder_holds_everything(full, tmp_path):
    jpeg = b"\xff\xd8not really"
    write_folder(
        tmp_path, "me", full[1], title="t", command="c", photographs=lambda id: jpeg if id.startswith("A") else None
    )
    assert {p.name for p in tmp_path.iterdir()} == {"result.json", "report.md", "report.html"}
    assert Result.from_json((tmp_path / "result.json").read_text("utf-8")) == full[1]
    page, text = (Path(tmp_path / name).read_text("utf-8") for name in ("report.html", "report.md"))
    pairs = [pair for pairs in full[1].facts["hardest"].values() for pair in pairs]
    shown = sum(id.startswith("A") for pair in pairs for id in pair[:2])
    assert page.count("data:image/jpeg;base64,/9hub3QgcmVhbGx5") == shown > 0
    assert "&lt;F&gt; × M" in page  # a hostile group's name
    assert "<F>" not in page
    assert "sex & more: no group's FRR can be told from that of the rest" in text
    assert "made by" in text.lower()


def test_worst_errors_are_the_worst(full):
    wrong = full[0].facts["hardest"]
    assert all(score >= 0.5 for *_, score in wrong["false_accepts"])
    assert all(score < 0.5 for *_, score in wrong["false_rejects"])
    for kind, sign in (("false_accepts", -1), ("false_rejects", 1)):
        assert [sign * score for *_, score in wrong[kind]] == sorted(sign * score for *_, score in wrong[kind])


def test_results_without_accuracy_are_told():
    share = Estimate(0.96, 0.95, 0.97, 1000)
    blufr = Result(
        "blufr",
        {"vr@far=0.001": share, "dir@far=0.01,rank=1": share},
        {},
        {"trials": 10, "by_trial": {"vr": [0.9, 0.8]}},
    )
    told = summary({"mine": blufr})
    assert "mine accepts 96.00 % (95.00 to 97.00) of genuine pairs at FAR 0.1 %" in told
    assert "identifies 96.00 % (95.00 to 97.00) of enrolled probes at FAR 1 %, rank 1" in told
    page = render_html({"mine": blufr}, title="t", command="c")
    assert "<svg" not in page
    assert "90.00 %" in page
    curves = {
        "cmc": {"rank": [1, 2, 3], "rate": [0.7, 0.8, 0.9]},
        "dir": {"fpir": [0, 0.01, 0.1], "dir": [0.1, 0.5, 0.6]},
    }
    open_set = Result("ijb", {"cmc@rank=1": share}, curves, {"partial": "Partial: 2 of 3 images"})
    assert summary({"mine": open_set}).startswith(
        "Partial: 2 of 3 images. mine finds the right person of 96.00 % (95.00 to 97.00) of probes at rank 1"
    )
    assert render_html({"mine": open_set}, title="t", command="c").count("<svg") == 2


def test_a_perfect_system_has_curves_too():
    """No error at all: nothing on probit axes, a flat ROC."""
    curves = {"roc": {"far": [0.0, 0.0, 1.0], "tar": [0.0, 1.0, 1.0]}}
    perfect = {"p": Result("lfw", {}, curves, {})}
    assert det(perfect) is None
    assert roc(perfect).startswith("<svg")
    assert (
        histogram("p", perfect["p"])
        is calibration("p", perfect["p"])
        is cmc(perfect)
        is identification(perfect)
        is None
    )


def test_a_long_curve_is_drawn_small():
    far = np.geomspace(1e-8, 1, 200_000)
    long = Result("x", {}, {"roc": {"far": far.tolist(), "tar": (far**0.1).tolist()}}, {})
    assert len(roc({"a": long})) + len(det({"a": long})) < 150_000


@pytest.mark.parametrize("least", [1e-8, 1e-5, 1e-3])
def test_labels_of_the_det_have_room(least):
    """Of 10-point text a digit is some 6 points wide: labels side by side leave a gap."""
    far = np.geomspace(least, 1, 2000)
    picture = det({"a": Result("x", {}, {"roc": {"far": far.tolist(), "tar": (far**0.05).tolist()}}, {})})
    below = re.findall(r'id="xtick_.*?<text[^>]* x="([\d.]+)"[^>]*>([\d.]+)</text>', picture, re.DOTALL)
    assert len(below) >= 3
    for (x, text), (next_x, next_text) in pairwise((float(x), text) for x, text in below):
        assert next_x - x > 3 * (len(text) + len(next_text)) + 3


def test_conditions_are_told_in_words():
    facts = {
        "pairs_sha256": "feed", "mean_minus_std": {"vr@far=0.001": 0.95, "dir@far=0.01,rank=1": 0.9},
        "impostor_pairs": [46_960_863, 47_006_000] * 5,
        "thresholds": [{"far=0.001": 0.41, "far=0.0001": 0.52}, {"far=0.001": 0.43, "far=0.0001": 0.52}],
        "d_prime": 4.5, "fold_threshold": [0.1], "sizes": [1, 2], "weights_sha256": "beef", "far": 0.01,
    }  # fmt: skip
    found = {"me": Result("blufr", {}, {}, facts)}
    assert notes(found) == ["mean − std over the trials: VR at FAR 0.1 %: 95.00 %; DIR at FAR 1 %, rank 1: 90.00 %"]
    assert conditions(found) == [
        ["SHA-256 of pairs", "feed"],
        ["impostor pairs", "46,960,863 to 47,006,000"],
        ["thresholds", "at FAR 0.1 %: 0.41 to 0.43; at FAR 0.01 %: 0.52"],
        ["d′", "4.5"],
        ["sizes", "1, 2"],
        ["SHA-256 of the weights", "beef"],
        ["FAR", "0.01"],
    ]


def test_numbers_have_the_digits_they_need():
    assert estimate(Estimate(0.99604, 0.98, 1.0, 9)) == "99.60 % (98.00 to 100.00)"
    assert estimate(Estimate(0.0009995, 0.0008, 0.0013, 9)) == "0.100 % (0.080 to 0.130)"
    assert estimate(Estimate(0.0, 0.0, 0.0, 9)) == "0.00 % (0.00 to 0.00)"
    assert [short_percent(each) for each in (0.1, 0.001, 1e-6, 0.0, 1.0)] == [
        "10 %",
        "0.1 %",
        "0.0001 %",
        "0 %",
        "100 %",
    ]


def test_evidence_in_words():
    made = Calibration(10.0, -3.0, (-1.0, 0.5), (-4.0, 5.0), 0.2, 0.1)
    assert evidence(made, 0.5) == "7.39 times more likely for the same person than for different people"
    assert evidence(made, 0.1) == "7.39 times more likely for different people than for the same person"
    assert evidence(replace(made, pav_llrs=(-4.0, 14.0)), 1.6).startswith(
        "442,000 times more likely for the same person"
    )
    assert evidence(made, 1).startswith("at least 148 times more likely for the same person")


def test_metrics_are_told_in_words():
    """No name of a program's variable in a sentence or a head."""
    share = Estimate(0.5, 0.4, 0.6, 100)
    found = {
        "tar_per_person_without_failures@far=0.001": share, "auc": share, "accuracy_mean": share,
        "rank1@distractors=1000": share, "fpir@enrolled=20": share, "eer": share, "fta": share,
    }  # fmt: skip
    assert [label(name) for name in found] == [
        "TAR per person without failures at FAR 0.1 %", "AUC", "accuracy mean", "rank 1 at 1,000 distractors",
        "FPIR at 20 enrolled", "EER", "FTA",
    ]  # fmt: skip
    told = [summary({"mine": Result("x", {name: share})}) for name in found]
    assert not any("_" in each for each in told)
    assert told[0].startswith("mine accepts 50.00 % (40.00 to 60.00) of a person's genuine comparisons, in the mean at")
    assert told[1].startswith("mine reaches 50.00 % (40.00 to 60.00) in AUC.")
    assert [protocol_title(name) for name in ("lfw", "all_pairs", "ijb")] == ["LFW", "all pairs", "IJB"]


def test_many_groups_have_no_row_for_each_two():
    """Of seven groups 21 rows would be of two: the lowest and the highest are told."""
    rate = {"value": 0.01, "low": 0.0, "high": 0.02, "n": 900}
    names = [*"abcdefg"]
    rows = [{"column": "age", "group": name, "far": rate, "frr": rate, "warning": None} for name in names]
    crossed = list(combinations(names, 2))
    rows += [
        {"column": "age", "group": f"{one} × {other}", "far": {**rate, "value": k / 1000, "high": k / 900}, "frr": None,
         "warning": None} for k, (one, other) in enumerate(crossed)
    ]  # fmt: skip
    found = {"overall": {"far": rate, "frr": rate}, "rows": rows}
    assert [row[1] for row in slices(found)[2:]] == names
    (told,) = crosses(found)
    assert told.startswith("age: FAR between groups (21 pairs of 7 groups): 0.00 %")
    assert told.endswith("2.00 % (0.00 to 2.22) (f × g).")
    few = {"overall": found["overall"], "rows": [row for row in rows if set(row["group"]) <= set("ab ×")]}
    assert [row[1] for row in slices(few)[2:]] == ["a", "b", "a × b"]
    assert crosses(few) == []


def test_what_a_quality_foretells_is_printed():
    curve = {"discarded": [0.0, 0.1, 0.25, 0.5], "frr": [0.08, 0.06, 0.04, 0.02], "far": [0.001] * 4}
    curve |= {f"{rate}_per_person": [each / 2 for each in curve[rate]] for rate in ("frr", "far")}
    found = {"mine": Result("lfw", {}, {"discard_norm": curve}, {"commonest_five": 0.1})}
    assert discards(found) == [
        ["images left out by", "none", "the worst 5 %", "the worst 10 %", "the worst 20 %", "the worst 50 %"],
        ["norm", *(f"FRR {frr} %, FAR 0.1 %" for frr in (8, 8, 6, 6, 2))],
    ]  # fmt: skip
    assert "| norm | FRR 8 %, FAR 0.1 % |" in render_markdown(found)
    uneven = {"mine": replace(found["mine"], facts={"commonest_five": 0.9})}
    assert discards(uneven)[1][:2] == ["norm per person", "FRR 4 %, FAR 0.05 %"]
    assert discards({"mine": Result("lfw", {})})[1:] == []
