"""The recorder with optimizers, training loops and compilers that others wrote, against copies made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from descentmaps import Recorder, Trajectory
from descentmaps.problems import mlp
from training import batches, flat

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore:.*LeafSpec.*")


def backward(model, x, y):
    model.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loss.detach()


def train(model, n, step):
    """n updates, each made by ``step``; returns what hand copies saw after each."""
    copies = []
    for x, y in batches(n):
        backward(model, x, y)
        step()
        copies.append(flat(model))
    return np.array(copies)


def all_differ(points):
    return len(np.unique(points, axis=0)) == len(points)


def schedule_free(parameters):
    optimizer = AdamWScheduleFree(parameters, lr=0.01, warmup_steps=3)
    optimizer.train()
    return optimizer


class TestOptimizersFromElsewhere:
    FROM_ELSEWHERE = pytest.mark.parametrize("make", [schedule_free, Prodigy], ids=["schedulefree", "prodigyopt"])

    @FROM_ELSEWHERE
    def test_bitwise_equal_to_hand_copies(self, make):
        model = mlp(3, 5, 1)
        optimizer = make(model.parameters())
        recorder = Recorder(model, optimizer)
        copies = train(model, 12, optimizer.step)
        assert all_differ(copies)
        assert np.array_equal(recorder.trajectory.points, copies)
        assert recorder.trajectory.updates.tolist() == list(range(1, 13))

    @FROM_ELSEWHERE
    def test_their_settings_fit_into_a_store(self, make, tmp_path):
        model = mlp(3, 5, 1)
        optimizer = make(model.parameters())
        with Recorder(model, optimizer, path=tmp_path / "run") as recorder:
            copies = train(model, 5, optimizer.step)
        trajectory = Trajectory.open(tmp_path / "run")
        assert np.array_equal(trajectory.points, copies)
        (settings,) = trajectory.header["optimizers"]
        assert settings["name"] == type(optimizer).__name__
        assert settings["groups"][0]["lr"] == optimizer.defaults["lr"]
        assert recorder.updates == 5

    def test_averaged_weights_are_kept_when_asked_for(self):
        """Schedule-free optimizers train at one point, and swap in another for evaluation."""
        model = mlp(3, 5, 1)
        optimizer = schedule_free(model.parameters())
        recorder = Recorder(model, optimizer)
        copies = train(model, 5, optimizer.step)
        optimizer.eval()
        averaged = flat(model)
        recorder.snapshot()
        assert not np.array_equal(averaged, copies[-1])
        assert np.array_equal(recorder.trajectory.points, [*copies, averaged])
        assert recorder.trajectory.updates.tolist() == [1, 2, 3, 4, 5, 5]


class Lit(pl.LightningModule):
    """A module that trains itself in a Lightning loop, takes hand copies, and attaches a recorder where it is told."""

    ACCUMULATE = 4

    def __init__(self, manual, attach):
        super().__init__()
        self.automatic_optimization = not manual
        self.attach = attach
        self.model = mlp(3, 5, 1)
        self.copies = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        if self.attach == "configure_optimizers":
            self.recorder = Recorder(self, optimizer)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # once an epoch

    def on_fit_start(self):
        if self.attach == "on_fit_start":
            self.recorder = Recorder(self.model, self.trainer.optimizers[0])

    def on_train_start(self):
        if self.attach == "wrapped":  # the optimizer as Lightning wraps it
            self.recorder = Recorder(self.model, self.optimizers())

    def training_step(self, batch, i):
        x, y = batch
        loss = nn.functional.mse_loss(self.model(x), y)
        self.recorder.log(loss=loss.item())
        if self.automatic_optimization:
            return loss
        self.manual_backward(loss / self.ACCUMULATE)
        if (i + 1) % self.ACCUMULATE == 0:
            self.optimizers().step()
            self.optimizers().zero_grad()
        return None

    def on_train_batch_end(self, outputs, batch, i):
        if (i + 1) % self.ACCUMULATE == 0:
            self.copies.append(flat(self))

    def on_train_epoch_end(self):
        if not self.automatic_optimization:
            self.lr_schedulers().step()


def fit(module, batch_count=8, epochs=2):
    x, y = map(torch.cat, zip(*batches(batch_count), strict=True))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=module.ACCUMULATE if module.automatic_optimization else 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=8))
    return trainer


class TestLightning:
    @pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
    @pytest.mark.parametrize("attach", ["configure_optimizers", "on_fit_start", "wrapped"])
    def test_bitwise_equal_to_hand_copies(self, manual, attach):
        module = Lit(manual, attach)
        trainer = fit(module)
        trajectory = module.recorder.trajectory
        assert trainer.global_step == 4  # 2 epochs of 8 batches, in fours
        assert trajectory.updates.tolist() == [1, 2, 3, 4]
        assert all_differ(trajectory.points)
        assert np.array_equal(trajectory.points, module.copies)
        assert trajectory.scalars["learning_rate"].tolist() == [0.05, 0.05, 0.025, 0.025]

    def test_both_ways_train_alike(self):
        points = []
        for manual in (False, True):
            module = Lit(manual, "configure_optimizers")
            fit(module)
            points.append(module.recorder.trajectory.points)
        assert np.array_equal(*points)

    def test_loss_is_that_of_the_last_batch_before_the_update(self):
        module = Lit(False, "configure_optimizers")
        expected = [nn.functional.mse_loss(module.model(x), y).item() for x, y in batches(4)][-1]
        fit(module, batch_count=4, epochs=1)
        assert module.recorder.trajectory.scalars["loss"].tolist() == [expected]


class TestMuonBesideAdamW:
    """Muon takes matrices only, so that biases need another optimizer: two steps are one update."""

    def test_one_snapshot_per_iteration(self):
        model = mlp(3, 5, 1)
        matrices = [p for p in model.parameters() if p.ndim == 2]
        rest = [p for p in model.parameters() if p.ndim != 2]
        muon, adamw = torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.01)
        recorder = Recorder(model, [muon, adamw])
        halfway = []

        def step():
            muon.step()
            halfway.append(flat(model))
            adamw.step()

        copies = train(model, 6, step)
        trajectory = recorder.trajectory
        assert trajectory.updates.tolist() == list(range(1, 7))
        assert np.array_equal(trajectory.points, copies)
        assert all_differ(np.concatenate([halfway, copies]))  # each of the two did move the model
        assert trajectory.scalars["learning_rate"].tolist() == [0.02] * 6
        assert trajectory.scalars["learning_rate/1"].tolist() == [0.01] * 6
        assert [settings["name"] for settings in trajectory.header["optimizers"]] == ["Muon", "AdamW"]


class TestGradScaler:
    """Float16 would do the same on a GPU; here one batch in five has infinite values."""

    INFINITE = 3

    def run(self, make):
        model = mlp(3, 5, 1).float()
        optimizer = make(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        recorder, copies, scales = Recorder(model, optimizer), [flat(model)], []
        for i, (x, y) in enumerate(batches(5), 1):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x.float()), y.float())
            scaler.scale(loss * torch.inf if i == self.INFINITE else loss).backward()
            scaler.step(optimizer)
            scaler.update()
            copies.append(flat(model))
            scales.append(scaler.get_scale())
        assert scales == [2.0**8] * 2 + [2.0**7] * 3  # it did see the infinite gradient
        assert np.array_equal(copies[self.INFINITE], copies[self.INFINITE - 1])  # and let the update out
        return recorder.trajectory, np.array(copies[1:])

    @pytest.mark.parametrize(
        "make",
        [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.Adam(p, lr=0.01), schedule_free],
        ids=["SGD", "Adam", "schedulefree"],
    )
    def test_an_update_that_the_scaler_leaves_out_is_no_update(self, make):
        trajectory, copies = self.run(make)
        assert trajectory.updates.tolist() == [1, 2, 3, 4]
        assert np.array_equal(trajectory.points, np.delete(copies, self.INFINITE - 1, axis=0))
        assert trajectory.scalars["unchanged"].tolist() == [0, 0, 0, 0]

    @pytest.mark.parametrize(
        "make",
        [lambda p: torch.optim.SGD(p, lr=0.1, fused=True), lambda p: torch.optim.Adam(p, lr=0.01, fused=True)],
        ids=["SGD", "Adam"],
    )
    def test_one_that_a_fused_optimizer_leaves_out_is_marked(self, make):
        """Fused optimizers skip inside their step, which is called, and counts."""
        trajectory, copies = self.run(make)
        assert trajectory.updates.tolist() == [1, 2, 3, 4, 5]
        assert np.array_equal(trajectory.points, copies)
        assert trajectory.scalars["unchanged"].tolist() == [0, 0, 1, 0, 0]


def compiler_is_missing():
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return True
    return False


class TestCompiledStep:
    @pytest.fixture(autouse=True)
    def forget_what_was_compiled(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("name", ["SGD", "AdamW"])
    @pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
    def test_bitwise_equal_to_hand_copies(self, backend, name):
        if backend == "inductor" and compiler_is_missing():
            pytest.skip("there is no C++ compiler")
        model = mlp(3, 5, 1)
        optimizer = {
            "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "AdamW": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
        }[name](model.parameters())
        recorder = Recorder(model, optimizer)
        graphs = []

        def counting(graph, inputs):
            graphs.append(graph)
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        copies = train(model, 6, torch.compile(optimizer.step, backend=counting))
        assert graphs  # something was compiled
        assert all_differ(copies)
        assert np.array_equal(recorder.trajectory.points, copies)
        assert recorder.trajectory.updates.tolist() == list(range(1, 7))

    def test_trains_as_without_the_recorder(self):
        results = []
        for recorded in (True, False):
            torch._dynamo.reset()
            model = mlp(3, 5, 1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            if recorded:
                Recorder(model, optimizer)
            results.append(train(model, 6, torch.compile(optimizer.step, backend="aot_eager")))
        assert np.array_equal(*results)
