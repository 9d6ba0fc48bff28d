"""Sketches against the sum they stand for, and distances against their law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from descentmaps import CountSketch, Recorder, squared_distances
from descentmaps.problems import digits, network, train

SEED = 2**40 + 7
vectors = arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6))


def matrix(sketch, dimension):
    """The sketch of every unit vector, one a row."""
    return sketch(np.eye(dimension))


@pytest.fixture(scope="module")
def run():
    model = network("digits-tanh")
    with Recorder(model, torch.optim.SGD(model.parameters(), lr=0.1), every=5) as recorder:
        train(model, recorder._optimizers[0], digits(), 1000)
    return recorder.trajectory.points


def test_each_coordinate_goes_to_one_bucket_with_one_sign():
    rows = matrix(CountSketch(7), 500)
    assert ((rows != 0).sum(axis=1) == 1).all()
    assert set(rows[rows != 0]) == {-1.0, 1.0}


def test_buckets_and_signs_are_even():
    rows = matrix(CountSketch(8, seed=SEED), 8000)
    counts = (rows != 0).sum(axis=0)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000 * 7 / 8))
    assert abs(rows.sum()) < 5 * np.sqrt(8000)
    assert abs(np.corrcoef(rows.sum(axis=1)[:-1], rows.sum(axis=1)[1:])[0, 1]) < 5 / np.sqrt(8000)


@given(vectors, st.integers(1, 50), st.integers(0, 2**60))
def test_linear(x, k, seed):
    sketch = CountSketch(k, seed)
    expected = x @ matrix(sketch, len(x))
    np.testing.assert_allclose(sketch(x), expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(sketch(np.stack([x, -2 * x])), [expected, -2 * expected], rtol=1e-12, atol=1e-9)


def test_the_same_numbers_everywhere():
    """A store must mean the same on every machine: buckets and signs by hand, from a generator with a known answer."""
    rows = matrix(CountSketch(1000, seed=7), 50)
    raw = [int(number) for number in np.random.Philox(key=7).random_raw(50)]
    assert np.abs(rows).argmax(axis=1).tolist() == [(number >> 32) * 1000 >> 32 for number in raw]
    assert rows.sum(axis=1).tolist() == [1.0 if number % 2 else -1.0 for number in raw]
    # Philox4x64-10 of counter and key 0 in the known answers of Random123 (Salmon, Moraes, Dror and Shaw 2011); numpy
    # counts on before it draws.
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert np.random.Philox(key=0, counter=2**256 - 1).random_raw(4).tolist() == known


@given(st.integers(1, 30), st.integers(0, 30))
def test_a_longer_vector_continues_a_shorter_one(short, more):
    sketch = CountSketch(5, seed=1)
    x = np.arange(1.0, short + 1)
    np.testing.assert_array_equal(sketch(np.concatenate([x, np.zeros(more)])), CountSketch(5, seed=1)(x))


def test_squared_distances_are_right_on_average_and_spread_as_the_theory_says():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(400)
    k, draws = 32, 3000
    squares = np.array([np.sum(CountSketch(k, seed=seed)(x) ** 2) for seed in range(draws)]) / np.sum(x**2)
    variance = 2 / k * (1 - np.sum(x**4) / np.sum(x**2) ** 2)  # two coordinates in one bucket
    assert abs(squares.mean() - 1) < 4 * np.sqrt(variance / draws)
    assert abs(squares.var() / variance - 1) < 0.2


@pytest.mark.parametrize("k", [64, 256, 1024])
@pytest.mark.parametrize("seed", range(3))
def test_distances_of_a_run(run, k, seed):
    exact = squared_distances(run)
    ratio = np.sqrt(squared_distances(CountSketch(k, seed)(run)) / np.where(exact > 0, exact, 1))
    error = np.abs(ratio[exact > 0] - 1)
    assert np.quantile(error, 0.999) < 4 / np.sqrt(2 * k)
    assert np.sqrt(np.mean(error**2)) < 2 / np.sqrt(2 * k)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_tensors_stay_tensors(dtype, kept):
    x = torch.arange(12, dtype=dtype).reshape(2, 6)
    sketched = CountSketch(4)(x)
    assert sketched.dtype == kept
    assert np.array_equal(sketched.numpy(), CountSketch(4)(x.double().numpy()))
    assert CountSketch(4)(x.numpy()).dtype == sketched.numpy().dtype


def test_integers_and_lists():
    assert np.array_equal(CountSketch(4)([1, 2, 3]), CountSketch(4)(np.array([1.0, 2, 3])))


def test_blocks_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("descentmaps.sketch.ROWS_BYTES", 3 * 8 * 50)
    points = np.random.default_rng(0).standard_normal((10, 50))
    disk = zarr.create_array(str(tmp_path / "x.zarr"), data=points)
    expected = points @ matrix(CountSketch(8), 50)
    np.testing.assert_allclose(CountSketch(8)(points), expected, atol=1e-12)
    np.testing.assert_allclose(CountSketch(8)(disk), expected, atol=1e-12)
    assert CountSketch(8)(points[:0]).shape == (0, 8)


@pytest.mark.parametrize("k", [0, -1, 2.5, "8", 2**31])
def test_bad_k(k):
    with pytest.raises(ValueError, match="k must be a positive whole number of buckets"):
        CountSketch(k)


@pytest.mark.parametrize("seed", [-1, 0.5, None, 2**128])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        CountSketch(4, seed)


@pytest.mark.parametrize("x", [1.0, np.zeros((2, 2, 2)), np.zeros(0), np.zeros((3, 0))])
def test_bad_shapes(x):
    with pytest.raises(ValueError, match=r"x must have shape \(D,\) or \(n, D\)"):
        CountSketch(4)(x)


def test_equal_sketches():
    assert CountSketch(4) == CountSketch(np.int64(4), 0)
    assert len({CountSketch(4), CountSketch(4), CountSketch(4, 1), CountSketch(5)}) == 3
    assert repr(CountSketch(4, 1)) == "CountSketch(4, seed=1)"
