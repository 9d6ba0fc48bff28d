"""Points that stay on disk: 8 GB of float32, as a file of rows, as a Zarr array, and as a recorder writes them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import environments
import numpy as np
from environments import FLOORS, MAPS, Limits
from samples import NOISE, SPHERE_SCALE, sphere
from tqdm import tqdm

BLOCK = 2**24  # bytes read at once
ROWS = 10  # written at once
SAMPLE = 10  # the rank-k update is measured on one part in so many of the columns
SPARE = 4e9  # bytes to leave on the disk


def measure(n: int, dimension: int, limits: Limits) -> list[dict[str, Any]]:
    """One row per layout: our map's seconds and memory, beside the two floors."""
    floor = _rank_k(n, dimension // SAMPLE, limits) * SAMPLE
    rows = []
    for layout, write in LAYOUTS.items():
        with scratch(4 * n * dimension) as folder:
            path = write(folder, n, dimension)
            drop_cache(path)
            read = read_all(path)
            drop_cache(path)
            task = {"points": str(path), "scale": SPHERE_SCALE, "components": 10}
            found = environments.run(MAPS[0], task, limits)
        row = {"name": layout, "failure": found.failure, "read_seconds": read, "rank_k_seconds": floor} | found.result
        if not found.failure:
            row["ratio"] = row["seconds"] / max(read, floor)
            row["allowed_mb"] = (2 * n**2 * 8) / 1e6 + 512
        rows.append(row)
    return rows


def _rank_k(n: int, dimension: int, limits: Limits) -> float:
    with scratch(4 * n * dimension) as folder:
        path = folder / "points.npy"
        np.save(path, np.random.default_rng(0).standard_normal((n, dimension), dtype=np.float32))
        task = {"points": str(path), "scale": None, "components": 10, "keep": False}
        found = environments.run(FLOORS[0], task, limits)
    return float(found.result.get("seconds", np.nan))


@contextmanager
def scratch(size: float) -> Iterator[Path]:
    """A folder for so many bytes, which is always removed; OSError where the disk has no room."""
    environments.BUILD.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(environments.BUILD).free
    if free < size + SPARE:
        raise OSError(f"the disk needs {(size + SPARE) / 1e9:.0f} GB for this, and has {free / 1e9:.0f}")
    with tempfile.TemporaryDirectory(dir=environments.BUILD, prefix="scratch-") as name:
        yield Path(name)


def _memory_map(folder: Path, n: int, dimension: int) -> Path:
    path, block = folder / f"points-{n}.dat", _blocks(n, dimension)
    with open(path, "wb") as file:
        for start in tqdm(range(0, n, ROWS), "writing rows", leave=False):
            block(slice(start, start + ROWS), slice(None)).tofile(file)
    return path


def _zarr(folder: Path, n: int, dimension: int) -> Path:
    """Chunks of as many columns as in a recorder's store, but of all rows."""
    import zarr

    from descentmaps.store import COLUMNS

    path, block = folder / "points.zarr", _blocks(n, dimension)
    shape, chunks = (n, dimension), (n, min(COLUMNS, dimension))
    array: Any = zarr.create_array(str(path), shape=shape, chunks=chunks, dtype="float32", compressors=None)
    for start in tqdm(range(0, dimension, COLUMNS), "writing columns", leave=False):
        columns = slice(start, min(start + COLUMNS, dimension))
        array[:, columns] = block(slice(None), columns)
    return path


def _store(folder: Path, n: int, dimension: int) -> Path:
    from descentmaps.store import Store

    path, block = folder / "points.run", _blocks(n, dimension)
    store = Store.create(path, {"layout": [["points", [dimension], 0]]}, dimension, np.float32)
    rows = store.room
    for start in tqdm(range(0, n, rows), "writing snapshots", leave=False):
        points = block(slice(start, start + rows), slice(None))
        store.append(points, np.arange(start + 1, start + 1 + len(points)), {})
    return path


def _blocks(n: int, dimension: int) -> Callable[[slice, slice], Any]:
    """What makes any block of the same sphere as everywhere."""
    points, rng = sphere(n).astype(np.float32), np.random.default_rng(1)
    frame = rng.standard_normal((3, dimension), dtype=np.float32) / np.float32(dimension**0.5)

    def block(rows: slice, columns: slice) -> Any:
        values = points[rows] @ frame[:, columns]
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        return values + noise * np.float32(NOISE / dimension**0.5)

    return block


#: What each layout is called, and what writes it.
LAYOUTS = {"memory map of rows": _memory_map, "Zarr, columns": _zarr, "a recorder's store": _store}


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def drop_cache(path: Path) -> None:
    """Let the system forget what it holds of these files, where it can be told to."""
    for file in files_of(path):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(path: Path) -> float:
    """Seconds to read every byte once, in order."""
    start = time.perf_counter()
    for file in files_of(path):
        with open(file, "rb", buffering=0) as opened:
            while opened.read(BLOCK):
                pass
    return time.perf_counter() - start
