"""SGD where everything can be solved: quadratics with noise of choice, least squares with true minibatches.

Covariances are those of the parameters around the minimum, in squared units of a parameter. Time counts updates; the
diffusion that imitates SGD runs for ``learning_rate`` units of its own time in each update.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from scipy.optimize import brentq

__all__ = ["Descent", "LeastSquares", "Quadratic", "shuffling_ratio"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Descent:
    """Many chains of SGD: ``points`` (T, n_chains, D) after ``updates`` (T,) updates, the start first."""

    updates: NDArray[np.int64]
    points: Array


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The potential x'Hx / 2, whose gradient SGD sees with additive Gaussian noise of covariance C.

    Parameters
    ----------
    curvature
        The Hessian H: its diagonal (D,) or a symmetric matrix (D, D). Any sign; zeros are exactly flat directions.
    noise
        Covariance C of the gradient noise of one update, (D,) for a diagonal one or positive semidefinite (D, D);
        singular ones are welcome. Left out, C = H, which must then have no negative eigenvalue. For batches of b
        samples, each with noise C, pass C / b.

    ValueError where a shape, a sign or a symmetry is wrong.
    """

    curvature: ArrayLike
    noise: ArrayLike | None = None
    curvatures: Array = field(init=False, repr=False)  #: eigenvalues of H (D,), in the given order where H is diagonal
    directions: Array = field(init=False, repr=False)  #: its eigenvectors, in columns (D, D)
    _noise: Array = field(init=False, repr=False)  # C in the basis of the directions

    def __post_init__(self) -> None:
        values, vectors = _eigen("curvature", self.curvature)
        if self.noise is None:
            if values.min() < 0:
                raise ValueError(f"noise cannot be H where curvature is negative, got eigenvalue {values.min():g}")
            noise = np.diag(values)
        else:
            strengths, axes = _eigen("noise", self.noise)
            if len(strengths) != len(values):
                raise ValueError(f"noise must have {len(values)} dimensions as curvature has, got {len(strengths)}")
            if strengths.min() < 0:
                raise ValueError(f"noise must be positive semidefinite, got eigenvalue {strengths.min():g}")
            axes = vectors.T @ axes
            noise = axes * strengths @ axes.T
        for name, array in {"curvatures": values, "directions": vectors, "_noise": noise}.items():
            object.__setattr__(self, name, array)

    def value(self, x: ArrayLike) -> Array:
        """Potential (...) at the points x (..., D)."""
        return np.sum((np.asarray(x) @ self.directions) ** 2 * self.curvatures, axis=-1) / 2

    def gradient(self, x: ArrayLike) -> Array:
        """Gradient (..., D) at the points x (..., D)."""
        return (np.asarray(x) @ self.directions * self.curvatures) @ self.directions.T

    def hessian(self, x: ArrayLike) -> Array:
        """Hessian (..., D, D) at the points x (..., D): the same everywhere."""
        return np.broadcast_to(self._turned(np.diag(self.curvatures)), (*np.shape(x), len(self.curvatures)))

    @property
    def stability_limit(self) -> float:
        """Learning rate 2 / h_max from which descent grows, with or without noise; inf where nothing curves up."""
        return 2 / self.curvatures.max() if self.curvatures.max() > 0 else np.inf

    def descend(
        self,
        learning_rate: float,
        n_updates: int,
        n_chains: int,
        start: ArrayLike,
        rng: np.random.Generator,
        every: int | None = None,
    ) -> Descent:
        """SGD in ``n_chains`` independent chains from ``start`` (D,) or (n_chains, D), kept ``every`` so many updates.

        Left out, ``every`` keeps the start and the end alone.
        """
        x = _starts(start, n_chains, len(self.curvatures)) @ self.directions
        strengths, axes = _eigen("noise", self._noise)
        root = axes * np.sqrt(strengths) @ axes.T

        def steps() -> Iterator[Array]:
            position = x
            while True:
                kicks = rng.standard_normal(position.shape) @ root
                position = position - learning_rate * (self.curvatures * position + kicks)
                yield position

        kept = _keep(x, steps(), n_updates, every)
        return Descent(kept.updates, kept.points @ self.directions.T)

    def mean(self, learning_rate: float, n_updates: int, start: ArrayLike) -> Array:
        """Mean (..., D) of the chains from ``start`` (..., D): (I - eta H)^n start, exactly."""
        shrunk = np.asarray(start) @ self.directions * (1 - learning_rate * self.curvatures) ** n_updates
        return shrunk @ self.directions.T

    def covariance(self, learning_rate: float, n_updates: int) -> Array:
        """Covariance (D, D) after ``n_updates`` from one point, exactly: the sum of eta^2 A^k C A^k, A = I - eta H."""
        rates = learning_rate * self.curvatures
        forgotten = np.add.outer(rates, rates) - np.outer(rates, rates)  # 1 - (1 - rate_i) (1 - rate_j)
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = np.where(
                forgotten < 0.5, -np.expm1(n_updates * np.log1p(-forgotten)), 1 - (1 - forgotten) ** n_updates
            )
            sums = np.where(forgotten == 0, n_updates, lost / forgotten)
        return self._turned(learning_rate**2 * self._noise * sums)

    def stationary_covariance(self, learning_rate: float) -> Array:
        """Covariance (D, D) in the long run, from the discrete Lyapunov equation S = A S A + eta^2 C, A = I - eta H.

        A flat direction without noise stays where it started: its variance is exactly 0. ValueError where there is no
        long run: a noisy flat direction diffuses forever, a negative curvature or a learning rate from the stability
        limit on drives the chains away.
        """
        steep = self._settling()
        if learning_rate >= self.stability_limit:
            raise ValueError(f"learning_rate must be under the limit {self.stability_limit:g}, got {learning_rate!r}")
        shrink = np.diag(1 - learning_rate * self.curvatures[steep])
        kicks = learning_rate**2 * self._noise[np.ix_(steep, steep)]
        return self._embedded(solve_discrete_lyapunov(shrink, kicks), steep)

    def diffusion_covariance(self, learning_rate: float, time: float = np.inf) -> Array:
        """Covariance (D, D) of the Ornstein-Uhlenbeck process dx = -Hx dt + sqrt(eta) C^(1/2) dW at ``time``.

        This is the textbook stand-in for SGD after n = time / eta updates (Mandt, Hoffman and Blei 2017). At time inf
        it is the stationary one, with the same answers about flat directions as :meth:`stationary_covariance`.
        """
        if np.isinf(time):
            steep = self._settling()
            kicks = learning_rate * self._noise[np.ix_(steep, steep)]
            return self._embedded(solve_continuous_lyapunov(np.diag(self.curvatures[steep]), kicks), steep)
        pairs = np.add.outer(self.curvatures, self.curvatures)
        with np.errstate(invalid="ignore"):
            sums = np.where(pairs == 0, time, -np.expm1(-pairs * time) / pairs)
        return self._turned(learning_rate * self._noise * sums)

    def _settling(self) -> NDArray[np.bool_]:
        if self.curvatures.min() < 0:
            raise ValueError(f"curvature must not be negative to settle, got eigenvalue {self.curvatures.min():g}")
        steep = self.curvatures > 0
        if np.any(np.diag(self._noise)[~steep] > len(steep) * np.finfo(float).eps * np.trace(self._noise)):
            raise ValueError("noise must vanish where curvature is zero to settle: a flat direction diffuses forever")
        return steep

    def _embedded(self, block: Array, steep: NDArray[np.bool_]) -> Array:
        whole = np.zeros_like(self._noise)
        whole[np.ix_(steep, steep)] = block
        return self._turned(whole)

    def _turned(self, matrix: Array) -> Array:
        return self.directions @ matrix @ self.directions.T


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Linear regression, loss |X theta - y|^2 / 2N, under SGD with true minibatches.

    ``inputs`` X is (N, D) and ``targets`` y is (N,). ValueError where the shapes do not fit or a value is not finite.
    """

    inputs: Array
    targets: Array
    hessian: Array = field(init=False, repr=False)  #: X'X / N (D, D)
    minimum: Array = field(init=False, repr=False)  #: the shortest minimizer (D,)
    residuals: Array = field(init=False, repr=False)  #: y - X minimum (N,)

    def __post_init__(self) -> None:
        x, y = np.asarray(self.inputs, dtype=float), np.asarray(self.targets, dtype=float)
        if x.ndim != 2 or not x.size or not np.isfinite(x).all():
            raise ValueError(f"inputs must be finite and of shape (N, D), got shape {x.shape}")
        if y.shape != x.shape[:1] or not np.isfinite(y).all():
            raise ValueError(f"targets must be finite and of shape ({len(x)},), got shape {y.shape}")
        minimum = np.linalg.lstsq(x, y, rcond=None)[0]
        arrays = {"inputs": x, "targets": y, "hessian": x.T @ x / len(x), "minimum": minimum}
        for name, array in {**arrays, "residuals": y - x @ minimum}.items():
            object.__setattr__(self, name, array)

    def value(self, theta: ArrayLike) -> Array:
        """Loss (...) at the points theta (..., D)."""
        return np.sum((np.asarray(theta) @ self.inputs.T - self.targets) ** 2, axis=-1) / (2 * len(self.targets))

    def gradient(self, theta: ArrayLike) -> Array:
        """Gradient (..., D) over all samples at the points theta (..., D)."""
        return (np.asarray(theta) - self.minimum) @ self.hessian

    def noise_covariance(self, batch_size: int = 1) -> Array:
        """Covariance (D, D) of a minibatch's gradient at the minimum, drawn with replacement."""
        weighted = self.inputs * self.residuals[:, None]
        return weighted.T @ weighted / len(weighted) / positive_count("batch_size", batch_size)

    def quadratic(self, batch_size: int) -> Quadratic:
        """The textbook stand-in: the same Hessian, and additive noise, frozen at what it is at the minimum."""
        return Quadratic(self.hessian, self.noise_covariance(batch_size))

    def descend(
        self,
        learning_rate: float,
        batch_size: int,
        n_updates: int,
        n_chains: int,
        start: ArrayLike,
        rng: np.random.Generator,
        replacement: bool = True,
        every: int | None = None,
    ) -> Descent:
        """SGD on minibatches in ``n_chains`` independent chains, as :meth:`Quadratic.descend` keeps them.

        Samples are drawn with ``replacement``, or else each chain shuffles them anew for every epoch; samples left over
        at the end of an epoch, fewer than a batch, are dropped.
        """
        x, size = self.inputs, positive_count("batch_size", batch_size)
        if not replacement and size > len(x):
            raise ValueError(f"batch_size must not exceed {len(x)} samples without replacement, got {size}")
        theta = _starts(start, n_chains, x.shape[1])

        def batches() -> Iterator[NDArray[np.int64]]:
            while replacement:
                yield rng.integers(len(x), size=(n_chains, size))
            while True:
                order = rng.permuted(np.tile(np.arange(len(x)), (n_chains, 1)), axis=1)
                for first in range(0, len(x) - size + 1, size):
                    yield order[:, first : first + size]

        def steps() -> Iterator[Array]:
            position = theta
            for batch in batches():
                chosen = x[batch]  # (n_chains, batch_size, D)
                errors = (chosen @ position[:, :, None])[..., 0] - self.targets[batch]
                position = position - learning_rate / size * (errors[:, None, :] @ chosen)[:, 0]
                yield position

        return _keep(theta, steps(), n_updates, every)

    def second_moment_operator(self, learning_rate: float, batch_size: int) -> Array:
        """What an update does to the second moment around the minimum: (D^2, D^2), on its entries in C order.

        With replacement this is exact, including noise that depends on the parameters: the mean over minibatches of
        (I - eta H_B) M (I - eta H_B), where H_B is the Hessian of the minibatch. Memory grows as D^4.
        """
        x, shrink = self.inputs, np.eye(len(self.hessian)) - learning_rate * self.hessian
        squares = np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)
        fourth = (squares.T @ squares / len(x)).reshape(2 * self.hessian.shape)  # mean of x_i x_k x_j x_l
        spread = fourth.transpose(0, 2, 1, 3).reshape(len(squares.T), -1) - np.kron(self.hessian, self.hessian)
        return np.kron(shrink, shrink) + learning_rate**2 / positive_count("batch_size", batch_size) * spread

    def growth(self, learning_rate: float, batch_size: int) -> float:
        """Spectral radius of that operator: under 1 the second moment settles, above 1 it grows without bound."""
        return float(np.abs(np.linalg.eigvals(self.second_moment_operator(learning_rate, batch_size))).max())

    def stability_limit(self, batch_size: int | None = None) -> float:
        """Learning rate at which :meth:`growth` reaches 1, by root finding; for the full batch (None) it is 2 / h_max.

        ValueError where a direction is flat: nothing settles there.
        """
        curvatures = self._curvatures()
        limit = 2 / curvatures[-1]
        if batch_size is None:
            return float(limit)
        low = 1e-3 * limit / len(self.inputs)  # far under 2 / max |x|^2, where each sample alone would still shrink
        return float(brentq(lambda rate: self.growth(rate, batch_size) - 1, low, limit, rtol=1e-9))

    def covariance(self, learning_rate: float, batch_size: int, n_updates: int) -> Array:
        """Covariance (D, D) after ``n_updates`` from the minimum, with replacement: exact."""
        operator = self.second_moment_operator(learning_rate, batch_size)
        kicks = learning_rate**2 * self.noise_covariance(batch_size)
        affine = np.block([[operator, kicks.reshape(-1, 1)], [np.zeros(len(operator)), np.ones(1)]])
        return np.linalg.matrix_power(affine, n_updates)[:-1, -1].reshape(kicks.shape)

    def stationary_covariance(self, learning_rate: float, batch_size: int) -> Array:
        """Covariance (D, D) in the long run, with replacement: exact, whatever the learning rate and the batch size.

        ValueError where it does not exist: from :meth:`stability_limit` on, or where a direction is flat.
        """
        self._curvatures()
        operator = self.second_moment_operator(learning_rate, batch_size)
        if np.abs(np.linalg.eigvals(operator)).max() >= 1:
            raise ValueError(f"learning_rate must let the second moment settle, got {learning_rate!r}, where it grows")
        kicks = learning_rate**2 * self.noise_covariance(batch_size)
        moment = np.linalg.solve(np.eye(len(operator)) - operator, kicks.reshape(-1, 1))
        return np.asarray(moment).reshape(kicks.shape)

    def shuffling_ratio(self, learning_rate: float, batch_size: int) -> Array:
        """Variance of shuffled over independent batches along each eigenvector of H (D,), h rising: eta h N / 3b.

        The law of small steps (Kühn and Rosenow 2023), good while eta h N / b is well under 1; see
        :func:`shuffling_ratio`.
        """
        return (
            learning_rate
            * np.linalg.eigvalsh(self.hessian)
            * len(self.inputs)
            / (3 * positive_count("batch_size", batch_size))
        )

    def _curvatures(self) -> Array:
        values = _eigen("inputs", self.hessian)[0]
        if values.min() == 0:
            raise ValueError(f"inputs must span all {len(values)} dimensions, or else a direction is flat")
        return values


