"""Thresholds for searches against every gallery that could be drawn, and against populations with known truth."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.special import betainc

from normface.errors import ConfigError, DataError
from normface.protocols import search_table
from normface.protocols.search_thresholds import FEWEST, OpenSetTrials, searches
from normface.types import Embeddings, OperatingPoint, SearchTable

RNG = np.random.default_rng(0)


def people(images):
    """Images of some people, so many each: embeddings and whose they are."""
    subjects = np.repeat(np.arange(len(images)), images)
    vectors = RNG.normal(size=(len(images), 6))[subjects] + 0.7 * RNG.normal(size=(len(subjects), 6))
    return Embeddings(vectors, [f"P{p}/{k}" for k, p in enumerate(subjects)]), subjects


def table(found, subjects, fpir, *enrolled, **options):
    return search_table(found, subjects, fpir=fpir, enrolled=enrolled, protocol="p", data_sha256="d", **options)


def test_fpir_is_the_mean_over_every_gallery():
    found, subjects = people([1, 2, 3, 1, 2, 1, 1, 2])
    trials = OpenSetTrials.of(found.vectors, subjects, 0.3, [1], seed=1)
    names = np.arange(8)
    for hits in (0, 5, 17, 40):
        matched = np.zeros((len(subjects), 8), bool)
        matched[trials.probe[:hits], trials.entry[:hits]] = True
        for size in (1, 2, 4, 7):
            rates = []
            for person in names:
                galleries = [list(each) for each in combinations(names[names != person], size)]
                probes = matched[subjects == person]
                rates.append(np.mean([probes[:, each].any(1).mean() for each in galleries]))
            assert trials.fpir(hits, size) == pytest.approx(np.mean(rates), abs=1e-12)
    assert trials.fpir(40, 1) == pytest.approx(trials._matches(40))  # a gallery of one is a verification


def test_the_threshold_is_the_lowest_that_holds_the_rate():
    found, subjects = people([2] * 40)
    made = table(found, subjects, 0.1, 1, 10, 39, 10)
    assert [each.enrolled for each in made.points] == [1, 10, 39]
    assert list(np.diff([each.threshold for each in made.points]) > 0) == [True, True]
    trials = OpenSetTrials.of(found.vectors, subjects, 0.9, [1])
    for each in made.points:
        hits = int((trials.score >= each.threshold).sum())
        assert trials.fpir(hits, each.enrolled) == pytest.approx(each.fpir.value)
        assert each.fpir.value <= 0.1
        tied = int((trials.score >= trials.score[hits]).sum())
        assert trials.fpir(tied, each.enrolled) > 0.1
        assert each.fnir.value == pytest.approx((trials.own < each.threshold).mean())
        assert each.fnir.n == each.fpir.n == 40
        assert each.fpir.low <= each.fpir.value <= each.fpir.high
    sure = table(found, subjects, 0.3, 10, confident=True).points[0]
    assert sure.fpir.high <= 0.3


def test_beyond_the_people_only_as_far_as_they_carry():
    found, subjects = people([2] * 60)
    most = int(0.2 * searches(1, 60) / FEWEST)  # 0.2 · 60 · 59 / 2 / 10
    assert most == 35
    with pytest.raises(DataError, match="at most 59 enrolled at FPIR 0.2, as far as images of 60 people"):
        table(found, subjects, 0.2, 100)
    point = table(found, subjects, 0.5, 80).points[0]
    assert point.extrapolated
    assert point.fpir.value <= 0.5
    # An upper bound: no more than linear in the number enrolled
    inside = OpenSetTrials.of(found.vectors, subjects, 0.9, [59])
    hits = int((inside.score >= point.threshold).sum())
    assert point.fpir.value == pytest.approx(inside.fpir(hits, 59) * 80 / 59)
    with pytest.raises(DataError, match="at most 17 enrolled at FPIR 0.01"):
        table(found, subjects, 0.01, 18)
    with pytest.raises(DataError, match="an FPIR of at least 0.00056"):
        table(found, subjects, 1e-4, 1)


def test_the_upper_end_knows_that_matches_grow_as_the_square_of_a_crowd():
    """Of 100 people 20 match each other: FPIR among one is 20·19 / (100·99), and with a person's share u of the crowd
    u² of that: u - 1 above the tangent, squared.
    """
    count, crowd = 100, 20
    probe, entry = (each.ravel() for each in np.meshgrid(range(crowd), range(crowd)))
    probe, entry = probe[probe != entry], entry[probe != entry]
    everyone = np.arange(count)
    trials = OpenSetTrials(
        np.ones(len(probe)), probe, entry, everyone, np.full(count, 1 / count), np.zeros(1), everyone[:1], count
    )
    rate = crowd * (crowd - 1) / (count * (count - 1))
    influence = 2 / count * np.where(everyone < crowd, (crowd - 1) / (count - 1) - rate, -rate)
    share = 1.96 * influence[0] / np.sqrt(influence @ influence)
    assert trials.fpir(len(probe), 1) == pytest.approx(rate)
    assert trials._bend(len(probe), 1, rate, influence) == pytest.approx(rate * share**2)
    without = trials._bend(0, 1, 0.0, np.zeros(count))
    assert without == 0


def test_bad_input():
    found, subjects = people([2] * 5)
    for fpir, sizes in ((0, [1]), (1, [1]), (float("nan"), [1]), (0.5, [0]), (0.5, [])):
        with pytest.raises(ConfigError):
            table(found, subjects, fpir, *sizes)
    for few in ([4], [3, 3], [1, 1, 1]):
        with pytest.raises(DataError, match="three people, two of one"):
            table(*people(few), 0.5, 1)


def test_a_certificate_holds_the_table():
    found, subjects = people([2] * 40)
    made = table(found, subjects, 0.1, 5, 30)
    plain = OperatingPoint(0.3, 0.01, made.points[0].fpir, made.points[0].fnir, "p", "m", "d")
    point = OperatingPoint(**{**vars(plain), "search": made})
    assert OperatingPoint.from_json(point.to_json()).search == made
    assert OperatingPoint.from_json(plain.to_json().replace(', "search": null', "")).search is None
    with pytest.raises(ConfigError, match="rising sizes"):
        SearchTable(0.1, made.points[::-1], 40, 80, "p", "d")

    few, many, more = (point.for_search(size) for size in (2, 6, 60))
    assert (few.threshold, many.threshold, more.threshold) == (
        made.points[0].threshold,
        *[made.points[1].threshold] * 2,
    )
    assert few.false_matches == pytest.approx(made.points[0].false_matches * 2 / 5)
    assert few.warning is many.warning is None
    assert "the most in the certificate's table" in more.warning
    without = plain.for_search(1000)
    assert (without.threshold, without.false_matches) == (0.3, 1000 * plain.far.value)
    assert "decided by a verification threshold" in without.warning


# Coverage: people on a sphere, where every stranger is matched as often; or some of whom crowd, and match more.


CROWD = 0.1


def sphere(rng, count, crowd):
    """People, of whom `crowd` are alike: a share, or which ones [N]."""
    vectors = rng.normal(size=(count, 8))
    vectors[:, 0] += 4 * (rng.random(count) < crowd)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def truth(crowded, rng):
    """FPIR in the population, a function of threshold and size."""
    if not crowded:
        return lambda threshold, size: 1 - (1 - betainc(3.5, 0.5, 1 - threshold**2) / 2) ** size
    probes, others = (sphere(rng, count, np.arange(count) < CROWD * count) for count in (2000, 20_000))
    edges = np.linspace(-1, 1, 2001)
    above = np.array([np.cumsum(np.histogram(others @ each, edges)[0][::-1]) for each in probes])[:, ::-1] / 20_000
    return lambda threshold, size: np.mean(1 - (1 - above[:, round(1000 * (threshold + 1))]) ** size)


def coverage(crowded, rounds, sizes, fpir, persons=300):
    """The share of intervals that hold the true FPIR at the threshold [S], of those whose upper end does [S]."""
    rng = np.random.default_rng(3)
    true = truth(crowded, rng)
    subjects = np.append(np.arange(persons), 0)
    ids = [f"P{k}/{i}" for i, k in enumerate(subjects)]
    held, under = np.zeros((2, len(sizes)))
    for _ in range(rounds):
        found = table(Embeddings(sphere(rng, persons, CROWD * crowded)[subjects], ids), subjects, fpir, *sizes)
        for i, point in enumerate(found.points):
            rate = true(point.threshold, point.enrolled)
            held[i] += point.fpir.low <= rate <= point.fpir.high
            under[i] += rate <= point.fpir.high
    return held / rounds, under / rounds


@pytest.mark.slow
def test_intervals_cover_in_a_few_rounds():
    held, _ = coverage(False, 60, (10, 100), 0.1)
    assert (held >= 0.88).all()


@pytest.mark.nightly
@pytest.mark.parametrize("crowded", [False, True])
def test_intervals_cover(crowded):
    sizes = (1, 10, 50, 299, 400)
    held, under = coverage(crowded, 400, sizes, 0.1)
    print(f"crowded {crowded}: {dict(zip(sizes, zip(held.tolist(), under.tolist(), strict=True), strict=True))}")
    assert (held[:-1] >= 0.93).all()
    assert (held[:-1] <= 0.99).all()
    assert under[-1] >= 0.95  # an extrapolated row promises only its upper end


def test_searches_that_share_no_pair():
    assert searches(1, 60) == comb(60, 2)
    assert searches(59, 60) == 30
