"""Maps of random and uneven samples against closed forms: the variable kernel, neighbors, landmarks, refits."""

from __future__ import annotations

import warnings

import dask.array
import numpy as np
import pytest
import torch
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import eval_hermitenorm
from scipy.stats import norm

from clouds import circle_harmonics, largest_sine, sphere, uneven_circle
from descentmaps import DiffusionMap, kernel_sum_scan, squared_distances

CIRCLE = [1, 1, 4, 4, 9]


class TestScan:
    """The bandwidth that the scan recommends, on samples of manifolds."""

    def test_recommends_64_neighbors(self):
        d2 = squared_distances(np.random.default_rng(0).random((900, 2)))
        scan = kernel_sum_scan(d2, n_epsilons=201)
        sums = np.exp(-d2 / (4 * scan.recommended)).sum(axis=1)
        assert sums.mean() == pytest.approx(64, rel=0.02)

    def test_recommends_a_quarter_of_few_points(self):
        d2 = squared_distances(np.random.default_rng(0).random((40, 2)))
        scan = kernel_sum_scan(d2, n_epsilons=201)
        assert np.exp(-d2 / (4 * scan.recommended)).sum(axis=1).mean() == pytest.approx(10, rel=0.05)

    def test_circle(self):
        x, angle = uneven_circle(2000)
        dm = DiffusionMap(6, epsilon="scan").fit(x)
        np.testing.assert_allclose(dm.generator_[:5], CIRCLE, rtol=0.03)
        for k, bound in [(1, 0.03), (2, 0.05), (3, 0.1)]:
            assert largest_sine(dm.eigenvectors_[:, 2 * k - 2 : 2 * k], circle_harmonics(angle, k)) < bound

    @pytest.mark.parametrize("seed", range(3))
    def test_random_circle(self, seed):
        """Sampling splits each pair of rates; their means are within 3 %, and the spaces are right."""
        x, angle = uneven_circle(2000, seed)
        dm = DiffusionMap(6, epsilon="scan").fit(x)
        np.testing.assert_allclose(dm.generator_.reshape(3, 2).mean(axis=1)[:2], [1, 4], rtol=0.03)
        for k, bound in [(1, 0.03), (2, 0.05), (3, 0.1)]:
            assert largest_sine(dm.eigenvectors_[:, 2 * k - 2 : 2 * k], circle_harmonics(angle, k)) < bound

    @pytest.mark.parametrize("seed", range(2))
    def test_sphere(self, seed):
        x = sphere(3000, seed)
        dm = DiffusionMap(8, epsilon="scan").fit(x)
        np.testing.assert_allclose(dm.generator_, [2] * 3 + [6] * 5, rtol=0.05)
        assert largest_sine(dm.eigenvectors_[:, :3], x) < 0.05

    def test_flat_torus(self):
        """All of (cos a, sin a, cos b, sin b): the first four rates are one."""
        a, b = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 3000))
        x = np.column_stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b)])
        dm = DiffusionMap(4, epsilon=0.03).fit(x)  # the scan's 64 neighbors reach farther here, and blur by 5 %
        np.testing.assert_allclose(dm.generator_, 1, rtol=0.03)
        assert largest_sine(dm.eigenvectors_, x) < 0.05


