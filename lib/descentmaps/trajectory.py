"""What was captured: points in parameter space, the updates they belong to, scalars, and the layout of a point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Layout", "Trajectory", "layout_of"]

#: Where each parameter of a model stands in a point: its name, its shape, and the index of its first coordinate.
Layout = list[tuple[str, tuple[int, ...], int]]


def layout_of(model: torch.nn.Module) -> Layout:
    """The layout of a model's parameters in the order of ``model.parameters()``, tied ones once."""
    layout: Layout = []
    offset = 0
    for name, parameter in model.named_parameters():
        name = name.replace("_orig_mod.", "")  # what torch.compile puts before the names of the model it wraps
        layout.append((name, tuple(parameter.shape), offset))
        offset += parameter.numel()
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
        if self.layout and size != dimension:
            raise ValueError(f"layout describes {size} parameters, but points have {dimension}")

    def __len__(self) -> int:
        return len(self.updates)

    def __repr__(self) -> str:
        length, dimension = self.points.shape
        names = ", ".join(self.scalars) or "none"
        return f"Trajectory({length} snapshots of {dimension} parameters; scalars: {names})"

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> Trajectory:
        """The chosen snapshots as a trajectory: ``traj[100:200:2]``, ``traj[mask]``, ``traj[[0, 5]]``."""
        if not isinstance(rows, slice) and (isinstance(rows, tuple) or np.ndim(rows) != 1):
            raise TypeError(f"rows must be a slice, a mask or a list of indices, got {rows!r}; or use points[{rows!r}]")
        if not isinstance(rows, slice | list):
            rows = np.asarray(rows)
        scalars = {name: values[rows] for name, values in self.scalars.items()}
        assert self.run is not None
        return Trajectory(self.points[rows], self.updates[rows], scalars, self.layout, self.run[rows])

    @staticmethod
    def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
        """One trajectory out of several of the same model, their runs numbered on in ``run``.

        A scalar that only some of them logged is NaN in the others. ValueError where the layouts differ.
        """
        if not trajectories:
            raise ValueError("trajectories must hold at least one Trajectory, got none")
        first = trajectories[0]
        for other in trajectories[1:]:
            if other.layout != first.layout or other.points.shape[1] != first.points.shape[1]:
                raise ValueError(f"trajectories must share one layout, got {other!r} after {first!r}")
        names = dict.fromkeys(name for trajectory in trajectories for name in trajectory.scalars)
        return Trajectory(
            np.concatenate([np.asarray(trajectory.points) for trajectory in trajectories]),
            np.concatenate([trajectory.updates for trajectory in trajectories]),
            {name: np.concatenate([_scalar(trajectory, name) for trajectory in trajectories]) for name in names},
            first.layout,
            _numbered_on(trajectories),
        )

    def restore(self, model: torch.nn.Module, i: int) -> None:
        """Write snapshot ``i`` into the model's parameters, in place; buffers stay as they are.

        ValueError where the model's parameters have other shapes, IndexError where there is no snapshot ``i``.
        """
        layout = layout_of(model)
        if [entry[1:] for entry in layout] != [entry[1:] for entry in self.layout]:
            raise ValueError(f"model must have the parameters that were captured, {self.layout}, got {layout}")
        point = torch.as_tensor(np.array(self.points[i]))
        with torch.no_grad():
            for parameter, (_, shape, offset) in zip(model.parameters(), layout, strict=True):
                parameter.copy_(point[offset : offset + parameter.numel()].reshape(shape))


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
