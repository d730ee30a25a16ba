import math

import numpy as np
import pytest
import torch

from normface import ops, theory
from normface.errors import ConfigError, InputError
from normface.losses import LOSSES, progress
from normface.losses.softmax import CosineSoftmax


def test_auto_scale_is_proposition_2():
    loss = CosineSoftmax(1000, 8)
    assert loss.scale.item() == pytest.approx(theory.scale_for_probability(1000, 0.99))
    assert loss.scale.requires_grad


def test_class_weights_start_as_unit_vectors():
    weight = CosineSoftmax(100, 16).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(100))


def test_value_is_the_ops():
    torch.manual_seed(0)
    loss, x, y = CosineSoftmax(10, 4, scale=20.0), torch.randn(3, 4), torch.tensor([0, 9, 4])
    torch.testing.assert_close(loss(x, y), ops.cosine_cross_entropy(x, loss.weight, y, scale=20.0))


@pytest.mark.slow
def test_initial_loss_of_many_classes_is_the_papers():
    # n = 10572: 9.26 at s = 1, 9.37 at 10, 10.3 at 30 (PAPER.md, derived for 512 dimensions)
    torch.manual_seed(0)
    x, y = torch.randn(512, 512), torch.randint(10572, (512,))
    for scale, expected in ((1.0, 9.26), (10.0, 9.37), (30.0, 10.3)):
        with torch.no_grad():
            assert float(CosineSoftmax(10572, 512, scale=scale)(x, y)) == pytest.approx(expected, abs=0.2)


def test_scale_learns_only_when_asked():
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    fixed = CosineSoftmax(5, 4, scale=10.0, learn_scale=False)
    fixed(x, y).backward()
    assert fixed.scale.grad is None
    learned = CosineSoftmax(5, 4, scale=10.0)
    learned(x, y).backward()
    assert learned.scale.grad.abs() > 0


def test_scale_is_clamped_and_can_grow_back():
    loss = CosineSoftmax(5, 4, scale=10.0)
    with torch.no_grad():
        loss.scale.fill_(-3.0)
    x = loss.weight.detach()[:3] + 0.01
    value = loss(x, torch.tensor([0, 1, 2]))
    assert value.item() == pytest.approx(math.log(5), abs=0.02)  # as at s = 0.01
    value.backward()
    assert loss.scale.grad.item() < 0  # the gradient asks for a larger scale
    assert loss.scale.item() == pytest.approx(0.01)  # and it is at the floor, not at -3: one step brings it back


@pytest.mark.parametrize("scale", [-3.0, 0.0, math.nan, math.inf])
def test_scales_that_are_none(scale):
    with pytest.raises(InputError, match="a positive scale"):
        ops.cosine_cross_entropy(torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1]), scale=scale)


def test_registry_finds_it_and_suggests():
    assert "CosineSoftmax" in list(LOSSES)
    with pytest.raises(ConfigError, match="did you mean 'CosineSoftmax'"):
        LOSSES.build("CosinSoftmax", 5, 4)


