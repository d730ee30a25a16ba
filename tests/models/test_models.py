"""Laws over every registered model, and what their papers say of them."""

import hashlib
import math
from functools import cache
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from normface import models
from normface.embed.export import export
from normface.errors import ConfigError
from normface.models.cost import cost as counted
from normface.models.iresnet import IResNet

pytestmark = pytest.mark.slow

# Counted by hand from the layers' shapes; `published` below says what others print.
PARAMETERS = {
    "centerface": 27_536_800, "lightcnn_a": 4_098_048, "lightcnn_b": 5_480_864, "lightcnn_29": 12_573_280,
    "sphereface20": 22_666_944, "sphereface64": 48_186_816, "iresnet18": 24_025_600, "iresnet34": 34_139_328,
    "iresnet50": 43_590_848, "iresnet100": 65_156_160, "mobilefacenet": 1_003_136, "mobilefacenet_relu6": 999_936,
    "smallresnet": 3_754_320, "vit_t": 19_137_792, "vit_s": 76_023_296, "vit_b": 113_833_472,
}  # fmt: skip
BIG = ("lightcnn_29", "sphereface64", "iresnet34", "iresnet50", "iresnet100", "vit_s", "vit_b")
TRANSFORMERS = {"vit_t": (12, 256), "vit_s": (12, 512), "vit_b": (24, 512)}  # blocks, width
# SHA-256 of all names and shapes: a checkpoint of today must be read tomorrow.
FROZEN = {
    "centerface": "10f2b13834e1a4ad", "iresnet100": "c966b11948d33be2", "iresnet18": "5274ade6a349b9d9",
    "iresnet34": "1da03faad7e6027d", "iresnet50": "fd18d6df46373af2", "lightcnn_29": "424b90d361274484",
    "lightcnn_a": "d6325d8036c7c095", "lightcnn_b": "bf889dc5ecf6e08a", "mobilefacenet": "57548202b65950e7",
    "smallresnet": "3fd058e96803b8b1", "sphereface20": "cca79b793e233748", "sphereface64": "aebe572393245dea",
    "mobilefacenet_relu6": "a7e456d141acc6c6", "vit_t": "36ae4da9ac8b5046", "vit_s": "3c3a4c01c70434fb",
    "vit_b": "61f3411a6e9ad8e8",
}  # fmt: skip


def test_the_last_layers_of_iresnet_compute_in_float32():
    """As in arcface_torch: `x = self.fc(x.float() if self.fp16 else x)`, outside of its autocast."""
    model, seen = IResNet(8, (1, 1, 1, 1), "arcface_torch", None), {}
    model.stem, model.body = nn.Identity(), nn.Conv2d(3, 512, 16, 16)  # all of it takes a while where bf16 is emulated
    for name, layer in (("fc", model.head[2]), ("last", model.head[3]), ("before", model.head[0])):
        layer.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0].dtype, out.dtype)}))
    images = torch.randn(2, 3, 112, 112)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype is torch.float32
    assert seen["fc"] == seen["last"] == (torch.float32, torch.float32)
    assert seen["before"][0] is torch.bfloat16
    assert model.double()(images.double()).dtype is torch.float64


def on_meta(name, **options):
    with torch.device("meta"):
        return models.build(name, **options)


as_it_comes = cache(on_meta)  # shared: for looking at


def parameters(name):
    return sum(p.numel() for p in as_it_comes(name).parameters())


cost = cache(counted)


def random_input(model, count):
    spec = model.spec
    return torch.randn(count, spec.channels, spec.height, spec.width)


@pytest.mark.parametrize("name", list(models.MODELS))
class TestEveryModel:
    def test_parameter_count(self, name):
        assert parameters(name) == PARAMETERS[name]

    def test_shape_and_dim_as_asked(self, name):
        model = on_meta(name, dim=64).eval()
        assert model.dim == 64
        assert model(random_input(model, 3).to("meta")).shape == (3, 64)

    def test_names_and_shapes_are_frozen(self, name):
        state = as_it_comes(name).state_dict()
        text = "\n".join(f"{key} {list(t.shape)}" for key, t in state.items())
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == FROZEN[name]

    def test_every_parameter_has_multipliers(self, name):
        model = as_it_comes(name)
        assert model.multipliers().keys() == dict(model.named_parameters()).keys()

    def test_a_crop_of_its_template_fits(self, name):
        from normface.faces import TEMPLATES

        spec = as_it_comes(name).spec
        template = TEMPLATES[spec.template]
        assert (template.height, template.width) == (spec.height, spec.width)

    def test_bad_options(self, name):
        with pytest.raises(ConfigError, match="dim ≥ 1"):
            models.build(name, dim=0)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in BIG)) for n in PARAMETERS])
