"""The recorder against copies made by hand beside the same training."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from descentmaps import Recorder
from descentmaps.problems import mlp
from training import batches, flat

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4),
}


def train(model, optimizer, n, after=lambda update: None):
    """n updates; returns what hand copies saw after each."""
    copies = []
    for update, (x, y) in enumerate(batches(n), 1):

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        copies.append(flat(model))
        after(update)
    return np.array(copies)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bitwise_equal_to_hand_copies(name):
    model = mlp(3, 5, 1)
    optimizer = OPTIMIZERS[name](model.parameters())
    recorder = Recorder(model, optimizer)
    copies = train(model, optimizer, 12)
    trajectory = recorder.trajectory
    assert np.array_equal(trajectory.points, copies)
    assert len(np.unique(copies, axis=0)) == 12  # it did train
    assert np.array_equal(trajectory.updates, np.arange(1, 13))


@pytest.mark.parametrize("rows", [(1, 1), (2, 2), (5, 5)])  # of one where models are large
def test_blocks_in_memory(monkeypatch, rows):
    monkeypatch.setattr("descentmaps.buffer.MEMORY_ROWS", rows)
    model = mlp(3, 5, 1)
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer)
    looks = []
    copies = train(model, optimizer, 12, lambda update: looks.append(recorder.trajectory) if update % 4 == 0 else None)
    recorder.snapshot()
    trajectory = recorder.trajectory
    assert np.array_equal(trajectory.points, [*copies, copies[-1]])
    assert np.array_equal(trajectory.updates, [*range(1, 13), 12])
    assert not trajectory.scalars["unchanged"][:-1].any()
    for look, length in zip(looks, (4, 8, 12), strict=True):
        assert np.array_equal(look.points, copies[:length])  # what was handed out is written over by nobody
    recorder.close()
    assert np.array_equal(recorder.trajectory.points, trajectory.points)


@pytest.mark.parametrize("rows", [(1, 1), (3, 3)])
def test_the_last_point_of_a_block_is_compared_with_the_next(monkeypatch, rows):
    monkeypatch.setattr("descentmaps.buffer.MEMORY_ROWS", rows)
    model = mlp(3, 5, 1)
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer)
    for step in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float(step in (2, 4, 7)))
        optimizer.step()
    assert np.flatnonzero(recorder.trajectory.scalars["unchanged"] == 0).tolist() == [2, 4, 7]


ELSEWHERE = """
import atexit, os, sys, torch
import numpy as np
from descentmaps import Recorder, buffer
from descentmaps.problems import mlp

