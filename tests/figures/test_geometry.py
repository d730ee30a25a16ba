"""The numbers behind the figures that need no training, against mathematics and the paper's own values."""

import math

import numpy as np
import pytest
import torch

from normface.figures import bound, sphere_geometry


class TestBound:
    CURVES = bound.bounds()

    def at(self, classes, scale):
        return self.CURVES["loss_lower_bound"][str(classes)][self.CURVES["scale"].index(scale)]

    def test_is_proposition_2(self):
        assert self.CURVES["scale"] == [k / 2 for k in range(1, 81)]
        n = np.array([[10], [100], [1_000], [10_000], [100_000]])
        assert list(self.CURVES["loss_lower_bound"]) == [str(each) for each in n.ravel()]
        expected = np.log1p((n - 1) * np.exp(-n / (n - 1) * self.CURVES["scale"]))
        np.testing.assert_allclose(list(self.CURVES["loss_lower_bound"].values()), expected, rtol=1e-12)

    @pytest.mark.parametrize(
        ("classes", "scale", "value", "digits"),
        [
            (10, 1, 1.377, 5e-4), (10, 4, 0.1005, 5e-5), (10, 10, 1.3e-4, 5e-6),
            (1000, 1, 5.908, 5e-4), (1000, 4, 2.956, 5e-4), (1000, 11, 0.0164, 5e-5), (1000, 15, 3e-4, 5e-5),
            (10_000, 1, 8.210, 5e-4), (10_000, 4, 5.215, 5e-4), (10_000, 11, 0.1543, 5e-5),
            (10_000, 15, 3.05e-3, 5e-6), (10_000, 20, 2e-5, 5e-6),
            (100_000, 1, 10.513, 5e-4), (100_000, 4, 7.513, 5e-4), (100_000, 11, 0.982, 5e-4),
            (100_000, 15, 0.0301, 5e-5), (100_000, 20, 2e-4, 5e-5),
        ],
    )  # fmt: skip
    def test_known_values(self, classes, scale, value, digits):
        assert self.at(classes, scale) == pytest.approx(value, abs=digits)

    def test_falls_with_the_scale_and_grows_with_the_classes(self):
        curves = np.array(list(self.CURVES["loss_lower_bound"].values()))
        assert (np.diff(curves, axis=1) < 0).all()
        assert (np.diff(curves, axis=0) > 0).all()


class TestGradient:
    NUMBERS = sphere_geometry.tangents()

    def test_has_no_part_along_the_vector(self):
        # With ε in the root it is ε⟨x, u⟩/‖x‖⁴; u = 2(x̃ - t) is at most 4 long, x at least 0.8.
        assert self.NUMBERS["largest_radial_part"] <= 1e-12 * 4 / 0.8**3 + 1e-15

    def test_is_the_projection_of_equation_4(self):
        x, t = self.NUMBERS["points"], np.array([0.6, 0, 0.8])
        length = np.linalg.norm(x, axis=1, keepdims=True)
        direction = x / length
        u = 2 * (direction - t)
        np.testing.assert_allclose(
            self.NUMBERS["gradients"], (u - direction * (u * direction).sum(1, keepdims=True)) / length, atol=1e-11
        )

    def test_a_plain_step_lengthens_by_pythagoras(self):
        assert self.NUMBERS["largest_error_of_pythagoras"] < 1e-11
        assert self.NUMBERS["least_norm_growth"] > 0


class TestAgents:
    NONE, ONE = sphere_geometry.paths(0), sphere_geometry.paths(1)

    def test_without_a_margin_they_stay_at_the_means(self):
        path, first = self.NONE
        torch.testing.assert_close(path[-1], sphere_geometry.means_direction(*sphere_geometry.clusters()))
        assert first.abs().max() < 1e-10  # the mean direction is the minimum of the mean squared distance

    def test_with_a_margin_they_end_farther_apart(self):
        (none, _), (one, _) = self.NONE, self.ONE
        assert (one[-1, 0] - one[-1, 1]).norm() > (none[-1, 0] - none[-1, 1]).norm() + 0.05

    def test_they_have_arrived(self):
        path, _ = self.ONE
        # At the hinge one sample of 200 goes in and out: a step of rate · |∂d| / 200 ≤ 0.1 · 2 / 200.
        assert (path[-1] - path[-20]).norm(dim=1).max() <= 1e-3

    def test_they_stay_on_the_sphere(self):
        for path, _ in (self.NONE, self.ONE):
            norms = path.norm(dim=2)
            torch.testing.assert_close(norms, torch.ones_like(norms))

    def test_points_are_the_papers(self):
        points, labels = sphere_geometry.clusters()
        assert points.shape == (200, 3)
        assert labels.bincount().tolist() == [100, 100]
        torch.testing.assert_close(points.norm(dim=1), torch.ones(200, dtype=torch.float64))


class TestMarginal:
    def test_proposition_3_holds_for_the_distance_and_not_for_its_square(self):
        numbers = sphere_geometry.proposition3(*sphere_geometry.clusters())
        assert numbers["euclidean"]["violations"] == 0
        assert numbers["euclidean"]["trials"] == 200
        assert numbers["euclidean"]["largest_ratio"] <= 1
        assert numbers["squared"]["violations"] > 0

    def test_proposition_3_by_hand(self):
        # Class 0: two points at ±30° of its agent (1, 0, 0); class 1: one point opposite the agent.
        side = math.sqrt(3) / 2
        features = torch.tensor([[side, 0.5, 0], [side, -0.5, 0], [-1, 0, 0]], dtype=torch.float64)
        numbers = sphere_geometry.proposition3(features, torch.tensor([0, 0, 1]))["euclidean"]
        assert numbers["trials"] == 3
        assert numbers["right"] == pytest.approx([2 - 2 * side, 0], abs=1e-9)
        # From (-1, 0, 0): 2 to the agent, √(2 + 2·side) to both samples. From the others to class 1: a single sample.
        assert numbers["left_mean"] == pytest.approx((2 - math.sqrt(2 + 2 * side)) ** 2 / 3, abs=1e-6)

    def test_a_larger_margin_hides_less(self):
        numbers = sphere_geometry.unseen(*sphere_geometry.clusters(), np.array([0.0, 0.5, 1.0, 1.5]))
        for kind in ("pairs", "triplets"):
            assert np.all(np.diff(numbers[kind]) <= 0)
            assert numbers[kind][0] > 0

    def test_points_at_their_agents_hide_nothing(self):
        eye = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]]
        numbers = sphere_geometry.unseen(eye, torch.tensor([0, 0, 1, 1]), np.array([0.0, 1.9, 2.1]))
        assert numbers["pairs"] == [0, 0, None]
        assert numbers["triplets"] == [0, 0, None]

    def test_circle_lies_at_its_distance(self):
        center = np.array([0.6, 0.0, 0.8])
        ring = sphere_geometry.circle(center, 0.5)
        np.testing.assert_allclose(np.linalg.norm(ring, axis=1), 1)
        np.testing.assert_allclose(np.square(ring - center).sum(1), 0.5)
