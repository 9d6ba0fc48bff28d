"""The book's data sets and small networks: embedded, seeded, float64."""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__ = ["DataSet", "digits", "mlp"]


class DataSet(NamedTuple):
    """Inputs (n, features) in float64 and class labels (n,), split into training and test samples."""

    inputs: torch.Tensor
    targets: torch.Tensor
    test_inputs: torch.Tensor
    test_targets: torch.Tensor


def digits(centered: bool = True) -> DataSet:
    """scikit-learn's 1797 handwritten digits, 8 x 8 pixels, ten classes; a fixed fifth of them for testing.

    Pixels are scaled to [0, 1]. With ``centered`` the mean training image is subtracted.
    """
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.2, random_state=0, stratify=labels)
    inputs, test_inputs, targets, test_targets = (torch.as_tensor(part) for part in parts)
    if centered:
        mean = inputs.mean(dim=0)
        inputs, test_inputs = inputs - mean, test_inputs - mean
    return DataSet(inputs, targets, test_inputs, test_targets)


def mlp(*widths: int, activation: Literal["tanh", "relu"] = "tanh", seed: int = 0) -> torch.nn.Sequential:
    """A fully connected float64 network, such as ``mlp(64, 16, 10)``, drawn from ``seed`` alone.

    Weights and biases are uniform in ±1/sqrt(fan-in), as torch draws them; torch's global generator is not touched.
    ValueError for fewer than two widths or an unknown activation.
    """
    if len(widths) < 2 or any(width < 1 for width in widths):
        raise ValueError(f"widths must be at least an input and an output size, all positive, got {widths}")
    activations = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    if activation not in activations:
        raise ValueError(f"activation must be 'tanh' or 'relu', got {activation!r}")
    layers: list[torch.nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [torch.nn.Linear(fan_in, fan_out, dtype=torch.float64), activations[activation]()]
    return torch.nn.Sequential(*layers[:-1])
