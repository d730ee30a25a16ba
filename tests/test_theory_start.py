"""Where training starts and how much room the sphere has: against simulation, textbook cases and PAPER.md."""

import math

import numpy as np
import pytest

from normface import theory
from normface.errors import InputError

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def random_cosines(dim, shape):
    x = RNG.normal(size=(*shape, dim))
    return x[..., 0] / np.linalg.norm(x, axis=-1)  # any fixed unit vector, the first axis here, will do


class TestInitialLoss:
    @pytest.mark.parametrize(
        ("n", "scale", "dim"), [(10, 5, 2), (10, 30, 2), (12, 20, 16), (50, 100, 3), (1000, 64, 8), (2, 0.1, 512)]
    )
    def test_simulated(self, n, scale, dim):
        logits = scale * random_cosines(dim, (4_000_000 // n // dim, n))
        largest = logits.max(1)
        losses = largest + np.log(np.exp(logits - largest[:, None]).sum(1))
        error = losses.std() / len(losses) ** 0.5
        assert theory.initial_loss(n, scale, dim) == pytest.approx(losses.mean(), abs=4 * error)

    @pytest.mark.parametrize(("scale", "seen"), [(1, 9.26), (10, 9.37), (30, 10.3), (64, 12.9)])
    def test_the_papers_size(self, scale, seen):
        """PAPER.md's figures are of one batch (256 in all its runs), which strays by s/√(dim·256)."""
        one_batch = scale / math.sqrt(512 * 256)
        assert theory.initial_loss(10_572, scale) == pytest.approx(seen, abs=2 * one_batch + 0.005)

    def test_small_scales_have_the_plain_mean(self):
        for n, scale in ((10, 0.1), (10_572, 1.0), (10_572, 10.0)):
            plain = math.log(n) + scale**2 / 1024
            assert theory.initial_loss(n, scale) == pytest.approx(plain, abs=2e-4)

    @pytest.mark.slow
    def test_never_below_the_bound_nor_above_the_plain_mean(self):
        for scale in (0.01, 1.0, 20.0, 64.0, 2000.0):
            value = theory.initial_loss(1000, scale, 64)
            assert theory.loss_lower_bound(1000, scale) < value < math.log(1000) + scale**2 / 128

    def test_quadrature_has_converged(self, monkeypatch):
        """In 3 dimensions a cosine is uniform, so the distribution of one term is an exponential integral."""
        from scipy.integrate import quad
        from scipy.special import exp1

        n, scale = 20, 12.0

        def integrand(v):
            one = (exp1(math.exp(-scale - v)) - exp1(math.exp(scale - v))) / (2 * scale)
            return math.exp(-math.exp(-v)) - one**n

        exact, _ = quad(integrand, -18, 60, epsabs=1e-11, limit=500)
        assert theory.initial_loss(n, scale, 3) == pytest.approx(exact, abs=1e-6)

    def test_bad_arguments(self):
        for bad in ((1, 1.0, 512), (10, 0.0, 512), (10, math.inf, 512), (10, 1.0, 1)):
            with pytest.raises(InputError, match="expected"):
                theory.initial_loss(*bad)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equilibrium_norm_of_sgd_on_a_sphere(momentum):
    """Random tangent gradients of length g at unit norm, shortened by the norm as eq. 4 says."""
    lr, decay, g, dim = 0.1, 0.01, 2.0, 64
    x, velocity, norms = RNG.normal(size=dim), np.zeros(dim), []
    for _ in range(12_000):
        norm = np.linalg.norm(x)
        tangent = RNG.normal(size=dim)
        tangent -= x * (x @ tangent) / norm**2
        velocity = momentum * velocity + g * tangent / np.linalg.norm(tangent) / norm + decay * x
        x = x - lr * velocity
        norms.append(norm)
    expected = theory.equilibrium_norm(lr / (1 - momentum), decay, g)
    assert np.mean(norms[4000:]) == pytest.approx(expected, rel=0.02)


def test_equilibrium_norm_refuses_no_decay():
    with pytest.raises(InputError, match="positive, finite weight_decay, got 0"):
        theory.equilibrium_norm(0.1, 0, 1.0)


class TestSeparableVectors:
    @pytest.mark.parametrize(
        ("dim", "distance", "number"),
        [
            (2, 4, 2), (2, 3, 3), (2, 2, 4), (2, 1, 6), (2, 2 - 2**0.5, 8), (2, 2 - 2 * math.cos(2 * math.pi / 5), 5),
            (3, 4, 2), (3, 3, 3), (3, 8 / 3, 4), (3, 2.1, 4), (3, 2, 6), (3, 1, 12),
            (4, 2.5, 5), (4, 2, 8), (4, 1, 24), (8, 1, 240), (512, 2, 1024), (512, 2 + 1e-9, 513), (512, 2.5, 5),
            (24, 1, 196_560), (9, 4.1, 1),
        ],
    )  # fmt: skip
    def test_known_configurations(self, dim, distance, number):
        assert theory.separable_vectors(dim, distance) == (number, number)

    @pytest.mark.parametrize("dim", [3, 7, 100])
    def test_a_simplex_of_any_size_is_counted(self, dim):
        for n in range(2, dim + 2):
            assert theory.separable_vectors(dim, 2 * n / (n - 1)) == (n, n)

    @pytest.mark.parametrize(("dim", "number", "cosine"), [(3, 24, 0.7231), (3, 7, 0.2103), (5, 16, 0.2)])
    def test_known_codes_lie_between_the_bounds(self, dim, number, cosine):
        """Sloane's tables: 24 points of the snub cube, 7 points, and the 16 of the 5-dimensional half cube."""
        least, most = theory.separable_vectors(dim, 2 - 2 * cosine)
        assert least <= number <= most

    def test_no_distance_no_limit(self):
        assert theory.separable_vectors(3, 0) == (math.inf, math.inf)
        assert theory.separable_vectors(100_000, 0.01)[0] == math.inf

    def test_bad_arguments(self):
        for dim, distance in ((1, 1.0), (3, math.nan)):
            with pytest.raises(InputError, match="expected"):
                theory.separable_vectors(dim, distance)


class TestActiveNegatives:
    def test_no_negative_within_1_at_the_papers_size(self):
        """PAPER.md: in 512 dimensions all d ≈ 2.00 ± .09, none below 1 at the start."""
        assert theory.expected_active_negatives(10_572, 512, 1.0) < 1e-9
        low, high = (theory.near_probability(512, 2 + k * 0.0884) for k in (-1, 1))
        assert high - low == pytest.approx(0.6827, abs=2e-3)

    @pytest.mark.parametrize(("dim", "margin"), [(2, 1.0), (3, 1.0), (8, 1.0), (16, 1.2)])
    def test_contrastive_simulated(self, dim, margin):
        d = 2 - 2 * random_cosines(dim, (200_000,))
        share = (d < margin).mean()
        expected = theory.expected_active_negatives(101, dim, margin) / 100
        assert expected == pytest.approx(share, abs=4 * (share / len(d)) ** 0.5)

    def test_in_3_dimensions_the_share_is_a_quarter_of_the_distance(self):
        for distance in (-1.0, 0.0, 0.3, 2.0, 4.0, 5.0):
            assert theory.near_probability(3, distance) == pytest.approx(min(max(distance / 4, 0), 1))

    @pytest.mark.parametrize(("dim", "margin"), [(3, 0.8), (16, 0.8), (64, 0.1)])
    def test_triplet_simulated(self, dim, margin):
        own, other = 2 - 2 * random_cosines(dim, (2, 100_000))
        share = (margin + own - other > 0).mean()
        expected = theory.expected_active_negatives(11, dim, margin, own_distance=None) / 10
        assert expected == pytest.approx(share, abs=4 * 0.5 / len(own) ** 0.5)
        fixed = theory.expected_active_negatives(11, dim, margin, own_distance=2.0)
        assert fixed == pytest.approx(theory.expected_active_negatives(11, dim, margin + 2))


def test_adacos_scale():
    assert theory.adacos_scale(10_572) == pytest.approx(13.10, abs=0.005)
