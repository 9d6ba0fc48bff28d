"""Runs on disk: whole blocks while training goes on, readers, crashes, full disks, going on."""

from __future__ import annotations

import errno
import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from descentmaps import CountSketch, DiffusionMap, Recorder, Trajectory, buffer, squared_distances, store
from descentmaps.problems import mlp

BLOCK = 8


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(store, "BLOCK_ROWS", (1, BLOCK))


class Training:
    """SGD on a made-up gradient: quick, and the same every time."""

    def __init__(self, *widths, seed=0, **settings):
        self.model = mlp(*(widths or (3, 4, 1)), seed=seed)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.generator = torch.Generator().manual_seed(seed)
        self.memory = Recorder(self.model, self.optimizer)
        self.disk = Recorder(self.model, self.optimizer, **settings)

    def run(self, n, **scalars):
        for update in range(n):
            for p in self.model.parameters():
                p.grad = torch.randn(p.shape, generator=self.generator, dtype=p.dtype)
            if scalars:
                self.disk.log(**{name: value + update for name, value in scalars.items()})
            self.optimizer.step()
        return self.memory.trajectory


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def same(disk, memory):
    assert np.array_equal(np.asarray(disk.points[:]), memory.points, equal_nan=True)
    assert disk.points.dtype == memory.points.dtype
    assert np.array_equal(disk.updates, memory.updates)
    assert disk.layout == memory.layout


@pytest.mark.parametrize("n", [0, 1, BLOCK, BLOCK + 1, 5 * BLOCK - 1])
def test_the_same_as_in_memory(tmp_path, small_blocks, n):
    training = Training(path=tmp_path / "run.zarr")
    memory = training.run(n)
    training.disk.close()
    same(Trajectory.open(tmp_path / "run.zarr"), memory)
    same(training.disk.trajectory, memory)


def test_points_stay_on_disk_and_are_chosen_from_there(tmp_path, small_blocks):
    training = Training(path=tmp_path / "run.zarr")
    memory = training.run(20)
    disk = training.disk.trajectory
    assert isinstance(disk.points, zarr.Array)
    for rows in (slice(3, 15, 4), slice(None, None, -3), [7, 2, -1], memory.updates > 12):
        same(disk[rows], memory[rows])
    same(Trajectory.concatenate([disk, disk]), Trajectory.concatenate([memory, memory]))
    np.testing.assert_array_equal(squared_distances(disk.points), squared_distances(memory.points))
    disk.restore(training.model, -2)
    assert np.array_equal(torch.cat([p.detach().ravel() for p in training.model.parameters()]), memory.points[-2])


def test_wide_models_are_cut_into_columns(tmp_path):
    training = Training(100, 60, path=tmp_path / "run.zarr")
    memory = training.run(2)
    training.disk.close()
    points = Trajectory.open(tmp_path / "run.zarr").points
    assert points.chunks[1] == 2020  # 6060 in three
    assert points.shards[1] == 6060
    assert np.array_equal(points[:, 2000:2100], memory.points[:, 2000:2100])


