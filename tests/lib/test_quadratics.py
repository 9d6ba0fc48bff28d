"""Quadratics and least squares against closed forms, all minibatches one by one, and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from descentmaps.quadratics import LeastSquares, Quadratic, shuffling_ratio

CURVATURES = np.array([8, 1, 0.1, 1e-3, 1e-6, 0])


def rotated(rng, values):
    turn = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return turn * values @ turn.T, turn


def regression(n=12, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return LeastSquares(rng.standard_normal((n, d)) * [2, 1, 0.5][:d], rng.standard_normal(n))


@st.composite
def quadratics(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    d = draw(st.integers(1, 4))
    factor = rng.standard_normal((d, draw(st.integers(1, d))))  # singular noise among them
    return Quadratic(rotated(rng, rng.uniform(0.05, 3, d))[0], factor @ factor.T)


class TestPotential:
    def test_value_gradient_and_hessian_agree_with_the_matrix(self):
        rng = np.random.default_rng(0)
        matrix, _ = rotated(rng, np.array([2.0, -1.0, 0.0]))
        potential, x = Quadratic(matrix, np.ones(3)), rng.standard_normal((4, 5, 3))
        assert_allclose(potential.value(x), np.einsum("...i,ij,...j", x, matrix, x) / 2, atol=1e-13)
        assert_allclose(potential.gradient(x), x @ matrix, atol=1e-13)
        assert_allclose(potential.hessian(x), np.broadcast_to(matrix, (4, 5, 3, 3)), atol=1e-13)

    def test_stability_limit(self):
        assert Quadratic(CURVATURES).stability_limit == 0.25
        assert Quadratic(np.zeros(2)).stability_limit == np.inf


class TestExactLaws:
    def test_noise_like_curvature(self):
        """Variance eta (1 - (1 - eta h)^2n) / (2 - eta h): the same for all directions in the end, but for the flat."""
        eta, n = 0.1, 2000
        expected = eta * (1 - (1 - eta * CURVATURES) ** (2 * n)) / (2 - eta * CURVATURES)
        assert_allclose(np.diag(Quadratic(CURVATURES).covariance(eta, n)), expected, rtol=1e-8)
        settled = np.where(CURVATURES > 0, eta / (2 - eta * CURVATURES), 0)
        assert_allclose(np.diag(Quadratic(CURVATURES).stationary_covariance(eta)), settled, rtol=1e-8)
        assert_allclose(np.diag(Quadratic(CURVATURES).diffusion_covariance(eta)), eta / 2 * (CURVATURES > 0))

    def test_a_flat_direction_is_exactly_still_or_diffuses(self):
        eta, n = 0.1, 400
        assert Quadratic(CURVATURES).covariance(eta, n)[-1, -1] == 0
        isotropic = Quadratic(CURVATURES, np.ones(6))
        assert_allclose(isotropic.covariance(eta, n)[-1, -1], eta**2 * n)
        assert_allclose(isotropic.diffusion_covariance(eta, eta * n)[-1, -1], eta**2 * n)

    def test_no_cancellation_in_slow_directions(self):
        assert_allclose(Quadratic([1e-13], [1.0]).covariance(0.1, 10), [[0.1]], rtol=1e-10)

    @given(quadratics(), st.integers(1, 30), st.floats(0.01, 0.6))
    def test_covariance_is_the_sum_over_past_kicks(self, potential, n, eta):
        shrink = np.eye(len(potential.curvatures)) - eta * potential.hessian(0 * potential.curvatures)
        covariance = np.zeros_like(shrink)
        for _ in range(n):
            covariance = shrink @ covariance @ shrink + eta**2 * np.asarray(potential.noise)
        assert_allclose(potential.covariance(eta, n), covariance, rtol=1e-9, atol=1e-12)

    @given(quadratics(), st.floats(0.01, 0.6))
    def test_stationary_laws_solve_their_equations(self, potential, eta):
        hessian = potential.hessian(0 * potential.curvatures)
        shrink = np.eye(len(hessian)) - eta * hessian
        discrete = solve_discrete_lyapunov(shrink, eta**2 * np.asarray(potential.noise))
        assert_allclose(potential.stationary_covariance(eta), discrete, rtol=1e-8, atol=1e-11)
        assert_allclose(potential.covariance(eta, 200_000), discrete, rtol=1e-8, atol=1e-11)
        continuous = solve_continuous_lyapunov(hessian, eta * np.asarray(potential.noise))
        assert_allclose(potential.diffusion_covariance(eta), continuous, rtol=1e-8, atol=1e-11)
        assert_allclose(potential.diffusion_covariance(eta, 1e5), continuous, rtol=1e-8, atol=1e-11)

    @given(quadratics())
    def test_small_steps_are_a_diffusion(self, potential):
        assert_allclose(
            potential.covariance(1e-5, 10**5) / 1e-5, potential.diffusion_covariance(1e-5, 1.0) / 1e-5, atol=1e-3
        )

    @pytest.mark.parametrize("law", [lambda q: q.stationary_covariance(0.1), lambda q: q.diffusion_covariance(0.1)])
    def test_what_does_not_settle_is_refused(self, law):
        with pytest.raises(ValueError, match="^noise must vanish where curvature is zero"):
            law(Quadratic([1, 0], [1, 1]))
        with pytest.raises(ValueError, match="^curvature must not be negative"):
            law(Quadratic([1, -0.1], [1, 1]))

    def test_a_large_learning_rate_is_refused(self):
        with pytest.raises(ValueError, match="^learning_rate must be under the limit 0.25"):
            Quadratic(CURVATURES).stationary_covariance(0.25)

    def test_singular_matrices(self):
        """A rotated potential with flat directions, whose noise is its own Hessian."""
        rng = np.random.default_rng(3)
        matrix, turn = rotated(rng, np.array([3.0, 1.0, 0.0, 0.0]))
        expected = turn * np.array([0.2 / (2 - 0.6), 0.2 / (2 - 0.2), 0, 0]) @ turn.T
        assert_allclose(Quadratic(matrix).stationary_covariance(0.2), expected, atol=1e-14)
        assert_allclose(Quadratic(matrix, matrix).stationary_covariance(0.2), expected, atol=1e-14)


class TestSimulation:
    def test_chains_follow_the_exact_law(self):
        rng = np.random.default_rng(0)
        matrix, _ = rotated(rng, np.array([6.0, 1.0, 0.02]))
        factor = rng.standard_normal((3, 2))
        potential, start = Quadratic(matrix, factor @ factor.T), np.array([1.0, -2.0, 0.5])
        end = potential.descend(0.2, 50, 20_000, start, rng).points[-1]
        expected = potential.covariance(0.2, 50)
        assert_allclose(np.cov(end.T), expected, atol=0.04 * np.trace(expected))
        assert_allclose(np.diag(np.cov(end.T)), np.diag(expected), rtol=0.08)
        assert_allclose(end.mean(axis=0), potential.mean(0.2, 50, start), atol=0.05)

    def test_flat_directions_stay_exactly(self):
        points = Quadratic(CURVATURES).descend(0.1, 20, 30, np.ones(6), np.random.default_rng(0)).points
        assert np.ptp(points[..., -1]) == 0
        assert np.ptp(points[-1], axis=0)[:-1].min() > 0

    def test_what_is_kept(self):
        descent = Quadratic([1, 2]).descend(0.1, 10, 3, np.ones((3, 2)), np.random.default_rng(0), every=4)
        assert descent.updates.tolist() == [0, 4, 8]
        assert descent.points.shape == (3, 3, 2)
        assert np.all(descent.points[0] == 1)
        whole = Quadratic([1, 2]).descend(0.1, 10, 3, np.ones((3, 2)), np.random.default_rng(0), every=1)
        assert_allclose(whole.points[::4], descent.points)


class TestLeastSquares:
    def test_gradient_and_minimum(self):
        problem = regression()
        assert_allclose(problem.gradient(problem.minimum), 0, atol=1e-14)
        theta, step = np.array([0.3, -1.0, 2.0]), 1e-6
        numeric = [(problem.value(theta + step * e) - problem.value(theta - step * e)) / 2 / step for e in np.eye(3)]
        assert_allclose(problem.gradient(theta), numeric, rtol=1e-7)
        assert problem.gradient(np.zeros((4, 2, 3))).shape == (4, 2, 3)

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_the_exact_law_against_every_minibatch(self, batch_size):
        """Enumerate all N^b minibatches: the mean of what they do to a second moment, and of their noise."""
        problem, eta = regression(n=4, d=2), 0.3
        moment = np.array([[1.0, 0.3], [0.3, 0.7]])
        after, noise = np.zeros((2, 2)), np.zeros((2, 2))
        for batch in itertools.product(range(4), repeat=batch_size):
            x, r = problem.inputs[list(batch)], problem.residuals[list(batch)]
            shrink, gradient = np.eye(2) - eta * x.T @ x / batch_size, x.T @ r / batch_size
            after += shrink @ moment @ shrink / 4**batch_size
            noise += np.outer(gradient, gradient) / 4**batch_size
        operator = problem.second_moment_operator(eta, batch_size)
        assert_allclose(operator @ moment.ravel(), after.ravel(), rtol=1e-12)
        assert_allclose(problem.noise_covariance(batch_size), noise, rtol=1e-12)

    def test_stationary_covariance_solves_its_equation_and_is_reached(self):
        problem = regression()
        stationary = problem.stationary_covariance(0.05, 2)
        operator = problem.second_moment_operator(0.05, 2)
        kicks = 0.05**2 * problem.noise_covariance(2)
        assert_allclose(operator @ stationary.ravel() + kicks.ravel(), stationary.ravel(), rtol=1e-10)
        assert_allclose(problem.covariance(0.05, 2, 100_000), stationary, rtol=1e-8)
        assert_allclose(problem.covariance(0.05, 2, 1), kicks, rtol=1e-12)

    def test_large_batches_are_the_textbook(self):
        problem = regression()
        textbook = problem.quadratic(10**6).stationary_covariance(0.1)
        assert_allclose(problem.stationary_covariance(0.1, 10**6), textbook, rtol=1e-5)

    def test_chains_follow_the_exact_law(self):
        problem, rng = regression(n=40), np.random.default_rng(0)
        end = problem.descend(0.1, 2, 40, 20_000, problem.minimum, rng).points[-1]
        assert_allclose(np.diag(np.cov(end.T)), np.diag(problem.covariance(0.1, 2, 40)), rtol=0.08)

    def test_an_epoch_shows_every_sample_once(self):
        """In one epoch of single samples, in any order, orthogonal inputs are each shrunk once."""
        problem = LeastSquares(np.eye(3), np.zeros(3))
        descent = problem.descend(0.5, 1, 3, 5, np.ones(3), np.random.default_rng(0), replacement=False, every=1)
        assert np.all(descent.points[-1] == 0.5)
        assert not np.all(descent.points[1] == descent.points[1, 0])

    @given(st.integers(0, 1000), st.floats(0.3, 2))
    def test_one_dimension_diverges_where_the_fourth_moment_says(self, seed, scale):
        """With batches of one, E (1 - eta x^2)^2 = 1 at eta = 2 E x^2 / E x^4."""
        rng = np.random.default_rng(seed)
        x, y = scale * rng.standard_normal(20), rng.standard_normal(20)
        problem = LeastSquares(x[:, None], y)
        assert_allclose(problem.stability_limit(1), 2 * np.mean(x**2) / np.mean(x**4), rtol=1e-7)

    @given(st.integers(0, 1000), st.integers(1, 40))
    def test_noise_lowers_the_limit(self, seed, batch_size):
        problem = regression(seed=seed)
        limit = problem.stability_limit(batch_size)
        assert 0 < limit <= problem.stability_limit() * (1 + 1e-12)
        assert limit <= problem.stability_limit(batch_size + 1) * (1 + 1e-8)
        problem.stationary_covariance(0.999 * limit, batch_size)
        with pytest.raises(ValueError, match="^learning_rate must let the second moment settle"):
            problem.stationary_covariance(1.001 * limit, batch_size)

    def test_flat_directions_have_no_limit(self):
        problem = LeastSquares(np.eye(2, 3), np.ones(2))
        assert_allclose(problem.minimum, [1, 1, 0])
        for call in (problem.stability_limit, lambda: problem.stationary_covariance(0.1, 1)):
            with pytest.raises(ValueError, match="^inputs must span all 3 dimensions"):
                call()


class TestShuffling:
    def test_small_rates_give_a_third(self):
        m = 50
        assert_allclose(shuffling_ratio(np.array([1e-7, 1e-6]), m), m * np.array([1e-7, 1e-6]) / 3, rtol=2e-3)
        problem = regression()
        h = np.linalg.eigvalsh(problem.hessian)
        assert_allclose(problem.shuffling_ratio(1e-7, 1), shuffling_ratio(1e-7 * h, 12), rtol=1e-2)

    @given(st.floats(1e-4, 1.9), st.integers(1, 12))
    def test_against_the_covariance_of_a_long_run(self, rate, m):
        """Dense: a lower triangular filter applied to noise whose epochs sum to zero."""
        epochs = int(np.ceil(20 / (m * min(rate, 2 - rate)))) + 1
        epochs = min(epochs, 1200 // m)
        n = epochs * m
        if (1 - rate) ** (2 * (n - m)) > 1e-9:
            return  # not settled within a matrix of this size
        weights = (1 - rate) ** np.arange(n)[::-1]
        block = np.eye(m) - 1 / m
        variances = []
        for end in range(n - m + 1, n + 1):
            filtered = np.append(weights[n - end :], np.zeros(n - end)).reshape(epochs, m)
            variances.append(np.einsum("ei,ij,ej", filtered, block, filtered))
        assert_allclose(shuffling_ratio(rate, m), np.mean(variances) * rate * (2 - rate), rtol=1e-6, atol=1e-12)

    def test_one_update_per_epoch_has_no_noise(self):
        assert shuffling_ratio(0.5, 1) == 0

    def test_shuffled_least_squares(self):
        problem, rng = regression(n=48), np.random.default_rng(1)
        h, directions = np.linalg.eigh(problem.hessian)
        eta, b = 0.005, 4
        descent = problem.descend(eta, b, 12 * 40, 1500, problem.minimum, rng, replacement=False, every=1)
        settled = (descent.points[-12 * 10 :] - problem.minimum) @ directions
        shuffled = np.mean(settled**2, axis=(0, 1))
        independent = np.diag(directions.T @ problem.stationary_covariance(eta, b) @ directions)
        assert_allclose(shuffled / independent, shuffling_ratio(eta * h, 12), rtol=0.08)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: Quadratic([[1, 2], [0, 1]]), "^curvature must be finite, and"),
            (lambda: Quadratic([1, np.nan]), "^curvature must be finite"),
            (lambda: Quadratic([]), "^curvature must be finite"),
            (lambda: Quadratic([1, -1]), "^noise cannot be H where curvature is negative"),
            (lambda: Quadratic([1, 1], [1, 1, 1]), "^noise must have 2 dimensions"),
            (lambda: Quadratic([1, 1], [1, -1]), "^noise must be positive semidefinite"),
            (lambda: Quadratic([1]).descend(0.1, 5, 3, [0, 0], np.random.default_rng()), r"^start must be \(1,\)"),
            (lambda: Quadratic([1]).descend(0.1, 0, 3, [0], np.random.default_rng()), "^n_updates must be a positive"),
            (lambda: Quadratic([1]).descend(0.1, 5, 3, [0], np.random.default_rng(), every=0), "^every must be a pos"),
            (lambda: Quadratic([1]).descend(0.1, 5, 0, [0], np.random.default_rng()), "^n_chains must be a positive"),
            (lambda: LeastSquares(np.ones(3), np.ones(3)), "^inputs must be finite and of shape"),
            (lambda: LeastSquares(np.ones((3, 1)), np.ones(2)), r"^targets must be finite and of shape \(3,\)"),
            (lambda: regression().growth(0.1, 0), "^batch_size must be a positive integer"),
            (lambda: shuffling_ratio(0.0, 3), "^rates must lie between 0 and 2"),
            (lambda: shuffling_ratio(0.1, 0), "^updates_per_epoch must be a positive integer"),
        ],
    )
    def test_bad_input_names_the_argument(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_no_more_than_all_samples_without_replacement(self):
        with pytest.raises(ValueError, match="^batch_size must not exceed 12"):
            regression().descend(0.1, 13, 1, 1, np.zeros(3), np.random.default_rng(0), replacement=False)
