"""What is timed on a device: points that are there already, as `contenders` does it for the processor.

Each takes the places of the points on a sphere, the dimension to turn them into and the device, and a number of
components. Every call ends with something in the processor's memory, so that the device has finished when it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from samples import NOISE, SPHERE_SCALE

Data = dict[str, Any]
Call = Callable[[], Any]
ROWS = 256  # made at a time, so that little memory is needed beside the points
COLUMNS = 8192  # multiplied at a time


def distances(data: Data, n: int) -> Call:
    from descentmaps import squared_distances

    X = embedded(data)
    return lambda: squared_distances(X, device=X.device)


def whole_map(data: Data, n: int) -> Call:
    from descentmaps import DiffusionMap

    X = embedded(data)
    estimator = DiffusionMap(n_components=n, alpha=1.0, epsilon=SPHERE_SCALE / 4)
    return lambda: estimator.fit(X).eigenvectors_


def product(data: Data, n: int) -> Call:
    """The floor: X X^T in float64, on the device, one whole product of each block."""
    import torch

    X = embedded(data)

    def run() -> float:
        gram = torch.zeros(len(X), len(X), dtype=torch.float64, device=X.device)
        for block in X.split(COLUMNS, dim=1):
            wide = block.double()
            gram.addmm_(wide, wide.T)
        return float(gram[0, 0])

    return run


def embedded(data: Data) -> Any:
    """Points (n, D) of float32 on the device: turned at random, with noise in every coordinate."""
    import torch

    device, dimension = str(data["device"]), int(data["dimension"])
    generator = torch.Generator(device).manual_seed(1)
    places = torch.tensor(data["places"], dtype=torch.float32, device=device)
    X = places @ (torch.randn(places.shape[1], dimension, generator=generator, device=device) / dimension**0.5)
    for rows in X.split(ROWS):
        rows.add_(torch.randn(rows.shape, generator=generator, device=device), alpha=NOISE / dimension**0.5)
    return X
