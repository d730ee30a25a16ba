"""Weights of others: their names as their code gives them, their networks written out once more by functions alone."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from normface import models
from normface.checkpoint import ORIGIN, write
from normface.data import open_reader
from normface.errors import ConfigError, ModelError
from normface.train import Checkpoint, adopt, load_config, load_model, train
from normface.train.adoption import describe, origin_of, translate

pytestmark = pytest.mark.slow

CLASSES = 10


def random_state(shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.zeros((), dtype=torch.int64)
        elif name.endswith("running_var"):
            found[name] = torch.rand(shape, generator=g) + 0.5
        else:
            # Of a size that keeps values of order 1 through all layers.
            fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 4
            found[name] = torch.randn(shape, generator=g) / fan**0.5
    return found


def norm_shapes(name, n):
    return {f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


# github deepinsight/insightface, recognition/arcface_torch/backbones/iresnet.py: names and shapes of its IResNet.
def arcface_shapes(units):
    shapes = {"conv1.weight": (64, 3, 3, 3), **norm_shapes("bn1", 64), "prelu.weight": (64,)}
    inputs = 64
    for stage, (n, count) in enumerate(zip((64, 128, 256, 512), units, strict=True), 1):
        for unit in range(count):
            at = f"layer{stage}.{unit}"
            shapes |= norm_shapes(f"{at}.bn1", inputs) | {f"{at}.conv1.weight": (n, inputs, 3, 3)}
            shapes |= norm_shapes(f"{at}.bn2", n) | {f"{at}.prelu.weight": (n,), f"{at}.conv2.weight": (n, n, 3, 3)}
            shapes |= norm_shapes(f"{at}.bn3", n)
            if unit == 0:
                shapes |= {f"{at}.downsample.0.weight": (n, inputs, 1, 1)} | norm_shapes(f"{at}.downsample.1", n)
            inputs = n
    shapes |= norm_shapes("bn2", 512) | {"fc.weight": (512, 25088), "fc.bias": (512,)}
    return shapes | norm_shapes("features", 512)


def arcface(state, x, units, eps=1e-5):
    def norm(x, name):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=eps)

    def conv(x, name, stride=1, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    x = F.prelu(norm(conv(x, "conv1"), "bn1"), state["prelu.weight"])
    for stage, count in enumerate(units, 1):
        for unit in range(count):
            at, stride = f"layer{stage}.{unit}", 1 if unit else 2
            y = F.prelu(norm(conv(norm(x, f"{at}.bn1"), f"{at}.conv1"), f"{at}.bn2"), state[f"{at}.prelu.weight"])
            y = norm(conv(y, f"{at}.conv2", stride), f"{at}.bn3")
            if unit == 0:
                x = norm(conv(x, f"{at}.downsample.0", stride, 0), f"{at}.downsample.1")
            x = x + y
    x = norm(x, "bn2").flatten(1)
    return norm(F.linear(x, state["fc.weight"], state["fc.bias"]), "features")


# github mk-minchul/AdaFace, net.py, and mk-minchul/CVLface, models/iresnet/model.py: names and shapes of their IR.
def adaface_shapes(units):
    shapes = {"input_layer.0.weight": (64, 3, 3, 3), **norm_shapes("input_layer.1", 64), "input_layer.2.weight": (64,)}
    inputs, at = 64, 0
    for n, count in zip((64, 128, 256, 512), units, strict=True):
        for _ in range(count):
            body = f"body.{at}.res_layer"
            shapes |= norm_shapes(f"{body}.0", inputs) | {f"{body}.1.weight": (n, inputs, 3, 3)}
            shapes |= norm_shapes(f"{body}.2", n) | {f"{body}.3.weight": (n,), f"{body}.4.weight": (n, n, 3, 3)}
            shapes |= norm_shapes(f"{body}.5", n)
            if inputs != n:
                shapes |= {f"body.{at}.shortcut_layer.0.weight": (n, inputs, 1, 1)}
                shapes |= norm_shapes(f"body.{at}.shortcut_layer.1", n)
            inputs, at = n, at + 1
    shapes |= norm_shapes("output_layer.0", 512) | matrix("output_layer.3", 512 * 7 * 7, 512)
    last = norm_shapes("output_layer.4", 512)
    return shapes | {key: shape for key, shape in last.items() if key.split(".")[-1] not in ("weight", "bias")}


def adaface(state, x, units):
    def norm(x, name):
        parts = (state.get(f"{name}.{part}") for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    def conv(x, name, stride=1, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    x = F.prelu(norm(conv(x, "input_layer.0"), "input_layer.1"), state["input_layer.2.weight"])
    at = 0
    for count in units:
        for unit in range(count):
            body, stride = f"body.{at}.res_layer", 1 if unit else 2
            y = norm(conv(norm(x, f"{body}.0"), f"{body}.1"), f"{body}.2")
            y = norm(conv(F.prelu(y, state[f"{body}.3.weight"]), f"{body}.4", stride), f"{body}.5")
            if f"body.{at}.shortcut_layer.0.weight" in state:
                x = norm(conv(x, f"body.{at}.shortcut_layer.0", stride, 0), f"body.{at}.shortcut_layer.1")
            else:
                x = F.max_pool2d(x, 1, stride)
            x, at = x + y, at + 1
    x = norm(x, "output_layer.0").flatten(1)
    return norm(F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"]), "output_layer.4")


# github deepinsight/insightface, recognition/arcface_torch/backbones/vit.py, and CVLface, models/vit/vit.py.
def vit_shapes(width, depth, patch=9, ratio=4, dim=512):
    count = (112 // patch) ** 2
    shapes = {"pos_embed": (1, count, width), "mask_token": (1, 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for n in range(depth):
        at = f"blocks.{n}"
        shapes |= {f"{at}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        shapes |= {f"{at}.attn.qkv.weight": (3 * width, width)} | matrix(f"{at}.attn.proj", width, width)
        shapes |= matrix(f"{at}.mlp.fc1", width, ratio * width) | matrix(f"{at}.mlp.fc2", ratio * width, width)
    shapes |= {f"norm.{part}": (width,) for part in ("weight", "bias")}
    shapes |= {"feature.0.weight": (width, width * count), "feature.2.weight": (dim, width)}
    return shapes | norm_shapes("feature.1", width) | norm_shapes("feature.3", dim)


def vit(state, x, depth, heads):
    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def batch_norm(x, name):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=2e-5)

    w = state["patch_embed.proj.weight"]
    x = F.conv2d(x, w, state["patch_embed.proj.bias"], stride=w.shape[-1]).flatten(2).mT + state["pos_embed"]
    for n in range(depth):
        at, (b, tokens, width) = f"blocks.{n}", x.shape
        qkv = linear(layer_norm(x, f"{at}.norm1"), f"{at}.attn.qkv")
        q, k, v = qkv.reshape(b, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.mT) * (width // heads) ** -0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).reshape(b, tokens, width), f"{at}.attn.proj")
        x = x + linear(F.relu6(linear(layer_norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
    x = batch_norm(linear(layer_norm(x, "norm").flatten(1), "feature.0"), "feature.1")
    return batch_norm(linear(x, "feature.2"), "feature.3")


# github AlfredXiangWu/LightCNN, light_cnn.py: names and shapes of its networks of 9 and of 29 layers.
def filters(name, inputs, outputs, kernel):
    return {f"{name}.filter.weight": (2 * outputs, inputs, kernel, kernel), f"{name}.filter.bias": (2 * outputs,)}


def matrix(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def group(name, inputs, outputs):
    return filters(f"{name}.conv_a", inputs, inputs, 1) | filters(f"{name}.conv", inputs, outputs, 3)


NINE = (
    filters("features.0", 1, 48, 5) | group("features.2", 48, 96) | group("features.4", 96, 192)
    | group("features.6", 192, 128) | group("features.7", 128, 128)
    | matrix("fc1.filter", 8192, 512) | matrix("fc2", 256, CLASSES)
)  # fmt: skip
BLOCKS = {1: (48, 1), 2: (96, 2), 3: (192, 3), 4: (128, 4)}
TWENTY_NINE = filters("conv1", 1, 48, 5) | {
    key: shape
    for block, (n, count) in BLOCKS.items()
    for unit in range(count)
    for conv in ("conv1", "conv2")
    for key, shape in filters(f"block{block}.{unit}.{conv}", n, n, 3).items()
}
TWENTY_NINE |= group("group1", 48, 96) | group("group2", 96, 192) | group("group3", 192, 128)
TWENTY_NINE |= group("group4", 128, 128) | matrix("fc.filter", 8192, 512) | matrix("fc2", 256, CLASSES)


def mfm(state, x, name, padding=0):
    w, b = state[f"{name}.filter.weight"], state[f"{name}.filter.bias"]
    y = F.linear(x, w, b) if w.ndim == 2 else F.conv2d(x, w, b, padding=padding)
    one, other = torch.split(y, len(b) // 2, 1)
    return torch.max(one, other)


def pool(x):
    return F.max_pool2d(x, 2, 2, ceil_mode=True)


def pair(state, x, name):
    return mfm(state, mfm(state, x, f"{name}.conv_a"), f"{name}.conv", 1)


def nine(state, x):
    x = pool(mfm(state, x, "features.0", 2))
    x = pool(pair(state, x, "features.2"))
    x = pool(pair(state, x, "features.4"))
    x = pool(pair(state, pair(state, x, "features.6"), "features.7"))
    return mfm(state, x.flatten(1), "fc1")


def twenty_nine(state, x):
    x = pool(mfm(state, x, "conv1", 2))
    for block, (_, count) in BLOCKS.items():
        for unit in range(count):
            at = f"block{block}.{unit}"
            x = x + mfm(state, mfm(state, x, f"{at}.conv1", 1), f"{at}.conv2", 1)
        x = pair(state, x, f"group{block}")
        x = x if block == 3 else pool(x)
    return mfm(state, x.flatten(1), "fc")


# github foamliu/MobileFaceNet, mobilefacenet.py at commit a687c71: names and shapes of its network.
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))  # Table 1 of the paper
BOTTLENECKS = [(t, c, 1 if unit else s) for t, c, n, s in STAGES for unit in range(n)]


def foamliu_shapes():
    def conv(name, outputs, inputs, kernel, norm):
        return {f"{name}.weight": (outputs, inputs, kernel, kernel)} | norm_shapes(norm, outputs)

    shapes = conv("conv1.0", 64, 3, 3, "conv1.1") | conv("dw_conv.depthwise", 64, 1, 3, "dw_conv.bn1")
    shapes |= conv("dw_conv.pointwise", 64, 64, 1, "dw_conv.bn2")
    inputs = 64
    for unit, (t, n, _) in enumerate(BOTTLENECKS):
        at, inner = f"features.{unit}.conv", t * inputs
        shapes |= conv(f"{at}.0.0", inner, inputs, 1, f"{at}.0.1") | conv(f"{at}.1.0", inner, 1, 3, f"{at}.1.1")
        shapes |= conv(f"{at}.2", n, inner, 1, f"{at}.3")
        inputs = n
    shapes |= conv("conv2.0", 512, 128, 1, "conv2.1") | conv("gdconv.depthwise", 512, 1, 7, "gdconv.bn")
    return shapes | conv("conv3", 128, 512, 1, "bn") | {"conv3.bias": (128,)}


def foamliu(state, x):
    def conv(x, name, norm, stride=1):
        w = state[f"{name}.weight"]
        padding = 1 if w.shape[-1] == 3 else 0
        x = F.conv2d(x, w, state.get(f"{name}.bias"), stride, padding, groups=len(w) if w.shape[1] == 1 else 1)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    x = F.relu6(conv(x, "conv1.0", "conv1.1", 2))
    x = F.relu(conv(x, "dw_conv.depthwise", "dw_conv.bn1"))
    x = F.relu(conv(x, "dw_conv.pointwise", "dw_conv.bn2"))
    for unit, (_, n, stride) in enumerate(BOTTLENECKS):
        at = f"features.{unit}.conv"
        y = F.relu6(conv(x, f"{at}.0.0", f"{at}.0.1"))
        y = conv(F.relu6(conv(y, f"{at}.1.0", f"{at}.1.1", stride)), f"{at}.2", f"{at}.3")
        x = x + y if stride == 1 and x.shape[1] == n else y
    x = F.relu6(conv(x, "conv2.0", "conv2.1"))
    return conv(conv(x, "gdconv.depthwise", "gdconv.bn"), "conv3", "bn").flatten(1)


THEIRS = {
    "mobilefacenet_relu6": (foamliu_shapes(), foamliu),
    "lightcnn_b": (NINE, nine),
    "lightcnn_29": (TWENTY_NINE, twenty_nine),
    "iresnet18": (arcface_shapes((2, 2, 2, 2)), lambda state, x: arcface(state, x, (2, 2, 2, 2))),
}


@pytest.mark.parametrize(
    "name",
    [
        "lightcnn_b",
        "mobilefacenet_relu6",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("lightcnn_29", "iresnet18")),
    ],
)
def test_computes_what_theirs_does(name):
    shapes, forward = THEIRS[name]
    theirs, model = random_state(shapes), models.build(name).eval()
    model.load_state_dict(translate(model, theirs))
    spec = model.spec
    x = torch.rand(1, spec.channels, spec.height, spec.width)
    with torch.no_grad():
        ours, expected = model(x), forward(theirs, x)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("name", "units"),
    [("iresnet34", (3, 4, 6, 3)), ("iresnet50", (3, 4, 14, 3)), ("iresnet100", (3, 13, 30, 3))],
)
def test_deeper_ones_by_name_and_shape(name, units):
    with torch.device("meta"):
        model = models.build(name)
        state = {key: torch.empty(shape) for key, shape in arcface_shapes(units).items()}
    assert translate(model, state).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "shapes"),
    [({"width": 32, "depth": 3, "heads": 4}, vit_shapes(32, 3)), ({"width": 16, "depth": 1}, vit_shapes(16, 1))],
)
def test_transformers_compute_what_theirs_do(options, shapes):
    theirs, model = random_state(shapes), models.build("vit_t", **options).eval()
    model.load_state_dict(translate(model, theirs))
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        ours, expected = model(x), vit(theirs, x, options["depth"], options.get("heads", 8))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


IR18 = (2, 2, 2, 2)
OTHERS = {  # prefix in the file → names and shapes, their network, and what their weights expect of images
    "AdaFace": ("model.", adaface_shapes(IR18), adaface, {}, ("BGR", 127.5, 127.5)),
    "CVLface": ("net.", adaface_shapes(IR18), adaface, {"order": "RGB"}, ("RGB", 127.5, 127.5)),
    "CVLface, from Hugging Face": (
        "model.net.", adaface_shapes(IR18), adaface, {"order": "BGR"}, ("BGR", 127.5, 127.5)
    ),
    "MagFace": (
        "features.module.", arcface_shapes(IR18), lambda *given: arcface(*given, eps=2e-5), {}, ("BGR", 0, 255)
    ),
    "MagFace, by DataParallel": (
        "module.features.", arcface_shapes(IR18), lambda *given: arcface(*given, eps=2e-5), {}, ("BGR", 0, 255)
    ),
    "arcface_torch": ("module.", arcface_shapes(IR18), arcface, {}, ("RGB", 127.5, 127.5)),
}  # fmt: skip


@pytest.mark.parametrize("whose", OTHERS)
def test_whose_weights_they_are_is_told_by_the_names(whose, tmp_path):
    """The network computes what theirs does, on images as theirs expects them."""
    prefix, shapes, forward, options, (order, mean, std) = OTHERS[whose]
    state = random_state(shapes)
    saved = {f"{prefix}{key}": t for key, t in state.items()} | {"head.kernel": torch.zeros(512, 10)}
    torch.save({"state_dict": saved, "epoch": 25}, tmp_path / "theirs.ckpt")
    told = adopt(tmp_path / "theirs.ckpt", tmp_path / "run", "iresnet18", **options)
    assert told["name"] == whose.partition(",")[0]
    model, _ = load_model(tmp_path / "run")
    assert (model.spec.order, model.spec.mean[0], model.spec.std[0]) == (order, mean, std)
    x = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        ours, expected = model(x), forward(state, x, IR18)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_cvlfaces_order_of_colors_is_asked_for(tmp_path):
    torch.save({f"net.{key}": t for key, t in random_state(adaface_shapes(IR18)).items()}, tmp_path / "theirs.pt")
    with pytest.raises(ConfigError, match="--order with weights of CVLface"):
        adopt(tmp_path / "theirs.pt", tmp_path / "run", "iresnet18")
    with pytest.raises(ConfigError, match="order RGB or BGR"):
        adopt(tmp_path / "theirs.pt", tmp_path / "run", "iresnet18", order="GBR")


@pytest.mark.parametrize(("name", "depth", "ratio"), [("vit_s", 12, 5), ("vit_b", 24, 3)])
def test_cvlfaces_transformers_by_name_and_shape(name, depth, ratio):
    shapes = vit_shapes(512, depth, 8, ratio)
    del shapes["mask_token"]  # which theirs lack where nothing is hidden
    with torch.device("meta"):
        theirs = {f"net.{key}": torch.empty(shape) for key, shape in shapes.items()}
        origin, options = origin_of(name, theirs, {"order": "RGB"})
        model = models.build(name, **options)
        assert translate(model, theirs, origin).keys() == model.state_dict().keys()
    assert origin.name == "CVLface"
    assert options["patch"] == 8


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint as the Light CNN's authors publish it: DataParallel's names, beside other things."""
    file = tmp_path_factory.mktemp("theirs") / "LightCNN_9Layers_checkpoint.pth.tar"
    state = {f"module.{key}": t for key, t in random_state(NINE).items()}
    torch.save({"epoch": 80, "arch": "LightCNN", "state_dict": state, "prec1": torch.tensor(98.7)}, file)
    return file


