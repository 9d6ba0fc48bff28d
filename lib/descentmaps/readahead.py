"""Files that are read here and there, and soon: the system, which reads ahead only in order, is told of them."""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any

__all__ = ["announce"]


def announce(array: Any, start: int, stop: int) -> None:
    """Let the system begin to read columns ``start`` to ``stop`` of a Zarr array (n, D) that lies in files.

    Of a file that holds many blocks of columns it is the part where they are if all take as much room, as in a
    recorder's store. Where they do not, a wrong part is read in vain. Other arrays are left alone, and so are all
    where the system cannot be told (``posix_fadvise`` is missing on macOS and Windows).
    """
    root = getattr(getattr(getattr(array, "store_path", None), "store", None), "root", None)
    if not (isinstance(root, Path) and hasattr(os, "posix_fadvise")):
        return
    n, dimension = array.shape
    rows, columns = array.shards or array.chunks
    for j in range(start // columns, ceil(min(stop, dimension) / columns)):
        first, last = (min(max(edge / columns - j, 0), 1) for edge in (start, stop))
        for i in range(ceil(n / rows)):
            _will_be_read(root / array.path / array.metadata.encode_chunk_key((i, j)), first, last)


def _will_be_read(path: Path, first: float, last: float) -> None:
    """That part of the file, between 0 and 1; a file that is missing, as of absent chunks, is passed over."""
    with suppress(OSError), path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        os.posix_fadvise(file.fileno(), int(first * size), ceil((last - first) * size), os.POSIX_FADV_WILLNEED)
