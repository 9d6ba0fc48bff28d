"""The book's data sets, small networks and training loop: embedded, seeded, float64."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy

from .progress import progress

__all__ = ["NETWORKS", "DataSet", "cnn", "digits", "minibatches", "mlp", "mnist1d", "network", "train"]

Activation = Literal["tanh", "relu"]


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


def mnist1d(n_samples: int = 1000) -> DataSet:
    """MNIST-1D (Greydanus and Kobak 2024): 40 numbers that hide a digit's outline; the last fifth for testing.

    Made on the spot by its authors' package, from its own seed; inputs have mean 0 and standard deviation 1 over all
    samples. ValueError where ``n_samples`` is not a multiple of ten, the number of classes.
    """
    if n_samples < 10 or n_samples % 10:
        raise ValueError(f"n_samples must be a positive multiple of 10, one share per class, got {n_samples!r}")
    made = _mnist1d(n_samples)
    arrays = (made[key] for key in ("x", "y", "x_test", "y_test"))
    return DataSet(*(torch.tensor(array) for array in arrays))


@cache
def _mnist1d(n_samples: int) -> dict[str, NDArray]:
    from mnist1d.data import get_dataset_args, make_dataset  # here, because it brings pyplot along

    settings = get_dataset_args()
    settings.num_samples = n_samples
    with _global_generators_untouched():
        return make_dataset(settings)


@contextmanager
def _global_generators_untouched() -> Iterator[None]:
    """MNIST-1D seeds the global generators of Python and numpy; put them back."""
    plain, array = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(plain)
    np.random.set_state(array)  # noqa: NPY002


def network(name: str, seed: int = 0) -> torch.nn.Sequential:
    """One of the book's ``NETWORKS``, such as ``"digits-tanh"``, drawn from ``seed``; ValueError for another name."""
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {sorted(NETWORKS)}, got {name!r}")
    return NETWORKS[name](seed=seed)


def mlp(*widths: int, activation: Activation = "tanh", seed: int = 0) -> torch.nn.Sequential:
    """A fully connected float64 network, such as ``mlp(64, 16, 10)``, drawn from ``seed`` alone.

    Weights and biases are uniform in ±1/sqrt(fan-in), as torch draws them; torch's global generator is not touched.
    ValueError for fewer than two widths or an unknown activation.
    """
    if len(widths) < 2 or any(width < 1 for width in widths):
        raise ValueError(f"widths must be at least an input and an output size, all positive, got {widths}")
    activate = _activation(activation)
    layers: list[torch.nn.Module] = []
    with _generator_from(seed):
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [torch.nn.Linear(fan_in, fan_out, dtype=torch.float64), activate()]
    return torch.nn.Sequential(*layers[:-1])


def cnn(channels: int = 10, activation: Activation = "tanh", seed: int = 0) -> torch.nn.Sequential:
    """The convolutional network of MNIST-1D's authors (Greydanus and Kobak 2024) in float64, drawn from ``seed`` alone.

    Three convolutions with stride 2 halve 40 numbers to 5, and a linear layer reads ten classes from them; inputs are
    (n, 40), as :func:`mnist1d` has them. ValueError for fewer channels than one or an unknown activation.
    """
    if channels < 1:
        raise ValueError(f"channels must be positive, got {channels!r}")
    activate = _activation(activation)
    layers: list[torch.nn.Module] = [torch.nn.Unflatten(1, (1, 40))]
    with _generator_from(seed):
        for fan_in, width in ((1, 5), (channels, 3), (channels, 3)):
            convolution = torch.nn.Conv1d(fan_in, channels, width, stride=2, padding=1, dtype=torch.float64)
            layers += [convolution, activate()]
        layers += [torch.nn.Flatten(), torch.nn.Linear(5 * channels, 10, dtype=torch.float64)]
    return torch.nn.Sequential(*layers)


def _activation(name: Activation) -> type[torch.nn.Module]:
    activations: dict[str, type[torch.nn.Module]] = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    if name not in activations:
        raise ValueError(f"activation must be 'tanh' or 'relu', got {name!r}")
    return activations[name]


@contextmanager
def _generator_from(seed: int) -> Iterator[None]:
    """torch's global generator at ``seed``, and afterwards back where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


#: The networks that the book returns to, by name: functions of a seed.
NETWORKS: dict[str, Callable[..., torch.nn.Sequential]] = {
    "digits-tanh": partial(mlp, 64, 16, 10, activation="tanh"),
    "digits-relu": partial(mlp, 64, 16, 10, activation="relu"),
    "mnist1d-tanh": partial(mlp, 40, 24, 10, activation="tanh"),
    "mnist1d-relu": partial(mlp, 40, 24, 10, activation="relu"),
    "mnist1d-cnn": partial(cnn, 10),
}


def minibatches(n: int, batch_size: int | None, replacement: bool = True, seed: int = 0) -> Iterator[torch.Tensor]:
    """Endless minibatches of indices below ``n``.

    With ``replacement`` every index of every batch is drawn afresh. Without, each epoch is a new random order, cut into
    whole batches; a remainder smaller than a batch is left out of that epoch. ``batch_size=None`` is the full batch,
    in order. ValueError where ``batch_size`` is below 1, or above ``n`` without replacement.
    """
    if batch_size is not None and not (batch_size >= 1 and (replacement or batch_size <= n)):
        raise ValueError(f"batch_size must be None or from 1 to the {n} samples, got {batch_size!r}")
    return _minibatches(n, batch_size, replacement, torch.Generator().manual_seed(seed))


def _minibatches(n: int, size: int | None, replacement: bool, generator: torch.Generator) -> Iterator[torch.Tensor]:
    if size is None:
        yield from itertools.repeat(torch.arange(n))
    while replacement:
        yield torch.randint(n, (size,), generator=generator)  # type: ignore[arg-type]
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % size].split(size)  # type: ignore[operator,arg-type]


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: DataSet,
    n_updates: int,
    batch_size: int | None = 32,
    *,
    replacement: bool = True,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy,
    seed: int = 0,
    each: Callable[[int], object] | None = None,
) -> NDArray[np.float64]:
    """The training loop of the book; returns the minibatch losses, one (n_updates,) before each update.

    ``loss(outputs, targets)`` is the mean over a minibatch; batches come from :func:`minibatches` with ``seed``.
    ``each(update)`` is called after each update, counted from 1: to look at the model, or to stop by raising.
    FloatingPointError where the loss is no longer a number.
    """
    batches = minibatches(len(data.inputs), batch_size, replacement, seed)
    losses = np.empty(n_updates)
    for update in progress(range(n_updates), "training", "updates"):
        batch = next(batches)
        value = loss(model(data.inputs[batch]), data.targets[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses[update] = value.item()
        if not np.isfinite(losses[update]):
            raise FloatingPointError(
                f"the loss is {losses[update]} at update {update + 1}: try a smaller learning rate"
            )
        if each is not None:
            each(update + 1)
    return losses