class TestHardWeights:
    def make(self, **options):
        torch.manual_seed(0)
        loss = CosineSoftmax(6, 4, scale=9.0, weights="hard", **options).double()
        with torch.no_grad():
            loss.weight.mul_(torch.linspace(0.2, 5, 6)[:, None])
        return loss, torch.randn(8, 4, dtype=torch.float64, requires_grad=True), torch.arange(8) % 6

    def test_a_training_pass_overwrites_them_and_evaluation_never(self):
        loss, x, y = self.make()
        before = loss.weight.detach().clone()
        value = loss.eval()(x, y)
        assert torch.equal(loss.weight, before)
        torch.testing.assert_close(loss.train()(x, y), value)  # the value is that of unit rows in both
        torch.testing.assert_close(loss.weight, before / before.norm(dim=1, keepdim=True))

    @pytest.mark.parametrize("normalize", ["both", "weights"])
    def test_gradient_is_not_projected(self, normalize):
        """s/B Σ_i (p_ij - 1[j = y])·x̃_i, in NumPy; x instead of x̃ with normalize="weights"."""
        loss, x, y = self.make(normalize=normalize)
        loss(x, y).backward()
        features = x.detach().numpy()
        if normalize == "both":
            features = features / np.linalg.norm(features, axis=1, keepdims=True)
        logits = 9 * features @ loss.weight.detach().numpy().T
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        p[np.arange(8), y] -= 1
        np.testing.assert_allclose(loss.weight.grad.numpy(), 9 / 8 * p.T @ features, rtol=1e-9, atol=1e-12)
        radial = (loss.weight.grad * loss.weight.detach()).sum(1)
        assert radial.abs().min() > 1e-3

    def test_gradient_of_features_is_that_of_soft_ones(self):
        hard, x, y = self.make()
        soft = CosineSoftmax(6, 4, scale=9.0).double()
        soft.weight.data.copy_(hard.weight.data)
        torch.testing.assert_close(torch.autograd.grad(hard(x, y), x), torch.autograd.grad(soft(x, y), x))

    def test_passes_may_accumulate(self):
        loss, x, y = self.make()
        (loss(x[:4], y[:4]) + loss(x[4:], y[4:])).backward()
        summed = loss.weight.grad.clone()
        loss.zero_grad()
        (2 * loss(x, y)).backward()
        torch.testing.assert_close(summed, loss.weight.grad)

    def test_asks_for_its_own_rate_and_no_decay(self):
        assert self.make()[0].group_options == {"weight": {"rate_factor": 100.0, "weight_decay": 0.0}}
        assert CosineSoftmax(6, 4).group_options == {}


class TestAdaCos:
    def test_fixed(self):
        loss = CosineSoftmax(10572, 2, scale="adacos")
        assert loss.scale.item() == pytest.approx(13.10, abs=5e-3)
        assert not loss.scale.requires_grad
        assert CosineSoftmax(10572, 2, scale="adacos", learn_scale=True).scale.requires_grad

    def make(self):
        loss = CosineSoftmax(3, 3, scale="adacos-dynamic").double()
        loss.weight.data.copy_(torch.eye(3))
        return loss, loss.scale.item()

    def test_dynamic_stays_finite_where_classes_crowd(self):
        torch.manual_seed(0)
        loss = CosineSoftmax(10, 2, scale="adacos-dynamic")
        x, y = torch.randn(64, 2), torch.randint(10, (64,))
        for _ in range(100):
            assert loss(x, y).isfinite()
        assert loss.scale.item() == pytest.approx(4 * math.sqrt(2) * math.log(9))

    def test_dynamic_by_hand(self):
        loss, s = self.make()
        assert s == pytest.approx(2**0.5 * math.log(2))
        x = torch.tensor([[1, 1, 0], [0, 2, 0], [0, 0, 3]], dtype=torch.float64)  # own angles 45°, 0, 0; median 0
        y = torch.tensor([0, 1, 2])
        value = loss(x, y)
        expected = math.log((math.exp(s * 0.5**0.5) + 1 + 2 + 2) / 3)
        assert loss.scale.item() == pytest.approx(expected)
        torch.testing.assert_close(value, ops.cosine_cross_entropy(x, loss.weight, y, scale=expected))
        loss(x, y)
        assert loss.scale.item() == pytest.approx(math.log((math.exp(expected * 0.5**0.5) + 5) / 3))

    def test_angles_beyond_45_degrees_count_as_45(self):
        loss, s = self.make()
        loss(torch.ones(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0]))  # all angles 54.7°
        assert loss.scale.item() == pytest.approx(math.log(2 * math.exp(s / 3**0.5)) / 0.5**0.5)

    def test_evaluation_leaves_it_and_no_gradient_enters_it(self):
        loss, s = self.make()
        x, y = torch.randn(2, 3, dtype=torch.float64), torch.tensor([0, 1])
        loss.eval()(x, y)
        assert loss.scale.item() == s
        loss.train()(x, y).backward()
        assert loss.scale.grad is None
        assert loss.state_dict()["scale"] != s

    def test_passes_may_accumulate(self):
        loss, _ = self.make()
        y, x = torch.tensor([0, 1]), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        first = torch.autograd.grad(loss(x, y), x)[0]
        loss.scale.fill_(2**0.5 * math.log(2))
        value = loss(x, y)
        loss(3 * x.detach() + 1, y)
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], first)


