"""Geometric harmonics against functions that are known off the points."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from descentmaps import GeometricHarmonics
from descentmaps.distances import squared_distances
from descentmaps.kernels import gaussian_kernel


def line(n: int) -> np.ndarray:
    return np.linspace(0, 1, n)[:, None]


def smooth(x: np.ndarray) -> np.ndarray:
    return np.sin(4 * x[:, 0])


def test_extends_a_smooth_function_between_the_points():
    x, new = line(80), np.random.default_rng(0).uniform(0.05, 0.95, (50, 1))
    harmonics = GeometricHarmonics(epsilon=0.01, condition=1e8).fit(x, smooth(x))
    np.testing.assert_allclose(harmonics.predict(new), smooth(new), atol=1e-4)
    assert harmonics.error_ < 1e-3


def test_equals_its_definition():
    x, new = np.random.default_rng(1).random((40, 2)), np.random.default_rng(2).random((7, 2))
    y = np.random.default_rng(3).random((40, 3))
    harmonics = GeometricHarmonics(epsilon=0.05, condition=100).fit(x, y)
    values, vectors = np.linalg.eigh(gaussian_kernel(squared_distances(x), 0.05))
    kept = values > values[-1] / 100
    extended = gaussian_kernel(squared_distances(new, x), 0.05) @ vectors[:, kept] / values[kept]
    expected = extended @ vectors[:, kept].T @ (y - y.mean(axis=0)) + y.mean(axis=0)
    np.testing.assert_allclose(harmonics.predict(new), expected, rtol=1e-9)
    assert harmonics.n_harmonics_ == kept.sum()


def test_error_is_that_of_leaving_one_out():
    """For a fixed basis the closed form equals refitting the projection without each point."""
    x = np.random.default_rng(4).random((30, 2))
    y = smooth(x) + 0.1 * np.random.default_rng(5).standard_normal(30)
    harmonics = GeometricHarmonics(epsilon=0.2, condition=30).fit(x, y)
    values, vectors = np.linalg.eigh(gaussian_kernel(squared_distances(x), 0.2))
    basis, centred = vectors[:, values > values[-1] / 30], y - y.mean()
    left_out = []
    for i in range(30):
        others = np.arange(30) != i
        weights = np.linalg.lstsq(basis[others], centred[others], rcond=None)[0]
        left_out.append(centred[i] - basis[i] @ weights)
    assert harmonics.error_ == pytest.approx(np.linalg.norm(left_out) / np.linalg.norm(centred), rel=1e-9)


def test_points_that_no_other_reaches_count_with_the_mean():
    """Their projection is exact, and says nothing of what would be known without them."""
    x = np.arange(0.0, 2000.0, 100.0)[:, None]
    y = np.random.default_rng(8).standard_normal(20)
    assert GeometricHarmonics(epsilon=1.0).fit(x, y).error_ == pytest.approx(1)
    half = np.vstack([line(20), x[1:]])
    values = np.concatenate([smooth(line(20)), y[1:]])
    lonely = np.linalg.norm(y[1:] - values.mean()) / np.linalg.norm(values - values.mean())
    assert GeometricHarmonics(epsilon=0.05, condition=1e8).fit(half, values).error_ == pytest.approx(lonely, abs=0.01)


def test_far_points_get_the_mean_and_a_warning():
    harmonics = GeometricHarmonics(epsilon=0.01).fit(line(50), smooth(line(50)))
    with pytest.warns(UserWarning, match="1 of 2 points of X, the first at row 1, are so far"):
        values = harmonics.predict([[0.5], [9.0]])
    assert values[1] == pytest.approx(smooth(line(50)).mean())


def test_noise_is_no_function():
    x = np.random.default_rng(6).random((100, 2))
    assert GeometricHarmonics(condition=100).fit(x, np.random.default_rng(7).standard_normal(100)).error_ > 0.9


def test_far_from_the_points_it_falls_to_the_mean():
    x = line(50)
    harmonics = GeometricHarmonics(epsilon=0.01).fit(x, smooth(x))
    np.testing.assert_allclose(harmonics.predict([[50.0]]), smooth(x).mean())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"condition": 1}, "condition must be above 1, got 1"),
        ({"epsilon": "mean"}, "epsilon must be a number, a function, or one of"),
        ({"epsilon": -1.0}, "epsilon must be a positive finite number, got -1.0"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        GeometricHarmonics(**parameters).fit(line(20), smooth(line(20)))


@parametrize_with_checks([GeometricHarmonics()])
def test_scikit_learn_estimator(estimator, check):
    check(estimator)
