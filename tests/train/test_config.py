import pytest

from normface.errors import ConfigError
from normface.train import TrainConfig, load_config
from normface.train.config import OptimConfig
from normface.train.loop import rate_factor


@pytest.mark.parametrize("name", ["normface", "softmax"])
def test_recipes_that_ship(name):
    config = load_config(name)
    assert config.loss.name == "CosineSoftmax"
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


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
    with pytest.raises(ConfigError, match="normface, softmax"):
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
