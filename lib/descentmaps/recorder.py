"""One line attaches to any torch optimizer and keeps a snapshot of the model after its updates."""

from __future__ import annotations

import math
import platform
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import cycle
from numbers import Integral
from os import PathLike
from types import TracebackType
from typing import Any

import torch

from .buffer import Buffer
from .sketch import CountSketch
from .store import Store
from .trajectory import Trajectory, layout_of, tensors_of

try:
    from torch._C._dynamo.eval_frame import get_eval_frame_callback as _compiler  # None where nothing is compiled
except ImportError:  # torch does not promise it
    _compiler = bool  # never None

__all__ = ["Recorder"]

Form = tuple[torch.Size, torch.dtype]


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
    once; one that is added to the model later is appended, and is NaN in the snapshots before. What is counted is
    optimizer updates, not batches: several backward passes before one step are one update, and so is one step of
    L-BFGS, whatever it tries inside. (An optimizer whose ``step`` calls that of its parent class counts both, where
    torch has put its hooks on both classes.) Beside what is logged, two scalars come by themselves: ``learning_rate``
    (with ``learning_rate/1``, ... for further parameter groups) and ``unchanged``, 1 where the model stands where it
    stood at the snapshot before: its gradients were empty, say, or a gradient scaler skipped the update.

    Parameters
    ----------
    model, optimizer
        The module and the optimizer that trains it; or a list of optimizers that step in turn, of which the last one's
        step ends an update.
    every
        Keep one snapshot in so many updates.
    path
        Write to a new Zarr store here, in whole blocks of about 16 MiB while training goes on; what is left is written
        by :meth:`close`, or when Python exits. Another process can read the store at any time with
        :meth:`Trajectory.open`; a process that is killed loses what came since the last block. Without a path, all is
        kept in memory.
    sketch
        A :class:`CountSketch`: keep ``k`` numbers per snapshot instead of the parameters.
    scalars
        A function without arguments that returns a dict of numbers; called at each snapshot, for values too dear
        to compute at every update, such as the loss over the whole training set.
    buffers
        Keep the floating-point buffers too, such as the running means of batch normalization, after the parameters.
    resume
        Go on where the store at ``path`` ends; it must hold the same model.
    start
        Optimizer updates already done when the recorder is attached. By default none, or as many as the store says;
        give it when you go on from a checkpoint older than the store's end. Nothing is overwritten.

    Raises
    ------
    TypeError
        ``optimizer`` is no torch optimizer, ``sketch`` no sketch.
    ValueError
        ``model`` has no parameters or others than real floating-point ones, ``optimizer`` trains none of them,
        ``every`` is below 1, ``resume`` comes without a path, or the store holds another model or sketch.
    FileExistsError, FileNotFoundError, OSError
        At once, where ``path`` is taken, or with ``resume`` missing, or cannot be written.
    RuntimeError
        From inside ``optimizer.step()``, where parameters were removed or changed their shape or type after the
        recorder was attached: at the next snapshot, or where a few alone changed their type, after as many snapshots
        as the model has parameters.

    Warns
    -----
    RuntimeWarning
        Where a block cannot be written in mid-training, on a full disk say. Training goes on, nothing more is
        recorded, and :meth:`close` tries once more to write what was captured, then raises the error.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        every: int = 1,
        path: str | PathLike[str] | None = None,
        sketch: CountSketch | None = None,
        scalars: Callable[[], Mapping[str, float]] | None = None,
        *,
        buffers: bool = False,
        resume: bool = False,
        start: int | None = None,
    ) -> None:
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        _check(model, optimizers, every, path, sketch, resume)
        self.every = int(every)
        self._model, self._optimizers, self._with_buffers = model, list(optimizers), buffers
        self._function = scalars
        self._pending: dict[str, float] = {}
        self._tensors = tensors_of(model, buffers)
        self._look_around()
        self._forms, self._layout = _forms(self._tensors), layout_of(self._tensors)
        self._header = _header(self._optimizers, self.every, buffers, sketch)
        self._buffer = Buffer(self._tensors.values(), sketch)
        store = None if path is None else self._store(path, resume)
        self._buffer.start(store)
        done = 0
        if store is not None:
            done = store.last_update
            weakref.finalize(self, self._buffer.close).atexit = False  # for a recorder that is forgotten
        self._done = done if start is None else int(start)
        self._hook: Any = self._optimizers[-1].register_step_post_hook(_never_compiled(self._after_step))

    def log(self, **scalars: float) -> None:
        """Scalars that belong to the next snapshot; of a name logged twice before it, the last value counts.

        Numbers, or arrays and tensors of one element; TypeError for anything else. RuntimeError on a closed recorder.
        """
        self._refuse_if_closed("no next snapshot will come for these scalars")
        self._pending.update({name: _number(name, value) for name, value in scalars.items()})

    def snapshot(self) -> None:
        """Keep the model as it is now, beside those that the optimizer's updates bring: the start of a run, say.

        RuntimeError on a closed recorder, or where the model's parameters were removed or changed their form.
        """
        self._refuse_if_closed("it takes no more snapshots")
        self._evaluate()
        self._copy()
        self._keep()

    def close(self) -> None:
        """Detach from the optimizer and write what is left. What was captured stays; closing twice does nothing.

        OSError where it cannot be written: it stays in memory, and closing again tries again.
        """
        self._detach()
        self._buffer.close()

    @property
    def updates(self) -> int:
        """Optimizer updates done: save it with a checkpoint, and give it back as ``start``."""
        return self._done

    @property
    def trajectory(self) -> Trajectory:
        """What was captured so far, also while training goes on."""
        if self._buffer.store is not None:
            self._buffer.flush()
            return Trajectory.open(self._buffer.store.path)
        return Trajectory(*self._buffer.everything(), self._layout, header=self._header)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _after_step(self, *_: Any) -> None:
        self._done += 1
        if self._done % self.every:
            return
        self._evaluate()
        try:
            self._pending["unchanged"] = float(self._copy())
        except OSError as error:
            self._stop(error)
            return
        self._keep()

    def _evaluate(self) -> None:
        """Scalars that are worked out for each snapshot; before it is copied, for they may ask for those so far."""
        if self._function is not None:
            self._pending.update({name: _number(name, value) for name, value in self._function().items()})

    def _copy(self) -> bool:
        """Whether the point, copied as it is now, is the same as the one before."""
        if self._changed():
            self._take_in_changes()
        try:
            return self._buffer.copy()
        except RuntimeError:
            self._take_in_changes()  # which says what has another shape, if that is why
            raise

    def _keep(self) -> None:
        """The point that was just copied, with its scalars."""
        scalars, self._pending = self._pending, {}
        _add_learning_rates(scalars, self._optimizers)
        try:
            self._buffer.append(self._done, scalars)
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self._detach()
        warnings.warn(f"recording stopped at update {self._done}, training goes on: {error}", RuntimeWarning, 3)

    def _take_in_changes(self) -> None:
        """Of parameters since the recorder was attached: those added join; none may be removed or change its form."""
        tensors = tensors_of(self._model, self._with_buffers)
        forms = _forms(tensors)
        lost = [name for name, form in self._forms.items() if forms.get(name) != form]
        if lost:
            raise RuntimeError(
                f"model had {len(self._forms)} parameters when the recorder was attached, and since then {lost} were "
                "removed or changed their shape or type: attach a new recorder afterwards"
            )
        added = {name: form for name, form in forms.items() if name not in self._forms}
        wide = [name for name, (_, dtype) in added.items() if dtype == torch.float64 != self._buffer.dtype]
        if wide:
            raise RuntimeError(f"model is recorded in float32, and {wide} came in float64: attach a new recorder")
        self._forms |= added  # at the end, whatever their place in the model
        self._tensors = {name: tensors[name] for name in self._forms}
        self._look_around()
        self._layout = layout_of(self._tensors)
        self._buffer.look_at(self._tensors.values())
        if self._buffer.store is not None:
            self._buffer.store.header["layout"] = self._layout  # written with the next block

    def _look_around(self) -> None:
        """Note who stands in the model: a look at its modules' own tables is far cheaper than a walk."""
        kinds = ("_parameters", "_modules", "_buffers") if self._with_buffers else ("_parameters", "_modules")
        self._tables = [getattr(module, kind) for module in self._model.modules() for kind in kinds]
        self._members = [{name: _itself(member) for name, member in table.items()} for table in self._tables]
        self._rounds = cycle([(tensor, tensor.nbytes) for tensor in self._tensors.values()])

    def _changed(self) -> bool:
        """Whether anyone else stands in the model, or the next tensor to be looked at has another size."""
        tensor, nbytes = next(self._rounds)
        try:
            return self._members != self._tables or tensor.nbytes != nbytes
        except RuntimeError:  # of torch, asked whether two tensors are equal, which it is only where they are not one
            return True

    def _store(self, path: str | PathLike[str], resume: bool) -> Store:
        dtype = str(self._buffer.dtype).removeprefix("torch.")
        if not resume:
            return Store.create(path, {**self._header, "layout": self._layout}, self._buffer.width, dtype)
        store = Store.resume(path)
        ours = {"layout": self._layout, "sketch": self._header["sketch"], "dtype": dtype}
        theirs = {"layout": store.layout, "sketch": store.header.get("sketch"), "dtype": str(store.dtype)}
        for name, value in ours.items():
            if value != theirs[name]:
                raise ValueError(f"path must hold a run with the same {name}, {value}, got {theirs[name]} at {path}")
        return store

    def _refuse_if_closed(self, consequence: str) -> None:
        if self._hook is None:
            raise RuntimeError(f"the recorder is closed: {consequence}")

    def _detach(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _check(
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    every: int,
    path: str | PathLike[str] | None,
    sketch: CountSketch | None,
    resume: bool,
) -> None:
    if not isinstance(optimizers, list | tuple) or not optimizers:
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, or a list of them, got {type(optimizers).__name__}"
        )
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if not isinstance(every, Integral) or every < 1:
        raise ValueError(f"every must be a whole number of updates, at least 1, got {every!r}")
    if sketch is not None and not isinstance(sketch, CountSketch):
        raise TypeError(f"sketch must be a CountSketch, got {type(sketch).__name__}")
    if resume and path is None:
        raise ValueError("path must name the store to go on with where resume is given, got None")
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"model must have parameters to record, got a {type(model).__name__} without any")
    integer = [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]
    if integer:
        raise ValueError(f"model must have real floating-point parameters, got others in {integer}")
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(map(id, parameters)):
        raise ValueError("optimizer must train parameters of model, got one that holds none of them")


