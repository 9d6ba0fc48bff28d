"""Hessian and gradient noise as operators: matrices that are multiplied with, and never stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

from .progress import progress

__all__ = [
    "Alignment",
    "SpectralDensity",
    "TopEigenpairs",
    "TraceEstimate",
    "alignment",
    "gradient_noise",
    "hessian_operator",
    "per_sample_gradients",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]
Data = Batch | Sequence[Batch]

GRID = 400  # points at which a density is drawn
RESAMPLES = 200  # of the probes, for the band around a density


def hessian_operator(model: torch.nn.Module, loss: Loss, data: Data) -> LinearOperator:
    """Hessian of the mean loss as a scipy LinearOperator (D, D), over the trainable parameters in their order.

    A product is the gradient of ``gradient . v``. For a pair ``(inputs, targets)`` the graph of the gradient is kept
    from product to product, and made anew when a parameter has changed; for a list of such pairs, as where one batch
    does not fit into memory, it is made for each batch in each product. Batches weigh by their number of samples, so
    that a ragged last one changes nothing.

    Parameters
    ----------
    model
        Left in the mode, train or eval, in which it comes; it must compute the same in it each time.
    loss
        ``loss(outputs, targets)``: the mean over the samples of a batch.
    data
        A pair of tensors with samples along their first axis, or a list of such pairs.

    Raises
    ------
    ValueError
        The model has no trainable parameters, has dropout or batch normalisation in training mode, the data are empty
        or the loss is a sum.
    """
    parameters = _trainable(model)
    _check_deterministic(model)
    _check_mean(loss)
    batches = _batches(data)
    total = sum(len(inputs) for inputs, _ in batches)
    gradients = [_KeptGradient(model, loss, batch, parameters, len(batch[0]) / total) for batch in batches]
    size = sum(p.numel() for p in parameters)

    def multiply(v: Vector) -> Vector:
        vector = torch.as_tensor(np.ravel(v), dtype=parameters[0].dtype, device=parameters[0].device)
        product = torch.zeros_like(vector)
        for gradient in gradients:
            product += gradient.times(vector)
            if len(gradients) > 1:
                gradient.forget()
        return product.double().cpu().numpy()

    return LinearOperator((size, size), matvec=multiply, rmatvec=multiply, dtype=np.float64)


class _KeptGradient:
    """The gradient of one batch's share of the loss, with its graph, for as long as the parameters stay the same."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, batch: Batch, parameters: list[torch.nn.Parameter], share: float
    ) -> None:
        self._model, self._loss, self._batch = model, loss, batch
        self._parameters, self._share = parameters, share
        self.forget()

    def forget(self) -> None:
        self._point: torch.Tensor | None = None
        self._gradient: torch.Tensor | None = None

    def times(self, vector: torch.Tensor) -> torch.Tensor:
        # Compared by value: a change through `parameter.data` leaves no other trace, and would go unnoticed.
        point = _flat(self._parameters).detach()
        if self._point is None or not torch.equal(point, self._point):
            self._point, self._gradient = point, self._make()
        assert self._gradient is not None
        if not self._gradient.requires_grad:  # a loss linear in the parameters
            return torch.zeros_like(vector)
        product = torch.autograd.grad(
            self._gradient, self._parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return _flat(product).detach()

    def _make(self) -> torch.Tensor:
        inputs, targets = self._batch
        with torch.enable_grad():
            value = self._loss(self._model(inputs), targets) * self._share
            gradient = torch.autograd.grad(
                value, self._parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
            return _flat(gradient)


@dataclass(frozen=True)
class TopEigenpairs:
    """Extreme eigenvalues (k,), their unit vectors (D, k), ``|A v - lambda v|`` (k,), and which of these are small."""

    values: Vector
    vectors: Matrix
    residuals: Vector
    converged: NDArray[np.bool_]


def top_eigenpairs(
    op: Any, k: int, which: Literal["LM", "LA", "SA"] = "LM", tolerance: float = 1e-4, seed: int = 0
) -> TopEigenpairs:
    """The k extreme eigenpairs of a symmetric operator (D, D), by scipy's eigsh, with residuals that are measured.

    ``which``: largest in magnitude ("LM", falling magnitude), algebraically largest ("LA", falling) or smallest ("SA",
    rising). An eigenpair counts as converged if its residual is below ``tolerance`` times the largest magnitude; the
    error of its value is then below that, and of the order of its square where the eigenvalue stands apart.
    ValueError where k or ``which`` is out of range.
    """
    op = aslinearoperator(op)
    size = op.shape[0]
    if not 1 <= k < size:
        raise ValueError(f"k must be at least 1 and below the {size} dimensions of op, got {k!r}")
    if which not in ("LM", "LA", "SA"):
        raise ValueError(f"which must be 'LM', 'LA' or 'SA', got {which!r}")
    start = np.random.default_rng(seed).standard_normal(size)
    values, vectors = eigsh(op, k=k, which=which, v0=start, tol=tolerance, ncv=min(size, max(3 * k, 30)))
    order = np.argsort({"LM": -np.abs(values), "LA": -values, "SA": values}[which])
    values, vectors = values[order], vectors[:, order]
    images = np.column_stack([op.matvec(v) for v in vectors.T])
    residuals = np.linalg.norm(images - vectors * values, axis=0)
    return TopEigenpairs(values, vectors, residuals, residuals <= tolerance * np.abs(values).max())


@dataclass(frozen=True)
class SpectralDensity:
    """How the eigenvalues of an operator are spread.

    Attributes
    ----------
    grid : (g,)
        Eigenvalues at which the density is given.
    density : (g,)
        Per unit of eigenvalue, of mass one, each node widened to a Gaussian of standard deviation ``sigma``.
    band : (2, g)
        Where nine of ten densities of resampled probes lie: how much chance is in it.
    nodes, weights : (n_probes, n_nodes)
        Of the quadratures, from all probes; the weights sum to one. They estimate ``trace(f(A)) / D``.
    sigma : float
    """

    grid: Vector
    density: Vector
    band: Matrix
    nodes: Matrix
    weights: Matrix
    sigma: float


def spectral_density(
    op: Any,
    n_probes: int = 10,
    n_steps: int = 80,
    seed: int = 0,
    deflate: TopEigenpairs | None = None,
    sigma: float | None = None,
) -> SpectralDensity:
    """Spectral density of a symmetric operator (D, D), by Lanczos quadrature from random probes.

    Each probe's Lanczos basis is orthogonalised in full, twice, so that no eigenvalue comes as a ghost of itself.
    With ``deflate`` these eigenpairs are taken out of the probes and put back exactly, with weight 1/D each: what
    stands apart is then free of chance. ``sigma`` widens the nodes; left out, it is a hundredth of their range.
    ValueError where a number is below 1.
    """
    if n_probes < 1 or n_steps < 1:
        raise ValueError(f"n_probes and n_steps must be at least 1, got {n_probes!r} and {n_steps!r}")
    op = aslinearoperator(op)
    rng, size = np.random.default_rng(seed), op.shape[0]
    known = np.empty((size, 0)) if deflate is None else np.linalg.qr(deflate.vectors)[0]
    rest = size - known.shape[1]
    quadratures = [
        _lanczos_quadrature(op, rng.standard_normal(size), min(n_steps, rest), known)
        for _ in progress(range(n_probes), "spectral density", "probes")
    ]
    longest = max(len(nodes) for nodes, _ in quadratures)
    nodes = np.array([np.pad(nodes, (0, longest - len(nodes)), mode="edge") for nodes, _ in quadratures])
    weights = np.array([np.pad(weights, (0, longest - len(weights))) for _, weights in quadratures])
    weights *= rest / size
    if deflate is not None:
        exact = np.broadcast_to(deflate.values, (n_probes, len(deflate.values)))
        nodes, weights = np.hstack([exact, nodes]), np.hstack([np.full(exact.shape, 1 / size), weights])
    weights /= n_probes
    return _density(nodes, weights, sigma, rng)


def _lanczos_quadrature(op: LinearOperator, start: Vector, n_steps: int, known: Matrix) -> tuple[Vector, Vector]:
    """Nodes and weights of one probe, orthogonal to the columns of ``known``; fewer where the space is used up."""
    basis = np.empty((n_steps, len(start)))
    diagonal, off = [], []
    vector = start - known @ (known.T @ start)
    length = float(np.linalg.norm(vector))
    scale = 0.0
    for step in range(n_steps):
        basis[step] = vector / length
        image = op.matvec(basis[step])
        diagonal.append(float(image @ basis[step]))
        done = basis[: step + 1]
        for _ in range(2):  # once leaves rounding behind, twice is enough
            image = image - known @ (known.T @ image)
            image = image - done.T @ (done @ image)
        vector, length = image, float(np.linalg.norm(image))
        scale = max(scale, abs(diagonal[-1]), length)
        if length <= 1e-12 * scale or step == n_steps - 1:
            break
        off.append(length)
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off[: len(diagonal) - 1]))
    return nodes, vectors[0] ** 2


