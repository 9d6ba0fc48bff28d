"""A trajectory on disk: a Zarr group to which whole blocks of snapshots are appended.

The group holds ``points`` (T, D), ``updates`` (T,), ``scalars`` (T, S) and, where there are several, ``run`` (T,); its
attributes are the header, which names the scalars. What a reader sees is decided by one file, the group's metadata,
in which those of its arrays are consolidated. It is replaced in one piece when all arrays of a block are written: who
reads meanwhile, or after a crash, finds the blocks before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Store", "rows_in_block"]

FORMAT = 1
BLOCK_BYTES = 2**24  # a block of snapshots: 16 MiB, but
BLOCK_ROWS = (16, 1024)  # not fewer and not more rows than these
COLUMNS = 2048  # coordinates that are read together, at most
SHORT = 4096  # chunk length of the arrays that have a few numbers a snapshot
ARRAYS = ("points", "updates", "scalars", "run")


def rows_in_block(dimension: int, itemsize: int) -> int:
    """Snapshots that are written at a time: about 16 MiB of them, from 16 to 1024."""
    fewest, most = BLOCK_ROWS
    return min(max(BLOCK_BYTES // (dimension * itemsize), fewest), most)


class Store:
    """One trajectory's Zarr group, made by :meth:`create` or opened by :meth:`open`.

    ``rows`` is the number of snapshots committed, ``header`` the dict of attributes.
    """

    def __init__(self, path: Path, header: dict[str, Any], rows: int = 0) -> None:
        self.path, self.header, self.rows = path, header, rows
        self._arrays: dict[str, Any] = {}

    @classmethod
    def create(cls, path: Any, header: Mapping[str, Any], dimension: int, dtype: Any) -> Store:
        """A new, empty store. ``header`` must be what JSON can hold, and have the ``layout``.

        FileExistsError where there is something at ``path``; another OSError where it cannot be written. Both name it.
        """
        path, dtype = Path(path), np.dtype(dtype)
        if path.exists():
            raise FileExistsError(f"path must be new, but {path} exists: choose another, or go on with resume=True")
        rows = rows_in_block(dimension, dtype.itemsize)
        width = math.ceil(dimension / math.ceil(dimension / COLUMNS))
        store = cls(path, {**header, "scalars": [], "descentmaps_format": FORMAT})
        with _naming(path):
            path.mkdir(parents=True)
            # One file for a block of rows, in which blocks of columns lie together, as distances read them.
            file = (rows, width * math.ceil(dimension / width))
            store._create("points", (0, dimension), (rows, width), dtype, shards=file)
            store._create("updates", (0,), (SHORT,), "int64")
            store._create("scalars", (0, 0), (SHORT, 1), "float64")
            store._commit()
        return store

    @classmethod
    def open(cls, path: Any) -> Store:
        """The store at ``path``, as it was last committed.

        FileNotFoundError where there is nothing, ValueError where there is something else.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"path must be a recorded trajectory, but there is nothing at {path}")
        try:
            group = json.loads((path / "zarr.json").read_text("utf-8"))
            header, arrays = group["attributes"], group["consolidated_metadata"]["metadata"]
            version, rows = header["descentmaps_format"], arrays["updates"]["shape"][0]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"path must be a recorded trajectory, got something else at {path}") from error
        if version != FORMAT:
            raise ValueError(f"path must be a trajectory in format {FORMAT}, got format {version!r} at {path}")
        return cls(path, header, rows)

    @property
    def layout(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Name, shape and offset of each parameter."""
        return [(name, tuple(shape), offset) for name, shape, offset in self.header["layout"]]

    def read(self) -> tuple[Any, NDArray[np.int64], dict[str, NDArray[np.float64]], NDArray[np.int64] | None]:
        """Points, as a Zarr array (T, D); updates (T,); scalars, each (T,); labels of runs (T,), None for a single run.

        All as of one commit, and :attr:`header` with them.
        """
        import zarr  # half a second that those who record in memory need not wait

        group: Any = zarr.open_group(str(self.path), mode="r", use_consolidated=True)
        self.header = dict(group.attrs)
        table = group["scalars"][:]
        scalars = {name: table[:, i] for i, name in enumerate(self.header["scalars"][: table.shape[1]])}
        return group["points"], group["updates"][:], scalars, group["run"][:] if "run" in group else None

    @property
    def dtype(self) -> np.dtype:
        """Type of the points."""
        return self._array("points").dtype

    @property
    def room(self) -> int:
        """How many rows fill the block that was begun."""
        rows = self._array("points").shards[0]
        return rows - self.rows % rows

    def append(
        self,
        points: NDArray[Any],
        updates: NDArray[np.int64],
        scalars: Mapping[str, NDArray[np.float64]],
        run: NDArray[np.int64] | None = None,
    ) -> None:
        """Write rows, then commit them. An append that failed changes nothing that readers see, and can be repeated.

        Points may be wider than those before, whose missing coordinates then read as NaN. OSError, with the path, where
        they cannot be written.
        """
        names = list(dict.fromkeys([*self.header["scalars"], *scalars]))
        missing = np.full(len(points), math.nan)
        with _naming(self.path):
            self._write("points", points)
            self._write("updates", updates)
            self._write("scalars", np.array([scalars.get(name, missing) for name in names] or missing[None][:0]).T)
            if run is not None:
                self._write("run", run)
            self.header["scalars"] = names
            self._commit()
        self.rows += len(points)

    def _write(self, name: str, values: NDArray[Any]) -> None:
        """Append to one array; where a crash left rows that were never committed, over them."""
        array = self._array(name)
        shape = (self.rows + len(values), *values.shape[1:])
        if array.shape != shape:
            array.resize(shape)
        array[self.rows :] = values

    def _array(self, name: str) -> Any:
        """An array by its own metadata, which may be ahead of what is committed."""
        import zarr

        if name not in self._arrays:
            if name == "run" and not (self.path / name).exists():
                self._create("run", (self.rows,), (SHORT,), "int64")
            self._arrays[name] = zarr.open_array(str(self.path / name), mode="r+")
        return self._arrays[name]

    def _create(self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, **more: Any) -> None:
        import zarr

        fill = 0 if dtype == "int64" else math.nan
        zarr.create_array(
            str(self.path / name), shape=shape, chunks=chunks, dtype=dtype, compressors=None, fill_value=fill, **more
        )

    def _commit(self) -> None:
        """Replace the group's metadata, the inline consolidated metadata of zarr-python, in one piece."""
        files = {name: self.path / name / "zarr.json" for name in ARRAYS}
        arrays = {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()}
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self.header,
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        }
        written = self.path / "zarr.json.partial"
        written.write_text(json.dumps(group, allow_nan=False), "utf-8")
        written.replace(self.path / "zarr.json")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the operating system, with the path that was given."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, f"path cannot be written: {error.strerror or error}", str(path)) from error
