"""Landscapes small enough to know everything about, and noise that moves on them.

The law is the Ito equation dX = -grad U dt + sqrt(2 T) B(X) dW, for many independent chains at once, and its
Fokker-Planck equation dp/dt = -div J on a grid. Time is that of the equation: a learning rate eta takes eta of it per
update. Where B is the identity the density settles on Gibbs', exp(-U / T).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import eigs, spsolve

from .quadratics import LeastSquares, Quadratic, kept_points

__all__ = [
    "Chains",
    "DoubleWell",
    "FlatValley",
    "LeastSquares",
    "Passages",
    "Potential",
    "Quadratic",
    "RingValley",
    "Saddle",
    "Stationary",
    "TwoWells",
    "first_passage_times",
    "fokker_planck",
    "gibbs_density",
    "kramers_rate",
    "langevin",
]

Array = NDArray[np.float64]


@runtime_checkable
class Potential(Protocol):
    """A landscape U over d coordinates; points x are (..., d)."""

    def value(self, x: ArrayLike) -> Array:
        """Height (...)."""

    def gradient(self, x: ArrayLike) -> Array:
        """Gradient (..., d)."""

    def hessian(self, x: ArrayLike) -> Array:
        """Hessian (..., d, d)."""


#: A landscape, whose drift is minus its gradient, or a drift (..., d) at points (..., d) that need not have one.
Drift = Potential | Callable[[Array], Array]
#: Amplitude B at points (..., d): one number for all directions (...), one for each (..., d), or a matrix (..., d, d).
Noise = Callable[[Array], Array]


@dataclass(frozen=True)
class _Landscape:
    """The first coordinates hold the landscape; each curvature in ``across`` adds one more, with a parabola in it."""

    across: tuple[float, ...] = field(default=(), kw_only=True)
    _core: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "across", tuple(_positive("across", curvature) for curvature in self.across))

    def value(self, x: ArrayLike) -> Array:
        """Height (...) at the points x (..., d)."""
        core, rest = self._split(x)
        return np.asarray(self._terms(*core)[0] + rest**2 @ np.array(self.across) / 2)

    def gradient(self, x: ArrayLike) -> Array:
        """Gradient (..., d) at the points x (..., d)."""
        core, rest = self._split(x)
        return np.concatenate([np.stack(self._terms(*core)[1], axis=-1), rest * self.across], axis=-1)

    def hessian(self, x: ArrayLike) -> Array:
        """Hessian (..., d, d) at the points x (..., d)."""
        core, rest = self._split(x)
        matrix = np.zeros((*rest.shape[:-1], *2 * [self._core + len(self.across)]))
        matrix[...] = np.diag([*self._core * [0.0], *self.across])
        for (i, j), entry in zip(itertools.product(range(self._core), repeat=2), self._terms(*core)[2], strict=True):
            matrix[..., i, j] = entry
        return matrix

    def _split(self, x: ArrayLike) -> tuple[Array, Array]:
        points, d = np.asarray(x, dtype=float), self._core + len(self.across)
        if points.shape[-1:] != (d,):
            raise ValueError(f"x must have {d} coordinates in its last axis, got shape {points.shape}")
        return np.moveaxis(points[..., : self._core], -1, 0), points[..., self._core :]

    def _terms(self, *core: Array) -> tuple[Array, list[Array], list[Array]]:
        """Height, gradient and Hessian, entry by entry, in the first coordinates."""
        raise NotImplementedError


@dataclass(frozen=True)
class DoubleWell(_Landscape):
    """barrier (1 - (x / a)^2)^2 + tilt x with a = distance / 2: without tilt two equal wells at -a and a.

    The wells have curvature 8 barrier / a^2, the ridge between them minus half of that. A tilt must be under
    8 barrier / (3 sqrt(3) a), or else one well is gone: ValueError.
    """

    barrier: float = 1.0
    distance: float = 2.0
    tilt: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = 16 * _positive("barrier", self.barrier) / np.sqrt(27) / _positive("distance", self.distance)
        if not abs(self.tilt) < limit:
            raise ValueError(f"tilt must be under {limit:g} in size to leave two wells, got {self.tilt!r}")

    @property
    def minima(self) -> Array:
        """The two minima (2, d), left and right."""
        return self._critical()[[0, 2]]

    @property
    def saddle(self) -> Array:
        """The ridge (d,)."""
        return self._critical()[1]

    def _critical(self) -> Array:
        half = self.distance / 2
        roots = np.roots([4 * self.barrier / half**4, 0, -4 * self.barrier / half**2, self.tilt])
        return np.pad(np.sort(roots.real)[:, None], [(0, 0), (0, len(self.across))])

    def _terms(self, *core: Array) -> tuple[Array, list[Array], list[Array]]:
        u, scale = core[0] / (self.distance / 2), self.barrier / (self.distance / 2)
        height = self.barrier * (1 - u**2) ** 2 + self.tilt * core[0]
        return height, [4 * scale * u * (u**2 - 1) + self.tilt], [scale / (self.distance / 2) * (12 * u**2 - 4)]


@dataclass(frozen=True)
class TwoWells(_Landscape):
    """Two wells of curvature ``flat`` on the left and ``sharp`` on the right, equally deep, with a ridge at 0 between.

    It is barrier (1 - s(x)^2)^2 with a coordinate s whose slope passes smoothly from one side's to the other's, near
    the ridge alone: the wells are those of :class:`DoubleWell`, and the Hessian is continuous.
    """

    flat: float = 1.0
    sharp: float = 4.0
    barrier: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("flat", "sharp", "barrier"):
            _positive(name, getattr(self, name))

    @property
    def minima(self) -> Array:
        """The two minima (2, d): the flat one, then the sharp one."""
        slopes, width = self._slopes(), self._width()
        ends = self._coordinate(np.array([-width, width]))[0]
        x = np.array([-1, 1]) * (width + (1 - np.abs(ends)) / slopes)
        return np.pad(x[:, None], [(0, 0), (0, len(self.across))])

    @property
    def saddle(self) -> Array:
        """The ridge (d,), at 0."""
        return np.zeros(1 + len(self.across))

    def _slopes(self) -> Array:
        return np.sqrt(np.array([self.flat, self.sharp]) / (8 * self.barrier))

    def _width(self) -> float:
        return float(0.5 / self._slopes().max())

    def _coordinate(self, x: Array) -> tuple[Array, Array, Array]:
        (left, right), width = self._slopes(), self._width()
        u = np.clip((x + width) / (2 * width), 0, 1)  # 0 on the left, 1 on the right of the passage
        area = 2 * width * (u**3 - u**4 / 2 - 3 / 32) + np.maximum(x - width, 0)  # of 3 u^2 - 2 u^3, from 0 to x
        steep = right - left
        return left * x + steep * area, left + steep * (3 - 2 * u) * u**2, steep * 3 * u * (1 - u) / width

    def _terms(self, *core: Array) -> tuple[Array, list[Array], list[Array]]:
        s, slope, bend = self._coordinate(core[0])
        rise, curvature = 4 * self.barrier * s * (s**2 - 1), self.barrier * (12 * s**2 - 4)
        return self.barrier * (1 - s**2) ** 2, [rise * slope], [curvature * slope**2 + rise * bend]


@dataclass(frozen=True)
class RingValley(_Landscape):
    """stiffness (r^2 - radius^2)^2 / 8 radius^2 in the plane: an exactly flat circle, with curvature stiffness across.

    Further fast directions are on request: RingValley(across=(25, 25, 25)).
    """

    radius: float = 1.0
    stiffness: float = 10.0
    _core: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("radius", "stiffness"):
            _positive(name, getattr(self, name))

    def _terms(self, *core: Array) -> tuple[Array, list[Array], list[Array]]:
        x, y = core
        excess, k = x**2 + y**2 - self.radius**2, self.stiffness / (2 * self.radius**2)
        mixed = 2 * k * x * y
        hessian = [k * (excess + 2 * x**2), mixed, mixed, k * (excess + 2 * y**2)]
        return k * excess**2 / 4, [k * excess * x, k * excess * y], hessian


@dataclass(frozen=True)
class Saddle(_Landscape):
    """-down x^2 / 2, and a parabola in each direction ``across``: chains started at 0 leave as exp(down t)."""

    down: float = 1.0
    across: tuple[float, ...] = field(default=(1.0,), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("down", self.down)

    def _terms(self, *core: Array) -> tuple[Array, list[Array], list[Array]]:
        x = core[0]
        return -self.down * x**2 / 2, [-self.down * x], [np.full_like(x, -self.down)]


@dataclass(frozen=True)
class FlatValley(_Landscape):
    """k(x) (y - bend x^2 / 2)^2 / 2: a curved valley, flat along its floor, wide at the left, narrow at the right.

    The curvature across, k, goes from ``wide`` to ``narrow``, log k as a tanh of 2 x / length. Beyond -length and
    length soft walls of height wide |excess|^3 end it. In between, Gibbs' density of x alone is k(x)^(-1/2): isotropic
    noise spends its time where the valley is wide, though its floor is level.
    """

    wide: float = 1.0
    narrow: float = 25.0
    bend: float = 0.5
    length: float = 2.0
    _core: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("wide", "narrow", "length"):
            _positive(name, getattr(self, name))

    def _terms(self, *core: Array) -> tuple[Array, list[Array], list[Array]]:
        x, y = core
        v, slope, t = y - self.bend * x**2 / 2, self.bend * x, np.tanh(2 * x / self.length)
        ratio = np.log(self.narrow / self.wide)
        k, growth = self.wide * np.exp(ratio * (1 + t) / 2), ratio * (1 - t**2) / self.length
        k1, k2 = k * growth, k * (growth**2 - 4 * t * growth / self.length)
        excess = np.sign(x) * np.maximum(np.abs(x) - self.length, 0)
        mixed = k1 * v - k * slope
        along = k2 * v**2 / 2 - 2 * k1 * v * slope + k * slope**2 - k * v * self.bend + 6 * self.wide * np.abs(excess)
        gradient = [k1 * v**2 / 2 - k * v * slope + 3 * self.wide * excess * np.abs(excess), k * v]
        return k * v**2 / 2 + self.wide * np.abs(excess) ** 3, gradient, [along, mixed, mixed, k]


@dataclass(frozen=True)
class Chains:
    """Many independent chains: ``points`` (n_kept, n_chains, d) at ``times`` (n_kept,), the start first."""

    times: Array
    points: Array


@dataclass(frozen=True)
class Passages:
    """When each chain first got there: ``times`` (n_chains,); where ``censored`` (n_chains,) it had not by then."""

    times: Array
    censored: NDArray[np.bool_]

    @property
    def rate(self) -> float:
        """Arrivals over the time watched: the likeliest rate of an exponential law, censored chains counted in full."""
        return float(np.sum(~self.censored) / self.times.sum())


@dataclass(frozen=True, eq=False)
class Stationary:
    """A Fokker-Planck equation on a grid, and what it settles on.

    ``density`` and ``current`` are at the cells' centers, whose coordinates are in ``axes``; ``generator`` is the
    sparse matrix M (n, n) of dp/dt = M p on the cells in C order, and ``rates`` its slowest rates of decay, first zero,
    if any were asked for.
    """

    axes: tuple[Array, ...]
    density: Array  #: (n_1,) or (n_1, n_2), per length or area
    current: Array  #: (n_1, 1) or (n_1, n_2, 2), per length or area and time
    generator: Any
    rates: NDArray[Any]


def langevin(
    potential: Drift,
    temperature: float,
    time_step: float,
    n_steps: int,
    start: ArrayLike,
    rng: np.random.Generator,
    noise: Noise | None = None,
    every: int | None = None,
) -> Chains:
    """Chains of dX = -grad U dt + sqrt(2 T) B(X) dW (Ito) from ``start`` (n_chains, d), by Euler and Maruyama's scheme.

    X is kept ``every`` so many steps, or else at the start and the end alone; ``noise`` is B, the identity if left out.
    The error of the law is of the order of ``time_step`` (Maruyama 1955; Kloeden and Platen 1992, section 10.2).
    ValueError where an argument has a wrong sign or shape, FloatingPointError where chains fly off to infinity.
    """
    steps = _steps(potential, temperature, time_step, _starts(start), rng, noise)
    every, points = kept_points(_starts(start), steps, "n_steps", n_steps, every)
    if not np.isfinite(points[-1]).all():
        raise FloatingPointError(f"chains flew off to infinity: time_step {time_step!r} is too long for this landscape")
    return Chains(time_step * every * np.arange(len(points), dtype=float), points)


def first_passage_times(
    potential: Drift,
    temperature: float,
    time_step: float,
    max_time: float,
    start: ArrayLike,
    reached: Callable[[Array], NDArray[np.bool_]],
    rng: np.random.Generator,
    noise: Noise | None = None,
) -> Passages:
    """When each chain from ``start`` (n_chains, d) is first seen where ``reached`` (n,) is true of its point (n, d).

    Chains still on their way at ``max_time`` are censored, not dropped: their time is ``max_time``. Chains are seen
    after each step of :func:`langevin`, so that times come late by about the time it takes to move by 0.58 of a step's
    noise (Gobet and Menozzi 2010): a boundary nearer by that much mends it.
    """
    points = _starts(start)
    times, waiting = np.full(len(points), float(_positive("max_time", max_time))), np.arange(len(points))
    steps = _steps(potential, temperature, time_step, points, rng, noise)
    for n in range(int(np.ceil(max_time / time_step * (1 - 1e-12))) + 1):
        if n:
            points = next(steps)
        arrived = np.asarray(reached(points), dtype=bool)
        if arrived.shape != points.shape[:1]:
            raise ValueError(f"reached must give one truth per chain {points.shape[:1]}, got shape {arrived.shape}")
        if arrived.any():
            times[waiting[arrived]] = n * time_step
            waiting, points = waiting[~arrived], points[~arrived]
            if not waiting.size:
                break
            steps = _steps(potential, temperature, time_step, points, rng, noise)
    return Passages(np.minimum(times, max_time), np.isin(np.arange(len(times)), waiting))


def gibbs_density(potential: Potential, temperature: float, grid: ArrayLike | Sequence[ArrayLike]) -> Array:
    """exp(-U / T) at the points of a grid, scaled to sum to one over its cells: (n_1, ..., n_d).

    ``grid`` is one evenly spaced axis, or a sequence of them.
    """
    axes = _axes(grid)
    height = potential.value(_points(axes)) / _positive("temperature", temperature)
    density = np.exp(height.min() - height)
    return np.asarray(density / density.sum() / np.prod([axis[1] - axis[0] for axis in axes]))


def kramers_rate(potential: Potential, temperature: float, minimum: ArrayLike, saddle: ArrayLike) -> float:
    """Rate at which chains go from ``minimum`` (d,) over ``saddle`` (d,), for barriers well over T: Eyring-Kramers.

    |l| / 2 pi sqrt(det H(minimum) / |det H(saddle)|) exp(-barrier / T), with l the saddle's one negative curvature
    (Bovier, Eckhoff, Gayrard and Klein 2004, theorem 3.2, with T for their epsilon; d = 1 is Kramers 1940). This is
    one over the mean time to the floor of the other valley; to the saddle itself it takes half of that. ValueError
    where the Hessian at one of the two has the wrong signs.
    """
    floor, ridge = (np.linalg.eigvalsh(potential.hessian(np.asarray(point, float))) for point in (minimum, saddle))
    if not floor.min() > 0:
        raise ValueError(f"minimum must have curvatures above zero alone, got {floor}")
    if not (ridge[0] < 0 and np.all(ridge[1:] > 0)):
        raise ValueError(f"saddle must have one negative curvature and no zero, got {ridge}")
    barrier = potential.value(saddle) - potential.value(minimum)
    prefactor = -ridge[0] / (2 * np.pi) * np.exp((np.log(floor).sum() - np.log(np.abs(ridge)).sum()) / 2)
    return float(prefactor * np.exp(-barrier / _positive("temperature", temperature)))


def fokker_planck(
    potential: Drift,
    temperature: float,
    grid: ArrayLike | Sequence[ArrayLike],
    noise: Noise | None = None,
    n_rates: int = 0,
) -> Stationary:
    """Where the chains of :func:`langevin` settle, and their current, on a grid of one or two evenly spaced axes.

    J_i = b_i p - sum_j d(D_ij p) / dx_j with D = T B B', by finite volumes (Scharfetter and Gummel 1969): what leaves a
    cell enters its neighbor, and nothing passes the outer walls. Errors are of second order in the spacing; a landscape
    under isotropic noise of one strength gets exactly its Gibbs density and no current, as long as no ridge is over
    about 20 T high: the solver loses the digits of rarer places. With ``n_rates`` also the
    slowest rates of decay, complex where the chains circulate. ValueError where D is not positive along an axis.
    """
    axes = _axes(grid)
    if len(axes) > 2:
        raise ValueError(f"grid must have one or two axes, got {len(axes)}")
    shape, points = tuple(map(len, axes)), _points(axes)
    centers = _diffusion(noise, temperature, points)
    fluxes, spread, generator = [], [], sparse.csc_matrix(2 * (centers[..., 0, 0].size,))
    for k, axis in enumerate(axes):
        h, n = axis[1] - axis[0], len(axis)
        faces = _points([(a[1:] + a[:-1]) / 2 if i == k else a for i, a in enumerate(axes)])
        diffusion = _diffusion(noise, temperature, faces)[..., k, k].ravel()
        if not min(diffusion.min(), centers[..., k, k].min()) > 0:
            raise ValueError(f"noise must be positive along each axis, got diffusion {diffusion.min():g}")
        if isinstance(potential, Potential):
            push = -np.diff(potential.value(points), axis=k).ravel() / diffusion
        else:
            push = potential(faces)[..., k].ravel() * h / diffusion
        left, right = (_along(sparse.eye(n - 1, n, offset), k, shape) for offset in (0, 1))
        flux = sparse.diags(_bernoulli(-push)) @ left - sparse.diags(_bernoulli(push)) @ right
        flux = flux @ sparse.diags(centers[..., k, k].ravel()) / h
        for j in set(range(len(axes))) - {k}:  # noise that is correlated between the axes
            slope = sparse.csr_matrix(np.gradient(np.eye(shape[j]), axes[j], axis=0))
            mixed = _along(slope, j, shape) @ sparse.diags(centers[..., k, j].ravel())
            flux = flux - (left + right) @ mixed / 2
        fluxes.append(flux)
        spread.append((left + right).T / 2)
        generator = generator + (right - left).T / h @ flux
    density = _kernel(generator, np.linalg.norm(_drift(potential)(points), axis=-1).argmin())
    density /= density.sum() * np.prod([axis[1] - axis[0] for axis in axes])
    current = np.stack([(s @ (f @ density)).reshape(shape) for s, f in zip(spread, fluxes, strict=True)], axis=-1)
    rates = np.empty(0)
    if n_rates:
        shift = 1e-9 * abs(generator.diagonal()).max()
        found = -eigs(generator, n_rates, sigma=shift, v0=np.ones(len(density)), return_eigenvectors=False)
        rates = np.real_if_close(found[np.lexsort([found.imag, found.real.round(12)])], tol=1e6)
    return Stationary(axes, density.reshape(shape), current, generator, rates)


def _kernel(generator: Any, fixed: int) -> Array:
    """What the generator sends to zero: fix one entry, where density is to be expected, and solve for the rest."""
    others = np.delete(np.arange(generator.shape[0]), fixed)
    density = np.ones(generator.shape[0])
    density[others] = spsolve(generator[others][:, others], -generator[others][:, [fixed]].toarray()[:, 0])
    if not np.isfinite(density).all():
        raise FloatingPointError("the density is not finite: temperature is too low for this grid")
    return density


def _bernoulli(z: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(np.abs(z) < 1e-8, 1 - z / 2, z / np.expm1(z))


def _along(operator: Any, k: int, shape: tuple[int, ...]) -> Any:
    """An operator on one axis, as one on all cells of the grid in C order."""
    return reduce(sparse.kron, [operator if i == k else sparse.identity(n) for i, n in enumerate(shape)]).tocsr()


def _diffusion(noise: Noise | None, temperature: float, points: Array) -> Array:
    root = _matrix(noise or (lambda x: np.ones(x.shape[:-1])), points)
    return _positive("temperature", temperature) * root @ np.swapaxes(root, -1, -2)


def _matrix(noise: Noise, points: Array) -> Array:
    amplitude = np.asarray(noise(points), dtype=float)
    if amplitude.shape == (*points.shape, points.shape[-1]):
        return amplitude
    if amplitude.shape == points.shape[:-1]:
        amplitude = amplitude[..., None]
    elif amplitude.shape != points.shape:
        raise ValueError(f"noise must be (...), (..., d) or (..., d, d) at x {points.shape}, got {amplitude.shape}")
    return amplitude[..., None] * np.eye(points.shape[-1])


def _drift(potential: Drift) -> Callable[[Array], Array]:
    return (lambda x: -potential.gradient(x)) if isinstance(potential, Potential) else potential


def _steps(
    potential: Drift, temperature: float, time_step: float, x: Array, rng: np.random.Generator, noise: Noise | None
) -> Iterator[Array]:
    drift = _drift(potential)
    size = np.sqrt(2 * _positive("temperature", temperature) * _positive("time_step", time_step))
    while True:
        kick = rng.standard_normal(x.shape)
        if noise is not None:
            amplitude = np.asarray(noise(x), dtype=float)
            if amplitude.shape == x.shape:
                kick *= amplitude
            elif amplitude.shape == x.shape[:-1]:
                kick *= amplitude[:, None]
            else:
                kick = np.einsum("nij,nj->ni", _matrix(noise, x), kick)
        x = x + time_step * drift(x) + size * kick
        yield x


def _starts(start: ArrayLike) -> Array:
    points = np.asarray(start, dtype=float)
    if points.ndim != 2 or not points.size or not np.isfinite(points).all():
        raise ValueError(f"start must be finite and of shape (n_chains, d), got shape {points.shape}")
    return points


def _axes(grid: ArrayLike | Sequence[ArrayLike]) -> tuple[Array, ...]:
    parts: list[Any] = list(grid)  # type: ignore[arg-type]
    axes = tuple(np.asarray(axis, dtype=float) for axis in ([parts] if np.ndim(parts[0]) == 0 else parts))
    for axis in axes:
        steps = np.diff(axis)
        if axis.ndim != 1 or len(axis) < 3 or not steps[0] > 0 or not np.allclose(steps, steps[0], rtol=1e-6):
            raise ValueError(f"grid must be of evenly spaced, rising axes of at least 3 points, got {axis!r}")
    return axes


def _points(axes: Sequence[Array]) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _positive(name: str, number: float) -> float:
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive number, got {number!r}")
    return float(number)
