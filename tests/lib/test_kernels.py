"""The Gaussian kernel, its bandwidth rules and their scan against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descentmaps import bandwidth, gaussian_kernel, kernel_sum_scan, squared_distances
from descentmaps.kernels import NEIGHBOR

RULES = ["median", "max-slope", "nearest"]


def cloud(n=60, dimension=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dimension))


def torus(dimension, n):
    """Points on a flat torus of circumference 1, squared geodesic distances: no edge, no curvature."""
    axis = np.arange(n) / n
    gap = np.abs(axis[:, None] - axis)
    one = np.minimum(gap, 1 - gap) ** 2
    total = one
    for _ in range(dimension - 1):
        total = (total[:, None, :, None] + one[None, :, None, :]).reshape(len(total) * n, -1)
    return total


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_closed_form(d2, ratio):
    epsilon = ratio * d2
    assert gaussian_kernel(np.array([[d2]]), epsilon)[0, 0] == pytest.approx(np.exp(-1 / (4 * ratio)), rel=1e-13)


def test_ends_of_the_kernel():
    affinities = gaussian_kernel(np.array([0.0, 4.0, 1e300]), 1.0)
    np.testing.assert_allclose(affinities, [1, np.exp(-1), 0], rtol=1e-15)
    assert gaussian_kernel(np.array([4]), 1).dtype == np.float64
    assert gaussian_kernel(4.0, 1.0) == pytest.approx(np.exp(-1))


def test_leaves_the_distances_alone():
    d2 = squared_distances(cloud())
    before = d2.copy()
    gaussian_kernel(d2, 0.3)
    kernel_sum_scan(d2)
    for rule in RULES:
        bandwidth(d2, rule)
    assert np.array_equal(d2, before)


@pytest.mark.parametrize("epsilon", [0, -1.0, np.nan, np.inf])
def test_bandwidth_out_of_range(epsilon):
    with pytest.raises(ValueError, match="epsilon must be a positive finite number"):
        gaussian_kernel(np.ones((2, 2)), epsilon)


def test_scan_is_the_mean_affinity():
    d2 = squared_distances(cloud())
    scan = kernel_sum_scan(d2, n_epsilons=9)
    assert len(scan.epsilons) == 9
    np.testing.assert_allclose(scan.means, [np.exp(-d2 / (4 * eps)).mean() for eps in scan.epsilons], rtol=1e-12)
    ratios = scan.epsilons[1:] / scan.epsilons[:-1]
    np.testing.assert_allclose(ratios, ratios[0])


def test_scan_slope_is_the_derivative_of_the_log_mean():
    d2 = squared_distances(cloud())
    scan = kernel_sum_scan(d2, n_epsilons=25)
    step = 1e-4

    def log_mean(epsilon):
        return np.log(np.exp(-d2 / (4 * epsilon)).mean())

    finite = [(log_mean(e * np.exp(step)) - log_mean(e * np.exp(-step))) / (2 * step) for e in scan.epsilons]
    np.testing.assert_allclose(scan.slopes, finite, atol=1e-6)


def test_scan_spans_from_isolated_points_to_one_lump():
    d2 = squared_distances(cloud(40, 2))
    scan = kernel_sum_scan(d2)
    assert scan.means[0] < 1.1 / 40
    assert scan.means[-1] > 0.9
    assert np.all(np.diff(scan.means) > 0)


@pytest.mark.parametrize(("dimension", "n"), [(1, 600), (2, 32)])
def test_slope_is_half_the_dimension_on_a_torus(dimension, n):
    scan = kernel_sum_scan(torus(dimension, n))
    inside = (scan.epsilons > 1 / n**2) & (scan.epsilons < 4e-3)
    assert np.count_nonzero(inside) > 3
    np.testing.assert_allclose(scan.slopes[inside], dimension / 2, rtol=0.01)


@pytest.mark.parametrize("rule", RULES)
@given(c=st.floats(1e-9, 1e9))
@settings(max_examples=20)
def test_rules_scale_with_the_distances(rule, c):
    d2 = squared_distances(cloud(30, 3))
    assert bandwidth(c * d2, rule) == pytest.approx(c * bandwidth(d2, rule), rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_rules_do_not_depend_on_the_order_of_points(rule):
    d2 = squared_distances(cloud(41, 3))
    order = np.random.default_rng(1).permutation(41)
    assert bandwidth(d2[np.ix_(order, order)], rule) == pytest.approx(bandwidth(d2, rule), rel=1e-12)


def test_median_rule_puts_one_over_e_at_the_median_distance():
    d2 = squared_distances(np.array([[0.0], [1.0], [3.0]]))  # squared distances 1, 4, 9
    assert bandwidth(d2) == pytest.approx(1.0)
    assert gaussian_kernel(np.array([[4.0]]), bandwidth(d2))[0, 0] == pytest.approx(np.exp(-1))


def test_median_rule_leaves_out_repeated_points():
    d2 = squared_distances(np.array([[0.0], [0.0], [0.0], [0.0], [2.0]]))  # six pairs at 0, four at 4
    assert bandwidth(d2, "median") == pytest.approx(1.0)


def test_nearest_rule_takes_the_tenth_neighbor():
    n = 100
    d2 = (n * np.sqrt(torus(1, n))) ** 2  # unit steps on a ring: the tenth neighbor of each is 5 steps away
    assert NEIGHBOR == 10
    assert bandwidth(d2, "nearest") == pytest.approx(25 / 4)
    few = squared_distances(np.array([[0.0], [1.0], [3.0]]))  # only two neighbors: the farthest, 9, 4 and 9
    assert bandwidth(few, "nearest") == pytest.approx(9 / 4)


def test_nearest_rule_is_the_median_over_points():
    d2 = squared_distances(cloud())
    assert bandwidth(d2, "nearest") == pytest.approx(np.median(np.sort(d2, axis=1)[:, 10]) / 4)  # column 0: itself


def test_max_slope_rule_is_the_peak_of_the_scan():
    d2 = squared_distances(cloud())
    scan = kernel_sum_scan(d2)
    assert bandwidth(d2, "max-slope") == scan.epsilons[scan.slopes.argmax()]


def test_max_slope_of_two_points_has_a_closed_form():
    # mean = (1 + exp(-u)) / 2 with u = d2 / 4 eps, slope = u / (e^u + 1), largest where (1 - u) e^u = -1: u = 1.2785
    d2 = np.array([[0.0, 7.0], [7.0, 0.0]])
    grid = kernel_sum_scan(d2).epsilons
    step = grid[1] / grid[0]
    assert 1 / step < bandwidth(d2, "max-slope") / (7 / (4 * 1.27846)) < step


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.zeros((1, 1)), np.ones((2, 3)), np.ones(4)])
def test_degenerate_distances_are_refused(rule, bad):
    with pytest.raises(ValueError, match="^d2 must"):
        bandwidth(bad, rule)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_impossible_distances_are_refused(value):
    d2 = squared_distances(cloud(5))
    d2[3, 1] = d2[1, 3] = value
    with pytest.raises(ValueError, match="^d2 must hold squared distances"):
        kernel_sum_scan(d2)


def test_nearest_rule_says_when_points_lie_on_top_of_each_other():
    x = np.vstack([np.zeros((30, 2)), cloud(10, 2)])
    with pytest.raises(ValueError, match="rule 'nearest' finds no scale"):
        bandwidth(squared_distances(x), "nearest")


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule must be 'median', 'max-slope', 'nearest' or 'scan', got 'mean'"):
        bandwidth(squared_distances(cloud(5)), "mean")
