"""What is timed: one small function per package and way of using it, called in that package's own environment.

Each takes the points, the scale of the kernel ``exp(-|x - y|^2 / scale)`` (or None for the package's own choice) and a
number of components, does what is not to be timed, and returns the call that is. A map's call returns its
eigenvectors, a distance's the (T, T) squared distances, a floor's nothing that is looked at. Nothing but numpy is
imported before it is asked for, so that each environment needs its own package only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

Points = np.ndarray[Any, np.dtype[Any]]
Call = Callable[[], Any]
NEIGHBORS = 64
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))


def ours(X: Points, scale: float | None, n: int) -> Call:
    from descentmaps import DiffusionMap

    estimator = DiffusionMap(n_components=n, alpha=1.0) if scale is None else _ours_at(scale, n)
    return lambda: estimator.fit(X).eigenvectors_


def ours_scan(X: Points, scale: float | None, n: int) -> Call:
    """With the bandwidth that the scan recommends, whatever the scale."""
    from descentmaps import DiffusionMap

    return lambda: DiffusionMap(n_components=n, alpha=1.0, epsilon="scan").fit(X).eigenvectors_


def ours_neighbors(X: Points, scale: float, n: int) -> Call:
    from descentmaps import DiffusionMap

    estimator = DiffusionMap(n_components=n, alpha=1.0, epsilon=scale / 4, n_neighbors=NEIGHBORS)
    return lambda: estimator.fit(X).eigenvectors_


def ours_again(X: Points, scale: float, n: int) -> Call:
    """Another bandwidth and another alpha on points that are fitted already."""
    estimator = _ours_at(1.1 * scale, n).fit(X)
    return lambda: estimator.refit(epsilon=scale / 4, alpha=0.5).eigenvectors_


def ours_distances(X: Points, scale: float | None, n: int) -> Call:
    from descentmaps import squared_distances

    return lambda: squared_distances(X)


def _ours_at(scale: float, n: int) -> Any:
    from descentmaps import DiffusionMap

    return DiffusionMap(n_components=n, alpha=1.0, epsilon=scale / 4)


def rank_k_update(X: Points, scale: float | None, n: int) -> Call:
    """The floor of all distances: X X^T once, in float64, its lower triangle only."""
    from scipy.linalg.blas import dsyrk

    centered = X.astype(np.float64)
    centered -= centered.mean(axis=0)
    return lambda: dsyrk(1.0, centered.T, trans=1, lower=1)


def eigsh(X: Points, scale: float, n: int) -> Call:
    """The floor of all dense maps: ARPACK on the finished symmetric matrix, started at its known first vector."""
    from scipy.linalg.blas import dsymv
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as solve

    products = rank_k_update(X, scale, n)()
    norms = products.diagonal()
    kernel = np.exp((2 * products - norms[:, None] - norms) / scale)
    kernel = np.asfortranarray(np.tril(kernel) + np.tril(kernel, -1).T)
    density = kernel.sum(axis=1)
    kernel /= np.outer(density, density)
    root = np.sqrt(kernel.sum(axis=1))
    kernel /= np.outer(root, root)
    operator = LinearOperator(kernel.shape, lambda x: dsymv(1.0, kernel, x, lower=1), dtype=np.float64)

    def run() -> Any:
        _, vectors = solve(operator, k=n + 1, which="LA", v0=root)
        return vectors[:, -2::-1] / root[:, None]

    return run


def sklearn_rbf(X: Points, scale: float | None, n: int) -> Call:
    from sklearn.manifold import SpectralEmbedding

    gamma = None if scale is None else 1 / scale
    return lambda: SpectralEmbedding(n, affinity="rbf", gamma=gamma, random_state=0).fit(X).embedding_


def sklearn_neighbors(X: Points, scale: float | None, n: int) -> Call:
    from sklearn.manifold import SpectralEmbedding

    neighbors = None if scale is None else NEIGHBORS
    return lambda: SpectralEmbedding(n, n_neighbors=neighbors, random_state=0, n_jobs=THREADS).fit(X).embedding_


def sklearn_distances(X: Points, scale: float | None, n: int) -> Call:
    from sklearn.metrics import euclidean_distances

    return lambda: euclidean_distances(X, squared=True)


def scipy_pdist(X: Points, scale: float | None, n: int) -> Call:
    from scipy.spatial.distance import pdist, squareform

    return lambda: squareform(pdist(X, "sqeuclidean"))


def pydiffmap_neighbors(X: Points, scale: float | None, n: int) -> Call:
    return _pydiffmap(X, scale, n, NEIGHBORS)


def pydiffmap_all(X: Points, scale: float | None, n: int) -> Call:
    return _pydiffmap(X, scale, n, len(X))


def _pydiffmap(X: Points, scale: float | None, n: int, neighbors: int) -> Call:
    from pydiffmap.diffusion_map import DiffusionMap

    epsilon = "bgh" if scale is None else scale / 4
    options = {"alpha": 1.0, "k": neighbors, "epsilon": epsilon, "n_evecs": n, "neighbor_params": {"n_jobs": THREADS}}
    return lambda: DiffusionMap.from_sklearn(**options).fit(X).evecs


def datafold(X: Points, scale: float | None, n: int) -> Call:
    from datafold.dynfold import DiffusionMaps
    from datafold.pcfold import GaussianKernel, PCManifold

    def run() -> Any:
        epsilon = None if scale is None else scale / 2
        if epsilon is None:
            cloud = PCManifold(X)
            cloud.optimize_parameters(random_state=0)
            epsilon = cloud.kernel.epsilon
        return DiffusionMaps(GaussianKernel(epsilon), n_eigenpairs=n + 1).fit(X).eigenvectors_[:, 1:]

    return run


def datafold_distances(X: Points, scale: float | None, n: int) -> Call:
    from datafold.pcfold.distance import init_distance_algorithm

    return lambda: init_distance_algorithm(metric="sqeuclidean")(X)


def graphtools_neighbors(X: Points, scale: float | None, n: int) -> Call:
    neighbors = {} if scale is None else {"knn": NEIGHBORS}
    return _graphtools(X, n, **neighbors)


def graphtools_exact(X: Points, scale: float | None, n: int) -> Call:
    fixed = {} if scale is None else {"bandwidth": scale**0.5, "decay": 2}
    return _graphtools(X, n, graphtype="exact", thresh=0, **fixed)


def _graphtools(X: Points, n: int, **options: Any) -> Call:
    """It makes the kernel; the eigenvectors are left to its caller."""
    import graphtools
    from scipy.sparse.linalg import eigsh as solve

    def run() -> Any:
        kernel = graphtools.Graph(X, anisotropy=1, n_jobs=THREADS, random_state=0, **options).K
        root = np.sqrt(np.asarray(kernel.sum(axis=1)).ravel())
        if isinstance(kernel, np.ndarray):
            conjugate = kernel / root[:, None] / root
        else:
            conjugate = kernel.multiply(1 / root[:, None]).multiply(1 / root).tocsr()
        _, vectors = solve(conjugate, k=n + 1, which="LA", v0=root)
        return vectors[:, -2::-1] / root[:, None]

    return run


def manifolds_kmknn(X: Points, scale: float | None, n: int) -> Call:
    return _manifolds(X, scale, n, "kmknn")


def manifolds_exhaustive(X: Points, scale: float | None, n: int) -> Call:
    return _manifolds(X, scale, n, "exhaustive")


def _manifolds(X: Points, scale: float | None, n: int, search: str) -> Call:
    import manifolds_rs

    manifolds_rs.set_num_threads(THREADS)
    options = {} if scale is None else {"k": NEIGHBORS, "t": 1}
    return lambda: manifolds_rs.DiffusionMaps(n_components=n, alpha=1.0, ann=search, **options).fit_transform(X)
