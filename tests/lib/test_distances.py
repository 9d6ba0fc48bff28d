"""Squared distances against direct differences in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, pdist, squareform

from descentmaps import distances, squared_distances
from descentmaps.distances import ROUNDING

ELEMENTS = st.floats(-100, 100, width=32)
CLOUDS = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=ELEMENTS)


def direct(x, y=None):
    return squareform(pdist(x, "sqeuclidean")) if y is None else cdist(x, y, "sqeuclidean")


def spread(x, y):
    """What rounding scales with: the squared distances of both points from the mean of x."""
    mean = x.mean(axis=0)
    return ((x - mean) ** 2).sum(axis=1)[:, None] + ((y - mean) ** 2).sum(axis=1)


def late_snapshots(dtype, steps=150, dimension=4000, size=1e-6, seed=0):
    """A path that starts with a norm of 1 and whose steps are a millionth of it."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(dimension)
    moves = rng.standard_normal((steps, dimension))
    start /= np.linalg.norm(start)
    moves *= size / np.linalg.norm(moves, axis=1, keepdims=True)
    return (start + np.cumsum(moves, axis=0)).astype(dtype)


@given(CLOUDS)
@settings(max_examples=60)
def test_equals_direct_differences(x):
    d2 = squared_distances(x)
    assert d2.dtype == np.float64
    assert np.all(np.abs(d2 - direct(x)) <= 2 * ROUNDING * spread(x, x) + 1e-20)


