"""The numbers behind the figures of digits: the measures by hand, the trainings made short."""

import math

import numpy as np
import pytest
import torch

from normface import theory
from normface.figures import FIGURES, digits, loss_weight, mnist, norms, plain_softmax, videos
from normface.losses import LOSSES


def silent(*_):
    pass


class TestMeasures:
    def test_radial_share_by_hand(self):
        along = np.array([[1.0, 0], [3, 0], [0, 2], [0, 4]])  # differ in length only
        labels = np.array([0, 0, 1, 1])
        assert plain_softmax.radiality(along, labels)["radial_share"] == pytest.approx(1)
        across = np.array([[2.0, 1], [2, -1], [1, 3], [-1, 3]])
        assert plain_softmax.radiality(across, labels)["radial_share"] == pytest.approx(0)
        mixed = plain_softmax.radiality(np.vstack([along[:2], across[2:]]), labels)
        assert mixed["radial_share_by_digit"] == pytest.approx([1, 0])
        assert mixed["radial_share"] == pytest.approx(0.5)  # both variances are 1

    def test_radial_share_of_a_round_cloud_is_one_in_d(self):
        cloud = np.random.default_rng(0).normal(size=(200_000, 2)) + 5
        assert plain_softmax.radiality(cloud, np.zeros(len(cloud), int))["radial_share"] == pytest.approx(0.5, abs=0.01)

    def test_clusters_at_the_origin_by_hand(self):
        a, b = [[10.0, 0], [10, 0]], [[0, 10.0], [0, 10]]
        middle = [[1.0, 0], [0, 1]]  # two directions 90° apart: R = √½, so √(-2·log R) = √(log 2)
        found = plain_softmax.origin(np.array(a + b + middle), np.repeat([0, 1, 2], 2))
        assert found["distance_from_origin"] == pytest.approx([1, 1, 0.1])
        assert found["at_origin"] == [2]
        assert found["angular_spread_at_origin"] == pytest.approx(math.degrees(math.sqrt(math.log(2))))
        assert found["angular_spread_elsewhere"] == pytest.approx(0, abs=1e-6)

    def test_sphere_measures_by_hand(self):
        axes = torch.eye(3)
        features = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 4], [1, 1.0001, 0]])  # the last is nearest to agent 1
        found = digits.measure(features, torch.tensor([0, 1, 2, 0]), axes)
        assert found["accuracy"]["value"] == 0.75
        assert found["accuracy"]["low"] < 0.75 < found["accuracy"]["high"]
        assert found["mean_genuine_angle"] == pytest.approx(45 / 4, abs=0.01)
        assert found["smallest_angle_between_agents"] == pytest.approx(90)

    def test_pairs_of_videos_by_hand(self):
        """Two digits, two videos of two frames each, all frames of a digit equal: cosines are 1 and -1."""
        vectors = np.repeat([[1.0, 0], [0, 1]], 4, axis=0)
        found = videos.pairs(vectors, np.repeat([0, 1], 4), frames=2)
        assert found["same"].tolist() == [True, True, False, False]
        assert found["means"] == pytest.approx([1, 1, -1, -1])
        assert found["histograms"][:, [0, -1]].tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]

    def test_every_variant_is_a_loss(self):
        for name, options in (v for family in digits.FAMILIES.values() for v in family.values()):
            assert LOSSES.build(name, 10, 3, **options)(torch.randn(4, 3), torch.arange(4)).isfinite()


class TestDigits:
    @pytest.mark.slow
    def test_split_is_balanced_and_disjoint(self):
        data = mnist.digits()
        assert data.train_labels.bincount().tolist() == [400] * 10
        assert data.test_labels.bincount().tolist() == [100] * 10
        train, test = ({row.tobytes() for row in part.numpy()} for part in (data.train, data.test))
        assert not train & test

    def test_steps_are_counted(self):
        counted = []
        together = mnist.Together(lambda *at: counted.append(at), 3)
        for _ in range(3):
            together(1, 1)
        assert counted == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
