"""The book's data sets, networks and training loop: shapes, centering, seeds, batches."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from descentmaps.problems import NETWORKS, DataSet, cnn, digits, minibatches, mlp, mnist1d, network, train


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


def test_mnist1d_shapes_types_and_balance():
    data = mnist1d()
    assert (data.inputs.shape, data.test_inputs.shape) == ((800, 40), (200, 40))
    assert data.inputs.dtype == torch.float64 and data.targets.dtype == torch.int64
    assert torch.bincount(torch.cat([data.targets, data.test_targets])).tolist() == [100] * 10
    together = torch.cat([data.inputs, data.test_inputs])
    assert abs(together.mean()) < 1e-12 and abs(together.std(correction=0) - 1) < 1e-12


def test_mnist1d_is_the_same_each_time_and_leaves_generators_alone():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = mnist1d(20)
    first.inputs.zero_()
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert mnist1d(20).inputs.abs().sum() > 0


@pytest.mark.parametrize("n_samples", [0, 15, -10])
def test_mnist1d_refuses_uneven_classes(n_samples):
    with pytest.raises(ValueError, match="n_samples must be a positive multiple of 10"):
        mnist1d(n_samples)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_cnn_is_what_it_says(activation):
    """Three convolutions with stride 2 and padding 1, written out as sums, then a linear layer."""
    model = cnn(4, activation, seed=1)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *convolutions, matrix, offset = model.parameters()
    signal = x[:, None]
    for weight, bias in zip(convolutions[::2], convolutions[1::2], strict=True):
        padded = torch.nn.functional.pad(signal, (1, 1))
        windows = padded.unfold(2, weight.shape[2], 2)  # (n, channels, positions, width)
        signal = torch.einsum("ncpw,dcw->ndp", windows, weight) + bias[:, None]
        signal = signal.tanh() if activation == "tanh" else signal.clamp(min=0)
    assert signal.shape == (3, 4, 5)
    torch.testing.assert_close(model(x), signal.reshape(3, -1) @ matrix.T + offset)
    assert sum(p.numel() for p in cnn().parameters()) == 1190


def test_cnn_refuses():
    with pytest.raises(ValueError, match="channels must be positive, got 0"):
        cnn(0)
    with pytest.raises(ValueError, match="activation must be 'tanh' or 'relu', got 'gelu'"):
        cnn(4, "gelu")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_by_name(name):
    data = digits() if name.startswith("digits") else mnist1d()
    assert network(name, seed=3)(data.inputs).shape == (len(data.inputs), 10)


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of .*'digits-relu'.* got 'resnet'"):
        network("resnet")


def test_batches_without_replacement_are_epochs():
    batches = list(itertools.islice(minibatches(10, 3, replacement=False, seed=0), 6))
    for epoch in (batches[:3], batches[3:]):
        assert len(torch.cat(epoch).unique()) == 9
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:]))


def test_batches_with_replacement_repeat_indices():
    drawn = torch.cat(list(itertools.islice(minibatches(10, 4, seed=0), 1000)))
    counts = torch.bincount(drawn, minlength=10)
    assert counts.min() > 300 and counts.max() < 500  # five standard deviations of a binomial around 400
    assert len(next(minibatches(3, 20))) == 20


def test_the_full_batch_is_every_index_in_order():
    batches = minibatches(7, None)
    assert next(batches).tolist() == next(batches).tolist() == list(range(7))


@pytest.mark.parametrize(("size", "replacement"), [(0, True), (-1, False), (11, False)])
def test_impossible_batches_are_refused(size, replacement):
    with pytest.raises(ValueError, match="batch_size must be None or from 1 to the 10 samples"):
        minibatches(10, size, replacement)


def least_squares(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    targets = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return DataSet(inputs, targets, inputs, targets)


def test_training_on_the_full_batch_is_gradient_descent():
    data, model = least_squares(), mlp(3, 1, seed=0)
    weight, bias = (p.detach().clone() for p in model.parameters())
    losses = train(
        model, torch.optim.SGD(model.parameters(), lr=0.1), data, 25, None, loss=torch.nn.functional.mse_loss
    )
    for expected in losses:
        error = data.inputs @ weight.T + bias - data.targets
        np.testing.assert_allclose(expected, (error**2).mean())
        weight = weight - 0.1 * 2 * (error.T @ data.inputs) / len(error)
        bias = bias - 0.1 * 2 * error.mean(dim=0)
    np.testing.assert_allclose(model[0].weight.detach(), weight)


def test_training_is_seeded_and_calls_back_after_each_update():
    data, seen, paths = digits(), [], []
    for seed in (0, 0, 1):
        model = network("digits-tanh")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        paths.append(train(model, optimizer, data, 5, seed=seed, each=seen.append))
    np.testing.assert_array_equal(paths[0], paths[1])
    assert (paths[0] != paths[2]).any()
    assert seen == [1, 2, 3, 4, 5] * 3


def test_a_diverging_training_says_so():
    data, model = least_squares(), mlp(3, 1, seed=0)
    with pytest.raises(FloatingPointError, match="at update .* smaller learning rate"):
        train(model, torch.optim.SGD(model.parameters(), lr=1e3), data, 500, None, loss=torch.nn.functional.mse_loss)
