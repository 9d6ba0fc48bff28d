"""What is timed for curvature: the ten eigenvalues of a Hessian that are largest in magnitude, once per package.

Each function takes a problem (a trained network with its data, see `curvature_problem`) and a number of eigenvalues,
does what is not to be timed, and returns the call that is; a call returns the eigenvalues, falling in magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

torch.set_num_threads(1)
Call = Callable[[], Any]
Problem = dict[str, Any]
TOLERANCE, BASIS = 1e-4, 40  # of eigsh, wherever it is called from here


def network(problem: Problem) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(int(width) for width in problem["widths"]):
        layers += [torch.nn.Linear(fan_in, fan_out, dtype=torch.float64), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    torch.nn.utils.vector_to_parameters(torch.as_tensor(problem["parameters"]), model.parameters())
    return model, (torch.as_tensor(problem["inputs"]), torch.as_tensor(problem["targets"]))


def falling(values: Any) -> Any:
    values = np.asarray(values, dtype=np.float64)
    return values[np.argsort(-np.abs(values))]


def ours(problem: Problem, k: int) -> Call:
    from descentmaps.curvature import hessian_operator, top_eigenpairs

    model, data = network(problem)
    return lambda: top_eigenpairs(hessian_operator(model, cross_entropy, data), k).values


def floor(problem: Problem, k: int) -> Call:
    """scipy's eigsh on the shortest product there is: the gradient kept with its graph, and differentiated again."""
    return _eigsh(problem, k, TOLERANCE, BASIS)


def reference(problem: Problem, k: int) -> Call:
    return _eigsh(problem, k, 0, 2 * BASIS)


def _eigsh(problem: Problem, k: int, tolerance: float, basis: int) -> Call:
    from scipy.sparse.linalg import LinearOperator, eigsh

    model, (inputs, targets) = network(problem)
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)

    def run() -> Any:
        kept = torch.autograd.grad(cross_entropy(model(inputs), targets), parameters, create_graph=True)
        gradient = torch.cat([part.reshape(-1) for part in kept])

        def multiply(v: Any) -> Any:
            product = torch.autograd.grad(gradient, parameters, torch.as_tensor(v), retain_graph=True)
            return torch.cat([part.reshape(-1) for part in product]).numpy()

        operator = LinearOperator((size, size), multiply, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(size)
        return falling(eigsh(operator, k=k, v0=start, tol=tolerance, ncv=basis)[0])

    return run


def curvlinops(problem: Problem, k: int) -> Call:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    model, data = network(problem)
    loss = torch.nn.CrossEntropyLoss()

    def run() -> Any:
        operator = HessianLinearOperator(model, loss, list(model.parameters()), [data]).to_scipy()
        start = np.random.default_rng(0).standard_normal(operator.shape[0])
        return falling(eigsh(operator, k=k, v0=start, tol=TOLERANCE, ncv=BASIS)[0])

    return run


def eigenthings(problem: Problem, k: int) -> Call:
    return _eigenthings(problem, k)


def eigenthings_sixty(problem: Problem, k: int) -> Call:
    return _eigenthings(problem, k, max_iter=60)


def eigenthings_orthogonal(problem: Problem, k: int) -> Call:
    return _eigenthings(problem, k, max_iter=60, reorthogonalize=True)


def _eigenthings(problem: Problem, k: int, **options: Any) -> Call:
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    model, data = network(problem)
    loss = supervised_loss(cross_entropy)
    return lambda: falling(lanczos(HessianOperator(model, [data], loss), k=k, seed=0, **options).eigenvalues)


def pyhessian(problem: Problem, k: int) -> Call:
    from pyhessian import hessian

    model, data = network(problem)
    loss = torch.nn.CrossEntropyLoss()

    def run() -> Any:
        torch.manual_seed(0)
        return falling(hessian(model, loss, data=data, cuda=False).eigenvalues(top_n=k)[0])

    return run


def nngeom(problem: Problem, k: int) -> Call:
    from nngeom import Model, lanczos_spectrum

    model, data = network(problem)

    def run() -> Any:
        wrapped = Model(model, loss_fn=lambda model, batch: cross_entropy(model(batch[0]), batch[1]))
        spectrum = lanczos_spectrum(wrapped, data, m=60, seed=0)
        return falling(spectrum.eigenvalues)[:k]

    return run