def _density(nodes: Matrix, weights: Matrix, sigma: float | None, rng: np.random.Generator) -> SpectralDensity:
    low, high = nodes.min(), nodes.max()
    sigma = sigma or max(high - low, abs(high), np.finfo(float).tiny) / 100
    grid = np.linspace(low - 4 * sigma, high + 4 * sigma, GRID)
    bells = np.exp(-((grid - nodes[..., None]) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    per_probe = np.einsum("pn,png->pg", weights, bells) * len(nodes)
    chosen = rng.integers(len(nodes), size=(RESAMPLES, len(nodes)))
    band = np.quantile(per_probe[chosen].mean(axis=1), [0.05, 0.95], axis=0)
    return SpectralDensity(grid, per_probe.mean(axis=0), band, nodes, weights, sigma)


@dataclass(frozen=True)
class TraceEstimate:
    """A trace and its standard error."""

    value: float
    error: float


def trace(op: Any, n_probes: int = 100, seed: int = 0) -> TraceEstimate:
    """Trace of an operator (D, D) from random signs z: the mean of ``z A z`` (Hutchinson), with its standard error."""
    if n_probes < 2:
        raise ValueError(f"n_probes must be at least 2, to have an error, got {n_probes!r}")
    op = aslinearoperator(op)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_probes, op.shape[0]))
    values = np.array([z @ op.matvec(z) for z in progress(signs, "trace", "probes")])
    return TraceEstimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n_probes)))


