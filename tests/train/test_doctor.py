"""Diagnoses: of logs written by hand, one fault each, and of real runs that were made to fail."""

import json
import logging
import math

import pytest

from normface import theory
from normface.data import open_reader
from normface.errors import ConfigError, DataError, TrainingError
from normface.report import plots
from normface.train import TrainConfig, diagnose, load_config, train
from normface.train.doctor import Run, in_training, read, summary

pytestmark = pytest.mark.slow

CONFIG = TrainConfig()
HEALTHY = {
    "lr": 0.1, "classes": 1000.0, "scale": 11.0, "bound": theory.loss_lower_bound(1000, 11.0), "accuracy": 0.9,
    "wrong_mass": 0.3, "feature_norm": 10.0, "feature_norm_std": 1.0, "class_weight_norm": 1.5, "genuine_angle": 40.0,
    "nearest_angle": 65.0, "own_distance": 0.5, "features_rank": 60.0, "agents_rank": 100.0,
}  # fmt: skip


def records(count=20, **changes):
    """A healthy log of `count` looks, changed; a value may be a function of the progress in [0, 1]."""
    looks = []
    for k in range(1, count + 1):
        at = k / count
        look = {"step": 10 * k, "epoch": 7.0 * at, "loss": 7 - 6 * at, **HEALTHY, **changes}
        looks.append({key: value(at) if callable(value) else value for key, value in look.items()})
    return looks


def names(looks, **kwargs):
    return [found.name for found in diagnose(Run(CONFIG, looks, **kwargs))]


class TestLogsByHand:
    def test_healthy(self):
        assert names(records()) == []
        assert "loss 1.3" in summary(Run(CONFIG, records()))

    def test_scale_too_small(self):
        stuck = {"scale": 1.0, "bound": theory.loss_lower_bound(1000, 1.0)}
        looks = records(loss=lambda at: 6.9 - 0.5 * at, **stuck)
        (found,) = diagnose(Run(CONFIG, looks))
        assert (found.name, found.severity) == ("scale-too-small", "error")
        assert "cannot fall below 5.908" in found.seen
        assert "probability 0.0027 at best" in found.seen
        assert f"{theory.scale_for_probability(1000, 0.99):.1f}" in found.do

    @pytest.mark.parametrize(("fall", "found"), [(0.5, []), (2.5, ["scale-too-small"])])
    def test_a_small_scale_that_grows_is_none_until_the_loss_nears_its_bound(self, fall, found):
        bound = {"bound": lambda at: theory.loss_lower_bound(1000, 2 + at)}
        assert names(records(scale=lambda at: 2 + at, loss=lambda at: 7 - fall * at, **bound)) == found

    def test_scale_at_the_floor(self):
        floor = {"scale": 0.01, "bound": theory.loss_lower_bound(1000, 0.01)}
        assert names(records(loss=6.9, **floor)) == ["scale-at-floor"]

    @pytest.mark.parametrize(
        "changes", [dict(features_rank=1.1), dict(genuine_angle=5.0, nearest_angle=5.2), dict(features_rank=1.0)]
    )
    def test_collapsed(self, changes):
        assert names(records(**changes)) == ["collapsed"]

    @pytest.mark.parametrize(("own", "nearest"), [(5.0, 36.0), (10.0, 20.0), (75.0, 28.0)])
    def test_few_dimensions_or_bad_features_are_no_collapse(self, own, nearest):
        """Ten classes round a circle are 36° apart."""
        assert names(records(features_rank=2.0, genuine_angle=own, nearest_angle=nearest)) == []

    def test_dead_negatives(self):
        assert names(records(active_negatives=0.0, accuracy=0.4, suggested_margin=1.5)) == ["dead-negatives"]
        assert names(records(active_negatives=0.0, accuracy=0.97)) == []
        assert names(records(active_negatives=1e-6, accuracy=0.4)) == []

    @pytest.mark.parametrize(
        "changes", [dict(class_weight_norm=lambda at: 1 + 15 * at), dict(feature_norm=lambda at: 10 ** (1 + 3 * at))]
    )
    def test_norm_blow_up(self, changes):
        assert names(records(**changes)) == ["norm-blow-up"]

    def test_not_learning_at_chance(self):
        assert names(records(accuracy=0.002)) == ["not-learning"]
        assert names(records(accuracy=0.05)) == []

    def test_not_learning_without_class_weights(self):
        looks = [{k: v for k, v in look.items() if k not in ("accuracy", "classes", "scale", "bound")}
                 for look in records(loss=2.0)]  # fmt: skip
        assert names(looks) == ["not-learning"]

    def test_not_finite(self):
        looks = records()
        looks[-1]["loss"] = None
        (found,) = diagnose(Run(CONFIG, looks, "expected a finite loss, got nan at step 200"))
        assert (found.name, found.severity) == ("not-finite", "error")
        assert "at step 200" in found.seen
        assert "1.9, 1.6, 1.3" in found.seen
        assert "optim.lr (now 0.1)" in found.do

    def test_broke_off(self):
        assert names(records(), ended="expected finite weights, got NaN") == ["broke-off"]

    def test_figures_that_are_not_finite_are_left_out(self):
        looks = records()
        looks[-1] |= dict.fromkeys(HEALTHY)
        looks[-1]["lr"] = 0.1
        assert names(looks) == []

    def test_stopped_short_and_unmonitored(self):
        assert names(records()[:15]) == ["unfinished"]
        assert names(records()[:5]) == ["unfinished", "too-short"]
        assert names(records(epoch=0.9, features_rank=1.0)) == ["unfinished", "too-short"]
        assert in_training(Run(CONFIG, records()[:5])) == []

    def test_worst_first(self):
        found = diagnose(Run(CONFIG, records(class_weight_norm=20.0, features_rank=1.0)[:15]))
        assert [d.severity for d in found] == ["error", "warning", "note"]

    def test_nothing_is_said_in_the_first_epoch(self):
        assert in_training(Run(CONFIG, records(features_rank=1.0, epoch=0.9))) == []
        assert [d.name for d in in_training(Run(CONFIG, records(features_rank=1.0)))] == ["collapsed"]


