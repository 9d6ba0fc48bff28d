"""Work that takes longer than a moment shows how far it has come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["progress"]

PATIENCE = 2.0  # seconds after which it does

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, unit: str) -> Iterable[Item]:
    """The items, with a bar that says ``what`` is being done and counts in ``unit``; it goes when they are used up."""
    return tqdm(items, desc=what, unit=f" {unit}", delay=PATIENCE, leave=False)