class TestVariableKernel:
    """One fixed bandwidth fails in the tails of a Gaussian; the variable kernel finds the Ornstein-Uhlenbeck rates."""

    x = norm.ppf((np.arange(2000) + 0.5) / 2000)

    def test_ornstein_uhlenbeck(self):
        dm = DiffusionMap(3, alpha=0.5, kernel="variable", epsilon="scan").fit(self.x[:, None])
        assert dm.dimension_ == 1
        np.testing.assert_allclose(dm.generator_ / dm.generator_[0], [1, 2, 3], rtol=0.05)
        np.testing.assert_allclose(dm.generator_, [1, 2, 3], rtol=0.06)
        inner = np.abs(self.x) < 2
        for k in (1, 2, 3):
            hermite = eval_hermitenorm(k, self.x[inner])[:, None]
            assert largest_sine(dm.eigenvectors_[inner, k - 1 : k], hermite) < 0.1

    def test_fixed_kernel_misses_them(self):
        dm = DiffusionMap(3, alpha=0.5, epsilon="scan").fit(self.x[:, None])
        assert np.abs(dm.generator_ / dm.generator_[0] / [1, 2, 3] - 1).max() > 0.1

    def test_removes_the_density_of_the_circle(self):
        x, angle = uneven_circle(2000)
        dm = DiffusionMap(4, kernel="variable", epsilon="scan").fit(x)
        np.testing.assert_allclose(dm.generator_, CIRCLE[:4], rtol=0.03)
        assert largest_sine(dm.eigenvectors_[:, :2], circle_harmonics(angle, 1)) < 0.03

    def test_equals_its_definition(self):
        """A dense transcription of the pencil, on a small cloud of two dimensions."""
        x = np.random.default_rng(1).standard_normal((150, 2))
        dm = DiffusionMap(149, alpha=0.3, kernel="variable", epsilon=0.2, dimension=2).fit(x)
        d2 = squared_distances(x)
        rho = np.sqrt(np.sort(d2, axis=1)[:, :32].mean(axis=1)) ** 0.5
        rho /= np.exp(np.log(rho).mean())
        k = np.exp(-d2 / (4 * 0.2 * np.outer(rho, rho)))
        weight = (k.sum(axis=1) / rho**2) ** -0.3 * rho**-2.0
        k *= np.outer(weight, weight)
        duration = (k * d2).sum(axis=1) / k.sum(axis=1) / 4
        generator = (np.eye(150) - k / k.sum(axis=1, keepdims=True)) / duration[:, None]
        rates = np.sort(np.linalg.eigvals(generator).real)[1:]
        np.testing.assert_allclose(dm.generator_, rates, rtol=1e-8)
        residual = generator @ dm.eigenvectors_[:, :20] - dm.eigenvectors_[:, :20] * dm.generator_[:20]
        assert np.abs(residual).max() < 1e-8 * np.abs(generator).max()
        np.testing.assert_allclose(dm.stationary_ @ dm.eigenvectors_**2, 1)

    @pytest.mark.parametrize("alpha", [0, 0.5, 1])
    @pytest.mark.parametrize("n", [200, 700])
    def test_transform_of_the_points_is_the_embedding(self, alpha, n):
        x = np.random.default_rng(2).standard_normal((n, 2))
        dm = DiffusionMap(5, alpha=alpha, kernel="variable", epsilon=0.05, time=2).fit(x)
        np.testing.assert_allclose(dm.transform(x), dm.embedding_, atol=1e-8)

    @given(places=st.lists(st.floats(-2, 2), min_size=2, max_size=2, unique=True), first=st.integers(1, 6))
    def test_coordinates_among_points_in_one_place_extend_to_numbers(self, places, first):
        """A step leaves nothing of them, so that nothing can be said of new points; but no infinity is."""
        x = np.repeat(places, [first, 7 - first])[:, None]
        assume(abs(places[0] - places[1]) > 1e-3)
        with pytest.warns(UserWarning, match="points on top of one another"):
            dm = DiffusionMap(3, kernel="variable", epsilon="scan").fit(x)
        assert np.isfinite(dm.transform(x)).all()


