"""The contenders, the environments they run in, and how one of them is started, watched and stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "_build" / "benchmarks"
OURS = "descentmaps"

TORCH = ("torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1")
#: Each peer's environment; none can share one with this book's, nor all of them one with each other.
PINS: dict[str, tuple[str, ...]] = {
    "scikit-learn": ("scikit-learn==1.9.1", "numpy==2.4.6", "scipy==1.17.1"),
    "pydiffmap": ("pydiffmap==0.2.0.1", "scikit-learn==1.9.1", "numpy==2.4.6", "scipy==1.17.1"),
    "datafold": ("datafold==2.0.2", "scikit-learn==1.2.2", "numpy==1.26.4", "scipy==1.11.4"),
    "graphtools": ("graphtools==2.1.0", "scikit-learn==1.9.1", "numpy==2.4.6", "scipy==1.17.1"),
    "manifolds-rs": ("manifolds-rs==0.4.1", "numpy==2.4.6"),
    "curvlinops": ("curvlinops-for-pytorch==3.0.1", *TORCH),
    "hessian-eigenthings": ("hessian-eigenthings==1.0.0a5", *TORCH),
    "pyhessian": ("pyhessian==0.1", *TORCH),
    "nngeom": ("nngeom==0.2.0", *TORCH),
    "safetensors": ("safetensors==0.8.0", *TORCH[:2]),
}
#: They choose a slower or an older kernel than the processor has, for reasons that are not ours to keep here.
OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "PYTHONPATH")
THREAD_COUNTS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"),
    *("RAYON_NUM_THREADS", "LOKY_MAX_CPU_COUNT"),
)


START = 15  # seconds allowed for starting Python and loading the points


@dataclass(frozen=True)
class Contender:
    """A package, one way of using it, and the function of `contenders` that does so.

    ``most`` is the number of points beyond which it is not tried, and ``why`` the reason. ``module`` holds the call.
    """

    name: str
    package: str
    call: str
    most: int = 10**9
    why: str = ""
    module: str = "contenders"


FLOORS = (Contender("rank-k update", OURS, "rank_k_update"), Contender("eigsh", OURS, "eigsh"))
MAPS = (
    Contender("descentmaps", OURS, "ours"),
    *FLOORS,
    Contender("descentmaps, 64 neighbors", OURS, "ours_neighbors"),
    Contender("scikit-learn, rbf", "scikit-learn", "sklearn_rbf"),
    Contender("scikit-learn, 64 neighbors", "scikit-learn", "sklearn_neighbors"),
    Contender("pydiffmap, 64 neighbors", "pydiffmap", "pydiffmap_neighbors"),
    Contender("pydiffmap, all neighbors", "pydiffmap", "pydiffmap_all", most=4000, why="needs over 6 GB"),
    Contender("datafold, dense", "datafold", "datafold"),
    Contender("graphtools, 64 neighbors", "graphtools", "graphtools_neighbors"),
    Contender("graphtools, exact", "graphtools", "graphtools_exact"),
    Contender("manifolds-rs, 64 neighbors", "manifolds-rs", "manifolds_kmknn"),
    Contender("manifolds-rs, 64, exhaustive", "manifolds-rs", "manifolds_exhaustive"),
)
DISTANCES = (
    Contender("descentmaps", OURS, "ours_distances"),
    FLOORS[0],
    Contender("scikit-learn", "scikit-learn", "sklearn_distances"),
    Contender("SciPy, pdist", "scikit-learn", "scipy_pdist"),
    Contender("datafold", "datafold", "datafold_distances"),
)
CIRCLE = (
    Contender("descentmaps, its default: median", OURS, "ours"),
    Contender("descentmaps, its rule scan", OURS, "ours_scan"),
    Contender("scikit-learn, rbf", "scikit-learn", "sklearn_rbf"),
    Contender("scikit-learn, its default: T/10 neighbors", "scikit-learn", "sklearn_neighbors"),
    Contender("pydiffmap, its default: 64 neighbors", "pydiffmap", "pydiffmap_neighbors"),
    Contender("pydiffmap, all neighbors", "pydiffmap", "pydiffmap_all"),
    Contender("datafold, its own rule", "datafold", "datafold"),
    Contender("graphtools, its default: 5 neighbors", "graphtools", "graphtools_neighbors"),
    Contender("manifolds-rs, its default: 5 neighbors", "manifolds-rs", "manifolds_kmknn"),
)
REFITS = (MAPS[0], Contender("descentmaps, refit", OURS, "ours_again"))


def _device(name: str, call: str) -> Contender:
    return Contender(name, OURS, call, module="device_contenders")


DEVICE = (
    _device("product in float64", "product"),
    _device("descentmaps, distances", "distances"),
    _device("descentmaps, map", "whole_map"),
)


def _curvature(name: str, package: str, call: str) -> Contender:
    return Contender(name, package, call, module="curvature_contenders")


REFERENCE = _curvature("reference", OURS, "reference")
HESSIANS = (
    _curvature("descentmaps", OURS, "ours"),
    _curvature("eigsh", OURS, "floor"),
    _curvature("curvlinops, with eigsh", "curvlinops", "curvlinops"),
    _curvature("hessian-eigenthings, its default: 20 steps", "hessian-eigenthings", "eigenthings"),
    _curvature("hessian-eigenthings, 60 steps", "hessian-eigenthings", "eigenthings_sixty"),
    _curvature("hessian-eigenthings, 60, orthogonalized", "hessian-eigenthings", "eigenthings_orthogonal"),
    _curvature("pyhessian", "pyhessian", "pyhessian"),
    _curvature("nngeom, 60 steps", "nngeom", "nngeom"),
)


def _capture(name: str, call: str, package: str = OURS) -> Contender:
    return Contender(name, package, call, module="capture_contenders")


CAPTURES = (
    _capture("nothing", "bare"),
    _capture("one torch.cat() to a row of new memory", "copied"),
    _capture("one torch.cat() and write() to a file", "flat_file"),
    _capture("Recorder, in memory", "recorder"),
    _capture("Recorder, to disk", "recorder_on_disk"),
    _capture("Recorder, CountSketch(1024)", "recorder_sketched"),
    _capture("list of deepcopy(state_dict())", "deepcopied"),
    _capture("list of parameters_to_vector()", "vectors"),
    _capture("torch.save(), a file each", "torch_files"),
    _capture("safetensors, a file each", "safetensors_files", "safetensors"),
)


class NoEnvironment(Exception):
    """A peer did not install; says why."""


def python_of(package: str) -> Path:
    """The interpreter of a package's environment, which is made where it is missing or its pins have changed."""
    if package == OURS:
        return Path(sys.executable)
    folder, pins = BUILD / "envs" / package, PINS[package]
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / "pins.json"
    if stamp.exists() and json.loads(stamp.read_text("utf-8")) == list(pins):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise NoEnvironment(f"does not install: {_last_line(answer.stderr)}")
    stamp.write_text(json.dumps(pins), "utf-8")
    return python