class TestAdopting:
    def test_makes_a_run_that_says_whose_it_is(self, published, tmp_path):
        told = adopt(published, tmp_path / "run", "lightcnn_b")
        assert told["sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()
        assert told["licence"].startswith("MIT")
        assert Checkpoint.read(tmp_path / "run").facts[ORIGIN] == told
        model, _ = load_model(tmp_path / "run")
        x = torch.rand(1, 1, 128, 128)
        torch.testing.assert_close(model(x), nine(random_state(NINE), x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("within", "prefix"),
        [("state_dict_backbone", ""), ("state_dict", "module.features.module."), ("model", "model.backbone."),
         (None, "_orig_mod."), (None, "backbone.")],
    )  # fmt: skip
    def test_as_wrappers_save_it(self, prefix, within, tmp_path):
        """Beside the classifier and the optimizer."""
        state = {f"{prefix}{key}": t for key, t in random_state(NINE).items()}
        if prefix:
            state |= {"head.kernel": torch.zeros(256, 10)}
        saved = state if within is None else {within: state, "epoch": 3, "state_optimizer": {"state": {}}}
        torch.save(saved, tmp_path / "saved.pt")
        adopt(tmp_path / "saved.pt", tmp_path / "run", "lightcnn_b")
        model, _ = load_model(tmp_path / "run")
        assert torch.equal(model.state_dict()["head.filter.weight"], random_state(NINE)["fc1.filter.weight"])

    def test_insightfaces_licence_is_named(self):
        assert "non-commercial research" in models.build("iresnet18").origin.licence

    def test_refused(self, published, tmp_path):
        file, run = tmp_path / "state.pt", tmp_path / "run"
        state = random_state(NINE)
        wrong = {
            r"1 missing \(fc1\.filter\.bias\)": {key: t for key, t in state.items() if key != "fc1.filter.bias"},
            r"1 missing \(fc1\.filter\.bias\), 1 unknown \(fc1\.bias\)": {
                key.replace("fc1.filter.bias", "fc1.bias"): t for key, t in state.items()
            },
            r"1 unknown \(extra\.weight\)": state | {"extra.weight": torch.zeros(1)},
            "finite weights, got NaN or infinity in": state | {"features.0.filter.bias": torch.full((96,), torch.nan)},
            r"1 of another shape \(features\.0\.filter\.bias \[3\] instead of \[96\]\)": state
            | {"features.0.filter.bias": torch.zeros(3)},
            "a mapping of names to tensors": {"state": [1, 2]},
        }
        for message, content in wrong.items():
            torch.save(content, file)
            with pytest.raises(ModelError, match=message):
                adopt(file, run, "lightcnn_b")
        with pytest.raises(ModelError, match="No such file"):
            adopt(tmp_path / "none.pt", run, "lightcnn_b")
        with pytest.raises(ConfigError, match="or use an ONNX file"):
            adopt(published, run, "smallresnet")
        file.write_bytes(published.read_bytes()[:5000])
        with pytest.raises(ModelError, match="tensors only"):
            adopt(file, run, "lightcnn_b")
        assert not run.exists()

    @pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "the one before PyTorch 1.6"])
    def test_nothing_in_a_file_is_executed(self, tmp_path, zipped):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        torch.save({"state_dict": Trap()}, tmp_path / "state.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelError, match="tensors only"):
            adopt(tmp_path / "state.pt", tmp_path / "run", "lightcnn_b")
        assert not (tmp_path / "sprung").exists()

    def test_safetensors_and_a_folder_in_use(self, tmp_path):
        save_file(random_state(NINE), tmp_path / "state.safetensors")
        adopt(tmp_path / "state.safetensors", tmp_path / "run", "lightcnn_b")
        with pytest.raises(ConfigError, match="a new folder"):
            adopt(tmp_path / "state.safetensors", tmp_path / "run", "lightcnn_b")


@pytest.mark.slow
def test_the_licence_goes_into_the_onnx_file(published, tmp_path):
    import onnxruntime

    from normface.cli.export import write_onnx

    told = adopt(published, tmp_path / "run", "lightcnn_b")
    write_onnx(tmp_path / "run", tmp_path / "m.onnx")
    metadata = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["normface.origin"]) == told