@given(CLOUDS, st.integers(1, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_equals_direct_differences_to_a_second_cloud(x, m, seed):
    y = np.random.default_rng(seed).normal(size=(m, x.shape[1])) * 10
    d2 = squared_distances(x, y)
    assert d2.shape == (len(x), m)
    assert np.all(d2 >= 0)
    assert np.all(np.abs(d2 - direct(x, y)) <= 2 * ROUNDING * spread(x, y) + 1e-20)


@given(CLOUDS)
@settings(max_examples=60)
def test_symmetric_nonnegative_and_exactly_zero_on_the_diagonal(x):
    d2 = squared_distances(x)
    assert np.array_equal(d2, d2.T)
    assert np.all(d2 >= 0)
    assert not d2.diagonal().any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_late_training_is_resolved(dtype):
    x = late_snapshots(dtype)
    truth = direct(x.astype(np.float64))
    pairs = ~np.eye(len(x), dtype=bool)
    error = np.abs(squared_distances(x) - truth)[pairs] / truth[pairs]
    assert error.max() < 1e-11
    product = x.astype(np.float64) @ x.astype(np.float64).T  # without centring the same formula loses six digits
    naive = np.diag(product)[:, None] + np.diag(product) - 2 * product
    assert (np.abs(naive - truth)[pairs] / truth[pairs]).max() > 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_late_training_is_resolved_against_a_second_cloud(dtype):
    x = late_snapshots(dtype)
    d2 = squared_distances(x[:100], x[100:])
    truth = direct(x[:100].astype(np.float64), x[100:].astype(np.float64))
    np.testing.assert_allclose(d2, truth, rtol=1e-11)


class Chunked:
    """An array that is stored in chunks of columns, and notes what is read."""

    def __init__(self, x, chunks):
        self.x, self.shape, self.dtype, self.chunks, self.read = x, x.shape, x.dtype, chunks, []

    def __getitem__(self, key):
        self.read.append(key[1].start)
        return self.x[key]


@pytest.mark.parametrize("chunks", [(30, 40), ((30,), (40, 40, 20))], ids=["as Zarr", "as Dask"])
@pytest.mark.parametrize(
    ("columns", "starts"),
    [(90, [0]), (60, [0, 80]), (40, [0, 40, 80]), (20, [0, 40, 80]), (10, list(range(0, 100, 10)))],
)
def test_no_chunk_is_read_twice_that_fits_into_memory_for_blocks(chunks, columns, starts):
    x = np.random.default_rng(0).standard_normal((30, 100))
    stored = Chunked(x, chunks)
    d2 = squared_distances(stored, block_bytes=columns * 30 * 8 * 3)
    assert sorted(stored.read) == starts
    np.testing.assert_allclose(d2, squared_distances(x), atol=1e-12)


def test_an_array_on_disk_may_be_in_no_chunks():
    x = np.random.default_rng(0).standard_normal((30, 100))
    np.testing.assert_allclose(squared_distances(Chunked(x, None)), squared_distances(x), atol=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 8 * 40, 8 * 40 * 7, 2**27])
def test_does_not_depend_on_the_block_size(block_bytes):
    x = np.random.default_rng(0).normal(size=(40, 23))
    np.testing.assert_allclose(squared_distances(x, block_bytes=block_bytes), direct(x), rtol=1e-12)
    np.testing.assert_allclose(squared_distances(x, x[:5], block_bytes=block_bytes), direct(x, x[:5]), rtol=1e-12)


def as_memmap(x, folder):
    mapped = np.memmap(folder / "x.dat", dtype=x.dtype, mode="w+", shape=x.shape)
    mapped[:] = x
    return mapped


def as_zarr(x, folder):
    array = zarr.create_array(store=str(folder / "x.zarr"), shape=x.shape, chunks=(7, 5), dtype=x.dtype)
    array[:] = x
    return array


KINDS = {
    "list": lambda x, _: x.tolist(),
    "fortran": lambda x, _: np.asfortranarray(x),
    "strided": lambda x, _: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "memmap": as_memmap,
    "zarr": as_zarr,
    "torch": lambda x, _: torch.tensor(x),
    "torch with gradient": lambda x, _: torch.tensor(x, requires_grad=True),
    "read-only": lambda x, _: np.frombuffer(x.tobytes()).reshape(x.shape),
}


@pytest.mark.parametrize("kind", KINDS)
def test_takes_any_container_and_leaves_it_alone(kind, tmp_path):
    x = np.random.default_rng(1).normal(size=(20, 11))
    given_x = KINDS[kind](x, tmp_path)
    np.testing.assert_allclose(squared_distances(given_x, block_bytes=8 * 20 * 4), direct(x), rtol=1e-12)
    np.testing.assert_allclose(squared_distances(x[:3], given_x), squared_distances(x[:3], x), atol=1e-13)
    unchanged = given_x.detach().numpy() if hasattr(given_x, "detach") else np.asarray(given_x)
    assert np.array_equal(unchanged, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_widens_short_floats_exactly(dtype):
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    np.testing.assert_allclose(squared_distances(x), direct(x.double().numpy()), rtol=1e-12)


def test_integers_do_not_overflow():
    x = np.array([[0, 0], [100, 100], [127, -128]], dtype=np.int8)
    assert squared_distances(x)[1, 0] == 20000
    assert squared_distances(x)[2, 0] == 127**2 + 128**2


@given(CLOUDS, st.floats(-1e3, 1e3), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_unchanged_by_translation_rotation_and_relabelling(x, shift, seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))
    order = rng.permutation(len(x))
    d2 = squared_distances(x)
    scale = spread(x, x).max() + shift**2 * x.shape[1] * 1e-3 + 1e-9
    np.testing.assert_allclose(squared_distances(x + shift), d2, atol=1e-12 * scale)
    np.testing.assert_allclose(squared_distances(x @ rotation), d2, atol=1e-12 * scale)
    np.testing.assert_allclose(squared_distances(x[order]), d2[np.ix_(order, order)], atol=1e-12 * scale)


@given(CLOUDS, st.floats(1e-3, 1e3))
@settings(max_examples=50)
def test_scales_with_the_square(x, c):
    np.testing.assert_allclose(squared_distances(c * x) / c**2, squared_distances(x), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dimension", [3, 100, 3000])
@pytest.mark.parametrize("block_bytes", [2**14, 2**27])
def test_equal_points_are_at_distance_exactly_zero(dimension, block_bytes):
    x = np.random.default_rng(2).normal(size=(50, dimension)) * 1.1
    d2 = squared_distances(np.vstack([x, x[::-1]]), block_bytes=block_bytes)
    assert not d2[np.arange(50), 99 - np.arange(50)].any()
    assert np.count_nonzero(d2) == 100 * 98
    assert not squared_distances(np.tile(x[0], (37, 1)), block_bytes=block_bytes).any()


def test_one_point_and_one_coordinate():
    assert np.array_equal(squared_distances([[3.0, 4.0]]), [[0.0]])
    assert np.array_equal(squared_distances([[0.0]], [[3.0], [-4.0]]), [[9.0, 16.0]])


BAD = {
    "1-D": np.zeros(3),
    "3-D": np.zeros((2, 2, 2)),
    "scalar": 3.0,
    "no points": np.zeros((0, 3)),
    "no coordinates": np.zeros((3, 0)),
    "empty list": [],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_shapes_name_the_argument(kind):
    with pytest.raises(ValueError, match="^X must be 2-D"):
        squared_distances(BAD[kind])
    with pytest.raises(ValueError, match="^Y must be 2-D"):
        squared_distances(np.ones((2, 3)), BAD[kind])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.filterwarnings("error")
def test_numbers_beyond_reach_name_the_argument_and_the_row(value):
    x = np.random.default_rng(0).normal(size=(9, 4))
    bad = x.copy()
    bad[7, 2] = value
    with pytest.raises(ValueError, match="^Y must be finite.* in 1 points, the first at row 7"):
        squared_distances(x, bad)
    for arguments in [(bad,), (bad, x)]:
        with pytest.raises(ValueError, match="^X must be finite"):
            squared_distances(*arguments)
    if not np.isfinite(value):
        with pytest.raises(ValueError, match="in 1 points, the first at row 7"):
            squared_distances(bad)


def test_other_dimensions_and_blocks_are_refused():
    with pytest.raises(ValueError, match="Y must have the dimension of X, 3, got 2"):
        squared_distances(np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="block_bytes must be positive"):
        squared_distances(np.ones((2, 3)), block_bytes=0)


@pytest.mark.parametrize("block_bytes", [8 * 20 * 4, 2**27])
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_gives_the_same(kind, block_bytes, tmp_path):
    """Torch's processor stands in for other devices: the same lines run there."""
    x = np.random.default_rng(1).normal(size=(20, 11))
    given_x = KINDS[kind](x, tmp_path)
    d2 = squared_distances(given_x, block_bytes=block_bytes, device="cpu")
    np.testing.assert_allclose(d2, direct(x), rtol=1e-12)
    assert np.array_equal(d2, d2.T) and not d2.diagonal().any()
    between = squared_distances(x[:3], given_x, block_bytes=block_bytes, device="cpu")
    np.testing.assert_allclose(between, squared_distances(x[:3], x), atol=1e-13)
    unchanged = given_x.detach().numpy() if hasattr(given_x, "detach") else np.asarray(given_x)
    assert np.array_equal(unchanged, x)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_strips_on_a_device_make_up_the_triangle(n, dtype):
    x = np.random.default_rng(n).normal(size=(n, 50))
    d2 = squared_distances(x, device="cpu", dtype=dtype, block_bytes=8 * n * 20)
    np.testing.assert_allclose(d2, direct(x), rtol=1e-12 if dtype == "float64" else 1e-5)
    assert np.array_equal(d2, d2.T)


@pytest.mark.parametrize("of", ["x", "y"])
def test_points_on_a_cuda_device_are_multiplied_there(of, monkeypatch):
    """None is needed: a tensor that says so is sent where torch's processor stands in."""
    x = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class OnDevice:
        shape, dtype, device, is_cuda = x.shape, x.dtype, "cuda:1", True

        def __getitem__(self, key):
            return x[key]

    asked = []

    def on_device(blocks, device, *rest):
        asked.append(device)
        return original(blocks, "cpu", *rest)

    original = distances._on_device
    monkeypatch.setattr(distances, "_on_device", on_device)
    given = (OnDevice(), None) if of == "x" else (x, OnDevice())
    np.testing.assert_allclose(squared_distances(*given), direct(x.numpy()), atol=1e-12)
    assert asked == ["cuda:1"]
    squared_distances(x)
    assert len(asked) == 1


def test_late_training_is_resolved_on_a_device():
    x = late_snapshots(np.float32)
    pairs = ~np.eye(len(x), dtype=bool)
    truth = direct(x.astype(np.float64))
    assert (np.abs(squared_distances(x, device="cpu") - truth)[pairs] / truth[pairs]).max() < 1e-11


@pytest.mark.parametrize("device", [None, "cpu"])
def test_single_precision_is_right_to_its_rounding_and_no_finer(device):
    x = np.random.default_rng(3).normal(size=(60, 500)).cumsum(axis=0) + 1e4
    d2 = squared_distances(x, dtype="float32", device=device, block_bytes=2**14)
    error = np.abs(d2 - direct(x)) / spread(x, x)
    assert d2.dtype == np.float64 and np.array_equal(d2, d2.T) and not d2.diagonal().any()
    assert 1e-9 < error.max() < 1e-6
    between = squared_distances(x, x[:9], dtype="float32", device=device)
    assert (np.abs(between - direct(x, x[:9])) / spread(x, x[:9])).max() < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_a_device_names_the_argument_and_the_row(value):
    x = np.random.default_rng(0).normal(size=(9, 4))
    bad = x.copy()
    bad[7, 2] = value
    with pytest.raises(ValueError, match="^Y must be finite.* in 1 points, the first at row 7"):
        squared_distances(x, bad, device="cpu")
    with pytest.raises(ValueError, match="^X must be finite"):
        squared_distances(bad, device="cpu")


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="dtype must be 'float64' or 'float32', got 'float16'"):
        squared_distances(np.ones((2, 3)), dtype="float16")
