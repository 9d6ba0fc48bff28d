"""The snapshots that a recorder holds: a block that is being filled, and where full blocks go."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  registers its own end first: see the end of this file
import math
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .sketch import CountSketch
from .store import Store, rows_in_block

__all__ = ["Buffer"]

FIRST = 64  # coordinates that are compared first


class Buffer:
    """A block of rows into which points are copied; a full one is set aside in memory, or written to a store.

    Points are copied to the processor in float64 where any tensor of the first point is, else in float32; half
    precision is widened, which is exact.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], sketch: CountSketch | None) -> None:
        tensors = list(tensors)
        double = any(tensor.dtype == torch.float64 for tensor in tensors)
        self.dtype = torch.float64 if double else torch.float32
        self.sketch = sketch
        self.store: Store | None = None
        self._full: list[torch.Tensor] = []
        self._used = 0
        self._updates: list[int] = []
        self._scalars: list[dict[str, float]] = []
        self._begin(sum(tensor.numel() for tensor in tensors))
        self._last = self._block[0]
        self.copy(tensors)
        self._last = self._last.clone()

    def write_to(self, store: Store) -> None:
        """Let full blocks go to this store from now on, and the last one by :meth:`close` or when Python exits."""
        self.store = store
        self._room = store.room
        _WRITING.add(self)

    def close(self) -> None:
        """Write what is left, if there is a store."""
        if self.store is not None:
            self.flush()
            _WRITING.discard(self)

    @property
    def width(self) -> int:
        """Numbers in a row: parameters, or those of a sketch."""
        return self._block.shape[1]

    @property
    def last_update(self) -> int:
        """The last update in the store; 0 before any, and in memory."""
        return int(self.store.read()[1][-1]) if self.store is not None and self.store.rows else 0

    def copy(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Copy a point to the next row; whether it is the same as the one before, or as the first one seen."""
        row = self._block[self._used]
        flat = row if self.sketch is None else self._flat
        with torch.no_grad():
            torch.cat([(tensor if tensor.is_cpu else tensor.cpu()).reshape(-1) for tensor in tensors], out=flat)
        if self.sketch is not None:
            row.copy_(self.sketch(flat))
        # Most updates change the first few coordinates already; only where they do not is the whole point compared.
        return torch.equal(row[:FIRST], self._last[:FIRST]) and torch.equal(row, self._last)

    def append(self, update: int, scalars: dict[str, float]) -> None:
        """Keep the row that was copied; OSError where that fills the block and it cannot be written."""
        self._last = self._block[self._used]
        self._used += 1
        self._updates.append(update)
        self._scalars.append(scalars)
        if self._used == self._room:
            self.flush()

    def flush(self) -> None:
        """Write the rows of the block, or set them aside, and begin a new one."""
        if self._used == 0:
            return
        if self.store is None:
            self._full.append(self._block[: self._used])
            self._begin(self._flat.numel())
            return
        updates = np.array(self._updates, dtype=np.int64)
        self.store.append(self._block[: self._used].numpy(), updates, _columns(self._scalars))
        self._last = self._last.clone()  # its row will be written over
        self._used, self._updates, self._scalars = 0, [], []
        self._room = self.store.room

    def widen(self, tensors: Iterable[torch.Tensor]) -> None:
        """Make place for points with more tensors than before."""
        self.flush()
        self._begin(sum(tensor.numel() for tensor in tensors))
        if self.store is not None:
            self._room = self.store.room

    def everything(self) -> tuple[NDArray, NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Points, updates and scalars so far, of a buffer without a store; rows handed out before stay as they are."""
        self.flush()
        width = self.width
        whole = [torch.nn.functional.pad(block, (0, width - block.shape[1]), value=math.nan) for block in self._full]
        self._full = [whole[0] if len(whole) == 1 else torch.cat(whole)] if whole else []
        points = self._full[0] if self._full else self._block[:0]
        return points.numpy(), np.array(self._updates, dtype=np.int64), _columns(self._scalars)

    def _begin(self, dimension: int) -> None:
        self._flat = torch.empty(dimension, dtype=self.dtype)
        width = dimension if self.sketch is None else self.sketch.k
        self._room = rows_in_block(width, self.dtype.itemsize)
        self._block = torch.empty(self._room, width, dtype=self.dtype)
        self._used = 0


def _columns(scalars: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """One array a name, NaN where a snapshot has none of it."""
    names = dict.fromkeys(name for entry in scalars for name in entry)
    return {name: np.array([entry.get(name, math.nan) for entry in scalars]) for name in names}


#: Buffers whose last rows are yet to be written.
_WRITING: set[Buffer] = set()


def _close_all() -> None:
    for buffer in list(_WRITING):
        buffer.close()


# Zarr writes in threads of concurrent.futures, which are gone when the functions of atexit are called. Those registered
# here come before, the last one first.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]
