"""Laws over every registered model."""

import pytest
import torch

from normface import models
from normface.errors import ConfigError

# Counted by hand from the layers' shapes (MobileFaceNet: the paper's Table 1, "0.99 M").
PARAMETERS = {"mobilefacenet": 1_003_136, "smallresnet": 3_754_320}


@pytest.mark.parametrize("name", list(models.MODELS))
class TestEveryModel:
    @pytest.mark.parametrize("width", [96, 112])
    def test_shape_from_its_spec(self, name, width):
        model = models.build(name, width=width, dim=64).eval()
        spec = model.spec
        assert (spec.height, spec.width, model.dim) == (112, width, 64)
        features = model(torch.randn(3, spec.channels, spec.height, spec.width))
        assert features.shape == (3, 64)
        assert features.isfinite().all()

    def test_parameter_count(self, name):
        assert sum(p.numel() for p in models.build(name).parameters()) == PARAMETERS[name]

    def test_gradient_reaches_everything(self, name):
        model = models.build(name)
        spec = model.spec
        model(torch.randn(2, spec.channels, spec.height, spec.width)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_bad_width(self, name):
        with pytest.raises(ConfigError, match="96 or 112"):
            models.build(name, width=100)
