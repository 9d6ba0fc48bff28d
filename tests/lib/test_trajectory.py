"""Trajectories: choosing, joining and writing back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from descentmaps import Recorder, Trajectory
from descentmaps.problems import mlp
from descentmaps.trajectory import layout_of, tensors_of


def make(n=10, d=6, names=("loss",), offset=0.0):
    points = np.arange(n * d, dtype=float).reshape(n, d) + offset
    scalars = {name: np.arange(n) * 10.0 + offset for name in names}
    return Trajectory(points, np.arange(1, n + 1), scalars, [("a", (2, 2), 0), ("b", (2,), 4)])


def recorded(model, n=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(model, optimizer)
    for _ in range(n):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    return recorder.trajectory


@given(st.slices(10))
def test_slices_keep_the_parts_together(rows):
    whole = make()
    part = whole[rows]
    assert isinstance(part, Trajectory)
    assert np.array_equal(part.points, whole.points[rows])
    assert np.array_equal(part.updates, np.arange(1, 11)[rows])
    assert np.array_equal(part.scalars["loss"], np.arange(0, 100, 10)[rows])
    assert np.array_equal(part.run, np.zeros(len(part)))
    assert part.layout == whole.layout
    assert len(part) == len(range(*rows.indices(10)))


@pytest.mark.parametrize(
    ("rows", "updates"),
    [
        ([0, 5, 5, -1], [1, 6, 6, 10]),
        ([], []),
        (np.array([2, 1]), [3, 2]),
        (np.arange(1, 11) > 8, [9, 10]),
        ([True] + [False] * 9, [1]),
        (range(2), [1, 2]),
        (torch.tensor([3]), [4]),
    ],
)
def test_masks_and_indices(rows, updates):
    part = make()[rows]
    assert part.updates.tolist() == updates
    assert part.points[:, 0].tolist() == [6.0 * (update - 1) for update in updates]
    assert part.points.shape == (len(updates), 6)


@pytest.mark.parametrize("rows", [3, (0, 1), (slice(0, 2), 1), "all", None, np.zeros((2, 2), dtype=int)])
def test_other_choices_are_refused(rows):
    with pytest.raises(TypeError, match="rows must be a slice, a mask or a list of indices"):
        make()[rows]


@pytest.mark.parametrize("rows", [[10], [True, False], [0.5]])
def test_choices_that_do_not_fit_are_refused(rows):
    with pytest.raises(IndexError):
        make()[rows]


class TestConcatenate:
    def test_joins_rows_and_numbers_runs(self):
        joined = Trajectory.concatenate([make(3), make(2, offset=0.5)])
        assert joined.points.shape == (5, 6)
        assert np.array_equal(joined.points[3:], make(2, offset=0.5).points)
        assert joined.updates.tolist() == [1, 2, 3, 1, 2]
        assert joined.run.tolist() == [0, 0, 0, 1, 1]
        assert joined.layout == make().layout

    def test_runs_stay_apart_when_joined_again(self):
        pair = Trajectory.concatenate([make(2), make(2)])
        assert Trajectory.concatenate([pair, make(1), pair]).run.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
        assert Trajectory.concatenate([pair[2:], pair[::3]]).run.tolist() == [0, 0, 1, 2]

    def test_scalars_that_only_one_logged_are_nan_in_the_other(self):
        joined = Trajectory.concatenate([make(2, names=("loss",)), make(1, names=("loss", "accuracy"))])
        np.testing.assert_array_equal(joined.scalars["loss"], [0, 10, 0])
        np.testing.assert_array_equal(joined.scalars["accuracy"], [np.nan, np.nan, 0])

    def test_cut_and_joined_is_whole_again(self):
        whole = make()
        joined = Trajectory.concatenate([whole[:4], whole[4:]])
        assert np.array_equal(joined.points, whole.points)
        assert np.array_equal(joined.updates, whole.updates)

    def test_refuses_nothing_and_other_layouts(self):
        with pytest.raises(ValueError, match="trajectories must hold at least one"):
            Trajectory.concatenate([])
        other = Trajectory(np.zeros((2, 6)), [1, 2], {}, [("c", (6,), 0)])
        with pytest.raises(ValueError, match="trajectories must share one layout"):
            Trajectory.concatenate([make(), other])
        with pytest.raises(ValueError, match="trajectories must share one layout"):
            Trajectory.concatenate([Trajectory(np.zeros((2, 6)), [1, 2]), Trajectory(np.zeros((2, 5)), [1, 2])])


class TestRestore:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_round_trip_is_exact(self, dtype):
        model = mlp(3, 4, 2).to(dtype)
        trajectory = recorded(model)
        last = [p.detach().clone() for p in model.parameters()]
        kept = list(model.parameters())
        trajectory.restore(model, 0)
        assert not any(torch.equal(a, b) for a, b in zip(last, model.parameters(), strict=True))
        trajectory.restore(model, -1)
        assert all(torch.equal(a, b) for a, b in zip(last, model.parameters(), strict=True))
        assert all(a is b and b.dtype == dtype for a, b in zip(kept, model.parameters(), strict=True))  # in place

    def test_each_coordinate_goes_where_it_came_from(self):
        model = mlp(2, 3, 1)
        size = sum(p.numel() for p in model.parameters())
        Trajectory(np.arange(float(size))[None], [0], {}, layout_of(tensors_of(model))).restore(model, 0)
        assert torch.cat([p.detach().ravel() for p in model.parameters()]).tolist() == list(range(size))
        assert model[0].weight.tolist() == [[0, 1], [2, 3], [4, 5]]

    def test_into_another_model_and_leaves_the_points_alone(self):
        trajectory = recorded(mlp(3, 4, 2))
        other = mlp(3, 4, 2, seed=5)
        trajectory.restore(other, 2)
        before = trajectory.points.copy()
        with torch.no_grad():
            other[0].weight.zero_()
        assert np.array_equal(trajectory.points, before)

    def test_refuses_other_models_and_missing_snapshots(self):
        trajectory = recorded(mlp(3, 4, 2))
        with pytest.raises(ValueError, match="model must have the parameters that were captured"):
            trajectory.restore(mlp(4, 3, 2), 0)
        with pytest.raises(ValueError, match="model must have the parameters that were captured"):
            make().restore(mlp(3, 4, 2), 0)
        with pytest.raises(IndexError):
            trajectory.restore(mlp(3, 4, 2), 5)


def test_parts_are_converted_and_described():
    trajectory = Trajectory(np.zeros((2, 3), dtype=np.float32), [1, 2], {"loss": [1, 2]})
    assert trajectory.updates.dtype == np.int64
    assert trajectory.scalars["loss"].dtype == np.float64
    assert trajectory.points.dtype == np.float32
    assert repr(trajectory) == "Trajectory(2 snapshots of 3 parameters; scalars: loss)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), [1, 2, 3]), r"points must be a 2-D array .* got \(3,\)"),
        (([[0.0]], [1]), "points must be a 2-D array .* got list"),
        ((np.zeros((3, 2)), [1, 2]), r"updates must have shape \(3,\)"),
        ((np.zeros((3, 2)), [1, 2, 3], {"loss": [1]}), r"loss must have shape \(3,\)"),
        ((np.zeros((3, 2)), [1, 2, 3], {}, [("a", (3,), 0)]), "layout describes 3 parameters, but points have 2"),
        ((np.zeros((3, 2)), [1, 2, 3], {}, [], [0]), r"run must have shape \(3,\)"),
    ],
)
def test_parts_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trajectory(*arguments)


def test_fields_cannot_be_rebound():
    with pytest.raises(AttributeError):
        make().points = np.zeros((1, 1))
