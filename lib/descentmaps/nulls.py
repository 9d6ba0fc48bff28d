"""Trajectories that only look like learning: eight null models of a run, statistics, and what they are worth.

A null keeps some of what was measured on a run and draws the rest at random. Where a statistic of the run lies among
those of its nulls, that statistic shows nothing but what the null kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from .progress import progress

__all__ = [
    "NULLS",
    "Comparison",
    "Moments",
    "clock",
    "compare",
    "cosine_fit",
    "drift_plus_noise",
    "future_share",
    "gaussian_surrogate",
    "ornstein_uhlenbeck",
    "parabola",
    "phase_randomized",
    "principal_share",
    "random_walk",
    "shuffled_increments",
    "sign_flipped_increments",
    "straightness",
]

Array = NDArray[np.float64]
Seed = int | np.random.Generator


class Moments(NamedTuple):
    """All that the Gaussian nulls know of a run: its first and second moments.

    ``length`` T; ``start`` (D,), the first point; ``drift`` (D,), the mean step; ``mean_square_step``, the mean of
    squared step lengths; ``mean`` (D,) of the points; ``factor`` (r, D), whose ``factor.T @ factor`` is the covariance
    of the points.
    """

    length: int
    start: Array
    drift: Array
    mean_square_step: float
    mean: Array
    factor: Array

    @classmethod
    def of(cls, points: ArrayLike) -> Moments:
        """The moments of points (T, D) in order of time; ValueError for fewer than two or others than finite ones."""
        points = _checked(points)
        steps = np.diff(points, axis=0)
        mean = points.mean(axis=0)
        return cls(
            len(points),
            points[0],
            steps.mean(axis=0),
            float(np.mean(np.sum(steps**2, axis=1))),
            mean,
            (points - mean) / np.sqrt(len(points)),
        )


# The nulls. Each takes a Trajectory, whose runs are kept apart, or points (T, D); the first four also take Moments.


def random_walk(run: Any, *, noise: ArrayLike | None = None, seed: Seed = 0) -> Array:
    """A walk from the run's start whose steps are independent and Gaussian, as long in mean square as the run's.

    Keeps nothing but the start and the mean square step. The steps are isotropic, or have the covariance
    ``noise.T @ noise`` where a factor ``noise`` (r, D) is given, at its own size: gradient noise, for instance.

    Returns points (T, D). ValueError where the run has fewer than two points or ``noise`` another width.
    """

    def walk(moments: Moments, rng: np.random.Generator) -> Array:
        steps = _gaussian(moments, moments.length - 1, moments.mean_square_step, noise, rng)
        return _path(moments.start, steps)

    return _drawn(run, walk, seed)


def drift_plus_noise(run: Any, *, noise: ArrayLike | None = None, seed: Seed = 0) -> Array:
    """A walk with the run's mean step and independent Gaussian steps about it.

    Keeps the start, on average the end, and the mean square step; the noise is isotropic, or has the covariance
    ``noise.T @ noise`` as in :func:`random_walk`. Returns points (T, D).
    """

    def walk(moments: Moments, rng: np.random.Generator) -> Array:
        square = max(moments.mean_square_step - float(moments.drift @ moments.drift), 0.0)
        steps = _gaussian(moments, moments.length - 1, square, noise, rng)
        return _path(moments.start, moments.drift + steps)

    return _drawn(run, walk, seed)


def ornstein_uhlenbeck(run: Any, rate: float, *, noise: ArrayLike | None = None, seed: Seed = 0) -> Array:
    """Noise about the run's mean that forgets at ``rate`` per snapshot, with the run's mean square step.

    The autoregression ``x <- m + (1 - rate) (x - m) + noise`` from its stationary law, which is the Ornstein-Uhlenbeck
    process seen once a snapshot. Returns points (T, D). ValueError where ``rate`` is not above 0 and below 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must be above 0 and below 1 per snapshot, got {rate!r}")

    def process(moments: Moments, rng: np.random.Generator) -> Array:
        kept = 1 - rate
        # A step of the stationary process is, in mean square, 2 / (1 + kept) times as large as the noise in it.
        square = moments.mean_square_step * (1 + kept) / 2
        shocks = _gaussian(moments, moments.length, square, noise, rng)
        shocks[0] /= np.sqrt(1 - kept**2)
        for before, now in itertools.pairwise(shocks):
            now += kept * before
        return moments.mean + shocks

    return _drawn(run, process, seed)