class TestSubcenters:
    def test_the_nearest_counts(self):
        torch.manual_seed(0)
        loss = CosineSoftmax(4, 3, scale=9.0, subcenters=2, margin={"cosine": 0.2}).double()
        assert loss.weight.shape == (8, 3)
        x, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 0])
        w, total = loss.weight.detach().numpy(), 0.0
        w = w / np.linalg.norm(w, axis=1, keepdims=True)
        for row, label in zip(x.numpy(), y.tolist(), strict=True):
            row = row / np.linalg.norm(row)
            logits = [9 * (max(row @ w[2 * c], row @ w[2 * c + 1]) - 0.2 * (c == label)) for c in range(4)]
            total -= math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))
        assert loss(x, y).item() == pytest.approx(total / 6, rel=1e-10)

    def test_gradient_by_finite_differences(self):
        torch.manual_seed(1)
        x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        w = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([0, 1, 2, 3, 3, 0])
        margin = ops.Margin(angle=0.3)
        assert torch.autograd.gradcheck(
            lambda x, w: ops.cosine_cross_entropy(x, w, y, scale=5.0, margin=margin, subcenters=3), (x, w)
        )

    def test_one_is_the_plain_softmax(self):
        """So is any number of equal ones."""
        torch.manual_seed(0)
        w, x, y = torch.randn(5, 4), torch.randn(3, 4), torch.tensor([0, 2, 4])
        plain = ops.cosine_cross_entropy(x, w, y, scale=7.0)
        assert torch.equal(ops.cosine_cross_entropy(x, w, y, scale=7.0, subcenters=1), plain)
        torch.testing.assert_close(
            ops.cosine_cross_entropy(x, w.repeat_interleave(3, 0), y, scale=7.0, subcenters=3), plain
        )

    def test_labels_and_rows_must_fit(self):
        loss = CosineSoftmax(4, 3, subcenters=2)
        with pytest.raises(InputError, match=r"labels in \[0, 4\)"):
            loss(torch.randn(1, 3), torch.tensor([4]))
        with pytest.raises(InputError, match="5 rows with subcenters=2"):
            ops.cosine_cross_entropy(torch.randn(1, 3), torch.randn(5, 3), torch.tensor([0]), scale=1.0, subcenters=2)


class TestExclusion:
    def draw(self):
        torch.manual_seed(0)
        x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
        w = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
        return x, w, torch.arange(8)

    @pytest.mark.parametrize("margin", [None, ops.Margin(cosine=0.2, curriculum=0.4)])
    def test_softmax_over_those_that_remain(self, margin):
        x, w, y = self.draw()
        ours = ops.cosine_cross_entropy(x, w, y, scale=6.0, margin=margin, exclude_above=0.3)
        total, excluded = 0.0, 0
        for row, label in zip(x.detach(), y.tolist(), strict=True):
            cosines = torch.nn.functional.cosine_similarity(row, w.detach())
            kept = [j for j in range(9) if j == label or cosines[j] <= 0.3]
            excluded += 9 - len(kept)
            total += ops.cosine_cross_entropy(
                row[None], w.detach()[kept], torch.tensor([kept.index(label)]), scale=6.0, margin=margin
            ).item()
        assert excluded > 5
        assert ours.item() == pytest.approx(total / 8, rel=1e-10)

    def test_the_excluded_receive_no_gradient_and_the_scale_a_finite_one(self):
        w = torch.eye(3, dtype=torch.float64, requires_grad=True)
        x = torch.tensor([[0.5, 0.8, 0.1]], dtype=torch.float64, requires_grad=True)
        scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([0])
        ops.cosine_cross_entropy(x, w, y, scale=scale, exclude_above=0.6).backward()
        assert w.grad[1].tolist() == [0, 0, 0]
        assert w.grad[2].abs().sum() > 0
        assert torch.autograd.gradcheck(
            lambda x, w, s: ops.cosine_cross_entropy(x, w, y, scale=s, exclude_above=0.6), (x, w, scale)
        )

    def test_never_the_own_class(self):
        x, w, y = self.draw()
        near = w.detach()[:8] + 0.01 * x.detach()
        assert ops.cosine_cross_entropy(near, w, y, scale=6.0, exclude_above=-1.0).item() == pytest.approx(0, abs=1e-12)


