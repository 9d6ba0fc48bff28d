"""What is timed for captures: a training loop that keeps the parameters after every update, each way of keeping them.

Each function takes a problem (a network's name, data and a folder, see `samples.training_loop`) and a number of
updates, a multiple of `TURNS`, does what is not to be timed, and returns the call that is: the whole loop, and writing
what is left at its end. A call returns another one, which says what both took and how many bytes a snapshot has.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.set_num_threads(1)
Problem = dict[str, Any]
Result = dict[str, float]
Call = Callable[[], Callable[[], Result]]
BATCH = 32
TURNS = 20  # parts of the loop, each timed beside the same part of one that keeps nothing


class Clock:
    """Adds up the time spent in its blocks."""

    wall = cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


class Capture(NamedTuple):
    """What is called after every update, what after the last, and what then tells the bytes of all snapshots."""

    keep: Callable[[], Any]
    size: Callable[[], int]
    close: Callable[[], Any] = lambda: None


def network(name: str) -> nn.Sequential:
    """17,226 parameters, or 101,626."""
    torch.manual_seed(0)
    if name == "MLP":
        return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3, padding=1), nn.Tanh()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 80), nn.Tanh(), nn.Linear(80, 10)),
    )


def _loop(problem: Problem, updates: int, attach: Callable[[nn.Module, torch.optim.Optimizer, Path], Capture]) -> Call:
    """The loop that keeps what ``attach`` says, and one that keeps nothing, in turn, so that both meet the same noise.

    SGD with momentum, whose batches are cut beforehand.
    """
    folder = TemporaryDirectory(dir=str(problem["folder"]), ignore_cleanup_errors=True)
    tensors = (torch.as_tensor(problem[part]) for part in ("inputs", "targets"))
    batches = itertools.cycle(list(zip(*(tensor.split(BATCH) for tensor in tensors), strict=True)))

    def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network(str(problem["network"]))
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, keep: Callable[[], Any]) -> None:
        for inputs, targets in itertools.islice(batches, updates // TURNS):
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            keep()

    plain, captured = begin(), begin()
    keep, size, close = attach(*captured, Path(folder.name))

    def run() -> Callable[[], Result]:
        without, within = Clock(), Clock()
        for _ in range(TURNS):
            with without:
                train(*plain, lambda: None)
            with within:
                train(*captured, keep)
        with within:
            close()

        def result() -> Result:
            with folder:
                took = {"seconds": within.wall, "cpu_seconds": within.cpu}
                return took | {"bare_seconds": without.wall, "bare_cpu_seconds": without.cpu, "bytes": size() / updates}

        return result

    return run


def bare(problem: Problem, updates: int) -> Call:
    return _loop(problem, updates, lambda *_: Capture(lambda: None, lambda: 0))


def copied(problem: Problem, updates: int) -> Call:
    """The least that can be done in memory, without a look at anything."""

    def attach(model: nn.Module, *_: Any) -> Capture:
        parts = _parts(model)
        rows = iter(torch.empty(updates, sum(map(len, parts))))
        kept: list[torch.Tensor] = []
        return Capture(lambda: kept.append(torch.cat(parts, out=next(rows))), lambda: _size(kept))

    return _loop(problem, updates, attach)


def flat_file(problem: Problem, updates: int) -> Call:
    """The least that can be done on disk: numbers one after the other, in no format."""

    def attach(model: nn.Module, _: Any, folder: Path) -> Capture:
        parts = _parts(model)
        row, file = torch.cat(parts), (folder / "points").open("wb", buffering=0)
        return Capture(lambda: file.write(torch.cat(parts, out=row).numpy()), lambda: size_of_files(folder), file.close)

    return _loop(problem, updates, attach)


def _parts(model: nn.Module) -> list[torch.Tensor]:
    """Each parameter as a vector, in the same memory."""
    return [parameter.detach().view(-1) for parameter in model.parameters()]


def recorder(problem: Problem, updates: int) -> Call:
    return _loop(problem, updates, _recorder)


def recorder_on_disk(problem: Problem, updates: int) -> Call:
    return _loop(problem, updates, lambda model, optimizer, to: _recorder(model, optimizer, to, path=to / "run"))


def recorder_sketched(problem: Problem, updates: int) -> Call:
    from descentmaps import CountSketch

    return _loop(problem, updates, lambda *where: _recorder(*where, sketch=CountSketch(1024)))


def _recorder(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, **options: Any) -> Capture:
    from descentmaps import Recorder

    recorder = Recorder(model, optimizer, **options)

    def size() -> int:
        return size_of_files(folder) or int(recorder.trajectory.points.nbytes)

    return Capture(lambda: None, size, recorder.close)


def deepcopied(problem: Problem, updates: int) -> Call:
    def attach(model: nn.Module, *_: Any) -> Capture:
        kept: list[dict[str, torch.Tensor]] = []
        return Capture(
            lambda: kept.append(copy.deepcopy(model.state_dict())), lambda: sum(_size(one.values()) for one in kept)
        )

    return _loop(problem, updates, attach)


def vectors(problem: Problem, updates: int) -> Call:
    def attach(model: nn.Module, *_: Any) -> Capture:
        kept: list[torch.Tensor] = []

        def keep() -> None:
            kept.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())

        return Capture(keep, lambda: _size(kept))

    return _loop(problem, updates, attach)


def torch_files(problem: Problem, updates: int) -> Call:
    return _loop(problem, updates, lambda model, _, folder: _files(folder, model, torch.save))


def safetensors_files(problem: Problem, updates: int) -> Call:
    from safetensors.torch import save_file

    return _loop(problem, updates, lambda model, _, folder: _files(folder, model, save_file))


def _files(folder: Path, model: nn.Module, save: Callable[[dict[str, torch.Tensor], str], Any]) -> Capture:
    """A new file after every update."""
    numbers = iter(range(10**9))
    return Capture(lambda: save(model.state_dict(), f"{folder}/{next(numbers)}"), lambda: size_of_files(folder))


def size_of_files(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