def test_flops_are_those_of_its_layers(name):
    """Two for each weight and place that it is used at; in attention for each pair of patches, twice."""
    model, found = on_meta(name).eval(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, _, y: found.append(2 * m.weight[0].numel() * y.numel()))
    model(random_input(model, 1).to("meta"))
    depth, width = TRANSFORMERS.get(name, (0, 0))
    assert cost(name).flops == sum(found) + depth * 2 * 2 * 144 * 144 * width


FAST = ("lightcnn_a", "mobilefacenet", "smallresnet")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in PARAMETERS if n not in BIG]
)
def test_gradient_reaches_everything(name):
    torch.manual_seed(0)
    model = models.build(name)
    model(random_input(model, 2)).square().mean().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_features_are_finite(name):
    """In training, where batch norm has yet to learn its statistics."""
    torch.manual_seed(0)
    model = models.build(name)
    with torch.no_grad():
        assert model(random_input(model, 2)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "centerface", "lightcnn_a", "mobilefacenet_relu6", "vit_t",
        *(pytest.param(deep, marks=pytest.mark.nightly) for deep in ("lightcnn_29", "iresnet18", "sphereface20")),
    ],
)  # fmt: skip
def test_onnx_parity(name, tmp_path):
    """Layers that are there several times in a row are exported once."""
    model = models.build(name)
    layers = [layer for before, layer in pairwise([None, *model.body]) if repr(layer) != repr(before)]
    model.body = nn.Sequential(*layers)
    model.eval()
    assert export(model, tmp_path / "m.onnx", sha256="ab").difference < 1e-4
    x = random_input(model, 2)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    ours, theirs = model(x).detach().numpy(), session.run(None, {"images": x.numpy()})[0]
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


@pytest.mark.parametrize("name", ["mobilefacenet", "smallresnet"])
class TestWidths:
    @pytest.mark.parametrize("width", [96, 112])
    def test_as_asked(self, name, width):
        model = on_meta(name, width=width).eval()
        assert (model.spec.height, model.spec.width) == (112, width)
        assert model(random_input(model, 2).to("meta")).shape == (2, 128)

    def test_others(self, name):
        with pytest.raises(ConfigError, match="96 or 112"):
            models.build(name, width=100)


class TestPublished:
    @pytest.mark.parametrize(
        ("name", "millions"),
        [
            ("lightcnn_b", 5.48),  # PAPER.md §3
            ("lightcnn_a", 4.095),  # Wu et al., Table: "4,095K"
            ("iresnet18", 24.03), ("iresnet34", 34.14), ("iresnet50", 43.59), ("iresnet100", 65.16),
            ("mobilefacenet", 0.99),  # the paper's Table 1
        ],
    )  # fmt: skip
    def test_parameters(self, name, millions):
        assert parameters(name) / 1e6 == pytest.approx(millions, abs=0.015)

    def test_sphereface_with_the_biases_of_value_0_that_its_file_lists(self):
        """OpenVINO's model zoo: 22.671 M parameters, 3.504 GFLOPs (it counts biases and activations)."""
        biases = sum(2 * channels * units for channels, units in ((64, 1), (128, 2), (256, 4), (512, 1)))
        assert (parameters("sphereface20") + biases) / 1e6 == pytest.approx(22.671, abs=0.0005)
        assert cost("sphereface20").flops / 1e9 == pytest.approx(3.504, rel=0.002)

    @pytest.mark.parametrize(
        ("name", "macs"),
        [
            ("iresnet18", 2.6),
            ("iresnet50", 6.3),
            pytest.param("iresnet100", 12.1, marks=pytest.mark.slow),
            ("vit_t", 1.5),
            ("vit_s", 5.7),
            ("vit_b", 11.4),
        ],
    )
    def test_multiplications(self, name, macs):
        """arcface_torch's README, in 10⁹ multiplications with their additions."""
        assert cost(name).flops / 2e9 == pytest.approx(macs, abs=0.05)

    @pytest.mark.parametrize(("name", "count"), [("sphereface20", 20), ("sphereface64", 64), ("lightcnn_29", 29)])
    def test_layers_as_named(self, name, count):
        """Light CNN-29 counts its matrix and leaves the 1×1 of the last group to the 3×3; SphereFace counts none."""
        convolutions = sum(isinstance(m, nn.Conv2d) for m in as_it_comes(name).modules())
        assert convolutions == count


class TestStart:
    """Of the Caffe networks: PAPER.md §3."""

    @pytest.mark.parametrize("name", ["centerface", "sphereface20"])
    def test_of_convolutions(self, name):
        torch.manual_seed(0)
        model = models.build(name)
        for where, module in model.named_modules():
            if isinstance(module, nn.PReLU):
                assert (module.weight == 0.25).all()
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            w = module.weight.detach()
            if module.bias is None:  # within a residual unit: N(0, .01²)
                assert ".body." in where
                assert w.std().item() == pytest.approx(0.01, rel=0.02)
                assert w.abs().max() > 0.025
                continue
            limit = math.sqrt(3 / w[0].numel())  # uniform: its deviation is limit / √3
            assert w.abs().max() <= limit
            assert w.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
            assert not module.bias.any()

    def test_of_light_cnns_biases(self):
        model = models.build("lightcnn_b")
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert (module.bias == 0.1).all()
                assert module.weight.abs().max() <= math.sqrt(3 / module.weight[0].numel())

    def test_of_iresnet(self):
        model = models.build("iresnet18")
        assert model.body[0].body[1].weight.std().item() == pytest.approx(0.1, rel=0.02)
        assert not model.head[3].weight.requires_grad


