"""Diffusion maps against operators whose eigenfunctions are known, and against dense Markov matrices."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import descentmaps.markov as module
from descentmaps import DiffusionMap, bandwidth, squared_distances

T = 1200
LEVELS = (np.arange(T) + 0.5) / T  # of quantiles: points spread as a density says, without sampling noise
SEEDS = st.integers(0, 2**32 - 1)


def sine(a, b):
    """Sine of the largest principal angle between two spaces."""
    return np.sin(subspace_angles(a.reshape(len(a), -1), b.reshape(len(b), -1))).max()


def circle(n=T, unevenness=0.8):
    """Angles of density 1 + unevenness * cos, and their points on the unit circle."""
    grid = np.linspace(0, 2 * np.pi, 100_001)
    theta = np.interp((np.arange(n) + 0.5) / n, (grid + unevenness * np.sin(grid)) / (2 * np.pi), grid)
    return theta, np.column_stack([np.cos(theta), np.sin(theta)])


def sphere(n=1500):
    """A Fibonacci lattice: even to a fraction of a percent."""
    i = np.arange(n) + 0.5
    z, longitude = 1 - 2 * i / n, np.pi * (1 + np.sqrt(5)) * i
    return np.column_stack([np.sqrt(1 - z**2) * np.cos(longitude), np.sqrt(1 - z**2) * np.sin(longitude), z])


def walk(n=60, dimension=20, seed=0):
    return np.cumsum(np.random.default_rng(seed).normal(size=(n, dimension)), axis=0)


def markov(x, epsilon, alpha):
    """The Markov matrix and its stationary density, written out term by term."""
    d2 = ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=-1)
    k = np.exp(-d2 / (4 * epsilon))
    q = k.sum(axis=1)
    k_alpha = k / (q[:, None] ** alpha * q[None, :] ** alpha)
    degrees = k_alpha.sum(axis=1)
    return k_alpha / degrees[:, None], degrees / degrees.sum()


class TestKnownOperators:
    """Eigenvalues and, above all, eigenvectors: a warped circle is a circle still, and has the same eigenvalues."""

    @pytest.fixture(scope="class")
    def uneven(self):
        theta, x = circle()
        return theta, DiffusionMap(6, alpha=1, epsilon=0.005).fit(x)

    def test_circle_spectrum_is_free_of_the_density(self, uneven):
        np.testing.assert_allclose(uneven[1].generator_, [1, 1, 4, 4, 9, 9], rtol=0.02)

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_circle_eigenvectors_are_waves(self, uneven, k):
        theta, dm = uneven
        waves = np.column_stack([np.cos(k * theta), np.sin(k * theta)])
        assert sine(dm.eigenvectors_[:, 2 * k - 2 : 2 * k], waves) < 0.02

    def test_circle_keeps_the_density_without_alpha(self):
        theta, x = circle()
        dm = DiffusionMap(2, alpha=0, epsilon=0.005).fit(x)
        assert sine(dm.eigenvectors_, np.column_stack([np.cos(theta), np.sin(theta)])) > 0.3

    def test_circle_stationary_density(self):
        """q ~ density p; the degrees of the normalised kernel then go like p^(2 - 2 alpha)."""
        theta, x = circle()
        p = 1 + 0.8 * np.cos(theta)
        for alpha, power in [(0, 1), (0.5, 0), (1, -1)]:
            expected = p**power / np.sum(p**power)
            dm = DiffusionMap(2, alpha=alpha, epsilon=0.002).fit(x)
            np.testing.assert_allclose(dm.stationary_, expected, rtol=0.05)

    def test_sphere(self):
        x = sphere()
        dm = DiffusionMap(15, epsilon=0.01).fit(x)
        np.testing.assert_allclose(dm.generator_, [2] * 3 + [6] * 5 + [12] * 7, rtol=0.02)
        assert sine(dm.eigenvectors_[:, :3], x) < 0.005
        products = np.column_stack([x[:, 0] * x[:, 1], x[:, 1] * x[:, 2], x[:, 0] * x[:, 2]])
        quadratic = np.column_stack([products, x[:, 0] ** 2 - x[:, 1] ** 2, 3 * x[:, 2] ** 2 - 1])
        assert sine(dm.eigenvectors_[:, 3:8], quadratic) < 0.005

    def test_interval_reflects_at_its_ends(self):
        x = LEVELS[:, None]
        modes = np.arange(1, 5)
        errors = []
        for epsilon in (2e-4, 5e-5):
            dm = DiffusionMap(4, epsilon=epsilon).fit(x)
            errors.append(np.abs(dm.generator_ / (modes * np.pi) ** 2 - 1))
            for k in modes:
                assert sine(dm.eigenvectors_[:, k - 1], np.cos(k * np.pi * x)) < 0.06
        assert errors[1].max() < 0.03
        np.testing.assert_allclose((errors[0] / errors[1])[:2], 2, rtol=0.1)  # the ends cost sqrt(epsilon)

    @pytest.mark.parametrize(("alpha", "rtol"), [(0.0, 0.015), (0.5, 0.002), (1.0, 0.03)])
    def test_linear_potential_between_walls(self, alpha, rtol):
        """Samples of exp(-c x) on [0, pi]: f'' - g f' with reflecting ends, g = 2 (1 - alpha) c, has the eigenvalues
        k^2 + g^2 / 4 and the eigenfunctions exp(g x / 2) (cos kx - g / 2k sin kx)."""
        c = 1.5
        x = -np.log(1 - LEVELS * (1 - np.exp(-c * np.pi))) / c
        g = 2 * (1 - alpha) * c
        dm = DiffusionMap(3, alpha=alpha, epsilon=5e-4).fit(x[:, None])
        k = np.arange(1, 4)
        np.testing.assert_allclose(dm.generator_, k**2 + g**2 / 4, rtol=rtol)
        weight = np.sqrt(dm.stationary_)
        for column, mode in enumerate(k):
            exact = np.exp(g * x / 2) * (np.cos(mode * x) - g / (2 * mode) * np.sin(mode * x))
            assert sine(weight * dm.eigenvectors_[:, column], weight * exact) < 0.04


class TestAgainstDenseMarkovMatrix:
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
    def test_eigenpairs(self, alpha):
        x = walk()
        dm = DiffusionMap(10, alpha=alpha, epsilon=20.0).fit(x)
        p, stationary = markov(x, 20.0, alpha)
        np.testing.assert_allclose(p @ dm.eigenvectors_, dm.eigenvectors_ * dm.eigenvalues_, atol=1e-11)
        np.testing.assert_allclose(np.sort(np.linalg.eigvals(p).real)[::-1][1:11], dm.eigenvalues_, atol=1e-12)
        np.testing.assert_allclose(dm.stationary_, stationary, rtol=1e-10)
        np.testing.assert_allclose(stationary @ p, stationary, atol=1e-14)
        np.testing.assert_allclose(dm.generator_, -np.log(dm.eigenvalues_) / 20, rtol=1e-13)

    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("time", [1, 2, 3, 8])
    @pytest.mark.filterwarnings("ignore:of n_components")
    def test_diffusion_distance(self, alpha, time):
        """The weighted distance between the clouds of walkers from i and from j, by powers of the matrix itself."""
        x = walk(40)
        dm = DiffusionMap(39, alpha=alpha, epsilon=30.0, time=time).fit(x)
        p, stationary = markov(x, 30.0, alpha)
        rows = np.linalg.matrix_power(p, time)
        for i, j in [(0, 1), (0, 39), (17, 23), (5, 5)]:
            exact = np.sqrt(np.sum((rows[i] - rows[j]) ** 2 / stationary))
            assert dm.diffusion_distance(i, j) == pytest.approx(exact, abs=1e-8)
            assert dm.diffusion_distance(j, i) == dm.diffusion_distance(i, j)

    def test_diffusion_distance_of_fewer_components_is_smaller(self):
        few, more = (DiffusionMap(n, epsilon=30.0).fit(walk()) for n in (2, 5))
        assert few.diffusion_distance(0, 30) < more.diffusion_distance(0, 30)

    @pytest.mark.parametrize("time", [0, 0.5, 1, 3])
    def test_embedding_is_scaled_by_time(self, time):
        x = walk()
        dm = DiffusionMap(5, epsilon=20.0, time=time).fit(x)
        fixed = DiffusionMap(5, epsilon=20.0, time=0).fit(x)
        np.testing.assert_allclose(dm.embedding_, fixed.embedding_ * fixed.eigenvalues_**time, rtol=1e-12)

    @given(SEEDS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    @settings(max_examples=15)
    def test_normalised_in_the_stationary_density_with_signs_fixed(self, seed, alpha):
        dm = DiffusionMap(4, alpha=alpha).fit(walk(50, seed=seed))
        psi, stationary = dm.eigenvectors_, dm.stationary_
        assert stationary.sum() == pytest.approx(1, abs=1e-13)
        np.testing.assert_allclose(psi.T @ (stationary[:, None] * psi), np.eye(4), atol=1e-9)
        np.testing.assert_allclose(stationary @ psi, 0, atol=1e-9)
        assert np.all(psi.max(axis=0) >= (1 - 1e-6) * -psi.min(axis=0))
        assert np.all(np.diff(dm.eigenvalues_) <= 0)
        assert np.all((dm.eigenvalues_ > 0) & (dm.eigenvalues_ < 1))

    def test_sign_is_no_matter_of_rounding_where_entries_tie(self):
        """On a symmetric line the extremes of an odd mode come in pairs; the first of the two is positive."""
        line = np.linspace(-1, 1, 51)[:, None]
        for shift in np.random.default_rng(0).normal(size=10):
            left = DiffusionMap(3, epsilon=0.01).fit(line + shift).eigenvectors_[:25]
            for odd in (0, 2):
                assert left[:, odd].max() > -left[:, odd].min()


class TestTransform:
    @pytest.mark.parametrize("time", [0, 1, 3])
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("n", [80, 400])
    def test_of_the_fitted_points_is_the_embedding(self, time, alpha, n):
        x = circle(n)[1]
        dm = DiffusionMap(4, alpha=alpha, epsilon=0.02, time=time)
        np.testing.assert_allclose(dm.fit(x).transform(x), dm.embedding_, atol=1e-8)
        np.testing.assert_allclose(dm.fit_transform(x), dm.embedding_, atol=0)
        np.testing.assert_allclose(dm.transform(x[[7]]), dm.embedding_[[7]], atol=1e-8)  # no matter what company

    @pytest.mark.parametrize("time", [0, 1, 3])
    def test_of_new_points_interpolates(self, time):
        """Between the points of an even circle the coordinates are waves again, and as tall as at them."""
        theta, x = circle(200, unevenness=0.0)
        dm = DiffusionMap(4, epsilon=0.02, time=time).fit(x)
        new = theta + 0.3 * (theta[1] - theta[0])
        basis, at_new = (np.column_stack([f(k * a) for k in (1, 2) for f in (np.cos, np.sin)]) for a in (theta, new))
        coefficients = np.linalg.lstsq(basis, dm.embedding_, rcond=None)[0]
        y = dm.transform(np.column_stack([np.cos(new), np.sin(new)]))
        np.testing.assert_allclose(y, at_new @ coefficients, atol=1e-6)

    def test_of_new_points_agrees_with_a_map_of_all_points(self):
        theta, x = circle(600)
        held_out = np.arange(600) % 5 == 2
        whole = DiffusionMap(4, epsilon=0.01).fit(x)
        part = DiffusionMap(4, epsilon=0.01).fit(x[~held_out])
        assert sine(part.transform(x[held_out]), whole.embedding_[held_out]) < 0.02

    def test_of_precomputed_distances(self):
        x = walk()
        new = x[:7] + 0.1
        dm = DiffusionMap(3, epsilon=20.0).fit(x)
        by_distance = DiffusionMap(3, epsilon=20.0, metric="precomputed").fit(squared_distances(x))
        np.testing.assert_allclose(by_distance.transform(squared_distances(new, x)), dm.transform(new), atol=1e-10)
        assert by_distance.transform(squared_distances(new, x).astype(np.float32)).dtype == np.float64

    def test_of_points_out_of_reach_is_refused(self):
        x = circle(80)[1]
        dm = DiffusionMap(2, epsilon=0.02).fit(x)
        with pytest.raises(ValueError, match="X must lie within reach .* 1 rows do not, the first is row 2"):
            dm.transform(np.vstack([x[:2], [[100.0, 0.0]]]))


class TestInvariance:
    @given(SEEDS)
    @settings(max_examples=15)
    def test_isometry(self, seed):
        rng = np.random.default_rng(seed)
        x = walk(50, 6, seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
        dm, moved = DiffusionMap(3).fit(x), DiffusionMap(3).fit(x @ rotation + 100 * rng.normal(size=6))
        assert moved.epsilon_ == pytest.approx(dm.epsilon_, rel=1e-9)
        np.testing.assert_allclose(moved.embedding_, dm.embedding_, atol=1e-6)

    @given(SEEDS)
    @settings(max_examples=15)
    def test_relabelling(self, seed):
        x = walk(50, 6, seed)
        order = np.random.default_rng(seed).permutation(50)
        dm, moved = DiffusionMap(3).fit(x), DiffusionMap(3).fit(x[order])
        np.testing.assert_allclose(moved.embedding_, dm.embedding_[order], atol=1e-6)

    @given(st.floats(1e-4, 1e4))
    @settings(max_examples=10)
    def test_change_of_unit(self, c):
        x = walk()
        dm, scaled = DiffusionMap(3).fit(x), DiffusionMap(3).fit(c * x)
        np.testing.assert_allclose(scaled.embedding_, dm.embedding_, atol=1e-7)
        np.testing.assert_allclose(scaled.generator_ * c**2, dm.generator_, rtol=1e-8)

    @pytest.mark.parametrize("n", [100, 500])
    def test_same_again_bit_for_bit(self, n):
        x = circle(n, unevenness=0.0)[1]  # pairs of equal eigenvalues: the solver's free choice
        np.random.seed(1)  # noqa: NPY002
        first = DiffusionMap(6, epsilon=0.02).fit(x)
        np.random.seed(2)  # noqa: NPY002
        second = DiffusionMap(6, epsilon=0.02).fit(x)
        assert np.array_equal(first.embedding_, second.embedding_)

    def test_precomputed_equals_euclidean(self):
        x = walk()
        dm = DiffusionMap(4).fit(x)
        other = DiffusionMap(4, metric="precomputed").fit(squared_distances(x))
        np.testing.assert_allclose(other.embedding_, dm.embedding_, atol=1e-12)
        assert other.epsilon_ == dm.epsilon_

    @pytest.mark.parametrize("epsilon", [0.01, 0.0005])
    def test_dense_and_iterative_solvers_agree(self, monkeypatch, epsilon):
        x = circle(400, unevenness=0.4)[1] * [1, 1.5]  # an ellipse: no equal eigenvalues
        monkeypatch.setattr(module, "SMALL", 50)
        iterative = DiffusionMap(6, epsilon=epsilon).fit(x)
        monkeypatch.setattr(module, "SMALL", 1000)
        dense = DiffusionMap(6, epsilon=epsilon).fit(x)
        np.testing.assert_allclose(iterative.eigenvalues_, dense.eigenvalues_, rtol=1e-12)
        np.testing.assert_allclose(iterative.eigenvectors_, dense.eigenvectors_, atol=1e-7)
        assert not np.array_equal(iterative.eigenvectors_, dense.eigenvectors_)  # they were two solvers

    def test_random_state_moves_nothing_but_rounding(self):
        x = circle(400, unevenness=0.4)[1] * [1, 1.5]
        maps = [DiffusionMap(4, epsilon=0.01, random_state=seed).fit(x) for seed in (0, 1)]
        np.testing.assert_allclose(maps[0].embedding_, maps[1].embedding_, atol=1e-9)

    def test_float32_points_are_multiplied_in_float64(self):
        x = (1000 + 1e-2 * walk()).astype(np.float32)
        dm, wide = DiffusionMap(3).fit(x), DiffusionMap(3).fit(x.astype(np.float64))
        assert dm.embedding_.dtype == np.float64
        np.testing.assert_allclose(dm.embedding_, wide.embedding_, atol=1e-12)


class TestEpsilon:
    @pytest.mark.parametrize("rule", ["median", "max-slope", "nearest"])
    def test_by_rule(self, rule):
        x = walk()
        assert DiffusionMap(3, epsilon=rule).fit(x).epsilon_ == bandwidth(squared_distances(x), rule)

    def test_by_function_and_by_number(self):
        x = walk()
        assert DiffusionMap(3, epsilon=lambda d2: d2.max() / 8).fit(x).epsilon_ == squared_distances(x).max() / 8
        assert DiffusionMap(3, epsilon=17).fit(x).epsilon_ == 17.0


class TestDegenerate:
    @pytest.mark.parametrize("n", [40, 300])  # both solvers
    def test_kernel_in_pieces_warns(self, n):
        x = np.linspace(0, 1, n)[:, None]
        with pytest.warns(UserWarning, match="falls apart into pieces .* larger epsilon"):
            dm = DiffusionMap(2, epsilon=1e-3).fit(np.vstack([x, x + 1000]))
        psi = dm.eigenvectors_[:, 0]  # the first coordinate tells the two pieces apart, and nothing else
        assert dm.eigenvalues_[0] == pytest.approx(1, abs=1e-12)
        assert psi[0] * psi[-1] == pytest.approx(-1, abs=1e-6)
        np.testing.assert_allclose(psi[:n], psi[0], atol=1e-6)

    @pytest.mark.parametrize("n", [40, 300])
    def test_kernel_of_isolated_points_warns_and_is_finite(self, n):
        with pytest.warns(UserWarning, match="falls apart into pieces"):
            dm = DiffusionMap(2, epsilon=1e-9).fit(np.linspace(0, 1, n)[:, None])
        assert np.isfinite(dm.embedding_).all()

    def test_more_components_than_eigenvalues_above_rounding_warns(self):
        x = np.linspace(0, 1, 60)[:, None]
        with pytest.warns(UserWarning, match="of n_components=40 only .* smaller epsilon") as caught:
            dm = DiffusionMap(40, epsilon=1.0).fit(x)
        assert caught[0].filename == __file__
        for values in (dm.embedding_, dm.generator_, dm.transform(x)):
            assert np.isfinite(values).all()

    def test_as_many_components_as_points_warns_that_one_is_missing(self):
        with pytest.warns(UserWarning, match="of n_components=30 only"):
            dm = DiffusionMap(30, epsilon=0.5).fit(walk(30, 2))
        assert dm.embedding_.shape == (30, 29)

    @pytest.mark.filterwarnings("ignore:of n_components")
    def test_the_constant_is_left_out_even_among_noise(self):
        """All T - 1 components of a wide kernel: most eigenvalues are rounding, and yet none is the constant's."""
        dm = DiffusionMap(29, epsilon=50.0).fit(walk(30, 2))
        np.testing.assert_allclose(dm.stationary_ @ dm.eigenvectors_, 0, atol=1e-9)

    def test_a_sound_map_does_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            DiffusionMap(4, epsilon=0.01).fit(circle(300)[1]).transform(circle(10)[1])

    def test_repeated_points_share_their_place(self):
        x = walk(50)
        x[30] = x[10]
        for rule in ("median", "max-slope", "nearest"):
            dm = DiffusionMap(3, epsilon=rule).fit(x)
            assert np.isfinite(dm.embedding_).all()
            np.testing.assert_allclose(dm.embedding_[30], dm.embedding_[10], atol=1e-10)