def test_all_options_together():
    torch.manual_seed(0)
    loss = CosineSoftmax(
        6, 4, scale="adacos-dynamic", margin="AdaFace", weights="hard", subcenters=3, exclude_above=0.8
    )  # fmt: skip
    x, y = torch.randn(16, 4, requires_grad=True), torch.randint(6, (16,))
    for _ in range(3):
        value = loss(x, y)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert "subcenters=3" in repr(loss)


@pytest.mark.parametrize("normalize", ["weights", "none"])
def test_auto_scale_is_the_features_length_where_they_keep_it(normalize):
    loss = CosineSoftmax(5, 4, normalize=normalize)
    assert loss.scale.item() == 1
    assert not loss.scale.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_classes=1), "num_classes"),
        (dict(dim=0), "dim"),
        (dict(scale=0.0), "positive scale"),
        (dict(scale="large"), "positive scale"),
        (dict(scale=math.nan), "positive scale"),
        (dict(normalize="everything"), "normalize among"),
        (dict(weights="firm"), "weights among"),
        (dict(weights="hard", normalize="features"), "normalized weights"),
        (dict(subcenters=0), "subcenters"),
        (dict(exclude_above=2.0), "exclude_above between -1 and 1"),
        (dict(exclude_above=0.5, normalize="none"), "normalize among both, weights with exclude_above"),
        (dict(margin="ArcFace", normalize="features"), "normalize among both, weights with margin"),
        (dict(scale="adacos-dynamic", learn_scale=True), "no learn_scale"),
        (dict(scale="adacos-dynamic", normalize="weights"), 'normalize="both"'),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CosineSoftmax(**({"num_classes": 5, "dim": 4} | arguments))


class TestGrowth:
    def make(self, **options):
        return CosineSoftmax(4, 3, **({"scale": 30.0, "learn_scale": False, "growth": (10.0, 0.5)} | options))

    def test_from_the_first_to_the_last_scale_and_no_further(self):
        loss, x, y, seen = self.make(), torch.randn(4, 3), torch.arange(4), []
        for step in range(6):
            progress(loss, step / 8)
            for _ in range(3):  # parts of one step
                loss(x, y)
            seen.append(loss.scale.item())
        assert seen == [10.0, 15.0, 20.0, 25.0, 30.0, 30.0]

    def test_a_number_alone_starts_at_the_scale_of_proposition_2(self):
        loss = self.make(growth=0.8, scale=64.0)
        assert loss.scale.item() == pytest.approx(theory.scale_for_probability(4, 0.99))
        progress(loss, 0.4)
        assert loss.scale.item() == pytest.approx((64 + theory.scale_for_probability(4, 0.99)) / 2)

    def test_a_loop_that_tells_no_progress_is_refused(self):
        loss, x, y = self.make(), torch.randn(4, 3), torch.arange(4)
        assert loss.eval()(x, y).isfinite()
        with pytest.raises(ConfigError, match=r"losses\.progress\(loss, step / total\)"):
            loss.train()(x, y)
        margined = CosineSoftmax(4, 3, margin="Gradual")
        with pytest.raises(ConfigError, match=r"losses\.progress\(loss, step / total\)"):
            margined(x, y)

    def test_progress_is_a_fraction(self):
        for wrong in (-0.1, 1.1, math.nan):
            with pytest.raises(InputError, match=r"\[0, 1\]"):
                progress(self.make(), wrong)

    def test_steps_still_count_with_a_warning(self):
        with pytest.warns(DeprecationWarning, match="fraction of the run"):
            loss = self.make(growth=(10.0, 4))
        x, y, seen = torch.randn(4, 3), torch.arange(4), []
        for _ in range(6):
            loss(x, y)
            seen.append(loss.scale.item())
        assert seen == [10.0, 15.0, 20.0, 25.0, 30.0, 30.0]
        with pytest.warns(DeprecationWarning, match="fraction of the run"):
            loss = self.make(growth=None, margin={"name": "Gradual", "of": "CosFace", "steps": 4})
        with torch.no_grad():
            values = [loss(x, y).item() for _ in range(5)]
            whole = self.make(growth=None, margin="CosFace")
            whole.weight.copy_(loss.weight)
            assert values[3] == values[4] == pytest.approx(whole(x, y).item())

    @pytest.mark.parametrize(
        ("growth", "learn"), [((0.0, 0.5), False), ((1.0, 0), False), (0.0, False), ((1.0, 0.5), True)]
    )
    def test_refused(self, growth, learn):
        with pytest.raises(ConfigError, match="growth"):
            self.make(learn_scale=learn, growth=growth)