def shuffling_ratio(rates: ArrayLike, updates_per_epoch: int) -> Array:
    """Variance of shuffled over independent batches, in the long run and averaged over an epoch, of additive noise.

    ``rates`` (...) are eta h, between 0 and 2. The noise of each epoch of m updates sums to zero: a pair of updates has
    the covariance -1 / m of one's variance, up to 1 / N. For small m eta h the ratio is m eta h / 3: a Brownian bridge
    has a third of the variance that a walk of its mean length has. ValueError outside of these ranges.
    """
    rate, m = np.asarray(rates, dtype=float)[..., None], positive_count("updates_per_epoch", updates_per_epoch)
    if not np.all((rate > 0) & (rate < 2)):
        raise ValueError(f"rates must lie between 0 and 2, got {rates!r}")
    powers = (1 - rate) ** np.arange(m)
    within = np.cumsum(powers**2, axis=-1) - np.cumsum(powers, axis=-1) ** 2 / m  # after 1, ..., m updates
    kept = (1 - rate) ** (2 * np.arange(1, m + 1))  # of the variance at the start of an epoch
    at_start = within[..., -1:] / (1 - kept[..., -1:])
    return np.asarray(np.mean(kept * at_start + within, axis=-1) * (rate * (2 - rate))[..., 0])


