"""Something to train on, and copies of a model made by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch


def flat(model: torch.nn.Module) -> np.ndarray:
    """Its parameters, one after the other."""
    return np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])


def batches(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """n batches of eight points in three dimensions, and what a network is to make of them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        yield x.to(dtype), (x.sum(dim=1, keepdim=True) ** 2).to(dtype)