def environment(threads: int) -> dict[str, str]:
    """This process's variables with all thread counts set, and without what would slow some BLAS and not others."""
    kept = {name: value for name, value in os.environ.items() if name not in OVERRIDES}
    return kept | dict.fromkeys(THREAD_COUNTS, str(threads)) | {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}


@dataclass
class Limits:
    """What one measurement may take, beside starting and loading the points."""

    seconds: float
    gigabytes: float
    threads: int


@dataclass
class Measurement:
    """What one process said, or why it said nothing."""

    result: dict[str, Any]
    answer: NDArray[np.float64] | None = None
    failure: str = ""


def run(contender: Contender, task: dict[str, Any], limits: Limits, script: str = "worker.py") -> Measurement:
    """Start a contender on a task, and stop it where it goes beyond its limits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"result": str(folder / "result.json"), "answer": str(folder / "answer.npy")}
        packages = [contender.package, "numpy", "scipy", "scikit-learn", "torch"]
        (folder / "task.json").write_text(
            json.dumps(
                {"module": contender.module, "call": contender.call, "packages": packages, "keep": True} | task | files
            ),
            "utf-8",
        )
        try:
            command = [str(python_of(contender.package)), str(HERE / script), str(folder / "task.json")]
        except NoEnvironment as error:
            return Measurement({}, failure=str(error))
        with open(folder / "log.txt", "w+", encoding="utf-8") as log:
            process = subprocess.Popen(command, env=environment(limits.threads), stdout=log, stderr=log, cwd=folder)
            failure = _watch(process, limits)
            log.seek(0)
            failure = failure or (_last_line(log.read()) if process.returncode else "")
        if failure:
            return Measurement({}, failure=failure)
        result = json.loads((folder / "result.json").read_text("utf-8"))
        answer = np.load(folder / "answer.npy", allow_pickle=False)
        return Measurement(result, answer)


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> str:
    """Wait for the end of a process; what it did wrong, if anything."""
    start = time.monotonic()
    try:
        while process.poll() is None:
            if time.monotonic() - start > limits.seconds + START:
                return f"over {limits.seconds:.0f} s"
            if _resident(process.pid) > limits.gigabytes:
                return f"over {limits.gigabytes:.0f} GB"
            time.sleep(0.02)
        return ""
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _resident(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e9
    except psutil.Error:
        return 0.0


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "it died without a word"
