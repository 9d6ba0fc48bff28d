"""The book's data set and network: shapes, centring, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from descentmaps.problems import digits, mlp


def test_digits_shapes_and_types():
    data = digits()
    assert data.inputs.shape == (1437, 64)
    assert data.test_inputs.shape == (360, 64)
    assert data.targets.shape == (1437,)
    assert data.test_targets.shape == (360,)
    assert data.inputs.dtype == data.test_inputs.dtype == torch.float64
    assert data.targets.dtype == data.test_targets.dtype == torch.int64


def test_digits_are_centred_on_the_training_mean():
    plain, centred = digits(centered=False), digits()
    assert plain.inputs.min() == 0
    assert plain.inputs.max() == 1
    mean = plain.inputs.mean(dim=0)
    torch.testing.assert_close(centred.inputs + mean, plain.inputs, rtol=0, atol=1e-15)
    torch.testing.assert_close(centred.test_inputs + mean, plain.test_inputs, rtol=0, atol=1e-15)
    assert centred.inputs.mean(dim=0).abs().max() < 1e-14
    assert centred.test_inputs.mean(dim=0).abs().max() > 1e-3


def test_digits_are_split_without_loss_and_by_class():
    data = digits(centered=False)
    pixels, labels = load_digits(return_X_y=True)
    images, classes = torch.cat([data.inputs, data.test_inputs]), torch.cat([data.targets, data.test_targets])
    together = np.column_stack([images, classes])
    original = np.column_stack([pixels / 16, labels])
    np.testing.assert_array_equal(together[np.lexsort(together.T)], original[np.lexsort(original.T)])
    share = torch.bincount(data.test_targets) / torch.bincount(torch.as_tensor(labels))
    assert torch.all((share - 0.2).abs() < 0.01)


def test_digits_are_the_same_every_time():
    for one, other in zip(digits(), digits(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_is_what_it_says(activation):
    model = mlp(3, 5, 4, 2, activation=activation, seed=1)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, parameters = x, list(model.parameters())
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        expected = expected @ weight.T + bias
        if weight is not parameters[-2]:
            expected = torch.tanh(expected) if activation == "tanh" else expected.clamp(min=0)
    torch.testing.assert_close(model(x), expected)
    assert model(x).shape == (7, 2)
    assert all(p.dtype == torch.float64 for p in parameters)


def test_mlp_is_drawn_as_documented():
    model = mlp(400, 300, 1, seed=3)
    weight = model[0].weight.detach()
    assert weight.abs().max() <= 1 / 20
    assert weight.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.01)  # uniform
    assert model[0].bias.abs().max() <= 1 / 20


def test_mlp_depends_on_its_seed_alone():
    def weights(seed):
        return torch.cat([p.detach().ravel() for p in mlp(4, 3, 2, seed=seed).parameters()])

    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_global_generators_are_not_touched():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    mlp(4, 3, 2)
    digits()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002


@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 1), (3, -1)])
def test_widths_are_checked(widths):
    with pytest.raises(ValueError, match="widths must be at least an input and an output size"):
        mlp(*widths)


def test_activation_is_checked():
    with pytest.raises(ValueError, match="activation must be 'tanh' or 'relu', got 'gelu'"):
        mlp(3, 2, activation="gelu")
