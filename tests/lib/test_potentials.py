"""Toy landscapes and the noise on them, against closed forms, finite differences, Gibbs and simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import cumulative_trapezoid, quad

from descentmaps import quadratics
from descentmaps.potentials import (
    DoubleWell,
    FlatValley,
    LeastSquares,
    Potential,
    Quadratic,
    RingValley,
    Saddle,
    TwoWells,
    first_passage_times,
    fokker_planck,
    gibbs_density,
    kramers_rate,
    langevin,
)

LANDSCAPES = [
    DoubleWell(barrier=1.5, distance=3.0, tilt=0.3),
    DoubleWell(across=(4.0, 0.5)),
    TwoWells(flat=2, sharp=8),
    TwoWells(flat=1, sharp=25, barrier=0.7, across=(3.0,)),
    RingValley(radius=1.5, stiffness=6),
    RingValley(across=(20.0,)),
    Saddle(down=0.5, across=(1.0, 3.0)),
    FlatValley(),
    FlatValley(wide=0.5, narrow=8, bend=-1.0, length=1.5, across=(2.0,)),
]
landscapes = pytest.mark.parametrize("landscape", LANDSCAPES, ids=lambda u: type(u).__name__)


def dimensions(landscape):
    return landscape._core + len(landscape.across)


class TestLandscapes:
    @landscapes
    @given(st.integers(0, 10**6))
    def test_gradient_and_hessian_against_finite_differences(self, landscape, seed):
        d, step = dimensions(landscape), 1e-5
        x = np.random.default_rng(seed).uniform(-2.5, 2.5, (3, 2, d))
        ahead, behind = (np.stack([x + sign * step * e for e in np.eye(d)], axis=-2) for sign in (1, -1))
        slopes = (landscape.value(ahead) - landscape.value(behind)) / (2 * step)
        bends = (landscape.gradient(ahead) - landscape.gradient(behind)) / (2 * step)
        scale = 1 + np.abs(landscape.hessian(x)).max()
        assert landscape.value(x).shape == (3, 2)
        assert_allclose(landscape.gradient(x), slopes, atol=1e-6 * scale)
        assert_allclose(landscape.hessian(x), bends, atol=1e-3 * scale)  # TwoWells and FlatValley have kinks in it

    @landscapes
    def test_they_are_potentials_and_cannot_be_changed(self, landscape):
        assert isinstance(landscape, Potential)
        with pytest.raises(dataclasses.FrozenInstanceError):
            landscape.across = ()

    @landscapes
    def test_the_wrong_number_of_coordinates_is_refused(self, landscape):
        with pytest.raises(ValueError, match=r"^x must have \d coordinates in its last axis"):
            landscape.value(np.zeros((5, 9)))

    def test_double_well(self):
        well = DoubleWell(barrier=2, distance=3, across=(7.0,))
        assert_allclose(well.minima, [[-1.5, 0], [1.5, 0]], atol=1e-14)
        assert_allclose(well.saddle, 0, atol=1e-14)
        assert_allclose(well.value(well.saddle) - well.value(well.minima), 2)
        assert_allclose(well.hessian(well.minima[0]), np.diag([8 * 2 / 1.5**2, 7]))
        assert_allclose(well.hessian(well.saddle)[0, 0], -4 * 2 / 1.5**2)

    @given(st.floats(-0.95, 0.95), st.floats(0.2, 5), st.floats(0.2, 5))
    def test_tilted_wells_have_known_floors(self, share, barrier, distance):
        well = DoubleWell(barrier, distance, share * 16 * barrier / np.sqrt(27) / distance)
        points = np.stack([well.minima[0], well.saddle, well.minima[1]])
        assert_allclose(well.gradient(points), 0, atol=1e-9 * barrier / distance)
        assert np.all(np.diff(points[:, 0]) > 0)
        assert np.sign(well.hessian(points)[:, 0, 0]).tolist() == [1, -1, 1]

    @given(st.floats(0.1, 50), st.floats(0.1, 50), st.floats(0.2, 5))
    def test_two_wells_have_the_curvatures_asked_for(self, flat, sharp, barrier):
        wells = TwoWells(flat, sharp, barrier)
        assert wells.minima[0, 0] < 0 < wells.minima[1, 0]
        assert_allclose(wells.value(wells.minima), 0, atol=1e-12 * barrier)
        assert_allclose(wells.gradient(wells.minima), 0, atol=1e-10 * np.sqrt(max(flat, sharp) * barrier))
        assert_allclose(wells.hessian(wells.minima)[:, 0, 0], [flat, sharp], rtol=1e-9)
        assert_allclose(wells.value(wells.saddle), barrier)
        assert_allclose(wells.gradient(wells.saddle), 0, atol=1e-12)
        x = np.linspace(1.3 * wells.minima[0], 1.3 * wells.minima[1], 20_001)
        signs = np.sign(wells.gradient(x)[:, 0])
        assert np.count_nonzero(np.diff(signs[signs != 0])) == 3  # two floors and a ridge, nothing else
        assert np.abs(np.diff(wells.hessian(x)[:, 0, 0])).max() < 0.02 * max(flat, sharp)  # it does not jump

    def test_equal_wells_are_a_double_well(self):
        x = np.linspace(-2, 2, 50)[:, None]
        assert_allclose(TwoWells(flat=8, sharp=8).value(x), DoubleWell().value(x), atol=1e-12)

    def test_ring_is_flat_along_and_stiff_across(self):
        ring, angle = RingValley(radius=2, stiffness=9, across=(30.0,)), np.linspace(0, 2 * np.pi, 7)
        x = np.column_stack([2 * np.cos(angle), 2 * np.sin(angle), 0 * angle])
        assert_allclose(ring.value(x), 0, atol=1e-14)
        assert_allclose(np.linalg.eigvalsh(ring.hessian(x)), np.tile([0, 9, 30], (7, 1)), atol=1e-12)

    def test_valley_is_flat_along_and_its_width_varies(self):
        valley, x = FlatValley(wide=2, narrow=50, bend=0.5, length=2), np.linspace(-2, 2, 9)
        floor = np.column_stack([x, 0.25 * x**2])
        assert_allclose(valley.value(floor), 0, atol=1e-14)
        small, large = np.linalg.eigvalsh(valley.hessian(floor)).T
        assert_allclose(small, 0, atol=1e-12)
        assert_allclose(valley.hessian(floor[4])[1, 1], 10)
        assert large[0] < 8 and large[-1] > 40

    def test_quadratics_are_passed_on(self):
        assert Quadratic is quadratics.Quadratic and LeastSquares is quadratics.LeastSquares
        assert isinstance(Quadratic([1, 2]), Potential)


class TestRefusals:
    @pytest.mark.parametrize(
        "call, message",
        [
            (lambda: DoubleWell(barrier=-1), "^barrier must be a positive number, got -1"),
            (lambda: DoubleWell(tilt=2), "^tilt must be under 1.5396 in size"),
            (lambda: TwoWells(sharp=0), "^sharp must be"),
            (lambda: RingValley(across=(1.0, -2.0)), "^across must be"),
            (lambda: FlatValley(length=np.nan), "^length must be"),
            (lambda: gibbs_density(DoubleWell(), 0, np.linspace(-2, 2, 9)), "^temperature must be"),
            (lambda: gibbs_density(DoubleWell(), 1, [0, 1, 3]), "^grid must be of evenly spaced"),
            (
                lambda: fokker_planck(DoubleWell(across=(1, 1)), 1, 3 * [np.arange(3)]),
                "^grid must have one or two axes",
            ),
            (lambda: fokker_planck(DoubleWell(), 1, np.linspace(-1, 1, 9), lambda x: 0 * x), "^noise must be positive"),
            (lambda: kramers_rate(DoubleWell(), 0.1, [0.0], [0.0]), "^minimum must have"),
            (lambda: kramers_rate(DoubleWell(), 0.1, [1.0], [1.0]), "^saddle must have"),
        ],
    )
    def test_bad_values(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"temperature": -1}, "^temperature must be"),
            ({"time_step": 0}, "^time_step must be"),
            ({"n_steps": 0}, "^n_steps must be"),
            ({"every": 1.5}, "^every must be"),
            ({"start": np.zeros(3)}, "^start must be finite and of shape"),
            ({"noise": lambda x: np.ones((2, 2))}, "^noise must be"),
        ],
    )
    def test_bad_runs(self, changed, message):
        good = {"temperature": 1, "time_step": 0.1, "n_steps": 3, "start": np.zeros((5, 1))}
        with pytest.raises(ValueError, match=message):
            langevin(DoubleWell(), rng=np.random.default_rng(0), **(good | changed))

    def test_chains_that_fly_off(self):
        with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="time_step 1 is too long"):
            langevin(DoubleWell(), 1, 1, 50, 3 * np.ones((5, 1)), np.random.default_rng(0))

    def test_a_truth_that_is_none(self):
        with pytest.raises(ValueError, match="^reached must give one truth per chain"):
            first_passage_times(DoubleWell(), 1, 0.1, 1, np.zeros((5, 1)), lambda x: x > 0, np.random.default_rng(0))


class TestChains:
    def test_what_is_kept(self):
        start = np.ones((4, 2))
        chains = langevin(Quadratic([1, 2]), 0.1, 0.01, 10, start, np.random.default_rng(0), every=4)
        assert chains.points.shape == (3, 4, 2)
        assert_allclose(chains.times, [0, 0.04, 0.08])
        assert_allclose(chains.points[0], start)
        whole = langevin(Quadratic([1, 2]), 0.1, 0.01, 10, start, np.random.default_rng(0), every=1)
        assert_allclose(whole.points[::4], chains.points)
        ends = langevin(Quadratic([1, 2]), 0.1, 0.01, 8, start, np.random.default_rng(0))
        assert_allclose(ends.points, chains.points[[0, 2]])

    def test_one_step(self):
        """x - dt grad U + sqrt(2 T dt) B z, whatever the form of B."""
        rng = np.random.default_rng(1)
        start, matrix = rng.standard_normal((6, 2)), rng.standard_normal((2, 2))
        kicks = np.random.default_rng(2).standard_normal((6, 2))
        for noise, shaken in [
            (None, kicks),
            (lambda x: x[:, 0], kicks * start[:, :1]),
            (lambda x: x, kicks * start),
            (lambda x: x[:, :1, None] * matrix, kicks @ matrix.T * start[:, :1]),
        ]:
            end = langevin(Quadratic([1, 3]), 0.5, 0.04, 1, start, np.random.default_rng(2), noise).points[-1]
            assert_allclose(end, start * [0.96, 0.88] + np.sqrt(2 * 0.5 * 0.04) * shaken)

    def test_a_drift_without_a_landscape(self):
        turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        end = langevin(lambda x: x @ turn, 1e-12, 1e-3, 1571, np.ones((3, 2)), np.random.default_rng(0)).points[-1]
        assert_allclose(end, np.tile([-1, 1], (3, 1)), atol=2e-3)

    @pytest.mark.parametrize("landscape", [DoubleWell(tilt=0.3), TwoWells(flat=2, sharp=8)])
    def test_isotropic_noise_settles_on_gibbs(self, landscape):
        grid = np.linspace(-5, 3, 400)
        start = np.random.default_rng(3).choice(landscape.minima[:, 0], (10_000, 1))
        end = langevin(landscape, 1.0, 0.005, 2000, start, np.random.default_rng(0)).points[-1, :, 0]
        density = gibbs_density(landscape, 1.0, grid)
        below = np.cumsum(density) * (grid[1] - grid[0])
        assert np.abs(np.searchsorted(np.sort(end), grid) / len(end) - below).max() < 0.02

    def test_the_ring_is_filled_evenly(self):
        start = np.tile([1.0, 0.0], (10_000, 1))
        end = langevin(RingValley(), 0.2, 0.01, 3000, start, np.random.default_rng(0)).points[-1]
        assert np.abs(end.mean(axis=0)).max() < 0.05

    def test_state_dependent_noise_settles_where_the_grid_says(self):
        """Ito's noise crowds the chains where it is weak, and yet leaves their mean at the floor of a parabola."""
        grid = np.linspace(-1.5, 1.5, 301)
        noise = lambda x: 1 + 0.5 * np.tanh(4 * x[..., 0])  # noqa: E731
        landscape = Quadratic([1.0], [1.0])
        start = np.zeros((20_000, 1))
        end = langevin(landscape, 0.1, 0.005, 2000, start, np.random.default_rng(0), noise).points[-1, :, 0]
        below = np.cumsum(fokker_planck(landscape, 0.1, grid, noise).density) * (grid[1] - grid[0])
        assert np.interp(0, grid, below) > 0.55
        assert np.abs(np.searchsorted(np.sort(end), grid) / len(end) - below).max() < 0.02
        assert abs(end.mean()) < 0.01


