"""One measurement, in a process of its own: ``python worker.py TASK``, where TASK is a JSON file.

It says which points, which contender and where the answer goes; a file, since some packages print.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

WARM_UP = 200  # points of a first, untimed call: imports, thread pools


class PeakMemory:
    """How far the resident memory of this process rises within the block, in MB; None where there is no /proc."""

    def __enter__(self) -> PeakMemory:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        self._start = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        peak = _status("VmHWM")
        self.megabytes = None if peak is None or self._start is None else max(0.0, peak - self._start)


class PeakAnonymous:
    """The same of the anonymous memory, without mapped files; looked at fifty times a second."""

    def __enter__(self) -> PeakAnonymous:
        self._start = _status("RssAnon")
        self.megabytes = None if self._start is None else 0.0
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            now = _status("RssAnon")
            if now is not None and self._start is not None and self.megabytes is not None:
                self.megabytes = max(self.megabytes, now - self._start)


def _status(name: str) -> float | None:
    """A line of /proc/self/status, in MB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name + ":")), None)


def measure(call: Callable[[], Any], peak: PeakMemory | PeakAnonymous) -> tuple[dict[str, Any], Any]:
    with peak:
        cpu, wall = time.process_time(), time.perf_counter()
        answer = call()
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return seconds | {"peak_mb": peak.megabytes}, answer


def open_points(path: str) -> Any:
    """Points in memory from .npy, or left on disk: a memory map of .dat (T rows of float32), a Zarr array or a .run.

    An .npz holds a network and its data, see `curvature_contenders` and `capture_contenders`.
    """
    if path.endswith(".npy"):
        return np.load(path)
    if path.endswith(".npz"):
        return dict(np.load(path))
    if path.endswith(".zarr"):
        import zarr

        return zarr.open_array(path, mode="r")
    if path.endswith(".run"):
        from descentmaps import Trajectory

        return Trajectory.open(path).points
    rows = int(Path(path).stem.split("-")[-1])
    return np.memmap(path, dtype=np.float32, mode="r").reshape(rows, -1)


def warm_up(prepare: Callable[..., Callable[[], Any]], points: Any, task: dict[str, Any]) -> None:
    """The same on a few points or samples or updates first; that it may fail there says nothing."""
    try:
        if isinstance(points, dict):
            few = {key: points[key][:WARM_UP] if key in ("inputs", "targets") else points[key] for key in points}
            prepare(few, task.get("warm_up", task["components"]))()
        else:
            few = np.random.default_rng(0).standard_normal((WARM_UP, 4)).astype(np.float32)
            prepare(few, task["scale"] and 4.0, 4)()
    except Exception as error:
        print("warm-up:", error, file=sys.stderr)


def versions(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def blas() -> list[str]:
    """The BLAS kernels in use and their threads, where the environment can tell."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return sorted({f"{p['internal_api']} {p['version']} {p['architecture']} x{p['num_threads']}" for p in pools})


def main(path: Path) -> None:
    task = json.loads(path.read_text("utf-8"))
    prepare = getattr(importlib.import_module(task["module"]), task["call"])
    points = open_points(task["points"])
    warm_up(prepare, points, task)
    settings = [task["components"]] if isinstance(points, dict) else [task["scale"], task["components"]]
    peak = PeakMemory() if type(points) in (np.ndarray, dict) else PeakAnonymous()
    result, answer = measure(prepare(points, *settings), peak)
    if callable(answer):  # it took its own times, and tells them afterwards
        result, answer = result | answer(), 0.0
    np.save(task["answer"], np.asarray(answer if task["keep"] else 0.0))
    result |= {"versions": versions(task["packages"]), "blas": blas()}
    Path(task["result"]).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
