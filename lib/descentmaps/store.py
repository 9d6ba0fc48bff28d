"""A trajectory on disk: a Zarr group to which whole blocks of snapshots are appended.

The group holds ``points`` (T, D), ``updates`` (T,), ``scalars`` (T, S) and, where there are several, ``run`` (T,); its
attributes are the header, which names the scalars. What a reader sees is decided by one file, the group's metadata,
in which those of its arrays are consolidated. It is replaced in one piece when all arrays of a block are written: who
reads meanwhile, or after a crash, finds the blocks before.

Zarr makes the arrays, and reads them, with zarrs for the bytes. Blocks are written here, in a fraction of the time: an
uncompressed chunk of its format (version 3, codecs ``bytes`` and ``sharding_indexed``) is nothing but its numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

__all__ = ["Store", "rows_in_block"]

FORMAT = 1
BLOCK_BYTES = 2**24  # a block of snapshots: 16 MiB, but
BLOCK_ROWS = (16, 1024)  # not fewer and not more rows than these
COLUMNS = 2048  # coordinates that are read together, at most
READER = "zarrs.ZarrsCodecPipeline"  # of the zarrs package: a tenth of the time where columns lie in many files
SHORT = 4096  # chunk length of the arrays that have a few numbers a snapshot


def rows_in_block(dimension: int, itemsize: int, bounds: tuple[int, int] | None = None) -> int:
    """Snapshots that are written at a time: about 16 MiB of them, from 16 to 1024, or within other bounds."""
    fewest, most = bounds or BLOCK_ROWS
    return min(max(BLOCK_BYTES // (dimension * itemsize), fewest), most)


class Store:
    """One trajectory's Zarr group, made by :meth:`create`, or found by :meth:`open` to read, :meth:`resume` to append.

    ``rows`` is the number of snapshots committed, ``last_update`` the last one's update, 0 before any, and ``header``
    the dict of attributes.
    """

    def __init__(self, path: Path, header: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.rows, self.last_update = int(arrays["updates"]["shape"][0]), 0
        self._arrays = arrays  # their metadata, by name
        self._begun: NDArray[Any] = np.empty((0, 0))  # rows of the block that is not full
        self._run: int | None = None  # the last one's label

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
        # One file for a block of rows, in which blocks of columns lie together, as distances read them.
        file = (rows, width * math.ceil(dimension / width))
        with _naming(path):
            path.mkdir(parents=True)
            arrays = {
                "points": _create(path / "points", (0, dimension), (rows, width), dtype, shards=file),
                "updates": _create(path / "updates", (0,), (SHORT,), np.int64),
                "scalars": _create(path / "scalars", (0, 0), (SHORT, 1), np.float64),
            }
            store = cls(path, {**header, "scalars": [], "descentmaps_format": FORMAT}, arrays)
            store._commit({})
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
            version, store = header["descentmaps_format"], cls(path, header, arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"path must be a recorded trajectory, got something else at {path}") from error
        if version != FORMAT:
            raise ValueError(f"path must be a trajectory in format {FORMAT}, got format {version!r} at {path}")
        return store

    @classmethod
    def resume(cls, path: Any) -> Store:
        """The store at ``path``, to go on where it ends; errors as of :meth:`open`."""
        store = cls.open(path)
        points, updates, _, run = store.read()
        store._begun = points[store.rows - store.rows % store._shape_of_file[0] :]
        if store.rows:
            store.last_update, store._run = int(updates[-1]), None if run is None else int(run[-1])
        return store

    @property
    def layout(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Name, shape and offset of each parameter."""
        return [(name, tuple(shape), offset) for name, shape, offset in self.header["layout"]]

    @property
    def dtype(self) -> np.dtype:
        """Type of the points."""
        return np.dtype(self._arrays["points"]["data_type"])

    @property
    def room(self) -> int:
        """How many rows fill the block that was begun."""
        return self._shape_of_file[0] - self.rows % self._shape_of_file[0]

    def read(self) -> tuple[Any, NDArray[np.int64], dict[str, NDArray[np.float64]], NDArray[np.int64] | None]:
        """Points, as a Zarr array (T, D); updates (T,); scalars, each (T,); labels of runs (T,), None for a single run.

        All as of one commit, and :attr:`header` with them.
        """
        import zarr  # half a second that those who record in memory need not wait

        with zarr.config.set({"codec_pipeline.path": READER}):  # for these arrays, and as long as they live
            group: Any = zarr.open_group(str(self.path), mode="r", use_consolidated=True)
            arrays = dict(group.arrays())
        self.header = dict(group.attrs)
        table = arrays["scalars"][:]
        scalars = {name: table[:, i] for i, name in enumerate(self.header["scalars"][: table.shape[1]])}
        return arrays["points"], arrays["updates"][:], scalars, arrays["run"][:] if "run" in arrays else None

    def append(
        self,
        points: NDArray[Any],
        updates: NDArray[np.int64],
        scalars: Mapping[str, NDArray[np.float64]],
        run: NDArray[np.int64] | None = None,
    ) -> None:
        """Write rows, then commit them. An append that failed changes nothing that readers see, and can be repeated.

        Points may be wider than those before, whose missing coordinates then read as NaN. Where the rows before have
        labels of runs and these have none, they belong to the last run. OSError, with the path, where they cannot be
        written.
        """
        if len(points) == 0:
            return
        names = list(dict.fromkeys([*self.header["scalars"], *scalars]))
        missing = np.full(len(points), math.nan)
        labels = np.full(len(points), self._run) if run is None and self._run is not None else run
        whole, end = self._with_begun(points), self.rows + len(points)
        shapes = {"points": (end, points.shape[1]), "updates": (end,), "scalars": (end, len(names)), "run": (end,)}
        with _naming(self.path):
            self._write_points(whole)
            self._write_column("updates", updates)
            for column, name in enumerate(names):
                self._write_column("scalars", scalars.get(name, missing), column)
            if labels is not None:
                self._write_column("run", labels)
            self.header["scalars"] = names
            self._commit(shapes)
        self.rows, self.last_update = end, int(updates[-1])
        self._begun = whole[len(whole) - end % self._shape_of_file[0] :].copy()
        self._run = None if labels is None else int(labels[-1])

    @property
    def _shape_of_file(self) -> tuple[int, int]:
        return tuple(self._arrays["points"]["chunk_grid"]["configuration"]["chunk_shape"])

    def _with_begun(self, points: NDArray[Any]) -> NDArray[Any]:
        """These rows after those of the block that was begun."""
        if len(self._begun) == 0:
            return points
        more = points.shape[1] - self._begun.shape[1]
        return np.concatenate([np.pad(self._begun, ((0, 0), (0, more)), constant_values=math.nan), points])

    def _write_points(self, points: NDArray[Any]) -> None:
        """Whole files, from that of the block that was begun on; what a crash left in them is written over."""
        rows, columns = self._shape_of_file
        width = self._arrays["points"]["codecs"][0]["configuration"]["chunk_shape"][1]
        chunk = np.full((rows, width), math.nan, self.dtype.newbyteorder("<"))
        for i, start in enumerate(range(0, len(points), rows), self.rows // rows):
            for j, left in enumerate(range(0, points.shape[1], columns)):
                with _replacing(self.path / "points" / "c" / str(i) / str(j)) as file:
                    _write_chunks(file, points[start : start + rows, left : left + columns], chunk, columns // width)

    def _write_column(self, name: str, values: NDArray[Any], column: int | None = None) -> None:
        """One of the few numbers that a snapshot has beside its point, in files of equal length."""
        if name not in self._arrays:
            self._arrays[name] = _create(self.path / name, (self.rows,), (SHORT,), values.dtype)
        array, (first, begun) = self._arrays[name], divmod(self.rows, SHORT)
        dtype, fill = np.dtype(array["data_type"]).newbyteorder("<"), float(array["fill_value"])

        def file(number: int) -> Path:
            return self.path.joinpath(name, "c", str(number), *([] if column is None else [str(column)]))

        before = np.full(begun, fill, dtype)
        if begun and file(first).exists():
            before = np.fromfile(file(first), dtype, begun)
        whole = np.concatenate([before, values], dtype=dtype)
        chunks = np.pad(whole, (0, -len(whole) % SHORT), constant_values=fill).reshape(-1, SHORT)
        for number, chunk in enumerate(chunks, first):
            with _replacing(file(number)) as out:
                out.write(chunk.data)

    def _commit(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Replace the metadata, that of the group last: the inline consolidated metadata of zarr-python."""
        arrays = {
            name: {**array, "shape": list(shapes.get(name, array["shape"]))} for name, array in self._arrays.items()
        }
        consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self.header,
            "consolidated_metadata": consolidated,
        }
        for name, metadata in [*arrays.items(), ("", group)]:
            with _replacing(self.path / name / "zarr.json") as file:
                file.write(json.dumps(metadata, allow_nan=False).encode())
        self._arrays = arrays


def _create(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, **more: Any) -> dict[str, Any]:
    """The metadata of a new array without a compressor; absent are zeros among integers, NaN among reals."""
    import zarr

    fill = 0 if np.issubdtype(dtype, np.integer) else math.nan
    zarr.create_array(
        str(path), shape=shape, chunks=chunks, dtype=dtype, compressors=None, fill_value=fill, overwrite=True, **more
    )
    return json.loads((path / "zarr.json").read_text("utf-8"))


def _write_chunks(file: IO[bytes], points: NDArray[Any], chunk: NDArray[Any], count: int) -> None:
    """Rows as ``count`` blocks of columns, then the table of their places; ``chunk`` is room for one of them.

    Rows to come are left out of each block: a hole in the file, until it is written again.
    """
    rows, width = len(points), chunk.shape[1]
    places = np.full((count, 2), 2**64 - 1, "<u8")  # offset and bytes; this is how a missing one is marked
    for k, left in enumerate(range(0, points.shape[1], width)):
        block = points[:, left : left + width]
        chunk[:rows, : block.shape[1]] = block
        chunk[:rows, block.shape[1] :] = math.nan
        places[k] = k * chunk.nbytes, chunk.nbytes
        file.seek(k * chunk.nbytes)
        file.write(chunk[:rows].data)
    file.seek((k + 1) * chunk.nbytes)
    file.write(places.tobytes() + google_crc32c.value(places.tobytes()).to_bytes(4, "little"))


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes its place in one piece when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # it may be the last thing that fits on the disk
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the operating system, with the path that was given."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, f"path cannot be written: {error.strerror or error}", str(path)) from error
