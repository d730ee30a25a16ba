from pathlib import Path

import pytest
import torch

from normface import models, recipes
from normface.errors import ConfigError
from normface.losses import LOSSES
from normface.train import TrainConfig, load_config
from normface.train.config import OptimConfig
from normface.train.loop import rate_factor

RECIPES = sorted(file.stem for file in (Path(recipes.__file__).parent).glob("*.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_ship(name):
    """Each loads, and its network and loss go together."""
    config = load_config(name)
    assert config.loss.name == "CosineSoftmax"
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    with torch.device("meta"):
        model = models.build(config.model.name, **config.model.options)
        LOSSES.build(config.loss.name, 1000, model.dim, **config.loss.options)


def test_casia_is_the_authors_schedule():
    """PAPER.md §3: rate .1, a tenth at 16,000 and 24,000 of 28,000 steps of 256; momentum .9, decay 5e-4; 10,000 steps
    of fine-tuning at .001. CASIA-WebFace has 494,414 images."""
    per_epoch = 494_414 // 256
    scratch, tuned = load_config("casia").optim, load_config("casia-normface").optim
    total = round(scratch.epochs * per_epoch)
    assert total == pytest.approx(28_000, rel=0.001)
    rates = [scratch.lr * rate_factor(scratch, step / total) for step in range(total)]
    for step, rate in ((0, 0.1), (15_900, 0.1), (16_100, 0.01), (23_900, 0.01), (24_100, 0.001), (total - 1, 0.001)):
        assert rates[step] == pytest.approx(rate)
    assert round(tuned.epochs * per_epoch) == pytest.approx(10_000, rel=0.001)
    assert {tuned.lr * rate_factor(tuned, at) for at in (0, 0.5, 0.99)} == {1e-3}
    light = load_config("lightcnn-normface")
    assert light.optim == tuned.model_copy(update={"lr": 1e-4})
    for each in (load_config("casia-normface"), light):  # the paper's mean over the last five thousands of steps
        assert (each.save_every, each.keep) == (1000, 5)
    for each in (scratch, tuned):
        assert (each.batch, each.momentum, each.weight_decay, each.convention) == (256, 0.9, 5e-4, "caffe")
    assert load_config("casia").model.name == load_config("casia-normface").model.name == "centerface"


def test_the_two_recipes_differ_in_the_loss_alone():
    a, b = load_config("normface"), load_config("softmax")
    assert a.model_copy(update={"loss": b.loss}) == b


def test_overrides(tmp_path):
    (tmp_path / "r.toml").write_text("[optim]\nlr = 0.2\n")
    overrides = ["optim.lr=0.05", "seed=3", "loss.name=CosineSoftmax", "loss.options.scale=20", "precision='fp32'"]
    config = load_config(tmp_path / "r.toml", overrides)
    assert (config.optim.lr, config.seed, config.loss.options, config.precision) == (0.05, 3, {"scale": 20}, "fp32")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[optim]\nrate = 1\n", (), "optim.rate: Extra inputs"),
        ("[optim]\nlr = -1\n[data]\nzoom = 2\n", (), r"data.zoom.*optim.lr"),
        ("[optim\n", (), "a recipe in TOML"),
        ("", ("optim.lr",), "section.key=value"),
        ("seed = 1\n", ("seed.x=1",), "'seed' is no section"),
        ("", ("optim.lr=fast",), "optim.lr: Input should be a valid number"),
        ("", ("optim.lr=nan",), "finite"),
    ],
)
def test_faults_are_named(tmp_path, text, overrides, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "r.toml", overrides)


def test_unknown_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match="normface, scratch, small, softmax"):
        load_config("arcface")


def test_cosine_rates():
    config = OptimConfig(warmup=0.1)
    assert rate_factor(config, 0) > 0
    assert rate_factor(config, 0.05) == pytest.approx(0.5)
    assert rate_factor(config, 0.1) == 1
    assert rate_factor(config, 0.55) == pytest.approx(0.5)
    assert rate_factor(config, 1) == pytest.approx(0)


def test_step_rates():
    config = OptimConfig(schedule="step", warmup=0, milestones=(0.5, 0.75))
    assert [rate_factor(config, p) for p in (0, 0.49, 0.5, 0.8)] == pytest.approx([1, 1, 0.1, 0.01])
