"""One line attaches to any torch optimizer and keeps a snapshot of the model after its updates."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from numbers import Integral
from types import TracebackType
from typing import Any

import numpy as np
import torch

from .trajectory import Trajectory, layout_of

__all__ = ["Recorder"]


class Recorder:
    """Captures the parameters of ``model`` after every ``every``-th update of ``optimizer``.

    It attaches at once, through ``optimizer.register_step_post_hook``, and is a context manager too::

        with Recorder(model, optimizer, every=10) as recorder:
            for x, y in batches:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                recorder.log(loss=loss.item())
                optimizer.step()
        trajectory = recorder.trajectory

    All parameters of the model are kept, frozen ones included, in the order of ``model.parameters()``, tied ones
    once; buffers, such as the running means of batch normalisation, are not. What is counted is optimizer updates, not
    batches: several backward passes before one step are one update, and so is one step of L-BFGS, whatever it tries
    inside. An update that moves nothing, one that a gradient scaler skipped for instance, may leave a repeated point.

    Parameters
    ----------
    model, optimizer
        The module and the optimizer that trains it.
    every
        Keep one snapshot in so many updates.
    scalars
        A function without arguments that returns a dict of numbers; called at each snapshot, for values too dear
        to compute at every update, such as the loss over the whole training set.

    Raises
    ------
    TypeError
        ``optimizer`` is no torch optimizer.
    ValueError
        ``model`` has no parameters or others than real floating-point ones, ``optimizer`` trains none of them, or
        ``every`` is below 1.
    RuntimeError
        From inside ``optimizer.step()``, where the model's parameters were replaced or changed their shape or type
        after the recorder was attached.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        every: int = 1,
        *,
        scalars: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        _check(model, optimizer, every)
        self.every = int(every)
        self._model = model
        self._parameters = list(model.parameters())
        self._forms = [(p.shape, p.dtype) for p in self._parameters]
        self._layout = layout_of(model)
        self._evaluate = scalars
        self._pending: dict[str, float] = {}
        self._logged: list[dict[str, float]] = []
        self._updates: list[int] = []
        self._done = 0
        self._buffer = torch.empty(0, sum(p.numel() for p in self._parameters), dtype=_dtype(self._parameters))
        self._hook: Any = optimizer.register_step_post_hook(self._after_step)

    def log(self, **scalars: float) -> None:
        """Scalars that belong to the next snapshot; of a name logged twice before it, the last value counts.

        Numbers, or arrays and tensors of one element; TypeError for anything else. RuntimeError on a closed recorder.
        """
        if self._hook is None:
            raise RuntimeError("the recorder is closed: no next snapshot will come for these scalars")
        self._pending.update({name: _number(name, value) for name, value in scalars.items()})

    def snapshot(self) -> None:
        """Keep the model as it is now, beside those that the optimizer's updates bring: the start of a run, say.

        RuntimeError on a closed recorder, or where the model's parameters were replaced.
        """
        if self._hook is None:
            raise RuntimeError("the recorder is closed: it takes no more snapshots")
        self._notice_replaced_parameters()
        self._make_room()
        with torch.no_grad():
            torch.cat([p.reshape(-1).cpu() for p in self._parameters], out=self._buffer[len(self._updates)])
        if self._evaluate is not None:
            self._pending.update({name: _number(name, value) for name, value in self._evaluate().items()})
        self._logged.append(self._pending)
        self._updates.append(self._done)
        self._pending = {}

    def close(self) -> None:
        """Detach from the optimizer. What was captured stays; closing twice does nothing."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @property
    def trajectory(self) -> Trajectory:
        """What was captured so far, also while training goes on."""
        names = dict.fromkeys(name for entry in self._logged for name in entry)
        return Trajectory(
            self._buffer[: len(self._updates)].numpy(),
            np.array(self._updates, dtype=np.int64),
            {name: np.array([entry.get(name, np.nan) for entry in self._logged]) for name in names},
            self._layout,
        )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _after_step(self, *_: Any) -> None:
        self._done += 1
        if self._done % self.every == 0:
            self.snapshot()

    def _notice_replaced_parameters(self) -> None:
        now = list(self._model.parameters())
        same = len(now) == len(self._parameters) and all(map(operator.is_, now, self._parameters))
        if not same or [(p.shape, p.dtype) for p in now] != self._forms:
            raise RuntimeError(
                f"model had {len(self._parameters)} parameters when the recorder was attached, and some of them were "
                "added, removed or replaced since, or changed their shape or type: attach a new recorder afterwards"
            )

    def _make_room(self) -> None:
        """Double the buffer when it is full; rows handed out before stay valid in the old one."""
        rows = len(self._updates)
        if rows == len(self._buffer):
            grown = self._buffer.new_empty(max(64, 2 * rows), self._buffer.shape[1])
            grown[:rows] = self._buffer
            self._buffer = grown


def _check(model: torch.nn.Module, optimizer: torch.optim.Optimizer, every: int) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if not isinstance(every, Integral) or every < 1:
        raise ValueError(f"every must be a whole number of updates, at least 1, got {every!r}")
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"model must have parameters to record, got a {type(model).__name__} without any")
    integer = [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]
    if integer:
        raise ValueError(f"model must have real floating-point parameters, got others in {integer}")
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if trained.isdisjoint(map(id, parameters)):
        raise ValueError("optimizer must train parameters of model, got one that holds none of them")


def _dtype(parameters: list[torch.nn.Parameter]) -> torch.dtype:
    """float64 where any parameter is; half precision is widened, which is exact."""
    return torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"scalar {name!r} must be a number, got {type(value).__name__}") from None