class TestSizesOnTheWay:
    """PAPER.md §3, layer by layer."""

    def test_centerface(self):
        model, found = on_meta("centerface"), []
        for module in model.modules():
            if isinstance(module, nn.MaxPool2d):
                module.register_forward_hook(lambda m, _, y: found.append(tuple(y.shape[1:])))
        model(torch.empty(1, 3, 112, 96, device="meta"))
        assert found == [(64, 54, 46), (128, 26, 22), (256, 12, 10), (512, 5, 4)]
        assert [type(m).__name__ for m in model.body].count("Unit") == 1 + 2 + 5 + 3

    @pytest.mark.parametrize(
        ("name", "sizes"),
        [("lightcnn_a", [(48, 60), (96, 28), (128, 12), (192, 5)]),
         ("lightcnn_b", [(48, 64), (96, 32), (192, 16), (128, 8)])],
    )  # fmt: skip
    def test_lightcnn(self, name, sizes):
        model, found = on_meta(name), []
        for module in model.modules():
            if isinstance(module, nn.MaxPool2d):
                module.register_forward_hook(lambda m, _, y: found.append(tuple(y.shape[1:3])))
        model(torch.empty(1, 1, 128, 128, device="meta"))
        assert found == sizes

    def test_max_feature_map(self):
        """Of two halves of the outputs, the larger each."""
        layer = models.build("lightcnn_a").body[0]
        x = torch.randn(1, 1, 128, 128)
        both = nn.functional.conv2d(x, layer.filter.weight, layer.filter.bias)
        torch.testing.assert_close(layer(x), torch.maximum(both[:, :48], both[:, 48:]))

    def test_dropout_in_training_alone(self):
        model = models.build("lightcnn_a", dropout=0.7)
        x = torch.rand(4, 1, 128, 128)
        whole = model.eval()(x)
        dropped = model.train()(x)
        kept = dropped != 0
        assert kept.float().mean().item() == pytest.approx(0.3, abs=0.05)
        torch.testing.assert_close(dropped[kept], whole[kept] / 0.3)


class TestTransformers:
    def build(self, **options):
        torch.manual_seed(0)
        return models.build("vit_t", **{"dim": 8, "width": 16, "depth": 2, "heads": 2} | options)

    def test_hidden_patches_do_not_reach_the_blocks(self):
        """15 of 144 are hidden; where the blocks saw nothing, the head reads the hidden patch."""
        model, seen, read = self.build(mask=0.1, drop_path=0.0), [], []
        model.body.register_forward_hook(lambda m, x, y: seen.append(x[0].shape[1]))
        model.head.register_forward_hook(lambda m, x, y: read.append(x[0].view(3, 144, 16)))
        x = random_input(model, 3)
        model(x)
        model.eval()(x)
        assert seen == [129, 144]
        assert ((read[0] == model.hidden[0]).all(2).sum(1) == 15).all()

    def test_left_out_sums_keep_their_mean(self):
        """With probability 0.4 in the last block, 0 in the first."""
        model = self.build(mask=0.0, drop_path=0.4)
        first, last = model.body
        x = torch.ones(20_000, 1, 1)
        assert torch.equal(first._kept(x), x)
        kept = last._kept(x)
        assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
        assert kept.mean().item() == pytest.approx(1, abs=0.02)
        assert torch.equal(last.eval()._kept(x), x)

    def test_what_is_not_used_is_not_trained(self):
        """DistributedDataParallel waits for every parameter's gradient."""
        model = self.build(mask=0.0)
        model(random_input(model, 2)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_the_place_of_a_patch_counts(self):
        model = self.build().eval()
        x = random_input(model, 1)
        moved = torch.roll(x, 9, dims=3)
        assert (model(x) - model(moved)).abs().max() > 1e-3

    def test_positions_do_not_decay(self):
        decays = {name: decay for name, (_, decay) in self.build().multipliers().items()}
        assert decays["positions"] == decays["hidden"] == decays["body.0.norm1.weight"] == 0
        assert decays["body.0.qkv.weight"] == decays["patches.weight"] == 1

    @pytest.mark.parametrize("options", [{"heads": 3}, {"depth": 0}, {"mask": 1.0}, {"drop_path": -0.1}])
    def test_mistakes(self, options):
        with pytest.raises(ConfigError, match="a width that heads divides"):
            self.build(**options)
