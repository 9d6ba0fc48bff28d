"""Symmetric affinities of points, dense or sparse, and what a diffusion map asks of them: sums and eigenpairs.

A Markov matrix D^-1 K is never formed. Its eigenvectors come from the symmetric D^-1/2 K D^-1/2, of which the dense
form keeps and reads one triangle only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.linalg.blas import dsymv
from scipy.sparse import csr_matrix, diags, identity
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, splu

from .kernels import gaussian_kernel

__all__ = ["Affinities", "DenseAffinities", "SparseAffinities"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

ROWS = 256  # rows worked on at a time, so that no temporary is as large as the matrix
TOLERANCE = 1e-10  # of the eigenpairs' residuals, relative to the eigenvalue
SMALL = 500  # up to this many points a dense eigensolve takes a tenth of a second, and it never fails to converge


class Affinities(ABC):
    """A symmetric matrix K (n, n) of affinities with their squared distances, scaled and solved in place."""

    n: int

    @abstractmethod
    def times(self, vector: Vector) -> Vector:
        """K v."""

    @abstractmethod
    def scale(self, factors: Vector) -> None:
        """Replace K by diag(factors) K diag(factors)."""

    @abstractmethod
    def moments(self) -> Vector:
        """For each point the sum of its affinities times their squared distances, ``sum_j K_ij d2_ij``."""

    @abstractmethod
    def full(self) -> Matrix:
        """K as an array whose upper triangle counts."""

    @abstractmethod
    def _solver(self, diagonal: Vector, shift: float) -> LinearOperator:
        """The inverse of shift + diag(diagonal) - K, which is positive definite."""

    def sums(self) -> Vector:
        """K 1."""
        return self.times(np.ones(self.n))

    def top_eigenpairs(self, k: int, trivial: Vector, noise: Vector) -> tuple[Vector, Matrix]:
        """The k largest eigenvalues of K, falling, and their vectors, without the trivial pair (1, trivial).

        The trivial eigenvalue is moved to -1, out of the way, so that it is this pair that is left out even where 1
        comes more than once. ``noise`` perturbs the start, which must not be an eigenvector.
        """
        unit = trivial / np.linalg.norm(trivial)
        if self.n > SMALL and k < self.n // 4:
            moved = LinearOperator((self.n, self.n), lambda v: self.times(v) - 2 * unit * (unit @ v), dtype=float)
            try:
                return _falling(
                    *eigsh(moved, k=k, which="LA", v0=trivial * noise, ncv=_basis(k), tol=TOLERANCE, maxiter=200)
                )
            except ArpackNoConvergence:
                pass  # near-equal eigenvalues, as where a small bandwidth cuts the points apart: take the dense route
        dense = self.full() - 2 * np.outer(unit, unit)
        values, vectors = eigh(dense, lower=False, driver="evd")  # of equal eigenvalues a subset driver may lose some
        return _falling(values[-k:], vectors[:, -k:])

    def slow_eigenpairs(self, k: int, diagonal: Vector, trivial: Vector, noise: Vector) -> tuple[Vector, Matrix]:
        """The k smallest eigenvalues of diag(diagonal) - K, rising, and their vectors, without (0, trivial)."""
        unit = trivial / np.linalg.norm(trivial)
        if self.n <= SMALL or k >= self.n // 4:
            dense = np.diag(diagonal + 2 * diagonal.max() * unit**2) - self.full()
            dense += 2 * diagonal.max() * (np.outer(unit, unit) - np.diag(unit**2))
            values, vectors = eigh(dense, lower=False, driver="evd")
            return values[:k], vectors[:, :k]
        shift = 1e-3 * float(np.median(diagonal))
        inverse = self._solver(diagonal, shift)

        def without_trivial(v: Vector) -> Vector:
            solved = inverse.matvec(v - unit * (unit @ v))
            return solved - unit * (unit @ solved)

        operator = LinearOperator((self.n, self.n), without_trivial, dtype=float)
        values, vectors = _falling(*eigsh(operator, k=k, which="LA", v0=trivial * noise, tol=TOLERANCE))
        return 1 / values - shift, vectors


class DenseAffinities(Affinities):
    """``exp(-d2 / (4 epsilon s_i s_j))`` between all pairs; ``scales`` s are ones where they are left out.

    ``d2`` (n, n) is kept, not copied, and not changed.
    """

    def __init__(self, d2: Matrix, epsilon: float, scales: Vector | None = None) -> None:
        self.n = len(d2)
        self._d2 = d2
        self._upper = np.zeros(d2.shape)
        for rows, block in self._row_blocks():
            near = d2[rows, rows.start :]
            if scales is not None:
                near = near / np.outer(scales[rows], scales[rows.start :])
            block[...] = gaussian_kernel(near, epsilon)

    def times(self, vector: Vector) -> Vector:
        return dsymv(1.0, self._upper.T, vector, lower=1)

    def scale(self, factors: Vector) -> None:
        for rows, block in self._row_blocks():
            block *= factors[rows, None]
            block *= factors[rows.start :]

    def moments(self) -> Vector:
        sums = np.zeros(self.n)
        for rows, block in self._row_blocks():
            products = np.triu(block * self._d2[rows, rows.start :])
            sums[rows] += products.sum(axis=1)
            sums[rows.start :] += products.sum(axis=0)  # the diagonal, which would count twice, has distance zero
        return sums

    def full(self) -> Matrix:
        return self._upper

    def _solver(self, diagonal: Vector, shift: float) -> LinearOperator:
        negative = -self._upper
        negative[np.diag_indices(self.n)] += diagonal + shift
        factor = cho_factor(negative.T, lower=True, overwrite_a=True, check_finite=False)
        return LinearOperator((self.n, self.n), lambda v: cho_solve(factor, v, check_finite=False), dtype=float)

    def _row_blocks(self):
        """Blocks of rows of the upper triangle, each from its first diagonal entry on."""
        for start in range(0, self.n, ROWS):
            rows = slice(start, min(start + ROWS, self.n))
            yield rows, self._upper[rows, start:]


class SparseAffinities(Affinities):
    """The same between neighbors only: ``d2`` is a symmetric csr matrix whose stored entries, zeros too, are pairs."""

    def __init__(self, d2: csr_matrix, epsilon: float, scales: Vector | None = None) -> None:
        self.n = d2.shape[0]
        self._d2 = d2
        near = d2.data
        if scales is not None:
            near = near / (np.repeat(scales, np.diff(d2.indptr)) * scales[d2.indices])
        self._matrix = csr_matrix((gaussian_kernel(near, epsilon), d2.indices, d2.indptr), shape=d2.shape)

    def times(self, vector: Vector) -> Vector:
        return self._matrix @ vector

    def scale(self, factors: Vector) -> None:
        self._matrix.data *= np.repeat(factors, np.diff(self._matrix.indptr)) * factors[self._matrix.indices]

    def moments(self) -> Vector:
        return np.asarray(self._matrix.multiply(self._d2).sum(axis=1)).ravel()

    def full(self) -> Matrix:
        return self._matrix.toarray()

    def _solver(self, diagonal: Vector, shift: float) -> LinearOperator:
        system = (diags(diagonal) + shift * identity(self.n) - self._matrix).tocsc()
        return LinearOperator((self.n, self.n), splu(system).solve, dtype=float)


def _basis(k: int) -> int:
    """Size of the Lanczos basis: larger than ARPACK's own 2 k + 1, which restarts more often than it should."""
    return max(3 * k, 35)


def _falling(values: Vector, vectors: Matrix) -> tuple[Vector, Matrix]:
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]
