"""Notebooks that must run, run before the pages are read, as many at a time as the machine has cores and memory for.

Left alone, they run one after the other, each when its page is read. Here their runs are put into the cache that pages
are read from. A run that fails is not: it fails again where its page is read, and there stops the build as it should.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from tqdm import tqdm

MEMORY = 2e9  # bytes that a notebook may need, as much as Binder gives
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_ahead(app: Sphinx, env: BuildEnvironment, docnames: Iterable[str]) -> None:
    sources = [Path(env.doc2path(name)) for name in docnames]
    cache = get_cache(app.config.nb_execution_cache_path)
    waiting = [path for path in sources if path.suffix == ".ipynb" and not is_cached(cache, path)]
    if not waiting:
        return
    for name in ONE_THREAD:  # each kernel has a core to itself
        os.environ.setdefault(name, "1")

    def run(path: Path) -> tuple[Path, ExecutionResult]:
        notebook = nbformat.read(path, as_version=4)
        timeout = app.config.nb_execution_timeout
        return path, single_nb_execution(notebook, cwd=str(path.parent), timeout=timeout, allow_errors=False)

    pool = ThreadPoolExecutor(max_workers=at_once())
    try:
        runs = as_completed([pool.submit(run, path) for path in waiting])
        for done in tqdm(runs, "running notebooks", len(waiting), unit="", disable=None):
            path, result = done.result()
            if result.err is None:
                bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    finally:
        pool.shutdown(cancel_futures=True)  # who stops the build need not wait for all that has not begun


def is_cached(cache: JupyterCacheAbstract, path: Path) -> bool:
    with suppress(KeyError):
        return cache.match_cache_notebook(nbformat.read(path, as_version=4)) is not None
    return False


def at_once() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available / MEMORY)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-before-read-docs", run_ahead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