def gaussian_surrogate(run: Any, *, seed: Seed = 0) -> Array:
    """Independent Gaussian points with the mean and the covariance of the run's: no order, no time.

    Returns points (T, D).
    """

    def cloud(moments: Moments, rng: np.random.Generator) -> Array:
        return moments.mean + rng.standard_normal((moments.length, len(moments.factor))) @ moments.factor

    return _drawn(run, cloud, seed)


def shuffled_increments(run: Any, *, seed: Seed = 0) -> Array:
    """The run's own steps in random order: the same start, the same end, no history. Returns points (T, D).

    Were the steps exchangeable, the run would be one draw of this ensemble, and the p-value of :func:`compare` exact.
    """
    return _resampled(run, lambda points, rng: _path(points[0], rng.permutation(np.diff(points, axis=0))), seed)


def sign_flipped_increments(run: Any, *, seed: Seed = 0) -> Array:
    """The run's own steps in their order, each forward or back at random: no drift. Returns points (T, D).

    Were the steps symmetric about zero, the p-value of :func:`compare` would be exact.
    """

    def flip(points: Array, rng: np.random.Generator) -> Array:
        signs = rng.choice([-1.0, 1.0], size=(len(points) - 1, 1))
        return _path(points[0], signs * np.diff(points, axis=0))

    return _resampled(run, flip, seed)


def phase_randomized(run: Any, *, seed: Seed = 0) -> Array:
    """The run's principal components, each with its own spectrum of frequencies and random phases.

    Keeps the principal directions, their variances and each one's autocorrelation around the circle, and nothing of how
    they go together; phases as in Theiler, Eubank, Longtin, Galdrikian and Farmer (1992). Returns points (T, D).
    """

    def randomize(points: Array, rng: np.random.Generator) -> Array:
        mean = points.mean(axis=0)
        scores, directions = _principal(points)
        waves = np.fft.rfft(scores, axis=0)
        waves[1:] *= np.exp(2j * np.pi * rng.random(waves[1:].shape))
        if len(points) % 2 == 0:  # the last frequency is real: its phase is a sign
            waves[-1] = np.abs(waves[-1]) * rng.choice([-1.0, 1.0], size=waves.shape[1])
        return mean + np.fft.irfft(waves, n=len(points), axis=0) @ directions

    return _resampled(run, randomize, seed)


#: The eight null models of the book, by name: functions of a run and a seed. The two Ornstein-Uhlenbeck processes
#: forget one and a half times, and fifty times, in the course of the run.
NULLS: dict[str, Callable[..., Array]] = {
    "random walk": random_walk,
    "drift plus noise": drift_plus_noise,
    "shuffled increments": shuffled_increments,
    "sign-flipped increments": sign_flipped_increments,
    "phase-randomized": phase_randomized,
    "Gaussian surrogate": gaussian_surrogate,
    "slow Ornstein-Uhlenbeck": lambda run, seed=0: ornstein_uhlenbeck(run, 1.5 / _length(run), seed=seed),
    "fast Ornstein-Uhlenbeck": lambda run, seed=0: ornstein_uhlenbeck(run, min(50 / _length(run), 0.9), seed=seed),
}


# The statistics: of points (T, D) in order of time, or of coordinates made from them.


def straightness(points: ArrayLike) -> float:
    """Distance from start to end, in units of a random walk's with these steps: ``|x_T - x_0| / sqrt(sum |steps|^2)``.

    About 1 for a random walk, ``sqrt(T - 1)`` for a straight line with equal steps, below 1 for what comes back.
    ValueError where nothing moves.
    """
    points = _checked(points)
    square = float(np.sum(np.diff(points, axis=0) ** 2))
    if square == 0:
        raise ValueError("points must move, got the same one throughout")
    return float(np.linalg.norm(points[-1] - points[0])) / np.sqrt(square)