buffer.MEMORY_ROWS = (2, 2)
model = mlp(3, 5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
recorder = Recorder(model, optimizer)

def update(times):
    for _ in range(times):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()

def save():
    update(3)
    np.save(sys.argv[1], recorder.trajectory.points)

update(5)
"""


@pytest.mark.parametrize(
    "ending",
    [
        "atexit.register(save)",
        pytest.param(
            "pid = os.fork()\nos.waitpid(pid, 0) if pid else save()",
            marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
        ),
    ],
)
def test_goes_on_where_its_thread_does_not(tmp_path, ending):
    """When Python exits, and in a forked process."""
    subprocess.run([sys.executable, "-c", ELSEWHERE + ending, str(tmp_path / "points.npy")], check=True, timeout=60)
    points = np.load(tmp_path / "points.npy")
    assert points.shape[0] == 8
    assert np.allclose(np.diff(points, axis=0), -0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_the_same_without_it(name):
    results = []
    for recorded in (True, False):
        model = mlp(3, 5, 1)
        optimizer = OPTIMIZERS[name](model.parameters())
        if recorded:
            Recorder(model, optimizer)
        results.append(train(model, optimizer, 5))
    assert np.array_equal(*results)


def test_counts_updates_and_not_batches():
    model = mlp(3, 4, 1)
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer)
    for i, (x, y) in enumerate(batches(12), 1):
        nn.functional.mse_loss(model(x), y).backward()
        if i % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert recorder.trajectory.updates.tolist() == [1, 2, 3]


@pytest.mark.parametrize("every", [1, 3, np.int64(5), 50])
def test_every(every):
    model = mlp(3, 4, 1)
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer, every=every)
    copies = train(model, optimizer, 20)
    kept = np.arange(every, 21, every)
    assert recorder.trajectory.updates.tolist() == kept.tolist()
    assert np.array_equal(recorder.trajectory.points, copies[kept - 1])
    assert recorder.trajectory.points.shape == (len(kept), 21)


def test_sees_the_point_after_the_update():
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = sgd(model, lr=0.25)
    recorder = Recorder(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        (model.weight**2).sum().backward()  # gradient 2 w: each update halves w
        optimizer.step()
    assert recorder.trajectory.points.ravel().tolist() == [0.5, 0.25, 0.125]


class TestScalars:
    def test_belong_to_the_next_snapshot_and_are_nan_where_missing(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer, every=2)

        def log(update):
            recorder.log(loss=update)  # after update u: before the snapshot of the next even update
            if update == 3:
                recorder.log(accuracy=torch.tensor(0.5), norm=np.float32(2))

        train(model, optimizer, 6, after=log)
        scalars = recorder.trajectory.scalars
        np.testing.assert_array_equal(scalars["loss"], [1, 3, 5])
        np.testing.assert_array_equal(scalars["accuracy"], [np.nan, 0.5, np.nan])
        np.testing.assert_array_equal(scalars["norm"], [np.nan, 2, np.nan])

    def test_not_carried_over(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        recorder.log(loss=7.0)
        train(model, optimizer, 2)
        np.testing.assert_array_equal(recorder.trajectory.scalars["loss"], [7, np.nan])

    def test_nan_and_infinity_are_kept_as_they_are(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        recorder.log(loss=float("inf"))
        train(model, optimizer, 1)
        assert recorder.trajectory.scalars["loss"].tolist() == [np.inf]

    def test_function_is_called_once_a_snapshot_on_the_updated_model(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer, every=2, scalars=lambda: {"first": flat(model)[0]})
        train(model, optimizer, 6)
        assert np.array_equal(recorder.trajectory.scalars["first"], recorder.trajectory.points[:, 0])

    @pytest.mark.parametrize("value", [None, "much", [1.0, 2.0], torch.ones(2), np.ones(2), 1j])
    def test_other_than_numbers_are_named(self, value):
        model = mlp(3, 4, 1)
        recorder = Recorder(model, sgd(model))
        with pytest.raises(TypeError, match="scalar 'loss' must be a number"):
            recorder.log(loss=value)


def test_scheduler():
    model = mlp(3, 4, 1)
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    seen = []
    recorder = Recorder(model, optimizer, scalars=lambda: {"lr": optimizer.param_groups[0]["lr"]})
    seen = train(model, optimizer, 6, after=lambda _: scheduler.step())
    np.testing.assert_allclose(recorder.trajectory.scalars["lr"], [0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    assert np.array_equal(recorder.trajectory.points, seen)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3, bias=False)
        self.two = nn.Linear(3, 3, bias=True)
        self.two.weight = self.one.weight
        self.double()

    def forward(self, x):
        return self.two(self.one(x)).sum(dim=1, keepdim=True)


def test_tied_parameters_count_once():
    model = Tied()
    optimizer = sgd(model, lr=0.001)
    recorder = Recorder(model, optimizer)
    copies = train(model, optimizer, 3)
    assert recorder.trajectory.layout == [("one.weight", (3, 3), 0), ("two.bias", (3,), 9)]
    assert np.array_equal(recorder.trajectory.points, copies)


def test_frozen_parameters_and_other_groups_are_kept_in_the_models_order():
    model = mlp(3, 4, 1)
    model[0].weight.requires_grad_(False)
    bias, weight = [model[0].bias, model[2].bias], [model[2].weight]
    optimizer = torch.optim.SGD([{"params": bias}, {"params": weight, "lr": 0.01}], lr=0.1)
    recorder = Recorder(model, optimizer)
    copies = train(model, optimizer, 5)
    assert np.array_equal(recorder.trajectory.points, copies)
    assert np.array_equal(recorder.trajectory.points[0, :12], recorder.trajectory.points[-1, :12])
    assert [name for name, _, _ in recorder.trajectory.layout] == [name for name, _ in model.named_parameters()]


def test_buffers_are_no_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer)
    assert np.array_equal(recorder.trajectory.points.shape, (0, 29))
    assert np.array_equal(train(model, optimizer, 3), recorder.trajectory.points)


def test_transposed_parameters_are_flattened_as_they_read():
    model = nn.Linear(3, 2, dtype=torch.float64)
    model.weight.data = torch.arange(6.0, dtype=torch.float64).reshape(3, 2).t()
    assert not model.weight.is_contiguous()
    recorder = Recorder(model, sgd(model))
    recorder.snapshot()
    assert recorder.trajectory.points[0, :6].tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [
        ((torch.float32, torch.float32), np.float32),
        ((torch.float16, torch.float16), np.float32),
        ((torch.bfloat16, torch.bfloat16), np.float32),
        ((torch.float16, torch.bfloat16), np.float32),
        ((torch.bfloat16, torch.float32), np.float32),
        ((torch.float16, torch.float64), np.float64),
        ((torch.float32, torch.float64), np.float64),
    ],
)
def test_types_are_widened_exactly(dtypes, stored):
    model = nn.Sequential(nn.Linear(3, 4).to(dtypes[0]), nn.Linear(4, 1).to(dtypes[1]))
    recorder = Recorder(model, sgd(model))
    recorder.snapshot()
    points = recorder.trajectory.points
    assert points.dtype == stored
    assert np.array_equal(points[0].astype(np.float64), flat(model))


class TestWhileTrainingGoesOn:
    def test_readable_at_any_time_and_never_rewritten(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model, lr=0.01)
        recorder = Recorder(model, optimizer)
        views = []
        copies = train(model, optimizer, 200, after=lambda _: views.append(recorder.trajectory))
        for n, view in enumerate(views, 1):  # the buffer grew at 64 and 128
            assert len(view) == n
            assert np.array_equal(view.points, copies[:n])

    def test_the_function_for_scalars_may_look_at_what_there_is(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model, lr=0.01)
        recorder = Recorder(model, optimizer, scalars=lambda: {"so_far": len(recorder.trajectory)})
        copies = train(model, optimizer, 5)
        assert np.array_equal(recorder.trajectory.points, copies)
        assert recorder.trajectory.scalars["so_far"].tolist() == [0, 1, 2, 3, 4]

    def test_snapshot_keeps_the_start(self):
        model = mlp(3, 4, 1)
        start = flat(model)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer, every=2)
        recorder.log(loss=3.0)
        recorder.snapshot()
        train(model, optimizer, 3)
        recorder.snapshot()
        assert recorder.trajectory.updates.tolist() == [0, 2, 3]
        assert np.array_equal(recorder.trajectory.points[0], start)
        assert np.array_equal(recorder.trajectory.points[2], flat(model))
        np.testing.assert_array_equal(recorder.trajectory.scalars["loss"], [3, np.nan, np.nan])

    def test_loading_a_state_is_recorded(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        start = copy.deepcopy(model.state_dict())
        train(model, optimizer, 2)
        model.load_state_dict(start)
        recorder.snapshot()
        nn.utils.vector_to_parameters(torch.arange(21.0, dtype=torch.float64), model.parameters())  # new storage
        recorder.snapshot()
        assert np.array_equal(recorder.trajectory.points[2], flat(mlp(3, 4, 1)))
        assert recorder.trajectory.points[3].tolist() == list(range(21))

    def test_compiled_model_keeps_its_names(self):
        model = mlp(3, 4, 1)
        compiled = torch.compile(model, backend="eager")
        recorder = Recorder(compiled, sgd(model))
        assert recorder.trajectory.layout == Recorder(model, sgd(model)).trajectory.layout

    def test_two_recorders_on_one_optimizer(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        first, second = Recorder(model, optimizer), Recorder(model, optimizer, every=2)
        train(model, optimizer, 2)
        first.close()
        train(model, optimizer, 2)
        assert first.trajectory.updates.tolist() == [1, 2]
        assert second.trajectory.updates.tolist() == [2, 4]


class TestClose:
    def test_detaches_and_keeps_what_was_captured(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        copies = train(model, optimizer, 3)
        recorder.close()
        recorder.close()
        train(model, optimizer, 3)
        assert np.array_equal(recorder.trajectory.points, copies)
        assert not optimizer._optimizer_step_post_hooks

    def test_context_manager_closes_when_training_raises(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)

        def fail(update):
            if update == 4:
                raise ZeroDivisionError("in training")

        with pytest.raises(ZeroDivisionError, match="in training"), Recorder(model, optimizer) as recorder:
            train(model, optimizer, 9, after=fail)
        assert recorder.trajectory.updates.tolist() == [1, 2, 3, 4]
        assert not optimizer._optimizer_step_post_hooks

    def test_function_that_raises_loses_no_earlier_snapshot(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer, scalars=lambda: {"x": 1 / (3 - len(recorder.trajectory))})
        with pytest.raises(ZeroDivisionError):
            train(model, optimizer, 9)
        assert recorder.trajectory.updates.tolist() == [1, 2, 3]

    @pytest.mark.parametrize("error", [OSError, RuntimeError])
    def test_errors_of_the_function_are_its_own(self, error):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)

        def fail():
            raise error("mine")

        recorder = Recorder(model, optimizer, scalars=fail)
        for _ in range(2):
            with pytest.raises(error, match="mine"):
                train(model, optimizer, 1)
        with pytest.raises(error, match="mine"):
            recorder.snapshot()

    def test_closed_recorder_takes_no_more(self):
        model = mlp(3, 4, 1)
        recorder = Recorder(model, sgd(model))
        recorder.close()
        with pytest.raises(RuntimeError, match="closed"):
            recorder.log(loss=1.0)
        with pytest.raises(RuntimeError, match="closed"):
            recorder.snapshot()


class TestChangedModel:
    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda m: setattr(m[2], "bias", None), "2.bias"),
            (lambda m: m.float(), "0.weight"),
            (lambda m: setattr(m[2].bias, "data", torch.zeros(2, dtype=torch.float64)), "2.bias"),
            (lambda m: setattr(m[0].bias, "data", m[0].bias.data[:3]), "0.bias"),
        ],
        ids=["removed", "other type", "other shape", "cut in place"],
    )
    def test_is_noticed(self, change, name):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        train(model, optimizer, 2)
        change(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with pytest.raises(RuntimeError, match=rf"model had 4 parameters when .* since then \['{name}'.* were removed"):
            optimizer.step()
        assert recorder.trajectory.updates.tolist() == [1, 2]

    @pytest.mark.parametrize("layer", [0, 2])
    @pytest.mark.parametrize("updates", [1, 2, 3])
    def test_another_type_of_a_few_is_noticed_in_as_many_snapshots_as_there_are_parameters(self, layer, updates):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        Recorder(model, optimizer)
        train(model, optimizer, updates)
        model[layer].float()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with pytest.raises(RuntimeError, match=rf"since then \['{layer}.weight', '{layer}.bias'\] were removed"):
            for _ in range(4):
                optimizer.step()

    @pytest.mark.parametrize("layer", [0, 2], ids=["of four elements", "of one"])
    def test_parameters_that_take_anothers_place_are_followed(self, layer):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        train(model, optimizer, 2)
        model[layer].bias = nn.Parameter(model[layer].bias.detach().clone())  # no optimizer moves it
        train(model, optimizer, 1)
        with torch.no_grad():
            model[layer].bias.fill_(7.0)
        train(model, optimizer, 2)
        begin, width = recorder.trajectory.layout[layer + 1][2], model[layer].bias.numel()
        assert (recorder.trajectory.points[3:, begin : begin + width] == 7.0).all()

    @pytest.mark.parametrize(
        "move",
        [
            lambda p: p.data.clone(),
            lambda p: p.data.t(),
            lambda p: p.data.t().contiguous(),
            lambda p: torch.cat([p.data, p.data])[::2],
        ],
        ids=["elsewhere", "transposed where it is", "transposed", "in pieces"],
    )
    def test_parameters_that_move_in_memory_are_followed(self, move):
        model = mlp(3, 3, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        copies = [train(model, optimizer, 2)]
        model[0].weight.data = move(model[0].weight)
        copies += [train(model, optimizer, 3)]
        assert np.array_equal(np.concatenate(copies), recorder.trajectory.points)

    def test_late_parameters_are_nan_before_they_came(self):
        model = nn.ModuleDict({"b": mlp(3, 4, 1)})
        optimizer = sgd(model, lr=0.01)
        recorder = Recorder(model, optimizer, every=2)
        before = train(model["b"], optimizer, 4)
        model["a"] = nn.Linear(1, 2, dtype=torch.float64)
        optimizer.add_param_group({"params": model["a"].parameters()})
        after = train(model["b"], optimizer, 4)
        trajectory = recorder.trajectory
        assert trajectory.points.shape == (4, 25)
        assert [name for name, _, _ in trajectory.layout][-2:] == ["a.weight", "a.bias"]
        assert np.array_equal(trajectory.points[:, :21], np.vstack([before, after])[1::2])
        assert np.isnan(trajectory.points[:2, 21:]).all()
        late = np.concatenate([model["a"].weight.detach().ravel(), model["a"].bias.detach()])
        assert np.array_equal(trajectory.points[2:, 21:], [late, late])
        with pytest.raises(ValueError, match=r"snapshot 1 must hold every parameter, but \['a.weight', 'a.bias'\] did"):
            trajectory.restore(model, 1)
        trajectory.restore(model, 2)
        assert np.array_equal(flat(model["b"]), after[1])

    def test_late_parameters_in_the_midst_of_the_model_join_at_the_end_too(self):
        model = nn.Sequential()
        model.register_module("early", None)
        model.register_module("late", nn.Linear(2, 1, dtype=torch.float64))
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        optimizer.step()
        model.early = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        for _ in range(3):
            optimizer.step()
        trajectory = recorder.trajectory
        assert next(name for name, _ in model.named_parameters()) == "early.weight"
        assert [name for name, _, _ in trajectory.layout] == ["late.weight", "late.bias", "early.weight"]
        late = model.late.weight.detach().ravel().tolist() + model.late.bias.tolist()
        np.testing.assert_array_equal(trajectory.points[0], [*late, np.nan])
        assert trajectory.points[1:].tolist() == [[*late, model.early.weight.item()]] * 3
        assert trajectory.scalars["unchanged"].tolist() == [1, 0, 1, 1]

    def test_late_parameters_must_not_be_wider(self):
        model = mlp(3, 4, 1).float()
        optimizer = sgd(model)
        Recorder(model, optimizer)
        model.append(nn.Linear(1, 1, dtype=torch.float64))
        with pytest.raises(RuntimeError, match=r"model is recorded in float32, and \['3.weight', '3.bias'\] came in"):
            optimizer.step()


class TestUnchanged:
    def test_steps_without_gradients_are_marked(self):
        model = mlp(3, 4, 1)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        optimizer.step()  # no gradients yet
        train(model, optimizer, 2)
        optimizer.zero_grad()
        optimizer.step()
        train(model, optimizer, 1)
        assert recorder.trajectory.scalars["unchanged"].tolist() == [1, 0, 0, 1, 0]

    def test_a_frozen_beginning_is_no_standstill(self):
        model = mlp(3, 40, 1)
        for parameter in model[0].parameters():
            parameter.requires_grad_(False)
        optimizer = sgd(model)
        recorder = Recorder(model, optimizer)
        train(model, optimizer, 3)
        assert recorder.trajectory.scalars["unchanged"].tolist() == [0, 0, 0]


def test_learning_rates_come_by_themselves():
    model = mlp(3, 4, 1)
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    recorder = Recorder(model, optimizer)
    train(model, optimizer, 4, after=lambda _: scheduler.step())
    np.testing.assert_allclose(recorder.trajectory.scalars["learning_rate"], [0.1, 0.1, 0.05, 0.05])
    np.testing.assert_allclose(recorder.trajectory.scalars["learning_rate/1"], [0.01, 0.01, 0.005, 0.005])


def test_groups_without_a_learning_rate_have_none():
    model = mlp(3, 4, 1)
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    recorder = Recorder(model, optimizer)
    optimizer.param_groups[1]["lr"] = None
    optimizer._optimizer_step_post_hooks[next(iter(optimizer._optimizer_step_post_hooks))](optimizer, (), {})
    assert recorder.trajectory.scalars["learning_rate"].tolist() == [0.5]
    assert "learning_rate/1" not in recorder.trajectory.scalars


def test_two_optimizers_are_recorded_once_per_iteration():
    model = mlp(3, 4, 1)
    first, second = sgd(model[0]), torch.optim.Adam(model[2].parameters(), lr=0.01)
    recorder = Recorder(model, [first, second])
    copies = []
    for x, y in batches(4):
        first.zero_grad(), second.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        first.step(), second.step()
        copies.append(flat(model))
    assert np.array_equal(recorder.trajectory.points, copies)
    assert recorder.trajectory.updates.tolist() == [1, 2, 3, 4]
    assert recorder.trajectory.scalars["learning_rate/1"].tolist() == [0.01] * 4


def test_buffers_on_request():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer, buffers=True)
    train(model, optimizer, 3)
    trajectory = recorder.trajectory
    assert [name for name, _, _ in trajectory.layout][-2:] == ["1.running_mean", "1.running_var"]
    assert np.array_equal(trajectory.points[2, 29:33], model[1].running_mean)
    mean = model[1].running_mean.clone()
    train(model, optimizer, 1)
    trajectory.restore(model, 2)
    assert torch.equal(model[1].running_mean, mean)


def test_start_goes_on_counting_after_a_checkpoint():
    model = mlp(3, 4, 1)
    optimizer = sgd(model)
    first = Recorder(model, optimizer, every=2)
    train(model, optimizer, 5)
    first.close()
    second = Recorder(model, optimizer, every=2, start=first.updates)
    train(model, optimizer, 5)
    assert second.trajectory.updates.tolist() == [6, 8, 10]


def test_header_tells_how_it_was_recorded():
    model = mlp(3, 4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    header = Recorder(model, optimizer, every=3).trajectory.header
    (settings,) = header["optimizers"]
    assert settings["name"] == "Adam"
    assert settings["groups"][0]["betas"] == [0.8, 0.9]
    assert settings["groups"][0]["lr"] == 0.01
    assert header["every"] == 3
    assert header["seed"] == torch.initial_seed()
    assert header["versions"]["torch"] == torch.__version__


class TestBadInput:
    def test_optimizer(self):
        model = mlp(3, 4, 1)
        with pytest.raises(
            TypeError, match=r"optimizer must be a torch.optim.Optimizer, or a list of them, got Adamant"
        ):
            Recorder(model, type("Adamant", (), {})())
        with pytest.raises(ValueError, match="optimizer must train parameters of model"):
            Recorder(model, sgd(mlp(3, 4, 1)))

    def test_model(self):
        optimizer = sgd(mlp(3, 4, 1))
        with pytest.raises(ValueError, match="model must have parameters to record, got a Tanh"):
            Recorder(nn.Tanh(), optimizer)
        whole = mlp(3, 4, 1)
        whole.register_parameter("steps", nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False))
        with pytest.raises(ValueError, match=r"model must have real floating-point parameters, .* in \['steps'\]"):
            Recorder(whole, sgd(whole))

    @pytest.mark.parametrize("every", [0, -1, 2.0, "2", None])
    def test_every(self, every):
        model = mlp(3, 4, 1)
        with pytest.raises(ValueError, match="every must be a whole number of updates"):
            Recorder(model, sgd(model), every=every)

    def test_the_rest(self):
        model = mlp(3, 4, 1)
        with pytest.raises(TypeError, match="sketch must be a CountSketch, got int"):
            Recorder(model, sgd(model), sketch=64)
        with pytest.raises(ValueError, match="path must name the store to go on with"):
            Recorder(model, sgd(model), resume=True)
        with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got str"):
            Recorder(model, ["SGD"])