class TestBadInput:
    @pytest.mark.parametrize("n", [10, 300])
    def test_identical_points(self, n):
        x = np.tile(np.random.default_rng(0).normal(size=1000), (n, 1))
        for epsilon in ("median", "max-slope", "nearest", 1.0):
            with pytest.raises(ValueError, match=f"X must hold points that differ, got {n} identical ones"):
                DiffusionMap(2, epsilon=epsilon).fit(x)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, value):
        x = walk()
        x[3, 2] = value
        with pytest.raises(ValueError, match="X must be finite"):
            DiffusionMap(2).fit(x)
        with pytest.raises(ValueError, match="X must be finite"):
            DiffusionMap(2).fit(walk()).transform(x)

    def test_fewer_points_than_components(self):
        with pytest.raises(ValueError, match="X must have more points than n_components, got n_samples=9 .*=10"):
            DiffusionMap(10).fit(walk(9))
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            DiffusionMap(1).fit(np.zeros((0, 3)))

    @pytest.mark.parametrize("x", [np.arange(5.0), [0.0, 1.0, 2.0]])
    def test_one_dimensional(self, x):
        with pytest.raises(ValueError, match="X must be 2-D .*Reshape your data"):
            DiffusionMap(1).fit(x)
        with pytest.raises(ValueError, match="X must be 2-D .*Reshape your data"):
            DiffusionMap(1).fit(walk(20, 3)).transform(x[:3])

    @pytest.mark.parametrize(
        ("parameter", "values"),
        [
            ("n_components", [0, -1, 2.5, "3", None]),
            ("alpha", [-0.1, 1.1, np.nan, "1", None]),
            ("epsilon", [0, -1.0, np.nan, np.inf, "mean", None, lambda d2: np.nan]),
            ("time", [-1, np.nan, np.inf, "1", None]),
            ("metric", ["cosine", None]),
        ],
    )
    def test_parameters_out_of_range_are_named(self, parameter, values):
        for value in values:
            with pytest.raises(ValueError, match=f"^{parameter} must"):
                DiffusionMap(**{"n_components": 2, parameter: value}).fit(walk())

    def test_distances_that_are_none(self):
        d2 = squared_distances(walk(20)) * 1e-12  # late in training: small numbers must not pass for equal ones
        lopsided, diagonal, negative = d2.copy(), d2.copy(), d2.copy()
        lopsided[2, 1] *= 2
        diagonal[3, 3] = d2.max()
        negative[2, 1] = negative[1, 2] = -d2.max()
        for bad, message in [
            (lopsided, "symmetric"),
            (diagonal, "zero on the diagonal"),
            (negative, "Negative values"),
            (d2[:10], "X must be a square matrix"),
        ]:
            with pytest.raises(ValueError, match=message):
                DiffusionMap(2, metric="precomputed").fit(bad)

    def test_distances_that_are_lopsided_by_rounding(self):
        x = walk(20)
        d2 = squared_distances(x) * (1 + 1e-9 * np.random.default_rng(0).normal(size=(20, 20)))
        one, other = (DiffusionMap(2, metric="precomputed").fit(distances) for distances in (d2, d2.T))
        assert np.array_equal(one.embedding_, other.embedding_)
        np.testing.assert_allclose(one.embedding_, DiffusionMap(2).fit(x).embedding_, atol=1e-7)

    def test_before_the_fit(self):
        for call in (lambda dm: dm.transform(walk()), lambda dm: dm.diffusion_distance(0, 1)):
            with pytest.raises(ValueError, match="not fitted"):
                call(DiffusionMap())


@parametrize_with_checks([DiffusionMap(), DiffusionMap(n_components=2), DiffusionMap(metric="precomputed")])
@pytest.mark.filterwarnings("ignore:of n_components", "ignore:the kernel falls apart")
def test_scikit_learn_estimator(estimator, check):
    check(estimator)


def test_clone_parameters_and_pipeline():
    dm = DiffusionMap(3, alpha=0.5, epsilon=2.0, time=2)
    assert clone(dm).get_params() == dm.get_params()
    assert set(dm.get_params()) >= {"n_components", "alpha", "epsilon", "time", "metric", "random_state"}
    x = walk()
    pipeline = make_pipeline(StandardScaler(), dm)
    np.testing.assert_allclose(pipeline.fit_transform(x), pipeline.transform(x), atol=1e-8)
    assert list(pipeline[-1].get_feature_names_out()) == ["psi_1", "psi_2", "psi_3"]
    assert "alpha=0.5" in repr(dm)