def principal_share(points: ArrayLike, k: int = 1) -> float:
    """Share of the variance in the first ``k`` principal components. ValueError where nothing moves, or k < 1."""
    _check_count(k)
    variances = np.sum(_principal(_checked(points))[0] ** 2, axis=0)
    return float(variances[:k].sum() / variances.sum())


def future_share(points: ArrayLike, k: int = 10) -> float:
    """Share of the variance of the second half that lies in the first half's top ``k`` principal directions.

    ValueError where nothing moves in one of the halves, or k is below 1.
    """
    points = _checked(points)
    _check_count(k)
    past, future = points[: len(points) // 2], points[len(points) // 2 :]
    future = future - future.mean(axis=0)
    if not future.any():
        raise ValueError("points must move in the second half, got the same one throughout")
    return float(np.sum((future @ _principal(past)[1][:k].T) ** 2) / np.sum(future**2))


def cosine_fit(points: ArrayLike, k: int = 1) -> float:
    """Squared correlation of the ``k``-th principal component with ``cos(pi k t / T)``, what a random walk's tends to.

    See Antognini and Sohl-Dickstein (2018). ValueError where nothing moves, or there is no such component.
    """
    points = _checked(points)
    _check_count(k, min(points.shape))
    wave = np.cos(np.pi * k * (np.arange(len(points)) + 0.5) / len(points))
    return float(np.corrcoef(_principal(points)[0][:, k - 1], wave)[0, 1] ** 2)


def clock(coordinate: ArrayLike, time: ArrayLike) -> float:
    """Absolute rank correlation (Spearman) of a coordinate (T,) with time (T,): 1 where it never turns back.

    ValueError where one of them is not 1-D, not finite or constant, or where they differ in length.
    """
    coordinate, time = _coordinates(coordinate=coordinate, time=time)
    return float(abs(spearmanr(coordinate, time).statistic))


def parabola(first: ArrayLike, second: ArrayLike, degree: int = 4) -> float:
    """How far the second coordinate (T,) is a polynomial of the first: the share R^2 of its variance explained.

    ValueError where one of them is not 1-D, not finite or constant, or where they differ in length.
    """
    first, second = _coordinates(first=first, second=second)
    fitted = np.polynomial.Polynomial.fit(first, second, degree)
    return float(1 - np.var(second - fitted(first)) / np.var(second))


# What a statistic is worth.


class Comparison(NamedTuple):
    """A statistic of a run, ``value``, those of its nulls, ``draws`` (n, ...), and the ``p_value`` of the run's.

    Where the statistic is an array of several, so are value and p-value.
    """

    value: Any
    draws: Array
    p_value: Any


def compare(
    run: Any,
    statistic: Callable[[Array], Any],
    null: Callable[..., Array],
    n: int = 99,
    *,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    seed: Seed = 0,
) -> Comparison:
    """Where a statistic of a run lies among those of ``n`` draws of a null, as a Monte Carlo p-value.

    ``statistic(points)`` gives a number, or an array of several that are then compared on the same draws; ``null(run,
    seed=...)`` is one of :data:`NULLS` or your own. The p-value is ``(1 + as extreme) / (n + 1)``, so it is never 0
    (Phipson and Smyth 2010); the two-sided one is twice the smaller of the two, at most 1. Nothing is corrected for
    the number of comparisons made.

    ValueError where ``n`` is below 1, ``alternative`` is unknown or a statistic is not a number.
    """
    if n < 1:
        raise ValueError(f"n must be a positive number of draws, got {n!r}")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative must be 'two-sided', 'greater' or 'less', got {alternative!r}")
    rng = np.random.default_rng(seed)
    value = _number(statistic(np.asarray(getattr(run, "points", run), dtype=np.float64)), "the run")
    turns = progress(range(n), "comparing", "draws of the null")
    draws = np.array([_number(statistic(null(run, seed=rng)), f"draw {i} of the null") for i in turns])
    equal = np.isclose(draws, value, rtol=1e-9, atol=0)  # what a null keeps comes back with other roundings
    above = (1 + np.sum((draws > value) | equal, axis=0)) / (n + 1)
    below = (1 + np.sum((draws < value) | equal, axis=0)) / (n + 1)
    p_value = {"greater": above, "less": below, "two-sided": np.minimum(1, 2 * np.minimum(above, below))}[alternative]
    return Comparison(value[()], draws, p_value[()])


def _number(value: Any, origin: str) -> Array:
    found = np.asarray(value, dtype=np.float64)
    if np.isnan(found).any():
        raise ValueError(f"statistic must be a number, got {value!r} for {origin}")
    return found


def _checked(points: ArrayLike) -> Array:
    found = np.asarray(getattr(points, "points", points), dtype=np.float64)
    if found.ndim != 2 or len(found) < 2:
        raise ValueError(f"points must be a 2-D array of at least two snapshots in order of time, got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("points must be finite, got NaN or infinity among them")
    return found


def _coordinates(**named: ArrayLike) -> list[Array]:
    """As arrays of one length, none of them constant."""
    found = {name: np.asarray(values, dtype=np.float64) for name, values in named.items()}
    for name, values in found.items():
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"{name} must be a finite 1-D array, got {values!r}")
        if len(values) == 0 or np.ptp(values) == 0:
            raise ValueError(f"{name} must vary, got {len(values)} times the same value")
    lengths = [len(values) for values in found.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"{' and '.join(found)} must be equally long, got {' and '.join(map(str, lengths))} numbers")
    return list(found.values())


def _check_count(k: int, most: float = np.inf) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"k must be at least 1{'' if most == np.inf else f' and at most {most}'}, got {k!r}")