def per_sample_gradients(
    model: torch.nn.Module, loss: Loss, data: Data, block_bytes: int = 2**26
) -> NDArray[np.float64]:
    """Gradient of the loss of each sample alone, (n, D), over the trainable parameters; ``loss`` as for the Hessian.

    Samples are worked on in blocks whose gradients fill ``block_bytes``.
    """
    parameters = _trainable(model)
    _check_deterministic(model)
    _check_mean(loss)
    named = {name: p.detach() for name, p in model.named_parameters()}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    fixed = {name: value for name, value in named.items() if name not in names} | dict(model.named_buffers())

    def one(trained: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(model, (trained | fixed), (x[None],))
        return loss(outputs, y[None])

    gradient = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))
    trained = {name: named[name] for name in names}
    step = max(1, block_bytes // (8 * sum(p.numel() for p in parameters)))
    rows = []
    for inputs, targets in _batches(data):
        for x, y in zip(inputs.split(step), targets.split(step), strict=True):
            block = gradient(trained, x, y)
            rows.append(torch.cat([block[name].reshape(len(x), -1) for name in names], dim=1).double().cpu().numpy())
    return np.concatenate(rows)


def gradient_noise(model: torch.nn.Module, loss: Loss, data: Data) -> LinearOperator:
    """Covariance of the per-sample gradients as a LinearOperator (D, D): about their mean, divided by n.

    With ``C`` the covariance, a minibatch of b samples drawn with replacement has the gradient noise ``C / b``. The
    gradients (n, D) are kept. Arguments and errors as for :func:`hessian_operator`; the matrix is ``C @ np.eye(D)``.
    """
    gradients = per_sample_gradients(model, loss, data)
    gradients -= gradients.mean(axis=0)
    n, size = gradients.shape

    def multiply(v: Matrix) -> Matrix:
        return gradients.T @ (gradients @ v) / n

    return LinearOperator((size, size), matvec=multiply, rmatvec=multiply, matmat=multiply, dtype=np.float64)


@dataclass(frozen=True)
class Alignment:
    """How gradient noise C lies along the eigenvectors of a curvature H; made by :func:`alignment`.

    Attributes
    ----------
    curvatures, variances : (D,)
        Eigenvalues h of H, falling, and the noise ``v @ C @ v`` along their unit eigenvectors v.
    fitted : (D,)
        The directions that ``exponent`` and ``correlation`` were fitted to.
    exponent, correlation
        Slope of log variance against log curvature, by least squares, and the correlation of the two logarithms.
    cosine
        ``tr(C H) / (|C| |H|)`` in Frobenius norms: 1 where C is proportional to H.
    trace_ratio
        ``tr C / tr H``, which no rotation of C changes.
    top_share
        Share of ``tr C`` along the k eigenvectors of largest h.
    """

    curvatures: Vector
    variances: Vector
    fitted: NDArray[np.bool_]
    exponent: float
    correlation: float
    cosine: float
    trace_ratio: float
    top_share: float


def alignment(noise: Any, curvature: Any, k: int = 10, floor: float = 1e-3) -> Alignment:
    """Compare gradient noise C (D, D) with a curvature H (D, D), both symmetric: arrays or operators.

    H is diagonalized in full, so that D is limited to a few thousand. The fit of ``variances ~ curvatures**exponent``
    takes the directions whose curvature is above ``floor`` times the largest; where it bends, the exponent depends on
    this choice. For C = s H the exponent, the correlation and the cosine are 1 and the ratio of traces is s. Where C
    forgets H they are not all 0: for C = I the cosine is ``tr H / (sqrt(D) |H|)``. ``tr(C H)`` as a measure of
    alignment is that of Zhu et al. (2018, arXiv 1803.00195), the cosine its normalized form.

    Raises
    ------
    ValueError
        The matrices are not square and of one size, ``k`` is not from 1 to D, ``floor`` is not between 0 and 1, H has
        no positive eigenvalue, fewer than two directions are above the floor, or one of them is without noise.
    """
    noise, curvature = aslinearoperator(noise), aslinearoperator(curvature)
    size = curvature.shape[0]
    if noise.shape != (size, size) or curvature.shape != (size, size):
        raise ValueError(f"noise and curvature must be square, of one size, got {noise.shape} and {curvature.shape}")
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to the {size} dimensions, got {k!r}")
    if not 0 < floor < 1:
        raise ValueError(f"floor must be between 0 and 1, got {floor!r}")
    values, vectors = np.linalg.eigh(curvature @ np.eye(size))
    values, vectors = values[::-1], vectors[:, ::-1]
    images = noise @ vectors
    variances = np.sum(vectors * images, axis=0)
    fitted = values > floor * values[0]
    if values[0] <= 0 or fitted.sum() < 2 or not (variances[fitted] > 0).all():
        raise ValueError("curvature must have two positive eigenvalues above the floor, with noise along them")
    x, y = np.log(values[fitted]), np.log(variances[fitted])
    x, y = x - x.mean(), y - y.mean()
    lengths = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    return Alignment(
        curvatures=values,
        variances=variances,
        fitted=fitted,
        exponent=float(x @ y) / lengths[0] ** 2 if lengths[0] else np.nan,
        correlation=float(x @ y) / (lengths[0] * lengths[1]) if lengths[0] * lengths[1] else np.nan,
        cosine=float(values @ variances / (np.linalg.norm(images) * np.linalg.norm(values))),
        trace_ratio=float(variances.sum() / values.sum()),
        top_share=float(variances[:k].sum() / variances.sum()),
    )


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"model must have trainable parameters, got a {type(model).__name__} without any")
    return parameters


def _check_deterministic(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        dropout = isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0
        statistics = isinstance(module, torch.nn.modules.batchnorm._NormBase)
        if module.training and (dropout or statistics):
            reason = "draws anew each time" if dropout else "mixes the samples of a batch"
            raise ValueError(f"model must compute the same each time, but {name} ({kind}) {reason}: call model.eval()")


def _check_mean(loss: Loss) -> None:
    reduction = getattr(loss, "reduction", "mean")
    if reduction != "mean":
        raise ValueError(f"loss must be the mean over the samples, got reduction={reduction!r}")


def _batches(data: Data) -> list[Batch]:
    pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], torch.Tensor)
    batches: list[Batch] = [data] if pair else list(data)  # type: ignore[list-item,arg-type]
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and len(batch[0]) == len(batch[1])):
            raise ValueError("data must be a pair (inputs, targets) of one length, or a list of such pairs")
    if not sum(len(inputs) for inputs, _ in batches):
        raise ValueError("data must hold at least one sample, got none")
    return [batch for batch in batches if len(batch[0])]
