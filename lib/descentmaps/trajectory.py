"""What was captured: points in parameter space, the updates they belong to, scalars, and the layout of a point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .progress import progress
from .sketch import CountSketch
from .store import Store

__all__ = ["Layout", "Trajectory", "layout_of", "tensors_of"]

#: Where each parameter of a model stands in a point: its name, its shape, and the index of its first coordinate.
Layout = list[tuple[str, tuple[int, ...], int]]


def tensors_of(model: torch.nn.Module, buffers: bool = False) -> dict[str, torch.Tensor]:
    """A model's parameters by name, in the order of ``model.parameters()``, tied ones once.

    With ``buffers``, its floating-point buffers follow.
    """
    found: dict[str, torch.Tensor] = dict(model.named_parameters())
    if buffers:
        found.update((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())
    # what torch.compile puts before the names of the model it wraps is no part of them
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in found.items()}


def layout_of(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """Where each of these tensors stands in a point that is made of them one after the other."""
    layout: Layout = []
    offset = 0
    for name, tensor in tensors.items():
        layout.append((name, tuple(tensor.shape), offset))
        offset += tensor.numel()
    return layout


@dataclass(frozen=True, eq=False)
class Trajectory:
    """T snapshots of the D parameters of a model.

    Attributes
    ----------
    points : array-like, shape (T, D), float32 or float64
        One snapshot a row.
    updates : ndarray of int, shape (T,)
        Optimizer updates done when the snapshot was taken.
    scalars : dict[str, ndarray of shape (T,)]
        What was logged beside each snapshot; NaN where nothing was.
    layout : list of (name, shape, offset)
        Which coordinates belong to which parameter.
    run : ndarray of int, shape (T,)
        Which run each snapshot comes from; all zero for a single run.
    header : dict
        How it was recorded: optimizer and settings, versions, seed, and the sketch where there is one.

    Raises
    ------
    ValueError
        Where the lengths or the dimensions of the parts do not fit together.
    """

    points: Any
    updates: NDArray[np.int64]
    scalars: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    layout: Layout = field(default_factory=list)
    run: NDArray[np.int64] | None = None
    header: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if getattr(self.points, "ndim", None) != 2:
            shape = getattr(self.points, "shape", type(self.points).__name__)
            raise ValueError(f"points must be a 2-D array (snapshots, parameters), got {shape}")
        length, dimension = self.points.shape
        run = np.zeros(length, dtype=np.int64) if self.run is None else np.asarray(self.run, dtype=np.int64)
        # The dataclass is frozen so that nobody rebinds a field; its own constructor may still normalise them.
        object.__setattr__(self, "updates", np.asarray(self.updates, dtype=np.int64))
        object.__setattr__(self, "scalars", {k: np.asarray(v, dtype=float) for k, v in self.scalars.items()})
        object.__setattr__(self, "run", run)
        for name, values in {"updates": self.updates, "run": run, **self.scalars}.items():
            if values.shape != (length,):
                raise ValueError(f"{name} must have shape ({length},), one entry a snapshot, got {values.shape}")
        size = sum(math.prod(shape) for _, shape, _ in self.layout)
        if self.layout and self.sketch is None and size != dimension:
            raise ValueError(f"layout describes {size} parameters, but points have {dimension}")

    @property
    def sketch(self) -> CountSketch | None:
        """The sketch that the points were compressed with; None where they are the parameters themselves."""
        made = self.header.get("sketch")
        return None if made is None else CountSketch(made["k"], made["seed"])

    def __len__(self) -> int:
        return len(self.updates)

    def __repr__(self) -> str:
        length, dimension = self.points.shape
        what = "parameters" if self.sketch is None else "numbers, sketches of the parameters"
        return f"Trajectory({length} snapshots of {dimension} {what}; scalars: {', '.join(self.scalars) or 'none'})"

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> Trajectory:
        """The chosen snapshots as a trajectory: ``traj[100:200:2]``, ``traj[mask]``, ``traj[[0, 5]]``.

        Of points on disk the chosen ones are read.
        """
        if not isinstance(rows, slice) and (isinstance(rows, tuple) or np.ndim(rows) != 1):
            raise TypeError(f"rows must be a slice, a mask or a list of indices, got {rows!r}; or use points[{rows!r}]")
        if not isinstance(rows, slice | list):
            rows = np.asarray(rows)
        scalars = {name: values[rows] for name, values in self.scalars.items()}
        assert self.run is not None
        return Trajectory(
            _rows(self.points, rows), self.updates[rows], scalars, self.layout, self.run[rows], self.header
        )

    @staticmethod
    def open(path: str | PathLike[str]) -> Trajectory:
        """A trajectory that was recorded or saved, as far as it has come; points are a Zarr array and stay on disk.

        FileNotFoundError where there is nothing at ``path``, ValueError where there is something else.
        """
        store = Store.open(path)
        points, updates, scalars, run = store.read()
        header = {name: value for name, value in store.header.items() if name not in ("layout", "scalars")}
        return Trajectory(points, updates, scalars, store.layout, run, header)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a new Zarr store, block by block.

        FileExistsError where there is something at ``path``, any other OSError where it cannot be written.
        """
        store = Store.create(path, {**self.header, "layout": self.layout}, self.points.shape[1], self.points.dtype)
        assert self.run is not None
        several = bool(np.any(self.run != 0))
        starts = range(0, len(self), store.room)
        for start in progress(starts, "saving", "blocks"):
            rows = slice(start, start + starts.step)
            scalars = {name: values[rows] for name, values in self.scalars.items()}
            run = self.run[rows] if several else None
            store.append(np.asarray(self.points[rows]), self.updates[rows], scalars, run)

    @staticmethod
    def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
        """One trajectory out of several of the same model, their runs numbered on in ``run``.

        A scalar that only some of them logged is NaN in the others; the header is the first one's. ValueError where the
        layouts or the sketches differ.
        """
        if not trajectories:
            raise ValueError("trajectories must hold at least one Trajectory, got none")
        first = trajectories[0]
        for other in trajectories[1:]:
            if other.layout != first.layout or other.points.shape[1] != first.points.shape[1]:
                raise ValueError(f"trajectories must share one layout, got {other!r} after {first!r}")
            if other.sketch != first.sketch:
                raise ValueError(f"trajectories must share one sketch, got {other.sketch} after {first.sketch}")
        names = dict.fromkeys(name for trajectory in trajectories for name in trajectory.scalars)
        return Trajectory(
            np.concatenate([np.asarray(trajectory.points) for trajectory in trajectories]),
            np.concatenate([trajectory.updates for trajectory in trajectories]),
            {name: np.concatenate([_scalar(trajectory, name) for trajectory in trajectories]) for name in names},
            first.layout,
            _numbered_on(trajectories),
            first.header,
        )

    def restore(self, model: torch.nn.Module, i: int) -> None:
        """Write snapshot ``i`` into the model's parameters, and buffers where they were recorded, in place.

        ValueError where the model's parameters have other names or shapes, or where only sketches of them were
        recorded or a parameter did not exist yet; IndexError where there is no snapshot ``i``.
        """
        if self.sketch is not None:
            raise ValueError("trajectory must hold the parameters themselves, got sketches: they cannot be undone")
        tensors = tensors_of(model, buffers=self.header.get("buffers", False))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {name: shape for name, shape, _ in self.layout}:
            raise ValueError(f"model must have the parameters that were captured, {self.layout}, got {shapes}")
        point = torch.as_tensor(np.array(_rows(self.points, [i])[0]))
        values = {name: point[offset : offset + math.prod(shape)].reshape(shape) for name, shape, offset in self.layout}
        late = [name for name, value in values.items() if value.numel() and value.isnan().all()]
        if late and not point.isnan().all():
            raise ValueError(f"snapshot {i} must hold every parameter, but {late} did not exist yet")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])


def _rows(points: Any, rows: Any) -> Any:
    """Rows of an array; Zarr arrays take masks and lists by another way."""
    if not hasattr(points, "oindex"):
        return points[rows]
    return points.oindex[np.arange(points.shape[0])[rows], slice(None)]


def _scalar(trajectory: Trajectory, name: str) -> NDArray[np.float64]:
    return trajectory.scalars.get(name, np.full(len(trajectory), np.nan))


def _numbered_on(trajectories: Sequence[Trajectory]) -> NDArray[np.int64]:
    labels, runs = [], 0
    for trajectory in trajectories:
        assert trajectory.run is not None
        names, label = np.unique(trajectory.run, return_inverse=True)
        labels.append(label + runs)
        runs += len(names)
    return np.concatenate(labels)
