"""What the system is told before points are read from disk, and that it is where their numbers are."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from descentmaps import squared_distances
from descentmaps.readahead import announce
from descentmaps.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be told")


@pytest.fixture
def told(monkeypatch):
    """What the system is told: file, first byte, one past the last."""
    found = []

    def advise(descriptor, offset, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), offset, offset + length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


def recorded(folder, x):
    store = Store.create(folder / "x.run", {"layout": [["x", [x.shape[1]], 0]]}, x.shape[1], x.dtype)
    store.append(x, np.arange(1, len(x) + 1), {})
    return store.read()[0]


@pytest.fixture(scope="module")
def array(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("store"), points())


def in_columns(folder, x, zarr_format=3):
    array = zarr.create_array(
        str(folder / f"x{zarr_format}.zarr"),
        shape=x.shape,
        chunks=(len(x), 3000),
        dtype=x.dtype,
        compressors=None,
        zarr_format=zarr_format,
    )
    array[:] = x
    return array


def points(n=40, dimension=10_000):
    return np.random.default_rng(0).standard_normal((n, dimension)).astype(np.float32)


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no way to tell a descriptor's file")


@needs_proc
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_in_files_of_their_own(tmp_path, told, zarr_format):
    array = in_columns(tmp_path, points(), zarr_format)
    announce(array, 3000, 9000)
    sizes = [(file.relative_to(tmp_path).as_posix(), start, end) for file, start, end in told]
    names = ["0.1", "0.2"] if zarr_format == 2 else ["c/0/1", "c/0/2"]
    assert sizes == [(f"x{zarr_format}.zarr/{name}", 0, 40 * 3000 * 4) for name in names]


@given(edges=st.lists(st.integers(0, 12_000), min_size=2, max_size=2, unique=True).map(sorted))
def test_the_announced_bytes_of_a_recorders_store_hold_the_numbers(edges, array):
    (start, stop), x, held = edges, points(), bytearray()

    def advise(descriptor, offset, length, _):
        held.extend(os.pread(descriptor, length, offset))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fadvise", advise)
        announce(array, start, stop)
    width, slack = array.chunks[1], 200  # the table of places at the end of the file shifts the guess by so little
    for chunk in range(-(-start // width), min(stop, x.shape[1]) // width):  # those that lie between in whole
        numbers = x[:, chunk * width : (chunk + 1) * width].tobytes()
        assert numbers[slack:-slack] in held


@needs_proc
def test_all_that_distances_read_is_announced_once(tmp_path, told, monkeypatch):
    monkeypatch.setattr("descentmaps.distances.AHEAD", 8 * 40 * 2000)
    x = points()
    array = recorded(tmp_path, x)
    d2 = squared_distances(array, block_bytes=2 * 4 * 40 * 2000)
    assert len(told) > 2
    (file,) = {file for file, _, _ in told}
    assert (told[0][1], told[-1][2]) == (0, file.stat().st_size)
    for (_, _, end), (_, start, _) in pairwise(told):
        assert abs(start - end) <= 1
    np.testing.assert_allclose(d2, squared_distances(x), atol=1e-9)


@needs_proc
def test_a_missing_chunk_is_passed_over(tmp_path, told):
    array = in_columns(tmp_path, points())
    (tmp_path / "x3.zarr" / "c" / "0" / "1").unlink()
    announce(array, 0, 10_000)
    assert [file.name for file, _, _ in told] == ["0", "2", "3"]


@pytest.mark.parametrize("kind", ["numpy", "Zarr in memory"])
def test_nothing_is_said_of_other_arrays(told, kind):
    x = points()
    announce(x if kind == "numpy" else zarr.array(x), 0, 10_000)
    assert told == []


def test_a_system_that_cannot_be_told(tmp_path, monkeypatch):
    array = in_columns(tmp_path, points())
    monkeypatch.delattr(os, "posix_fadvise")
    announce(array, 0, 10_000)