class TestKramers:
    def test_one_dimension_and_the_directions_across(self):
        well, temperature = DoubleWell(barrier=2, distance=3), 0.4
        plain = np.sqrt(8 * 4) * 2 / 1.5**2 / (2 * np.pi) * np.exp(-2 / temperature)
        assert_allclose(kramers_rate(well, temperature, well.minima[0], well.saddle), plain)
        across = DoubleWell(barrier=2, distance=3, across=(5.0, 0.1))
        assert_allclose(kramers_rate(across, temperature, across.minima[0], across.saddle), plain)

    def test_many_dimensions_do_not_overflow(self):
        well = DoubleWell(across=400 * (1e3,))
        assert_allclose(
            kramers_rate(well, 0.1, well.minima[0], well.saddle), np.sqrt(32) / 2 / np.pi * np.exp(-10), rtol=1e-9
        )

    def test_it_is_half_the_slowest_rate_of_decay(self):
        well = DoubleWell()
        settled = fokker_planck(well, 0.06, np.linspace(-2, 2, 801), n_rates=2)
        assert_allclose(settled.rates[1] / 2, kramers_rate(well, 0.06, well.minima[0], well.saddle), rtol=0.06)

    def test_slope_of_simulated_escapes(self):
        """The log of the mean escape time rises by the barrier over T, within a tenth."""
        well, temperatures = DoubleWell(), np.array([0.22, 0.3])
        times = []
        for k, temperature in enumerate(temperatures):
            rng, start = np.random.default_rng(k), np.full((3000, 1), -1.0)
            passages = first_passage_times(well, temperature, 0.01, 600, start, lambda x: x[:, 0] > 1, rng)
            assert passages.censored.mean() < 0.01
            times.append(1 / passages.rate)
        assert_allclose(np.diff(np.log(times)) / np.diff(1 / temperatures), 1, rtol=0.1)