def _eigen(name: str, matrix: ArrayLike) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors; those of a diagonal (D,) as they stand, and rounding errors of a zero are zero."""
    array = np.asarray(matrix, dtype=float)
    if array.ndim == 1 and array.size and np.isfinite(array).all():
        return array, np.eye(len(array))
    square = array.ndim == 2 and array.size and array.shape[0] == array.shape[1] and np.isfinite(array).all()
    if not square or not np.allclose(array, array.T, rtol=1e-10, atol=1e-12 * np.abs(array).max()):
        raise ValueError(f"{name} must be finite, and (D,) or a symmetric (D, D), got shape {array.shape}")
    values, vectors = np.linalg.eigh(array)
    values[np.abs(values) < 10 * len(values) * np.finfo(float).eps * np.abs(values).max()] = 0
    return values, vectors


def positive_count(name: str, number: int) -> int:
    """The number as an int; ValueError, which names it, where it is no positive integer."""
    if number != int(number) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number!r}")
    return int(number)


def _starts(start: ArrayLike, n_chains: int, dimensions: int) -> Array:
    points = np.asarray(start, dtype=float)
    if points.shape not in {(dimensions,), (n_chains, dimensions)}:
        raise ValueError(f"start must be ({dimensions},) or ({n_chains}, {dimensions}), got shape {points.shape}")
    return np.broadcast_to(points, (positive_count("n_chains", n_chains), dimensions))


def kept_points(start: Array, steps: Iterator[Array], name: str, number: int, every: int | None) -> tuple[int, Array]:
    """Start and ``number`` steps, of which one in ``every`` is kept, or the last alone: that interval, and the points.

    ``name`` is what the caller calls the number.
    """
    every = positive_count(name if every is None else "every", number if every is None else every)
    return every, np.stack([start, *islice(steps, every - 1, positive_count(name, number), every)])


def _keep(start: Array, steps: Iterator[Array], n_updates: int, every: int | None) -> Descent:
    every, points = kept_points(start, steps, "n_updates", n_updates, every)
    return Descent(np.arange(len(points)) * every, points)
