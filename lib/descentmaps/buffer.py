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

FIRST = 256  # bytes of a point that are compared first
FEW, MANY = 64, 1024  # rows of the first block in memory; a full one is followed by one of twice as many, up to these
MEMORY_BYTES = 2**25  # or to 32 MiB, but one row at least
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
        self._shapes: list[torch.Size] = []
        self._block = torch.empty(0, 0, dtype=self.dtype)
        self._next: _Ahead | None = None
        self._rows = FEW
        self._without_gradients = torch.no_grad()
        self._head: bytes | memoryview = b""
        self.look_at(tensors)
        self.copy()
        self._keep_last(self._block[0])

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

    @property
    def _dimension(self) -> int:
        return sum(shape.numel() for shape in self._shapes)

    def look_at(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let points be made of these from now on: the ones before, wherever they lie now, and more perhaps."""
        self._tensors = list(tensors)
        shapes = [tensor.shape for tensor in self._tensors]
        if shapes != self._shapes:
            self.flush()
            self._shapes, self._block = shapes, self._block[:0]
            self._begin()

    def copy(self) -> bool:
        """Copy a point to the next row; whether it is the same as the one before, or as the first one seen.

        RuntimeError where a tensor no longer has the shape that it had.
        """
        with self._without_gradients:
            torch._foreach_copy_(self._parts[self._used], self._tensors)
        if self.sketch is not None:
            self._block[self._used] = self.sketch(self._flat)
        # Most updates change the first few coordinates already; only where they do not is the whole point compared.
        start = self._used * self._stride
        before, self._head = self._head, self._raw[start : start + self._first]
        return self._head == before and self._same_as_last()

    def append(self, update: int, scalars: dict[str, float]) -> None:
        """Keep the row that was copied; OSError where that fills the block and it cannot be written."""
        self._used += 1
        self._updates.append(update)
        self._scalars.append(scalars)
        if self._used == self._room:
            self._rows, _ = self._size(2 * self._rows)
            self.flush()
        elif self._used == self._room // 2 and self.store is None:
            self._next = _Ahead(self._size(2 * self._rows), self.dtype)

    def flush(self) -> None:
        """Write the rows of the block, or set them aside, and begin a new one."""
        if self._used == 0:
            return
        rows = self._block[: self._used]
        if self.store is None:
            self._full.append(rows)
            self._last, self._block = rows[-1], rows[:0]  # which are not written over
        else:
            self.store.append(rows.numpy(), np.array(self._updates, dtype=np.int64), _columns(self._scalars))
            self._keep_last(rows[-1])
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

    def _same_as_last(self) -> bool:
        row, last = self._block[self._used], self._block[self._used - 1] if self._used else self._last
        return torch.equal(row.view(self._bits), last.view(self._bits))

    def _keep_last(self, row: torch.Tensor) -> None:
        """A copy of a row that will be written over."""
        self._last, self._head = row.clone(), bytes(self._head)

    def _begin(self) -> None:
        """An empty block, of the same memory where it may be written over."""
        rows, width = self._size(self._rows)
        if self._block.shape != (rows, width):
            self._block = self._next.block() if self._next else self._block
            self._next = None
            if len(self._block) < rows or self._block.shape[1] != width:
                self._block = torch.empty(rows, width, dtype=self.dtype)
            self._raw, self._stride = self._block.view(torch.uint8).view(-1).numpy().data, self._block[0].nbytes
            self._first = min(FIRST, self._stride)
            self._parts = self._parted()
        self._used = 0
        self._room = len(self._block) if self.store is None else min(len(self._block), self.store.room)

    def _parted(self) -> list[tuple[torch.Tensor, ...]]:
        """For each row of the block, where the tensors are copied to."""
        points = self._block
        if self.sketch is not None:
            self._flat = torch.empty(self._dimension, dtype=self.dtype)
            points = self._flat.expand(len(self._block), -1)
        pieces = points.split([shape.numel() for shape in self._shapes], dim=1)
        shaped = (piece.view(-1, *shape) for piece, shape in zip(pieces, self._shapes, strict=True))
        return list(zip(*(piece.unbind() for piece in shaped), strict=True))

    def _size(self, rows: int) -> tuple[int, int]:
        """Rows and columns of a block that has so many rows at most, if it is one in memory."""
        width = self._dimension if self.sketch is None else self.sketch.k
        if self.store is not None:
            return rows_in_block(width, self.dtype.itemsize), width
        return min(max(MEMORY_BYTES // (width * self.dtype.itemsize), 1), rows, MANY), width


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
