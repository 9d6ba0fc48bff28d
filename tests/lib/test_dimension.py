"""Estimates of dimension against clouds whose dimension is known, and against what each is known to count instead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from descentmaps import DiffusionMap, kernel_dimension, new_coordinates, participation_ratio, squared_distances
from descentmaps.dimension import maximum_likelihood_dimension, two_nn


def gaussian(n: int, spreads: list[float], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, len(spreads))) * spreads


class TestParticipationRatio:
    def test_equals_that_of_the_covariance(self):
        x = gaussian(50, [3, 2, 1, 0.1])
        h = np.linalg.eigvalsh(np.cov(x.T))
        assert participation_ratio(x) == pytest.approx(h.sum() ** 2 / (h**2).sum())

    def test_of_distances_is_that_of_points(self):
        x = gaussian(50, [3, 2, 1])
        assert participation_ratio(squared_distances(x), "precomputed") == pytest.approx(participation_ratio(x))

    @pytest.mark.parametrize("unit", [1e-150, 1e150])
    def test_the_unit_makes_no_difference(self, unit):
        x = gaussian(50, [3, 2, 1])
        assert participation_ratio(unit * x) == pytest.approx(participation_ratio(x))

    def test_line_and_noise(self):
        assert participation_ratio(np.outer(np.arange(30), [1.0, 2.0, 3.0])) == pytest.approx(1)
        assert participation_ratio(gaussian(4000, [1] * 5)) == pytest.approx(5, rel=0.01)

    def test_identical_points_are_refused(self):
        with pytest.raises(ValueError, match="X must hold points that differ, got 9 identical ones"):
            participation_ratio(np.ones((9, 3)))

    def test_unknown_metric_is_refused(self):
        with pytest.raises(ValueError, match="metric must be 'euclidean' or 'precomputed', got 'cosine'"):
            participation_ratio(np.ones((9, 3)), "cosine")


@pytest.mark.parametrize("d", [1, 2, 3])
def test_kernel_dimension_of_a_gaussian(d):
    """The mean affinity of n normal points is 1/n + (1 - 1/n) (1 + 1/epsilon)^(-d/2) on average."""
    n = 1000
    log_epsilon = np.linspace(-12, 5, 2000)
    mean = 1 / n + (1 - 1 / n) * (1 + np.exp(-log_epsilon)) ** (-d / 2)
    expected = 2 * np.gradient(np.log(mean), log_epsilon).max()
    assert kernel_dimension(gaussian(n, [1] * d)) == pytest.approx(expected, rel=0.04)


class TestNeighborEstimates:
    def test_plane_in_many_dimensions(self):
        plane = np.random.default_rng(0).random((2000, 2)) @ np.random.default_rng(1).standard_normal((2, 30))
        assert two_nn(plane) == pytest.approx(2, rel=0.1)
        assert maximum_likelihood_dimension(plane) == pytest.approx(2, rel=0.1)

    @pytest.mark.parametrize("estimate", [two_nn, maximum_likelihood_dimension])
    def test_late_in_training(self, estimate):
        """Steps of a hundred-millionth of the norm: distances that are not centered are rounding."""
        plane = np.random.default_rng(0).random((500, 2)) @ np.random.default_rng(1).standard_normal((2, 30))
        assert estimate(1 + 1e-8 * plane) == pytest.approx(estimate(plane), rel=1e-3)

    @pytest.mark.parametrize("estimate", [two_nn, maximum_likelihood_dimension])
    def test_of_distances_is_that_of_points(self, estimate):
        x = gaussian(300, [3, 2, 1])
        d2 = squared_distances(x)
        assert estimate(d2, metric="precomputed") == pytest.approx(estimate(x))
        assert not d2.diagonal().any()  # not written to

    def test_points_on_top_of_others(self):
        x = gaussian(300, [1, 1])
        twice = np.vstack([x, x[:3]])
        with pytest.raises(ValueError, match="X must not hold points on top of one another, got 6"):
            maximum_likelihood_dimension(twice)
        with pytest.warns(UserWarning, match="Dropping 6 points"):
            assert two_nn(twice) == pytest.approx(two_nn(x), rel=0.1)

    def test_two_points_have_no_two_neighbors(self):
        with pytest.raises(ValueError, match="X must hold more than 2 points, got 2"):
            two_nn(gaussian(2, [1, 1]))

    def test_two_nn_sees_the_noise_around_a_line(self):
        x = np.column_stack([np.linspace(0, 100, 1000), gaussian(1000, [1] * 9)])
        assert two_nn(x) > 5

    def test_too_many_neighbors_are_refused(self):
        with pytest.raises(ValueError, match="n_neighbors must be above 2 and below the 10 points, got 10"):
            maximum_likelihood_dimension(gaussian(10, [1, 1]), n_neighbors=10)


class TestNewCoordinates:
    t = np.random.default_rng(0).uniform(0, 1, 600)

    def test_arch_is_old_and_a_second_direction_new(self):
        other = np.random.default_rng(1).uniform(0, 1, 600)
        psi = np.column_stack([np.cos(np.pi * self.t), np.cos(2 * np.pi * self.t), np.cos(np.pi * other)])
        first, arch, new = new_coordinates(psi)
        assert first == 1
        assert arch < 0.1
        assert new > 0.8

    def test_predictions_leave_the_point_out(self):
        """White noise cannot be predicted, however many points there are to interpolate."""
        psi = np.column_stack([self.t, np.random.default_rng(2).standard_normal(600)])
        assert new_coordinates(psi)[1] > 0.95

    def test_linear_functions_are_exact(self):
        psi = np.column_stack([self.t, 2 * self.t - 1])
        assert new_coordinates(psi)[1] < 1e-8

    def test_equals_regression_point_by_point(self):
        psi = gaussian(40, [1, 1, 1])
        d = np.sqrt(squared_distances(psi[:, :2]))
        h = np.median(d[np.tril_indices(40, -1)]) / 3
        error = []
        for i in range(40):
            others = np.arange(40) != i
            root = np.sqrt(np.exp(-((d[i, others] / h) ** 2)))
            design = np.column_stack([np.ones(39), psi[others, :2]])
            fit = np.linalg.lstsq(design * root[:, None], psi[others, 2] * root, rcond=None)[0]
            error.append(psi[i, 2] - np.array([1, *psi[i, :2]]) @ fit)
        expected = np.linalg.norm(error) / np.linalg.norm(psi[:, 2])
        assert new_coordinates(psi)[2] == pytest.approx(expected, rel=1e-6)

    def test_one_dimensional_input_is_refused(self):
        with pytest.raises(ValueError, match=r"psi must be a finite 2-D array \(points, coordinates\) of 2 .*\(600,\)"):
            new_coordinates(self.t)

    @pytest.mark.parametrize("points", [0, 1])
    def test_a_single_point_is_refused(self, points):
        with pytest.raises(ValueError, match=rf"of 2 points or more, got \({points}, 2\)"):
            new_coordinates(np.zeros((points, 2)))

    def test_after_a_column_that_singles_out_a_point_the_next_is_as_new_as_without(self):
        """As where a kernel falls apart: the first coordinate is one lonely point against the rest."""
        psi = np.column_stack([np.zeros(600), np.cos(np.pi * self.t), np.cos(2 * np.pi * self.t)])
        psi[0, 0] = 25
        _, new, arch = new_coordinates(psi)
        assert new == pytest.approx(1, abs=0.01)
        assert arch < 0.1

    def test_constant_columns(self):
        """One says nothing of the next, and is nothing new after it."""
        psi = np.column_stack([np.ones(600), self.t - self.t.mean(), np.ones(600), np.zeros(600)])
        _, new, constant, zeros = new_coordinates(psi)
        assert new == pytest.approx(600 / 599)  # each is predicted by the mean of the others
        assert constant < 1e-8
        assert zeros == 0

    @given(exponent=st.integers(-300, 300))
    def test_the_unit_makes_no_difference(self, exponent):
        psi = gaussian(40, [1, 1, 1])
        np.testing.assert_allclose(new_coordinates(psi * 2.0**exponent), new_coordinates(psi), rtol=1e-12)

    def test_any_map_has_residuals(self):
        """A kernel that falls apart gives coordinates of lonely points, and no NaN."""
        x = np.vstack([gaussian(200, [1, 1]), [[100, 0], [0, 300]]])
        with pytest.warns(UserWarning):
            psi = DiffusionMap(4, epsilon=0.05).fit(x).eigenvectors_
        assert np.isfinite(new_coordinates(psi)).all()
