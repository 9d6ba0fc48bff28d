"""The snapshots that a recorder holds: a block that is being filled, and where full blocks go."""

from __future__ import annotations

import atexit
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
FEW = 16  # rows of the first block in memory; each one after it has twice as many, up to the size of those on disk
PAGE = 4096  # bytes of memory that are touched at once, at least


class Buffer:
    """A block of rows into which points are copied; a full one is set aside in memory, or written to a store.

    Points are copied to the processor in float64 where any tensor of the first point is, else in float32; half
    precision is widened, which is exact.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], sketch: CountSketch | None) -> None:
        tensors = list(tensors)
        double = any(tensor.dtype == torch.float64 for tensor in tensors)
        self.dtype, self._bits = (torch.float64, torch.int64) if double else (torch.float32, torch.int32)
        self.sketch = sketch
        self.store: Store | None = None
        self._full: list[torch.Tensor] = []
        self._used = 0
        self._updates: list[int] = []
        self._scalars: list[dict[str, float]] = []
        self._flat = self._block = torch.empty(0, 0, dtype=self.dtype)
        self._next: _Ahead | None = None
        self._head = b""
        self._most = FEW
        self.look_at(tensors)
        self._last = self._block[0]
        self.copy()
        self._last = self._last.clone()

    def write_to(self, store: Store) -> None:
        """Let full blocks go to this store from now on, and the last one by :meth:`close` or when Python exits."""
        self.store = store
        self._begin()
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

    def look_at(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let points be made of these from now on: to be called again when one of them has moved in memory."""
        self._tensors = list(tensors)
        self._parts = _flattened(self._tensors)
        # What lies in one piece in the processor's memory is seen through its part, anything else copied every time.
        self._seen = all(tensor.is_cpu and tensor.is_contiguous() for tensor in self._tensors)
        dimension = sum(part.numel() for part in self._parts)
        if dimension != self._flat.numel():
            self.flush()
            self._flat = torch.empty(dimension, dtype=self.dtype)
            self._begin()

    def copy(self) -> bool:
        """Copy a point to the next row; whether it is the same as the one before, or as the first one seen."""
        row = self._rows[self._used]
        flat = row if self.sketch is None else self._flat
        torch.cat(self._parts if self._seen else _flattened(self._tensors), out=flat)
        if self.sketch is not None:
            row.copy_(self.sketch(flat))
        # Most updates change the first few coordinates already; only where they do not is the whole point compared.
        before, self._head = self._head, self._array[self._used, :FIRST].tobytes()
        return self._head == before and torch.equal(row.view(self._bits), self._last.view(self._bits))

    def append(self, update: int, scalars: dict[str, float]) -> None:
        """Keep the row that was copied; OSError where that fills the block and it cannot be written."""
        self._last = self._rows[self._used]
        self._used += 1
        self._updates.append(update)
        self._scalars.append(scalars)
        if self._used == self._room:
            self.flush()
        elif self._used == self._room // 2 and self.store is None:
            self._most *= 2
            self._next = _Ahead(self._size(), self.dtype)

    def flush(self) -> None:
        """Write the rows of the block, or set them aside, and begin a new one."""
        if self._used == 0:
            return
        rows = self._block[: self._used]
        if self.store is None:
            self._full.append(rows)
            self._block = rows[:0]  # which is not written over
        else:
            self.store.append(rows.numpy(), np.array(self._updates, dtype=np.int64), _columns(self._scalars))
            self._last = self._last.clone()  # its row will be
            self._updates, self._scalars = [], []
        self._begin()

    def everything(self) -> tuple[NDArray, NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Points, updates and scalars so far, of a buffer without a store; rows handed out before stay as they are."""
        self.flush()
        width = self.width
        whole = [torch.nn.functional.pad(block, (0, width - block.shape[1]), value=math.nan) for block in self._full]
        self._full = [whole[0] if len(whole) == 1 else torch.cat(whole)] if whole else []
        points = self._full[0] if self._full else self._block[:0]
        return points.numpy(), np.array(self._updates, dtype=np.int64), _columns(self._scalars)

    def _begin(self) -> None:
        """An empty block, of the same memory where it may be written over."""
        if self._block.shape != self._size():
            ready = self._next.block() if self._next else self._block
            self._block = ready if ready.shape == self._size() else torch.empty(self._size(), dtype=self.dtype)
            self._rows, self._array, self._next = self._block.unbind(), self._block.numpy(), None
        self._used = 0
        self._room = len(self._rows) if self.store is None else min(len(self._rows), self.store.room)

    def _size(self) -> tuple[int, int]:
        width = self._flat.numel() if self.sketch is None else self.sketch.k
        rows = rows_in_block(width, self.dtype.itemsize)
        return rows if self.store is not None else min(rows, self._most), width


class _Ahead:
    """A block whose memory another thread touches meanwhile: the first touch takes longer than a copy."""

    def __init__(self, size: Sequence[int], dtype: torch.dtype) -> None:
        self._block = torch.empty(*size, dtype=dtype)
        self._thread = threading.Thread(target=self._touch)
        self._thread.start()

    def block(self) -> torch.Tensor:
        self._thread.join()
        return self._block

    def _touch(self) -> None:
        self._block.view(-1)[:: PAGE // self._block.itemsize].zero_()


def _flattened(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().cpu().reshape(-1) for tensor in tensors]


def _columns(scalars: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """One array a name, NaN where a snapshot has none of it."""
    names = dict.fromkeys(name for entry in scalars for name in entry)
    return {name: np.array([entry.get(name, math.nan) for entry in scalars]) for name in names}


#: Buffers whose last rows are yet to be written.
_WRITING: set[Buffer] = set()


def _close_all() -> None:
    for buffer in list(_WRITING):
        buffer.close()


atexit.register(_close_all)