class _Itself:
    """Equal to one object alone."""

    def __init__(self, it: object) -> None:
        self._it = it

    def __eq__(self, other: object) -> bool:
        return self._it is other


def _itself(member: Any) -> Any:
    """What equals this member of a model alone: itself, save for a tensor of one element, which equals its number."""
    return _Itself(member) if torch.is_tensor(member) and member.numel() == 1 else member


def _forms(tensors: Mapping[str, torch.Tensor]) -> dict[str, Form]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _header(
    optimizers: Sequence[torch.optim.Optimizer], every: int, buffers: bool, sketch: CountSketch | None
) -> dict[str, Any]:
    """How a run was recorded, in what JSON can hold."""
    settings = [
        {
            "name": type(optimizer).__name__,
            "groups": [
                {key: _plain(value) for key, value in group.items() if key != "params"}
                for group in optimizer.param_groups
            ],
        }
        for optimizer in optimizers
    ]
    return {
        "optimizers": settings,
        "every": every,
        "buffers": buffers,
        "sketch": None if sketch is None else {"k": sketch.k, "seed": sketch.seed},
        "seed": torch.initial_seed(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("descentmaps", "torch", "numpy")},
    }


def _plain(value: Any) -> Any:
    """As JSON can hold it: what is no number, text or list, and infinity too, as text."""
    if torch.is_tensor(value) and value.numel() == 1:
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def _never_compiled(function: Callable[..., None]) -> Callable[..., None]:
    """The same function, which torch.compile leaves alone where it compiles the caller."""
    apart = torch.compiler.disable(function)  # alone, it would be a tenth of what recording costs a small network

    def called(*arguments: Any) -> None:
        (function if _compiler() is None else apart)(*arguments)

    return torch.compiler.disable(called, recursive=False)


def _add_learning_rates(scalars: dict[str, float], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """``learning_rate`` of the first parameter group, ``learning_rate/1`` of the next, where they have one."""
    number = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("lr") is not None:
                scalars[f"learning_rate/{number}" if number else "learning_rate"] = float(group["lr"])
            number += 1


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"scalar {name!r} must be a number, got {type(value).__name__}") from None
