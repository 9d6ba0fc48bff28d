"""The snapshots that a recorder holds: a block that is being filled, and where full blocks go."""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from .sketch import CountSketch
from .store import Store, rows_in_block

__all__ = ["Buffer"]

FIRST = 256  # bytes of a point that are compared first
MEMORY_ROWS = (1, 1024)  # a block in memory has not fewer and not more rows than these


class Buffer:
    """Copies points to the rows of a block, and full blocks to where they stay.

    That is a store, or memory: there another thread copies them while the next points go to a second block, for new
    memory takes longer to write to than old.

    Points are copied to the processor in float64 where any tensor of the first point is, else in float32; half
    precision is widened, which is exact.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], sketch: CountSketch | None) -> None:
        self._tensors = list(tensors)
        self._shapes = [tensor.shape for tensor in self._tensors]
        double = any(tensor.dtype == torch.float64 for tensor in self._tensors)
        self.dtype, self._bits = (torch.float64, torch.int64) if double else (torch.float32, torch.int32)
        self.sketch = sketch
        self.store: Store | None = None
        self._full: list[Future[torch.Tensor]] = []
        self._blocks: list[_Block] = []
        self._used = 0
        self._updates: list[int] = []
        self._scalars: list[dict[str, float]] = []
        self._inference = torch.inference_mode()  # as without gradients, and quicker

    def start(self, store: Store | None) -> None:
        """Begin where the tensors are. Blocks go to this store, if any; the last one when Python exits at latest."""
        self.store = store
        self._begin()
        self._head: bytes | memoryview = b""
        self.copy()
        self._keep_last(self._rows[0])
        if store is not None:
            _WRITING.add(self)

    def close(self) -> None:
        """Write what is left, if there is a store, and let go of the memory for more points."""
        self.flush()
        _WRITING.discard(self)
        self._blocks = []
        self._fill(self._new_block(0))

    @property
    def width(self) -> int:
        """Numbers in a row: parameters, or those of a sketch."""
        return sum(shape.numel() for shape in self._shapes) if self.sketch is None else self.sketch.k

    def look_at(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let points be made of these from now on: the ones before, wherever they lie now, and more perhaps."""
        self._tensors = list(tensors)
        shapes = [tensor.shape for tensor in self._tensors]
        if shapes != self._shapes:
            self.flush()
            self._shapes, self._blocks = shapes, []
            self._begin()

    def copy(self) -> bool:
        """Copy a point to the next row; whether it is the same as the one before, or as the first one seen.

        RuntimeError where a tensor no longer has the shape that it had.
        """
        with self._inference:
            torch._foreach_copy_(self._parts[self._used], self._tensors)
            if self.sketch is not None:
                self._rows[self._used] = self.sketch(self._flat)
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
            self.flush()

    def flush(self) -> None:
        """Write the rows of the block, or set them aside, and begin a new one."""
        if self._used == 0:
            return
        rows = self._rows[: self._used]
        if self.store is None:
            self._set_aside(rows)
            self._last = rows[-1]  # not written over before another is the last
        else:
            self.store.append(rows.numpy(), np.array(self._updates, dtype=np.int64), _columns(self._scalars))
            self._keep_last(rows[-1])
            self._updates, self._scalars = [], []
        self._begin()

    def everything(self) -> tuple[NDArray, NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Points, updates and scalars so far, of a buffer without a store; rows handed out before stay as they are."""
        self.flush()
        blocks = [_wide(block.result(), self.width) for block in self._full]
        points = blocks[0] if len(blocks) == 1 else torch.cat([self._rows[:0], *blocks])
        self._full = [_done(points)]
        return points.numpy(), np.array(self._updates, dtype=np.int64), _columns(self._scalars)

    def _set_aside(self, rows: torch.Tensor) -> None:
        """Keep the rows of the block in memory: the block itself, if it is of one, else a copy that is being made."""
        block = self._blocks.pop(0)
        if len(block.rows) == 1:
            self._full.append(_done(rows))
        else:
            block.copied = _copied(rows)
            self._full.append(block.copied)
            self._blocks.append(block)

    def _same_as_last(self) -> bool:
        row, last = self._rows[self._used], self._rows[self._used - 1] if self._used else self._last
        return torch.equal(row.view(self._bits), last.view(self._bits))

    def _keep_last(self, row: torch.Tensor) -> None:
        """A copy of a row that will be written over."""
        self._last, self._head = row.clone(), bytes(self._head)

    def _begin(self) -> None:
        """An empty block, of memory that was used before if there is any."""
        rows = rows_in_block(self.width, self.dtype.itemsize, MEMORY_ROWS if self.store is None else None)
        if self._blocks and self._blocks[0].rows.shape != (rows, self.width):
            self._blocks = []
        while len(self._blocks) < (2 if self.store is None and rows > 1 else 1):
            self._blocks.append(self._new_block(rows))
        self._blocks[0].copied.result()
        self._fill(self._blocks[0])

    def _fill(self, block: _Block) -> None:
        """Let the next points go to this block."""
        self._rows, self._raw, self._parts, self._flat = block.rows, block.raw, block.parts, block.flat
        self._stride = self.width * self.dtype.itemsize
        self._first = min(FIRST, self._stride)
        self._used = 0
        self._room = len(block.rows) if self.store is None else min(len(block.rows), self.store.room)

    def _new_block(self, rows: int) -> _Block:
        return _Block(rows, self._shapes, self.dtype, self.sketch)


class _Block:
    """Memory for so many points, and for each of them where its tensors are copied to."""

    @torch.inference_mode()
    def __init__(self, rows: int, shapes: Sequence[torch.Size], dtype: torch.dtype, sketch: CountSketch | None) -> None:
        sizes = [shape.numel() for shape in shapes]
        self.rows = torch.zeros(rows, sum(sizes) if sketch is None else sketch.k, dtype=dtype)
        self.raw = self.rows.view(torch.uint8).view(-1).numpy().data
        self.flat = None if sketch is None else torch.empty(sum(sizes), dtype=dtype)  # a point that is to be sketched
        self.copied = _done(self.rows)  # what another thread makes of it when it is full
        pieces = (self.rows if self.flat is None else self.flat.expand(rows, -1)).split(sizes, dim=1)
        shaped = (piece.view(-1, *shape) for piece, shape in zip(pieces, shapes, strict=True))
        self.parts = list(zip(*(piece.unbind() for piece in shaped), strict=True))


def _copied(rows: torch.Tensor) -> Future[torch.Tensor]:
    """A copy that another thread makes."""
    try:
        return _COPYING.submit(rows.clone)
    except RuntimeError:  # Python exits, and starts nothing more
        return _done(rows.clone())


def _done(rows: torch.Tensor) -> Future[torch.Tensor]:
    done: Future[torch.Tensor] = Future()
    done.set_result(rows)
    return done


def _wide(rows: torch.Tensor, width: int) -> torch.Tensor:
    """With NaN for the coordinates that came later."""
    missing = width - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, missing), value=math.nan) if missing else rows


def _columns(scalars: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """One array a name, NaN where a snapshot has none of it."""
    names = dict.fromkeys(name for entry in scalars for name in entry)
    return {name: np.array([entry.get(name, math.nan) for entry in scalars]) for name in names}


#: Copies full blocks of all buffers.
_COPYING: ThreadPoolExecutor


def _make_copier() -> None:
    global _COPYING
    _COPYING = ThreadPoolExecutor(1, "descentmaps")


_make_copier()
if hasattr(os, "register_at_fork"):  # a process that was forked has none of the threads of the one before
    os.register_at_fork(after_in_child=_make_copier)

#: Buffers whose last rows are yet to be written.
_WRITING: set[Buffer] = set()


def _close_all() -> None:
    for buffer in list(_WRITING):
        buffer.close()


atexit.register(_close_all)
