"""Notebooks run side by side before the pages are read."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

import ahead


def test_as_many_at_once_as_there_are_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    memory = psutil.virtual_memory()
    for gigabytes, expected in ((100, 8), (7, 3), (1, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda g=gigabytes: memory._replace(available=g * 10**9))
        assert ahead.at_once() == expected


def test_only_what_the_cache_lacks_is_run(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook, path)
    cache = get_cache(str(tmp_path / "cache"))
    assert not ahead.is_cached(cache, path)
    cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path)), check_validity=False)
    assert ahead.is_cached(cache, path)
    notebook.cells[0].source = "1 + 2"
    nbformat.write(notebook, path)
    assert not ahead.is_cached(cache, path)