class TestPassages:
    def test_against_the_integral(self):
        """Mean time to a ridge in one dimension: two integrals over exp(U / T) and exp(-U / T)."""
        well, temperature = DoubleWell(), 0.5
        x = np.linspace(-3, 0, 3001)
        weight = cumulative_trapezoid(np.exp(-well.value(x[:, None]) / temperature), x, initial=0)
        inner = np.where(x >= -1, np.exp(well.value(x[:, None]) / temperature) * weight, 0)
        expected = np.trapezoid(inner, x) / temperature
        rng, start = np.random.default_rng(0), np.full((6000, 1), -1.0)
        edge = -0.5826 * np.sqrt(2 * temperature * 0.005)
        passages = first_passage_times(well, temperature, 0.005, 50, start, lambda x: x[:, 0] > edge, rng)
        assert not passages.censored.any()
        assert_allclose(passages.times.mean(), expected, rtol=0.04)

    def test_late_chains_are_censored_not_dropped(self):
        start = np.array([[0.0], [2.0], [0.0]])
        passages = first_passage_times(
            Quadratic([1.0]), 1e-9, 0.01, 0.25, start, lambda x: x[:, 0] > 1, np.random.default_rng(0)
        )
        assert passages.times.tolist() == [0.25, 0, 0.25]
        assert passages.censored.tolist() == [True, False, True]
        assert_allclose(passages.rate, 2)

    def test_a_fall_that_is_certain(self):
        """Without noise, x(t) = exp(-t): it is under 1/2 from log 2 on."""
        passages = first_passage_times(
            Quadratic([1.0]), 1e-12, 1e-3, 2, np.ones((2, 1)), lambda x: x[:, 0] < 0.5, np.random.default_rng(0)
        )
        assert_allclose(passages.times, np.log(2), atol=2e-3)

    def test_censored_rate_of_an_exponential_law(self):
        well, rng = DoubleWell(), np.random.default_rng(0)
        short, long = (
            first_passage_times(well, 0.3, 0.01, stop, np.full((4000, 1), -1.0), lambda x: x[:, 0] > 1, rng)
            for stop in (25, 400)
        )
        assert short.censored.mean() > 0.3
        assert_allclose(short.rate, long.rate, rtol=0.15)