@pytest.mark.parametrize(
    "options",
    [dict(margin="CurricularFace"), dict(margin="AdaFace"), dict(margin="SphereFace", normalize="weights"),
     dict(margin={"name": "Gradual", "of": "AdaFace"}), dict(scale="adacos-dynamic"), dict(sample=0.5)],
)  # fmt: skip
def test_parts_of_a_batch_are_one_step(options):
    """Averages, counts and drawn classes after three steps of four parts are those after three whole batches."""
    x, y = torch.randn(3, 8, 6, dtype=torch.float64), torch.randint(9, (3, 8))
    states = []
    for parts in (1, 4):
        torch.manual_seed(5)
        loss = CosineSoftmax(9, 6, **options).double()
        for step in range(3):
            progress(loss, step / 3)
            if parts > 1 and loss.dynamic:  # its scale is that of the last part
                loss(x[step], y[step])
            for features, labels in zip(x[step].chunk(parts), y[step].chunk(parts), strict=True):
                loss(features, labels)
            if parts > 1 and loss.dynamic:
                loss(x[step], y[step])
        states.append(loss.state_dict())
    torch.testing.assert_close(states[1], states[0])


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing(smoothing):
    """-(1 - ε)·log p_y - ε/C·Σ_j log p_j, in NumPy."""
    torch.manual_seed(0)
    loss, x, y = (
        CosineSoftmax(5, 4, scale=7.0, smoothing=smoothing).double(),
        torch.randn(6, 4).double(),
        torch.arange(6) % 5,
    )
    unit, rows = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x.numpy(), loss.weight.detach().numpy()))
    logits = 7 * unit @ rows.T
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -((1 - smoothing) * logs[np.arange(6), y] + smoothing * logs.mean(1)).mean()
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(InputError, match="smoothing"):
        CosineSoftmax(5, 4, smoothing=0.1, impl="blockwise")(x.float(), y)


class TestAfterTraining:
    @pytest.mark.parametrize("normalize", ["both", "features", "weights", "none"])
    def test_logits_are_those_of_the_loss(self, normalize):
        torch.manual_seed(0)
        loss, x, y = (
            CosineSoftmax(5, 4, scale=7.0, normalize=normalize, subcenters=2),
            torch.randn(6, 4),
            torch.arange(6) % 5,
        )
        logits = loss.logits(x)
        assert logits.shape == (6, 5)
        torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, y), loss(x, y))

    def test_accuracy(self):
        loss = CosineSoftmax(3, 3)
        loss.weight.data.copy_(torch.eye(3))
        assert loss.accuracy(torch.eye(3), torch.tensor([0, 1, 0])).item() == pytest.approx(2 / 3)

    def test_outliers_are_at_the_sub_center_that_few_use(self):
        loss = CosineSoftmax(2, 4, subcenters=2)
        loss.weight.data.copy_(torch.eye(4))  # class 0: axes 0 and 1; class 1: axes 2 and 3
        x = torch.eye(4)[[0, 0, 1, 3, 2, 3]]
        found = loss.outliers(x, torch.tensor([0, 0, 0, 1, 1, 1]))
        assert found.tolist() == [False, False, True, False, True, False]
        with pytest.raises(ConfigError, match="sub-centers"):
            CosineSoftmax(2, 4).outliers(x, torch.zeros(6, dtype=torch.int64))