@pytest.mark.slow
def test_what_is_trained_from_them_says_so_too(drawn, tmp_path):
    """Also after a stop, and in a run that starts from that one."""
    small = [
        "model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "model.options.dim=16",
        "optim.batch=16", "optim.epochs=0.5", "precision=fp32", "save_every=1",
    ]  # fmt: skip
    reader = open_reader(drawn / "train" / "faces-112.zip")
    config = load_config("normface", small)
    told = describe(models.build("iresnet18").origin, "ab")
    state = models.build("smallresnet", **config.model.options).state_dict()
    write(
        tmp_path / "adopted", {f"model.{key}": t for key, t in state.items()}, config=config.model_dump(mode="json"),
        step=0, facts={"classes": 0, "images": 0, ORIGIN: told},
    )  # fmt: skip

    def stop(done, total, measured):
        if done == 2:
            raise KeyboardInterrupt

    def tuned(start):
        return load_config("normface", [*small, f"start.run={tmp_path / start}"])

    with pytest.raises(KeyboardInterrupt):
        train(tuned("adopted"), reader, tmp_path / "one", progress=stop)
    train(tuned("adopted"), reader, tmp_path / "one", resume=True)
    train(tuned("one"), reader, tmp_path / "two")
    for run in ("one", "two"):
        assert Checkpoint.read(tmp_path / run).facts[ORIGIN] == told
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["data"][ORIGIN] == told
