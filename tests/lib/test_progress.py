"""Bars come where the work is long, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from descentmaps import nulls, progress, squared_distances
from descentmaps.curvature import spectral_density, trace
from descentmaps.problems import digits, mlp, train

WALK = np.random.default_rng(0).standard_normal((30, 20)).cumsum(axis=0)


def a_training():
    model = mlp(64, 4, 10, seed=0)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), digits(), 5)


WORK = {
    "squared distances": lambda: squared_distances(WALK, block_bytes=8 * 30 * 3),
    "comparing": lambda: nulls.compare(WALK, nulls.straightness, nulls.random_walk, 9),
    "spectral density": lambda: spectral_density(np.diag(np.arange(9.0)), n_probes=3),
    "trace": lambda: trace(np.diag(np.arange(9.0)), n_probes=3),
    "training": a_training,
}


@pytest.mark.parametrize("what", WORK)
def test_long_work_shows_and_short_work_does_not(what, monkeypatch, capsys):
    monkeypatch.setattr("descentmaps.distances.LONG", 0)
    WORK[what]()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PATIENCE", 0)
    WORK[what]()
    assert f"{what}:" in capsys.readouterr().err


def test_small_distances_never_show(monkeypatch, capsys):
    """They are computed so often that making a bar would cost more than the work."""
    monkeypatch.setattr(progress, "PATIENCE", 0)
    squared_distances(WALK)
    assert capsys.readouterr().err == ""


def test_the_items_are_the_same():
    assert list(progress.progress("abc", "spelling", "letters")) == ["a", "b", "c"]
