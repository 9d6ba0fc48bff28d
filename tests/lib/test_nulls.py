"""Null models against what each of them keeps, statistics against closed forms, p-values against their law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from descentmaps import CountSketch, Trajectory, nulls
from descentmaps.nulls import NULLS, Moments, compare

rng = np.random.default_rng(0)
#: A bent path with a drift and anisotropic noise.
PATH = np.cumsum(rng.standard_normal((60, 8)) * np.linspace(0.2, 2, 8) + 0.5, axis=0) + 10
many = st.integers(0, 2**32)


def steps(points):
    return np.diff(points, axis=0)


def mean_over(null, statistic, n=400, **settings):
    """Average over draws, and its standard error."""
    values = np.array([statistic(null(PATH, seed=seed, **settings)) for seed in range(n)])
    return values.mean(axis=0), values.std(axis=0) / np.sqrt(n)


def close(found, expected, errors=4.5):
    mean, error = found
    assert np.all(np.abs(mean - expected) <= errors * error + 1e-9), (mean, expected, error)


@pytest.mark.parametrize("name", NULLS)
class TestEach:
    def test_shape_seed_and_type(self, name):
        null = NULLS[name]
        drawn = null(PATH, seed=1)
        assert drawn.shape == PATH.shape
        assert drawn.dtype == np.float64
        assert np.array_equal(drawn, null(PATH, seed=1))
        assert not np.array_equal(drawn, null(PATH, seed=2))
        assert np.array_equal(drawn, null(PATH, seed=np.random.default_rng(1)))

    def test_leaves_the_run_alone(self, name):
        before = PATH.copy()
        NULLS[name](PATH, seed=0)
        assert np.array_equal(PATH, before)

    def test_moves_with_the_run(self, name):
        drawn = NULLS[name](PATH, seed=3)
        np.testing.assert_allclose(NULLS[name](3 * PATH + 7, seed=3), 3 * drawn + 7, rtol=1e-9, atol=1e-8)

    def test_trajectories_keep_their_runs_apart(self, name):
        one = Trajectory(PATH, np.arange(60))
        other = Trajectory(PATH[:31] + 1000, np.arange(31))
        drawn = NULLS[name](Trajectory.concatenate([one, other]), seed=0)
        assert drawn.shape == (91, 8)
        assert np.abs(drawn[:60]).max() < 500 < drawn[60:].min()
        assert np.array_equal(NULLS[name](one, seed=5), NULLS[name](PATH, seed=5))

    def test_bad_input(self, name):
        with pytest.raises(ValueError, match="points must be a 2-D array of at least two snapshots"):
            NULLS[name](PATH[:1])
        with pytest.raises(ValueError, match="points must be a 2-D array"):
            NULLS[name](PATH[0])
        with pytest.raises(ValueError, match="points must be finite"):
            NULLS[name](np.where(PATH > 20, np.nan, PATH))


class TestRandomWalk:
    def test_start_and_mean_square_step(self):
        assert np.array_equal(nulls.random_walk(PATH, seed=4)[0], PATH[0])
        close(
            mean_over(nulls.random_walk, lambda x: (steps(x) ** 2).sum(axis=1).mean()), (steps(PATH) ** 2).sum(1).mean()
        )

    def test_isotropic_without_drift(self):
        close(mean_over(nulls.random_walk, lambda x: x[-1] - x[0]), 0)
        square = (steps(PATH) ** 2).sum() / 59 / 8
        close(mean_over(nulls.random_walk, lambda x: (steps(x) ** 2).mean(axis=0)), square)

    def test_noise_of_a_given_covariance(self):
        factor = rng.standard_normal((3, 8))
        found = mean_over(nulls.random_walk, lambda x: steps(x).T @ steps(x) / 59, noise=factor)
        close(found, factor.T @ factor, 5)
        with pytest.raises(ValueError, match=r"noise must be a factor of shape \(r, 8\)"):
            nulls.random_walk(PATH, noise=np.eye(7))


class TestDrift:
    def test_end_and_mean_square_step(self):
        close(mean_over(nulls.drift_plus_noise, lambda x: x[-1]), PATH[-1])
        square = (steps(PATH) ** 2).sum(axis=1).mean()
        close(mean_over(nulls.drift_plus_noise, lambda x: (steps(x) ** 2).sum(axis=1).mean()), square)

    def test_a_straight_line_stays_one(self):
        line = np.outer(np.arange(10), [1.0, 2.0])
        np.testing.assert_allclose(nulls.drift_plus_noise(line), line, atol=1e-6)


class TestOrnsteinUhlenbeck:
    @pytest.mark.parametrize("rate", [0.02, 0.3, 0.95])
    def test_law(self, rate):
        """Mean, mean square step and covariance over lag 1 of the stationary autoregression."""

        def moments(x):
            x = x - PATH.mean(axis=0)
            return [x.mean(), (steps(x) ** 2).sum(axis=1).mean(), (x[1:] * x[:-1]).sum() / (x**2).sum()]

        square = (steps(PATH) ** 2).sum(axis=1).mean()
        mean, error = mean_over(nulls.ornstein_uhlenbeck, moments, rate=rate)
        close((mean[:2], error[:2]), [0, square])
        if rate > 0.1:  # the ratio is biased where a run is no longer than its memory
            assert abs(mean[2] - (1 - rate)) < 0.02

    def test_stationary_from_the_start(self):
        square = (steps(PATH) ** 2).sum(axis=1).mean()
        variance = square / (2 * 0.1)  # E |step|^2 = 2 rate E |x - m|^2
        for t in (0, 30, 59):
            close(
                mean_over(nulls.ornstein_uhlenbeck, lambda x, t=t: ((x - PATH.mean(0))[t] ** 2).sum(), rate=0.1),
                variance,
            )

    @pytest.mark.parametrize("rate", [0, 1, -0.1, 2])
    def test_rate(self, rate):
        with pytest.raises(ValueError, match="rate must be above 0 and below 1 per snapshot"):
            nulls.ornstein_uhlenbeck(PATH, rate)


class TestSurrogates:
    def test_gaussian_has_mean_and_covariance(self):
        covariance = np.cov(PATH.T, bias=True)
        close(mean_over(nulls.gaussian_surrogate, lambda x: x.mean(axis=0)), PATH.mean(axis=0))
        found = mean_over(nulls.gaussian_surrogate, lambda x: (x - PATH.mean(0)).T @ (x - PATH.mean(0)) / 60)
        close(found, covariance, 5)

    @pytest.mark.parametrize("n", [60, 59])
    def test_phases_keep_mean_directions_and_spectra(self, n):
        path = PATH[:n]
        drawn = nulls.phase_randomized(path, seed=2)
        np.testing.assert_allclose(drawn.mean(axis=0), path.mean(axis=0))
        directions = np.linalg.svd(path - path.mean(axis=0), full_matrices=False)[2]
        spectra = [np.abs(np.fft.rfft((x - x.mean(0)) @ directions.T, axis=0)) for x in (drawn, path)]
        np.testing.assert_allclose(*spectra, atol=1e-9)

    def test_phases_are_uniform(self):
        directions = np.linalg.svd(PATH - PATH.mean(axis=0), full_matrices=False)[2]
        drawn = [(nulls.phase_randomized(PATH, seed=s) - PATH.mean(0)) @ directions.T for s in range(300)]
        angles = np.angle(np.fft.rfft(np.array(drawn), axis=1)[:, 3, 1])
        assert kstest(angles, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3


class TestIncrements:
    @given(many)
    def test_shuffled_ones_are_the_runs_own(self, seed):
        drawn = nulls.shuffled_increments(PATH, seed=seed)
        np.testing.assert_allclose(drawn[[0, -1]], PATH[[0, -1]])
        order = np.argsort(steps(drawn)[:, 0])
        np.testing.assert_allclose(steps(drawn)[order], steps(PATH)[np.argsort(steps(PATH)[:, 0])], atol=1e-9)

    @given(many)
    def test_flipped_ones_keep_their_order_and_length(self, seed):
        drawn = steps(nulls.sign_flipped_increments(PATH, seed=seed))
        signs = np.sign((drawn * steps(PATH)).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(drawn, signs * steps(PATH), atol=1e-9)

    def test_both_signs_as_often(self):
        drawn = [steps(nulls.sign_flipped_increments(PATH, seed=s)) for s in range(100)]
        share = np.mean([(d * steps(PATH)).sum(axis=1) > 0 for d in drawn])
        assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(5900)

    @given(many)
    def test_sketching_commutes(self, seed):
        sketch = CountSketch(5)
        for null in (nulls.shuffled_increments, nulls.sign_flipped_increments):
            np.testing.assert_allclose(null(sketch(PATH), seed=seed), sketch(null(PATH, seed=seed)), atol=1e-9)


class TestMoments:
    @pytest.mark.parametrize(
        "name", ["random walk", "drift plus noise", "Gaussian surrogate", "slow Ornstein-Uhlenbeck"]
    )
    def test_are_all_that_gaussian_nulls_need(self, name):
        assert np.array_equal(NULLS[name](Moments.of(PATH), seed=1), NULLS[name](PATH, seed=1))

    def test_values(self):
        moments = Moments.of([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
        assert moments.length == 3
        assert moments.drift.tolist() == [0.5, 1.5]
        assert moments.mean_square_step == 5
        np.testing.assert_allclose(moments.factor.T @ moments.factor, [[2 / 9, 1 / 3], [1 / 3, 2]])


class TestStatistics:
    def test_of_a_straight_line(self):
        line = np.outer(np.arange(50), [3.0, 4.0])
        assert nulls.straightness(line) == pytest.approx(7)  # sqrt of 49 steps
        assert nulls.principal_share(line) == pytest.approx(1)
        assert nulls.future_share(line, 1) == pytest.approx(1)

    def test_straightness_of_walks(self):
        values = [nulls.straightness(nulls.random_walk(PATH, seed=s)) ** 2 for s in range(400)]
        assert abs(np.mean(values) - 1) < 4.5 * np.std(values) / 20

    def test_principal_shares_add_up(self):
        shares = [nulls.principal_share(PATH, k) for k in range(1, 9)]
        assert shares[-1] == pytest.approx(1)
        variances = np.linalg.eigvalsh(np.cov(PATH.T))[::-1]
        np.testing.assert_allclose(shares, np.cumsum(variances) / variances.sum())

    def test_future_in_other_directions(self):
        past, future = np.zeros((10, 6)), np.zeros((10, 6))
        past[:, :3] = rng.standard_normal((10, 3))
        future[:, 3:] = rng.standard_normal((10, 3))
        assert nulls.future_share(np.vstack([past, future]), 3) == pytest.approx(0, abs=1e-12)

    def test_walks_in_many_dimensions_are_cosines(self):
        """Antognini and Sohl-Dickstein (2018): their first component has 6 / pi^2 of the variance."""
        walk = np.cumsum(np.random.default_rng(3).standard_normal((200, 5000)), axis=0)
        assert nulls.cosine_fit(walk, 1) > 0.99
        assert nulls.cosine_fit(walk, 2) > 0.95
        assert abs(nulls.principal_share(walk) - 6 / np.pi**2) < 0.02

    def test_clock_and_parabola(self):
        t = np.linspace(-1, 1, 100)
        assert nulls.clock(-(t**3), t) == pytest.approx(1)
        assert nulls.clock(t**2, t) < 0.1
        assert nulls.parabola(t, 3 * t**4 - t) == pytest.approx(1)
        assert nulls.parabola(t, np.sin(40 * t)) < 0.1
        assert nulls.parabola(t, t**2, degree=1) < 0.1

    @pytest.mark.parametrize("statistic", [nulls.straightness, nulls.principal_share, nulls.cosine_fit])
    def test_standstill(self, statistic):
        with pytest.raises(ValueError, match="points must"):
            statistic(np.ones((5, 3)))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: nulls.clock(np.ones(9), np.arange(9)), "coordinate must vary, got 9 times the same value"),
            (lambda: nulls.clock(np.arange(9), []), "time must vary, got 0 times"),
            (lambda: nulls.clock(np.arange(8), np.arange(9)), "coordinate and time must be equally long, got 8 and 9"),
            (lambda: nulls.clock(PATH, np.arange(len(PATH))), "coordinate must be a finite 1-D array"),
            (lambda: nulls.parabola(np.arange(9), np.ones(9)), "second must vary"),
            (lambda: nulls.parabola([0, np.nan, 1], np.arange(3)), "first must be a finite 1-D array"),
            (lambda: nulls.cosine_fit(PATH, 0), f"k must be at least 1 and at most {min(PATH.shape)}, got 0"),
            (lambda: nulls.principal_share(PATH, 0), "k must be at least 1, got 0"),
            (lambda: nulls.future_share(PATH, 0), "k must be at least 1, got 0"),
            (lambda: nulls.future_share(np.vstack([PATH, 0 * PATH])), "points must move in the second half"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestCompare:
    def test_counts(self):
        draws = iter([1.0, 2.0, 3.0, 5.0])

        def null(run, seed):
            return np.full((2, 1), next(draws))

        found = compare(np.full((2, 1), 3.0), lambda x: x[0, 0], null, n=4, alternative="greater")
        assert found.value == 3
        assert found.draws.tolist() == [1, 2, 3, 5]
        assert found.p_value == 3 / 5  # 3 and 5, and the run itself

    @pytest.mark.parametrize(("alternative", "p"), [("greater", 1 / 5), ("less", 1), ("two-sided", 2 / 5)])
    def test_alternatives(self, alternative, p):
        assert compare(np.ones((2, 1)), np.sum, lambda run, seed: run * 0, n=4, alternative=alternative).p_value == p

    def test_what_a_null_keeps_is_a_tie(self):
        """Shuffling leaves start, end and lengths: straightness differs by rounding alone."""
        assert compare(PATH, nulls.straightness, nulls.shuffled_increments, n=19).p_value == 1

    def test_several_statistics_on_the_same_draws(self):
        def both(x):
            return [nulls.straightness(x), nulls.principal_share(x)]

        found = compare(PATH, both, nulls.random_walk, n=9, seed=3)
        assert found.draws.shape == (9, 2)
        for i, one in enumerate([nulls.straightness, nulls.principal_share]):
            alone = compare(PATH, one, nulls.random_walk, n=9, seed=3)
            assert found.p_value[i] == alone.p_value
            assert np.array_equal(found.draws[:, i], alone.draws)

    @settings(max_examples=5, deadline=None)
    @given(many)
    def test_a_run_that_is_one_of_its_nulls(self, seed):
        """Of exchangeable steps the p-value is uniform on 1/20, 2/20, ..., 1."""
        generator = np.random.default_rng(seed)

        def statistic(x):
            return np.max(x[:, 0])

        p = [
            compare(
                np.cumsum(generator.standard_normal((12, 2)), axis=0),
                statistic,
                nulls.shuffled_increments,
                n=19,
                seed=generator,
                alternative="greater",
            ).p_value
            for _ in range(200)
        ]
        share = np.mean(np.array(p) <= 0.2 + 1e-9)
        assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 200)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="n must be a positive number of draws"):
            compare(PATH, np.sum, nulls.random_walk, n=0)
        with pytest.raises(ValueError, match="alternative must be"):
            compare(PATH, np.sum, nulls.random_walk, alternative="both")
        with pytest.raises(ValueError, match="statistic must be a number, got nan for the run"):
            compare(PATH, lambda x: np.nan, nulls.random_walk)