def _length(run: Any) -> int:
    """Snapshots of the longest run."""
    if isinstance(run, Moments):
        return run.length
    labels = getattr(run, "run", None)
    return len(_checked(run)) if labels is None else int(np.unique(labels, return_counts=True)[1].max())


def _drawn(run: Any, draw: Callable[[Moments, np.random.Generator], Array], seed: Seed) -> Array:
    """Draw from moments, those given or those of each run."""
    if isinstance(run, Moments):
        return draw(run, np.random.default_rng(seed))
    return _resampled(run, lambda points, rng: draw(Moments.of(points), rng), seed)


def _resampled(run: Any, redraw: Callable[[Array, np.random.Generator], Array], seed: Seed) -> Array:
    """Apply ``redraw`` to each run of a trajectory by itself."""
    points = _checked(run)
    labels = getattr(run, "run", None)
    rng = np.random.default_rng(seed)
    if labels is None:
        return redraw(points, rng)
    drawn = np.empty_like(points)
    for label in np.unique(labels):
        drawn[labels == label] = redraw(_checked(points[labels == label]), rng)
    return drawn


def _gaussian(moments: Moments, n: int, square: float, noise: ArrayLike | None, rng: np.random.Generator) -> Array:
    """n Gaussian vectors: isotropic with this mean square length, or with the covariance of a factor."""
    dimension = len(moments.start)
    if noise is None:
        return np.sqrt(square / dimension) * rng.standard_normal((n, dimension))
    factor = np.asarray(noise, dtype=np.float64)
    if factor.ndim != 2 or factor.shape[1] != dimension:
        raise ValueError(
            f"noise must be a factor of shape (r, {dimension}) of the steps' covariance, got {factor.shape}"
        )
    return rng.standard_normal((n, len(factor))) @ factor


def _path(start: Array, steps: Array) -> Array:
    return start + np.concatenate([np.zeros((1, len(start))), np.cumsum(steps, axis=0)])


def _principal(points: Array) -> tuple[Array, Array]:
    """Scores (T, r) and orthonormal directions (r, D) of the centred points, largest variance first."""
    u, s, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    if s[0] == 0:
        raise ValueError("points must differ, got the same one throughout")
    return u * s, directions