def test_scalars_by_any_name(tmp_path, small_blocks):
    training = Training(path=tmp_path / "run.zarr")
    training.run(BLOCK + 2, **{"train/loss": 0.5})
    training.run(3, **{"späte accuracy [%]": 7})
    scalars = training.disk.trajectory.scalars
    np.testing.assert_array_equal(scalars["train/loss"], [*np.arange(BLOCK + 2) + 0.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(scalars["späte accuracy [%]"][-4:], [np.nan, 7, 8, 9])
    assert scalars["learning_rate"].tolist() == [0.1] * (BLOCK + 5)


def test_whole_blocks_are_written_while_training_goes_on(tmp_path, small_blocks):
    training = Training(path=tmp_path / "run.zarr")
    for done in range(1, 3 * BLOCK):
        memory = training.run(1)
        reader = Trajectory.open(tmp_path / "run.zarr")
        assert len(reader) == done - done % BLOCK
        same(reader, memory[: len(reader)])


def test_a_reader_keeps_what_it_opened(tmp_path, small_blocks):
    training = Training(path=tmp_path / "run.zarr")
    memory = training.run(BLOCK)
    reader = Trajectory.open(tmp_path / "run.zarr")
    training.run(3 * BLOCK)
    same(reader, memory)


def test_nothing_is_compressed(tmp_path):
    training = Training(64, 16, 10, path=tmp_path / "run.zarr")
    training.run(1024)
    (file,) = (path for path in (tmp_path / "run.zarr" / "points" / "c").rglob("*") if path.is_file())
    size = 1024 * 1210 * 8
    assert size <= file.stat().st_size < size + 1024


@pytest.mark.parametrize("shape", [(16, 4999), (8, 2), (8, 2048), (40, 4100)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_files_are_those_that_zarr_writes(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr(store, "BLOCK_ROWS", (1, 8))
    monkeypatch.setattr(store, "SHORT", 4)
    points = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    updates, loss = np.arange(1, 1 + len(points)), points[:, 0].astype(float)
    Trajectory(points, updates, {"loss": loss}).save(tmp_path / "ours")
    for name, values in {"points": points, "updates": updates, "scalars": loss[:, None]}.items():
        ours = zarr.open_array(str(tmp_path / "ours" / name), mode="r")
        settings = {"shape": ours.shape, "chunks": ours.chunks, "shards": ours.shards, "dtype": ours.dtype}
        theirs = tmp_path / "theirs" / name
        zarr.create_array(str(theirs), fill_value=ours.fill_value, compressors=None, **settings)[:] = values
        assert contents(tmp_path / "ours" / name / "c") == contents(theirs / "c")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_short_runs_take_little_room(tmp_path):
    training = Training(64, 16, 10, path=tmp_path / "run.zarr")
    training.run(5)
    training.disk.close()
    (file,) = (path for path in (tmp_path / "run.zarr" / "points" / "c").rglob("*") if path.is_file())
    assert file.stat().st_size > 1024 * 1210 * 8
    if hasattr(file.stat(), "st_blocks"):
        assert file.stat().st_blocks * 512 < 100_000  # the rest is a hole


def test_late_parameters_need_another_size_of_block(tmp_path, monkeypatch):
    """A block of the wider points has fewer rows than the one that was begun has room for."""
    monkeypatch.setattr(store, "BLOCK_BYTES", 21 * 8 * 6)
    monkeypatch.setattr(store, "BLOCK_ROWS", (1, 10))
    training = Training(path=tmp_path / "run.zarr")
    training.run(1)
    training.model.append(torch.nn.Linear(1, 20, dtype=torch.float64))
    training.optimizer.add_param_group({"params": training.model[-1].parameters()})
    memory = training.run(20)
    training.disk.close()
    same(Trajectory.open(tmp_path / "run.zarr"), memory)


def test_late_parameters_on_a_full_disk(tmp_path, small_blocks, monkeypatch):
    training = Training(path=tmp_path / "run.zarr")
    training.run(3)
    training.model.append(torch.nn.Linear(1, 2, dtype=torch.float64))
    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_chunks", no_space)
        with pytest.warns(RuntimeWarning, match="recording stopped at update 4, training goes on"):
            memory = training.run(2)
    training.disk.close()
    disk = Trajectory.open(tmp_path / "run.zarr")
    assert np.array_equal(disk.points[:], memory.points[:3, :21])


def test_late_parameters(tmp_path, small_blocks):
    training = Training(path=tmp_path / "run.zarr")
    training.run(BLOCK + 3)
    training.model.append(torch.nn.Linear(1, 2, dtype=torch.float64))
    training.optimizer.add_param_group({"params": training.model[-1].parameters()})
    memory = training.run(2 * BLOCK)
    training.disk.close()
    same(Trajectory.open(tmp_path / "run.zarr"), memory)
    assert np.isnan(memory.points[: BLOCK + 3, 21:]).all()
    assert np.isfinite(memory.points[BLOCK + 3 :]).all()


class TestSketched:
    def test_sketches_are_those_of_the_points(self, tmp_path, small_blocks):
        sketch = CountSketch(64, seed=3)
        training = Training(64, 16, 10, path=tmp_path / "run.zarr", sketch=sketch)
        memory = training.run(2 * BLOCK + 1)
        disk = training.disk.trajectory
        assert disk.points.shape == (2 * BLOCK + 1, 64)
        np.testing.assert_allclose(disk.points[:], sketch(memory.points), rtol=1e-12, atol=1e-14)
        assert disk.sketch == Trajectory.open(tmp_path / "run.zarr").sketch == sketch
        assert disk.layout == memory.layout

    def test_maps_work_on_them_and_restoring_does_not(self, tmp_path):
        training = Training(64, 16, 10, path=tmp_path / "run.zarr", sketch=CountSketch(256))
        training.run(60)
        disk = training.disk.trajectory
        assert DiffusionMap(n_components=2).fit(disk.points).embedding_.shape == (60, 2)
        with pytest.raises(ValueError, match="trajectory must hold the parameters themselves, got sketches"):
            disk.restore(training.model, 0)
        assert "sketches" in repr(disk)

    def test_different_sketches_are_not_joined(self):
        runs = []
        for seed in (0, 1):
            training = Training(sketch=CountSketch(5, seed=seed))
            training.run(2)
            runs.append(training.disk.trajectory)
        with pytest.raises(ValueError, match="trajectories must share one sketch"):
            Trajectory.concatenate(runs)


class TestResume:
    def test_appends_and_counts_on(self, tmp_path, small_blocks):
        path = tmp_path / "run.zarr"
        training = Training(path=path)
        training.run(BLOCK + 3, loss=1.0)
        training.disk.close()
        training.disk = Recorder(training.model, training.optimizer, path=path, resume=True)
        memory = training.run(2 * BLOCK, loss=50.0)
        training.disk.close()
        disk = Trajectory.open(path)
        same(disk, memory)
        assert disk.scalars["loss"].tolist() == [*range(1, BLOCK + 4), *range(50, 50 + 2 * BLOCK)]

    def test_from_an_older_checkpoint_overwrites_nothing(self, tmp_path, small_blocks):
        path = tmp_path / "run.zarr"
        training = Training(path=path)
        before = training.run(10)
        training.disk.close()
        training.disk = Recorder(training.model, training.optimizer, path=path, resume=True, start=6)
        training.run(3)
        disk = training.disk.trajectory
        assert disk.updates.tolist() == [*range(1, 11), 7, 8, 9]
        assert np.array_equal(disk.points[:10], before.points)

    def test_refuses_another_model_type_or_sketch(self, tmp_path):
        path = tmp_path / "run.zarr"
        Training(path=path).disk.close()
        with pytest.raises(ValueError, match="path must hold a run with the same layout"):
            Training(3, 5, 1, path=path, resume=True)
        with pytest.raises(ValueError, match=r"path must hold a run with the same sketch, .*'k': 8.* got None"):
            Training(path=path, resume=True, sketch=CountSketch(8))
        model = mlp(3, 4, 1).float()
        with pytest.raises(ValueError, match="path must hold a run with the same dtype, float32, got float64"):
            Recorder(model, torch.optim.SGD(model.parameters(), lr=0.1), path=path, resume=True)

    def test_needs_a_store(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is nothing at"):
            Training(path=tmp_path / "none.zarr", resume=True)
        assert not (tmp_path / "none.zarr").exists()


class TestSave:
    def test_round_trip_with_runs(self, tmp_path, small_blocks):
        pair = Trajectory.concatenate([Training().run(BLOCK + 1), Training(seed=1).run(5)])
        pair.save(tmp_path / "pair.zarr")
        opened = Trajectory.open(tmp_path / "pair.zarr")
        same(opened, pair)
        assert opened.run.tolist() == pair.run.tolist() == [0] * (BLOCK + 1) + [1] * 5
        assert opened.header["optimizers"] == pair.header["optimizers"]
        opened[::2].save(tmp_path / "half.zarr")
        same(Trajectory.open(tmp_path / "half.zarr"), pair[::2])

    def test_bare_points(self, tmp_path):
        Trajectory(np.eye(3, dtype=np.float32), [1, 2, 3]).save(tmp_path / "bare.zarr")
        opened = Trajectory.open(tmp_path / "bare.zarr")
        assert opened.points[:].tolist() == np.eye(3).tolist()
        assert opened.points.dtype == np.float32
        assert opened.scalars == {}


class TestBadPaths:
    def test_taken(self, tmp_path):
        Training(path=tmp_path / "run.zarr").disk.close()
        with pytest.raises(FileExistsError, match=r"run.zarr exists: choose another, or go on with resume=True"):
            Training(path=tmp_path / "run.zarr")

    def test_not_writable_is_said_at_once_and_leaves_training_alone(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        model = mlp(3, 4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(OSError, match=r"path cannot be written: .*file/run.zarr"):
            Recorder(model, optimizer, path=tmp_path / "file" / "run.zarr")
        assert not optimizer._optimizer_step_post_hooks

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only file system")
    def test_read_only(self):
        with pytest.raises(OSError, match="path cannot be written"):
            Training(path="/proc/self/run.zarr")

    def test_nothing_and_something_else(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is nothing at .*none.zarr"):
            Trajectory.open(tmp_path / "none.zarr")
        zarr.create_array(str(tmp_path / "array.zarr"), shape=(2, 2), dtype="float64")
        zarr.create_group(str(tmp_path / "group.zarr"))
        (tmp_path / "text").write_text("{}")
        for name in ("array.zarr", "group.zarr", "text"):
            with pytest.raises(ValueError, match=f"got something else at .*{name}"):
                Trajectory.open(tmp_path / name)

    def test_a_later_format(self, tmp_path):
        Training(path=tmp_path / "run.zarr").disk.close()
        file = tmp_path / "run.zarr" / "zarr.json"
        group = json.loads(file.read_text())
        group["attributes"]["descentmaps_format"] = 99
        file.write_text(json.dumps(group))
        with pytest.raises(ValueError, match="path must be a trajectory in format 1, got format 99"):
            Trajectory.open(tmp_path / "run.zarr")


class TestFailingWrites:
    def test_are_warned_of_training_goes_on_and_nothing_is_lost(self, tmp_path, small_blocks, monkeypatch):
        path = tmp_path / "run.zarr"
        training = Training(path=path)
        training.run(BLOCK)
        monkeypatch.setattr(store, "_write_chunks", no_space)
        with pytest.warns(RuntimeWarning, match=r"recording stopped at update 16, training goes on: .*No space left"):
            memory = training.run(2 * BLOCK)
        same(Trajectory.open(path), memory[:BLOCK])
        with pytest.raises(OSError, match="No space left"):
            training.disk.close()
        monkeypatch.undo()
        training.disk.close()
        same(Trajectory.open(path), memory[: 2 * BLOCK])

    def test_half_written_blocks_are_written_over(self, tmp_path, small_blocks, monkeypatch):
        """A crash between points and scalars, then a new process that goes on."""
        path = tmp_path / "run.zarr"
        training = Training(path=path)
        training.run(BLOCK)
        write = store.Store._write_column

        def dies(self, name, *values):
            write(self, name, *values)
            if name == "updates":
                raise KeyboardInterrupt

        monkeypatch.setattr(store.Store, "_write_column", dies)
        with pytest.raises(KeyboardInterrupt):
            training.run(BLOCK)
        monkeypatch.undo()
        buffer._WRITING.discard(training.disk._buffer)  # as if the process had died
        assert len(Trajectory.open(path)) == BLOCK
        again = Training(path=path, resume=True)
        again.run(3)
        again.disk.close()
        opened = Trajectory.open(path)
        assert len(opened) == BLOCK + 3
        assert np.array_equal(opened.points[BLOCK:], again.memory.trajectory.points)


CHILD = """
import sys, torch
from descentmaps import Recorder, store
from descentmaps.problems import mlp

store.BLOCK_ROWS = (1, {block})
model = mlp({widths})
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
recorder = Recorder(model, optimizer, path=sys.argv[1])
generator = torch.Generator().manual_seed(0)
for update in range(1, {updates} + 1):
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
    optimizer.step()
    print(update, flush=True)
"""


def child(path, ending="", block=BLOCK, updates=10**6, widths="3, 4, 1"):
    return [sys.executable, "-c", CHILD.format(block=block, updates=updates, widths=widths) + ending, str(path)]


def test_a_killed_process_loses_one_block_at_most(tmp_path):
    path = tmp_path / "run.zarr"
    log = tmp_path / "log"
    with open(log, "w") as out:
        process = subprocess.Popen(child(path), stdout=out)
        try:
            wait_for(lambda: (path / "zarr.json").exists() and len(Trajectory.open(path)) >= 5 * BLOCK, process)
            for _ in range(50):  # readers in the midst of it
                reader = Trajectory.open(path)
                assert len(reader) % BLOCK == 0
                assert np.isfinite(reader.points[-BLOCK:]).all()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    done = int(log.read_text().split()[-1])  # a line that was cut short only makes this smaller
    read = Trajectory.open(path)
    assert done - BLOCK <= len(read) <= done + 1
    training = Training()
    same(read, training.run(len(read)))

    again = Recorder(training.model, training.optimizer, path=path, resume=True)
    memory = training.run(BLOCK + 1)
    again.close()
    same(Trajectory.open(path), memory)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "1 / 0"])
def test_what_is_left_is_written_when_python_exits(tmp_path, ending):
    subprocess.run(child(tmp_path / "run.zarr", ending, updates=BLOCK + 3), capture_output=True, check=False)
    same(Trajectory.open(tmp_path / "run.zarr"), Training().run(BLOCK + 3))


def test_a_forgotten_recorder_writes_what_is_left(tmp_path):
    training = Training(path=tmp_path / "run.zarr")
    memory, written = training.run(3), training.disk._buffer
    del training
    gc.collect()
    same(Trajectory.open(tmp_path / "run.zarr"), memory)
    assert written not in buffer._WRITING


FULL = """
import os, warnings
os.remove(os.path.join(os.path.dirname(sys.argv[1]), "filler"))
recorder.close()
from descentmaps import Trajectory
read = Trajectory.open(sys.argv[1])
assert read.updates.tolist() == list(range(1, len(read) + 1)), read
assert update == 400
print("kept", len(read), file=sys.stderr)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk(tmp_path):
    """On a disk of 2 MB, half of it filled: 400 updates of 9.7 kB in blocks of 32 rows."""
    mount = f"mount -t tmpfs -o size=2m none {tmp_path} && head -c 1000000 /dev/zero > {tmp_path}/filler && "
    inside = ["unshare", "-rm", "sh", "-c", mount + 'exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("this system allows no mounts")
    command = child(tmp_path / "run.zarr", FULL, block=32, updates=400, widths="64, 16, 10")
    process = subprocess.run([*inside, *command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "RuntimeWarning: recording stopped at update" in process.stderr
    assert "No space left on device" in process.stderr
    kept = int(process.stderr.split("kept ")[1])
    assert kept % 32 == 0
    assert 32 <= kept < 400


def wait_for(condition, process, seconds=120):
    start = time.monotonic()
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < start + seconds, "it took too long"
        time.sleep(0.05)