class TestFolders:
    def write(self, folder, lines, config="{}"):
        (folder / "config.json").write_text(config)
        (folder / "metrics.jsonl").write_text(lines)
        return folder

    def test_a_truncated_last_line_is_passed_over(self, tmp_path):
        lines = [json.dumps(look) + "\n" for look in records()]
        run = read(self.write(tmp_path, "".join(lines) + lines[0][:30]))
        assert run.records == records()
        assert diagnose(run) == []

    def test_what_is_missing_or_broken(self, tmp_path):
        with pytest.raises(DataError, match=r"a run with config\.json"):
            read(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(DataError, match=r"a run with metrics\.jsonl"):
            read(tmp_path)
        with pytest.raises(DataError, match="steps in .*, got none"):
            read(self.write(tmp_path, '{"step": 1}\n{"st'))
        with pytest.raises(DataError, match="config.json of normface train"):
            read(self.write(tmp_path, "", "{"))
        with pytest.raises(ConfigError, match="speed"):
            read(self.write(tmp_path, json.dumps(records()[0]) + "\n", '{"speed": 1}'))

    @pytest.mark.slow
    def test_picture(self, tmp_path):
        looks = records(active_negatives=None)
        for name in ("m.svg", "m.png"):
            plots.save(plots.monitors(looks, "a $ run"), tmp_path / name, "x")
        assert ">loss<" in (tmp_path / "m.svg").read_text()
        assert ">not measured<" not in (tmp_path / "m.svg").read_text()
        plots.save(plots.monitors([], "nothing yet"), tmp_path / "m.svg", "x")
        assert (tmp_path / "m.svg").read_text().count(">not measured<") == 6


@pytest.mark.slow
class TestProvoked:
    """Real runs of a small network on drawn faces, 96 of 12 people, from scratch."""

    @pytest.fixture
    def provoke(self, drawn, tmp_path):
        reader = open_reader(drawn / "train" / "faces-112.zip")

        def call(*overrides):
            small = [
                "model.name=smallresnet", "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]",
                "model.options.dim=16", "optim.batch=16", "optim.epochs=20", "optim.lr=0.05",
                "precision=fp32",
            ]  # fmt: skip
            train(load_config("normface", [*small, *overrides]), reader, tmp_path / "run")
            return read(tmp_path / "run")

        return call

    @pytest.mark.parametrize(
        "overrides",
        [
            (), ("loss.name=CContrastive", "loss.options={}"),
            pytest.param(("loss.name=Joint", "loss.options={}"), marks=pytest.mark.nightly),
            pytest.param(("loss.options={normalize='none', scale=1.0, learn_scale=false}",), marks=pytest.mark.nightly),
        ],
    )  # fmt: skip
    def test_healthy(self, provoke, overrides, caplog):
        run = provoke(*overrides)
        assert diagnose(run) == []
        assert not [record for record in caplog.records if record.name == "normface"]
        assert len(run.looks) == 12
        assert "training accuracy" in summary(run)

    def test_scale_1(self, provoke, caplog, tmp_path):
        caplog.set_level(logging.WARNING, "normface")
        (found,) = diagnose(provoke("loss.options={scale=1.0, learn_scale=false}"))
        assert found.name == "scale-too-small"
        assert f"{theory.loss_lower_bound(12, 1.0):.4g}" in found.seen
        assert len(caplog.records) == 1
        assert "step 100: At scale 1 and 12 classes" in caplog.text
        (line,) = (tmp_path / "run" / "warnings.jsonl").read_text().splitlines()
        assert (json.loads(line)["name"], json.loads(line)["step"]) == ("scale-too-small", 100)

    def test_triplets_at_a_large_rate(self, provoke):
        run = provoke("loss.name=CTriplet", "loss.options={}", "optim.lr=1.0")
        assert diagnose(run)[0].name == "collapsed"
        assert run.late("loss") == pytest.approx(0.8, abs=0.05)  # the margin: what one point for all costs

    @pytest.mark.nightly
    def test_pull_alone(self, provoke):
        run = provoke("loss.name=CContrastive", "loss.options={negative_weight=0.0}", "optim.lr=0.3")
        assert diagnose(run)[0].name == "collapsed"
        assert run.late("loss") < 0.05  # of at most 4, and yet no class is told from another

    def test_a_margin_that_no_agent_reaches(self, provoke):
        found = [d.name for d in diagnose(provoke("loss.name=CContrastive", "loss.options={margin=1e-6}"))]
        assert "dead-negatives" in found

    @pytest.mark.nightly
    def test_weights_only_at_a_large_rate(self, provoke):
        """The paper's collapse of weight-only normalization does not show at this size: it learns, on long weights."""
        run = provoke("loss.options={normalize='weights', scale=1.0, learn_scale=false}", "optim.lr=10")
        assert {d.name for d in diagnose(run)} <= {"norm-blow-up"}
        assert run.late("accuracy") > 0.3
        assert run.late("class_weight_norm") > 5

    def test_a_rate_that_moves_nothing(self, provoke):
        assert [d.name for d in diagnose(provoke("optim.lr=1e-7"))] == ["not-learning"]

    def test_scale_decays_to_its_floor(self, provoke):
        assert "scale-at-floor" in {d.name for d in diagnose(provoke("optim.scale_decay=20"))}

    @pytest.mark.nightly
    def test_a_huge_rate_without_decay(self, provoke):
        assert "norm-blow-up" in {d.name for d in diagnose(provoke("optim.lr=30", "optim.class_decay=0"))}

    def test_figures_go_on_after_a_resumption(self, provoke, tmp_path, drawn):
        """But for the window of recent features, which begins anew."""
        whole = provoke("optim.epochs=7", "save_every=15")
        assert len(whole.records) == 42
        reader = open_reader(drawn / "train" / "faces-112.zip")

        def stop(done, total, measured):
            if done == 33:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(whole.config, reader, tmp_path / "again", progress=stop)
        train(whole.config, reader, tmp_path / "again", resume=True)
        for one, other in zip(whole.looks, read(tmp_path / "again").looks, strict=True):
            different = {key for key in one if one[key] != other[key]}
            assert different <= {"images_per_second", "features_rank", "memory_mib"}

    def test_nan(self, provoke, tmp_path):
        with pytest.raises(TrainingError):
            provoke("optim.lr=1e18", "optim.warmup=0", "precision=fp32")
        run = read(tmp_path / "run")
        assert diagnose(run)[0].name == "not-finite"
        assert run.records[-1]["loss"] is None
        assert math.isfinite(run.records[0]["loss"])
        assert "a finite loss" in run.ended