class TestFokkerPlanck:
    @pytest.mark.parametrize(
        "landscape, grid",
        [
            (DoubleWell(tilt=0.4), np.linspace(-2, 2, 60)),
            (TwoWells(), [np.linspace(-5, 3, 90)]),
            (RingValley(), [np.linspace(-2, 2, 40), np.linspace(-2.1, 2, 37)]),
            (FlatValley(), [np.linspace(-3, 3, 40), np.linspace(-3, 4, 37)]),
        ],
    )
    def test_isotropic_noise_is_gibbs_exactly_and_has_no_current(self, landscape, grid):
        settled = fokker_planck(landscape, 0.3, grid)
        assert_allclose(settled.density, gibbs_density(landscape, 0.3, grid), rtol=1e-7, atol=1e-12)
        assert np.abs(settled.current).max() < 1e-10
        assert settled.current.shape == (*settled.density.shape, settled.density.ndim)

    def test_deep_wells_keep_their_balance(self):
        """A barrier of 20 T, which takes exp(20) times as long to cross as to settle within a well."""
        landscape, grid = DoubleWell(tilt=0.02), np.linspace(-1.6, 1.6, 300)
        settled = fokker_planck(landscape, 1 / 20, grid)
        assert_allclose(settled.density, gibbs_density(landscape, 1 / 20, grid), rtol=1e-3, atol=1e-12)

    def test_state_dependent_noise_in_one_dimension(self):
        """Ito without a current: p = exp(-integral of U' / D) / D, by quadrature."""
        landscape, temperature, grid = DoubleWell(), 0.3, np.linspace(-1.9, 1.9, 400)
        noise = lambda x: 1 + 0.4 * np.sin(2 * x[..., 0])  # noqa: E731
        settled = fokker_planck(landscape, temperature, grid, noise)

        def strength(x):
            return temperature * (1 + 0.4 * np.sin(2 * x)) ** 2

        potential = [quad(lambda s: landscape.gradient([s])[0] / strength(s), 0, x)[0] for x in grid]
        expected = np.exp(-np.array(potential)) / strength(grid)
        expected /= expected.sum() * (grid[1] - grid[0])
        assert_allclose(settled.density, expected, rtol=5e-3, atol=1e-6)
        assert np.abs(settled.current).max() < 1e-10

    @pytest.mark.parametrize("curvature, amplitude", [([1.0, 2.0], [1.0, 0.6]), ([1.0, 4.0], [[1.0, 0.0], [0.6, 0.8]])])
    def test_anisotropic_noise_on_a_quadratic(self, curvature, amplitude):
        """Covariance from Lyapunov's equation, and the current -(H - D S^-1) x p: exact for a Gaussian."""
        root = np.diag(amplitude) if np.ndim(amplitude) == 1 else np.array(amplitude)
        temperature, diffusion = 0.2, 0.2 * root @ root.T
        landscape = Quadratic(curvature, 2 * diffusion)
        axes = [np.linspace(-2.6, 2.6, 105), np.linspace(-1.8, 1.8, 91)]
        noise = lambda x: np.broadcast_to(root, (*x.shape, 2))  # noqa: E731
        settled = fokker_planck(landscape, temperature, axes, noise)
        expected = landscape.diffusion_covariance(1.0)
        x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        cell = np.prod([axis[1] - axis[0] for axis in axes])
        covariance = np.einsum("xy,xyi,xyj->ij", settled.density, x, x) * cell
        assert_allclose(covariance, expected, atol=0.01 * np.trace(expected))
        push = -x @ (landscape.hessian(np.zeros(2)) - diffusion @ np.linalg.inv(expected)).T
        current = push * settled.density[..., None]
        assert_allclose(settled.current, current, atol=0.04 * max(np.abs(current).max(), 0.1))

    def test_a_drift_that_turns(self):
        """A rotation added to a bowl leaves its density and turns its mass: J = p (y, -x)."""
        turn, axis = np.array([[0.0, -1.0], [1.0, 0.0]]), np.linspace(-2.5, 2.5, 101)
        settled = fokker_planck(lambda x: x @ turn - x, 0.25, [axis, axis], n_rates=3)
        x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        assert_allclose(settled.density, gibbs_density(Quadratic([1, 1]), 0.25, [axis, axis]), atol=6e-3)
        assert_allclose(settled.current, x @ turn * settled.density[..., None], atol=6e-3)
        assert_allclose(np.sort_complex(settled.rates), [0, 1 - 1j, 1 + 1j], atol=0.01)

    @given(st.integers(0, 10**6))
    def test_mass_is_kept_whatever_the_noise(self, seed):
        rng = np.random.default_rng(seed)
        matrix, axes = 0.3 * rng.standard_normal((2, 2)), [np.linspace(-2, 2, 12), np.linspace(-1, 2, 9)]
        settled = fokker_planck(
            FlatValley(), 0.5, axes, lambda x: np.eye(2) + matrix * np.sin(x[..., :1, None] + x[..., 1:, None])
        )
        assert np.abs(settled.generator.sum(axis=0)).max() < 1e-10
        assert np.abs(settled.generator @ settled.density.ravel()).max() < 1e-8
        cell = np.prod([axis[1] - axis[0] for axis in settled.axes])
        assert_allclose(settled.density.sum() * cell, 1)

    def test_rates_of_a_quadratic_are_whole_numbers(self):
        settled = fokker_planck(Quadratic([2.0]), 0.5, np.linspace(-3.5, 3.5, 400), n_rates=4)
        assert settled.rates.dtype == float
        assert_allclose(settled.rates, [0, 2, 4, 6], rtol=2e-3, atol=1e-6)
        assert fokker_planck(Quadratic([2.0]), 0.5, np.linspace(-3, 3, 40)).rates.size == 0

    def test_errors_fall_as_the_square_of_the_spacing(self):
        noise = lambda x: 1 + 0.4 * np.sin(2 * x[..., 0])  # noqa: E731
        means = []
        for n in (50, 100, 200, 1600):
            grid = np.linspace(-2, 2, n, endpoint=False) + 2 / n
            means.append(fokker_planck(DoubleWell(), 0.3, grid, noise).density @ grid * 4 / n)
        errors = np.abs(np.array(means[:-1]) - means[-1])
        assert np.all(errors[1:] < 0.35 * errors[:-1])