class TestNeighbors:
    @pytest.mark.parametrize(("kernel", "k"), [("gaussian", 256), ("variable", 160)])
    def test_remove_the_sampling_density(self, kernel, k):
        """Eigenvectors, not only ratios: those of common nearest-neighbor kernels are wrong here by 0.64 and more."""
        x, angle = uneven_circle(2000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dm = DiffusionMap(6, kernel=kernel, n_neighbors=k, dimension=1).fit(x)
        np.testing.assert_allclose(dm.generator_[:5], CIRCLE, rtol=0.04)
        for j, bound in [(1, 0.03), (2, 0.05), (3, 0.1)]:
            assert largest_sine(dm.eigenvectors_[:, 2 * j - 2 : 2 * j], circle_harmonics(angle, j)) < bound

    @pytest.mark.parametrize("kernel", ["gaussian", "variable"])
    def test_all_of_them_give_the_dense_map(self, kernel):
        x = np.random.default_rng(3).standard_normal((300, 3))
        dense = DiffusionMap(4, kernel=kernel, epsilon=0.3).fit(x)
        sparse = DiffusionMap(4, kernel=kernel, epsilon=0.3, n_neighbors=300).fit(x)
        np.testing.assert_allclose(sparse.embedding_, dense.embedding_, atol=1e-9)

    @pytest.mark.parametrize("kernel", ["gaussian", "variable"])
    @pytest.mark.parametrize("n", [300, 900])
    def test_transform_of_the_points_is_the_embedding(self, kernel, n):
        x = np.random.default_rng(4).uniform(size=(n, 2))
        dm = DiffusionMap(5, kernel=kernel, n_neighbors=60).fit(x)
        np.testing.assert_allclose(dm.transform(x), dm.embedding_, atol=1e-8)

    def test_precomputed_equals_euclidean(self):
        x = np.random.default_rng(5).uniform(size=(400, 2))
        first = DiffusionMap(5, n_neighbors=80).fit(x)
        second = DiffusionMap(5, n_neighbors=80, metric="precomputed").fit(squared_distances(x))
        np.testing.assert_allclose(second.embedding_, first.embedding_, atol=1e-8)

    def test_too_few_for_the_density_warn(self):
        x, _ = uneven_circle(2000, seed=0)
        with pytest.warns(UserWarning, match=r"n_neighbors=64 is so few"):
            DiffusionMap(6, n_neighbors=64).fit(x)

    def test_cutting_off_affinities_warns(self):
        x, _ = uneven_circle(2000)
        with pytest.warns(UserWarning, match=r"n_neighbors=64 cuts off affinities of up to 0\.\d+"):
            DiffusionMap(6, n_neighbors=64, epsilon=0.005).fit(x)

    def test_refuse_rules_that_need_all_distances(self):
        with pytest.raises(ValueError, match="epsilon must be a number or 'median' with n_neighbors, got 'scan'"):
            DiffusionMap(2, n_neighbors=10, epsilon="scan").fit(np.random.default_rng(0).random((50, 2)))

    def test_more_than_points_are_refused(self):
        with pytest.raises(ValueError, match="n_neighbors must be at most the 50 points of the fit, got 51"):
            DiffusionMap(2, n_neighbors=51).fit(np.random.default_rng(0).random((50, 2)))


class TestLandmarks:
    def test_extend_the_map_to_all_points(self):
        x, angle = uneven_circle(3000)
        dm = DiffusionMap(4, epsilon="scan", n_landmarks=1000).fit(x)
        assert dm.embedding_.shape == (3000, 4)
        assert dm.landmarks_.shape == (1000,)
        assert largest_sine(dm.eigenvectors_[:, :2], circle_harmonics(angle, 1)) < 0.05

    def test_are_a_map_of_their_own(self):
        x = np.random.default_rng(6).standard_normal((500, 3))
        dm = DiffusionMap(3, epsilon=0.5, n_landmarks=200).fit(x)
        alone = DiffusionMap(3, epsilon=0.5).fit(x[dm.landmarks_])
        np.testing.assert_allclose(dm.embedding_[dm.landmarks_], alone.embedding_, atol=1e-8)
        np.testing.assert_allclose(dm.embedding_, alone.transform(x), atol=1e-8)

    def test_all_of_them_give_the_map(self):
        x = np.random.default_rng(7).standard_normal((120, 3))
        dm = DiffusionMap(3, epsilon=0.5, n_landmarks=120).fit(x)
        np.testing.assert_allclose(dm.embedding_, DiffusionMap(3, epsilon=0.5).fit(x).embedding_, atol=1e-8)

    def test_out_of_range_are_refused(self):
        with pytest.raises(ValueError, match=r"n_landmarks must be at least n_components=5 and at most the 50 points"):
            DiffusionMap(5, n_landmarks=60).fit(np.random.default_rng(0).random((50, 2)))


class TestRefit:
    @pytest.mark.parametrize("extra", [{}, {"kernel": "variable"}, {"n_neighbors": 60}])
    def test_equals_a_fresh_fit(self, extra):
        x = np.random.default_rng(8).standard_normal((250, 3))
        again = DiffusionMap(3, epsilon=0.3, **extra).fit(x).refit(epsilon=0.4, alpha=0.5, time=2, n_components=4)
        fresh = DiffusionMap(4, epsilon=0.4, alpha=0.5, time=2, **extra).fit(x)
        np.testing.assert_allclose(again.embedding_, fresh.embedding_, atol=1e-10)
        np.testing.assert_allclose(again.transform(x), fresh.embedding_, atol=1e-8)

    def test_measures_no_distance(self, monkeypatch):
        x = np.random.default_rng(9).standard_normal((80, 3))
        dm = DiffusionMap(3).fit(x)
        monkeypatch.setattr("descentmaps.diffusion_map.squared_distances", None)
        dm.refit(epsilon=1.0)

    def test_of_another_parameter_is_refused(self):
        dm = DiffusionMap(3).fit(np.random.default_rng(9).standard_normal((80, 3)))
        with pytest.raises(TypeError, match=r"refit takes epsilon, alpha, time and n_components, got \['kernel'\]"):
            dm.refit(kernel="variable")


class TestInputs:
    x = np.random.default_rng(10).standard_normal((90, 40)).astype(np.float32)

    @pytest.mark.parametrize(
        "wrap",
        [
            torch.from_numpy,
            lambda x: dask.array.from_array(x, chunks=(30, 7)),
            lambda x: zarr.array(x, chunks=(90, 8)),
        ],
        ids=["torch", "dask", "zarr"],
    )
    def test_arrays_of_other_libraries(self, wrap):
        expected = DiffusionMap(4).fit(self.x).embedding_
        lazy = wrap(self.x)
        dm = DiffusionMap(4).fit(lazy)
        np.testing.assert_allclose(dm.embedding_, expected, atol=1e-10)
        np.testing.assert_allclose(dm.transform(lazy), expected, atol=1e-8)
        np.testing.assert_allclose(squared_distances(lazy), squared_distances(self.x), rtol=1e-12)

    def test_a_device_multiplies(self):
        y = self.x[:20] + 1
        np.testing.assert_allclose(
            squared_distances(self.x, device="cpu"), squared_distances(self.x), rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(squared_distances(self.x, y, device="cpu"), squared_distances(self.x, y), rtol=1e-9)


class TestDiagnosis:
    def test_too_wide_warns(self):
        with pytest.warns(UserWarning, match="all points look alike"):
            DiffusionMap(2, epsilon=1e4).fit(np.random.default_rng(0).standard_normal((60, 3)))

    def test_too_narrow_warns(self):
        with pytest.warns(UserWarning, match="half of the points have no neighbor"):
            DiffusionMap(2, epsilon=1e-6).fit(np.random.default_rng(0).standard_normal((60, 3)))

    def test_copies_warn(self):
        x = np.random.default_rng(0).standard_normal((60, 3))
        with pytest.warns(UserWarning, match="X has 2 pairs of points on top of one another"):
            DiffusionMap(2).fit(np.concatenate([x, x[:2]]))

    def test_equal_rates_warn(self):
        angle = np.arange(100) * 2 * np.pi / 100
        with pytest.warns(UserWarning, match="the rates of coordinates 1 and 2, 3 and 4 are equal"):
            DiffusionMap(4, epsilon=0.05).fit(np.column_stack([np.cos(angle), np.sin(angle)]))

    def test_a_good_map_is_quiet(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            DiffusionMap(3).fit(np.random.default_rng(0).standard_normal((100, 3)).cumsum(axis=0))
