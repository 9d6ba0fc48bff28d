"""Every notebook runs as it would on Binder: on one core, in less than two gigabytes, with its checked outputs.

One run serves all three: nbval compares the outputs while the core is pinned and the memory is watched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Binder gives two gigabytes to the notebook and the server beside it.
MEMORY = 1.5e9
CELL_SECONDS = 120


def pin_to_one_core(process: psutil.Process) -> None:
    """Children inherit it. Systems other than Linux and Windows offer no such call and run unpinned."""
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(process.cpu_affinity()[:1])


def memory(process: psutil.Process) -> int:
    """Resident memory of a process and everything it started; what has just ended counts nothing."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def watch(command: list[str], log: Path) -> tuple[int, int]:
    """Run a command pinned to one core; its exit status and its peak memory in bytes."""
    peak = 0
    with log.open("wb") as output:
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=os.environ | ONE_THREAD)
        pin_to_one_core(process)
        while process.poll() is None:
            try:
                peak = max(peak, memory(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
    return process.wait(), peak


ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_as_on_binder(path: Path, tmp_path: Path) -> None:
    nbval = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", f"--nbval-cell-timeout={CELL_SECONDS}", str(path)]
    status, peak = watch(nbval, tmp_path / "log")
    assert status == 0, (tmp_path / "log").read_text("utf-8", errors="replace")
    assert peak < MEMORY, f"{path.name} needed {peak / 1e6:.0f} MB, more than {MEMORY / 1e6:.0f}"


def test_memory_of_children_is_counted(tmp_path: Path) -> None:
    child = "import time; x = bytearray(200_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    status, peak = watch([sys.executable, "-c", parent], tmp_path / "log")
    assert status == 0
    assert peak > 200e6