class TestTrained:
    def test_same_seed_same_features(self):
        first, second = (plain_softmax.train_in_plane(0, 0, silent, epochs=1).test for _ in range(2))
        np.testing.assert_array_equal(first, second)

    @pytest.mark.nightly
    def test_softmax_features_are_radial(self):
        drawing = FIGURES.build("radial", silent, epochs=3)
        # 0.5 would be round; what is learnt early already is well beyond.
        assert drawing.numbers["radial_share"] > 0.7
        assert drawing.numbers["accuracy"]["softmax"] > 0.5

    @pytest.mark.nightly  # half a minute of training
    def test_a_bias_leaves_clusters_at_the_origin(self):
        run = plain_softmax.train_in_plane(plain_softmax.BIAS_RATE, 0, silent, epochs=6)
        without = plain_softmax.train_in_plane(0, 0, silent, epochs=6)
        found, other = (
            plain_softmax.origin(run.test, run.test_labels),
            plain_softmax.origin(without.test, without.test_labels),
        )
        assert min(found["distance_from_origin"]) < min(0.4, *other["distance_from_origin"])
        nearest = int(np.argmin(found["distance_from_origin"]))
        assert nearest in run.test_labels
        assert run.accuracies()["nearest_mean_normalised"] < without.accuracies()["nearest_mean_normalised"]

    @pytest.mark.nightly
    def test_scales_stay_above_their_bound(self):
        numbers = FIGURES.build("scales", silent, epochs=1).numbers["scales"]
        assert list(numbers) == ["1", "2", "4", "7", "11"]
        for scale, found in numbers.items():
            assert found["loss_lower_bound"] == theory.loss_lower_bound(10, float(scale))
            assert found["loss_on_training_digits"] > found["loss_lower_bound"]
            assert found["accuracy"]["n"] == 1000

    @pytest.mark.nightly
    def test_the_norm_that_is_left_becomes_the_scale(self):
        """It grows towards what Proposition 2 asks for, and the loss stays above the bound at that norm."""
        paths = {normalize: norms.path(normalize, silent, epochs=1) for normalize in norms.SIDES}
        for each in paths.values():
            assert all(loss > least for loss, least in zip(each["loss"], each["bound"], strict=True))
        assert set(paths["both"]["norm"]) == {1.0}
        assert paths["both"]["loss"][-1] > theory.loss_lower_bound(10, 1) > paths["weights"]["loss"][-1]
        assert paths["weights"]["norm"][-1] > theory.scale_for_probability(10, 0.9) > paths["weights"]["norm"][0]
        assert paths["features"]["norm"][-1] > 1.1 > paths["features"]["norm"][0]

    @pytest.mark.nightly
    def test_the_second_losss_weight(self):
        torch.manual_seed(0)
        model, softmax = mnist.network(loss_weight.DIM), LOSSES.build("CosineSoftmax", 10, loss_weight.DIM)
        mnist.fit(model, softmax, epochs=1, seed=0, progress=silent)
        start = loss_weight.accuracy(model)
        for margin in loss_weight.LINES.values():
            fit = {"epochs": 1, "seed": 0, "progress": silent}
            assert loss_weight.tuned(model, softmax.weight.detach(), 0.1, margin, **fit) > start - 0.02 > 0.7
        assert loss_weight.accuracy(model) == start

    def test_videos_of_one_digit_are_more_alike(self):
        numbers = FIGURES.build("videos", silent, epochs=1).numbers
        assert numbers["mean_cosine"]["same"] > numbers["mean_cosine"]["different"] + 0.2
        assert sum(numbers["mean_histogram"]["same"]) == pytest.approx(1)
        assert numbers["pairs"] == 2 * 10 * 45

    @pytest.mark.nightly
    def test_agents_separate_what_a_softmax_began(self):
        start = digits.train_on_sphere(digits.SOFTMAX["both"], epochs=2, rate=mnist.RATE, progress=silent)
        for variant in (digits.CONTRASTIVE["C-contrastive"], digits.TRIPLET["C-triplet"]):
            run = digits.train_on_sphere(variant, epochs=1, rate=digits.TUNING_RATE, progress=silent, start=start)
            found = digits.measure(run.test, mnist.digits().test_labels, run.agents)
            assert found["accuracy"]["value"] > 0.5
            assert found["smallest_angle_between_agents"] > 10
