"""A resumed run gives bit-identical weights, and only one run at a time writes to a folder."""

import dataclasses
import errno
import functools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import ClipDataset
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError, PackageError
from actrec_models.training import checkpoints, initial_weights, provenance, trainer
from actrec_models.training.checkpoints import LOCK, locked
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models.made_up import TINY, skeletons, write
from tests.models.training import children

EACH_STEP = Machine(checkpoint_steps=1, accelerator="cpu", workers=0)


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def run(out, machine=EACH_STEP, **changes):
    return children.run(out, machine, **changes)


def at_step(monkeypatch, number, action):
    """Call `action` before the given global step, counted from 0."""
    step = RecognitionModule.training_step

    def step_with_action(self, batch, index):
        if self.trainer.global_step == number:
            action()
        return step(self, batch, index)

    monkeypatch.setattr(RecognitionModule, "training_step", step_with_action)


def state(path):
    content = checkpoints.read(path)
    tensors = {"weights": content["state_dict"], "now": content.get("current_model_state", {})}
    tensors["optimizer"] = {
        f"{index} {name}": value for index, values in content["optimizer_states"][0]["state"].items()
        for name, value in values.items() if isinstance(value, torch.Tensor)
    }  # fmt: skip
    rates = [group["lr"] for group in content["optimizer_states"][0]["param_groups"]]
    return tensors, rates, content["global_step"]


def assert_same_state(path, other):
    (tensors, rates, steps), (other_tensors, other_rates, other_steps) = state(path), state(other)
    assert (rates, steps) == (other_rates, other_steps)
    for part, values in tensors.items():
        assert values.keys() == other_tensors[part].keys()
        for name, value in values.items():
            assert torch.equal(value, other_tensors[part][name]), (part, name)


VARIANTS = {
    "default": ({}, 0, 7),
    "with workers": ({}, 2, 8),
    "in parts, balanced, without average": (
        {"accumulate": 2, "ema_decay": 0.0, "sampling": {"repeats": 2, "balance": "classes"}}, 0, 13,
    ),
    "plateau of the training loss": (
        {"optimizer": {"name": "sgd", "nesterov": True}, "schedule": {"name": "plateau", "patience": 0}, "epochs": 4,
         "learning_rate": 2.0}, 0, 12,
    ),
    "with clips held out": ({"validation": {"share": 0.2, "by": "subject", "patience": 3}, "epochs": 3}, 0, 5),
    "just after an epoch": ({"validation": {"share": 0.2}}, 0, 4),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_killed_run_gives_same_weights(variant, tmp_path, monkeypatch):
    changes, workers, step = VARIANTS[variant]
    machine = dataclasses.replace(EACH_STEP, workers=workers)
    uninterrupted = run(tmp_path / "whole", machine, **changes)
    children.run_until_killed(children.run_to_step, step, tmp_path / "killed", machine, changes)
    position = checkpoints.read(tmp_path / "killed/last.ckpt")["actrec"]
    assert not position["finished"]
    assert checkpoints.read(tmp_path / "killed/last.ckpt")["global_step"] == step, "the last step is saved"
    resumed = run(tmp_path / "killed", machine, **changes)
    assert uninterrupted.name == resumed.name == ("best.ckpt" if "validation" in changes else "last.ckpt")
    assert_same_state(tmp_path / "whole/last.ckpt", tmp_path / "killed/last.ckpt")
    assert_same_state(uninterrupted, resumed)
    assert checkpoints.read(tmp_path / "killed/last.ckpt")["actrec"]["finished"]


PLATEAUS = [
    {"epochs": 2, "learning_rate": 0.01, "schedule": {"name": "plateau", "patience": 0, "factor": 0.5}},
    {"epochs": 3, "learning_rate": 0.05, "schedule": {"name": "plateau", "patience": 1, "factor": 0.1}},
]


@pytest.mark.slow
def test_resume_plateau_schedule_stays_within_stage(tmp_path):
    uninterrupted = run(tmp_path / "whole", stages=PLATEAUS)
    children.run_until_killed(children.run_to_step, 6, tmp_path / "killed", EACH_STEP, {"stages": PLATEAUS})
    assert not (tmp_path / "killed/last.ckpt").exists()
    assert_same_state(uninterrupted, run(tmp_path / "killed", stages=PLATEAUS))
    schedule = checkpoints.read(uninterrupted)["plateau"]["schedule"]
    assert (schedule["patience"], schedule["factor"]) == (1, 0.1)


def test_resume_fresh_run_ignores_older_checkpoints(tmp_path, monkeypatch):
    out, settings = tmp_path / "run", config.build(Recipe, {**TINY, "stages": [{"epochs": 1}, {"epochs": 1}]})
    train = functools.partial(trainer.train, settings, "", out, progress=False, threads=1, machine=EACH_STEP)
    train()
    first = checkpoints.read(out / "last.ckpt")["actrec"]["seconds"]
    with monkeypatch.context() as patched:
        at_step(patched, 2, lambda: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            train(resume=False)
    assert (out / "stage_1_whole/last.ckpt").exists()
    assert not (out / "last.ckpt").exists()
    train()
    assert checkpoints.read(out / "last.ckpt")["actrec"]["seconds"] != first


def test_train_signal_saves_step_and_exits(tmp_path, monkeypatch, capsys):
    path, out = write(tmp_path / "recipe.yaml"), tmp_path / "run"
    command = ["train", str(path), "--data", str(tmp_path), "--out", str(out), "--quiet", "--threads", "1"]
    handler = signal.getsignal(signal.SIGTERM)
    for number, status, step in ((signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 6)):
        with monkeypatch.context() as patched:
            at_step(patched, step - 1, lambda number=number: os.kill(os.getpid(), number))
            assert main(command) == status
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"stopped by {number.name}; step {step} is saved in {out / 'last.ckpt'}" in error
        assert checkpoints.read(out / "last.ckpt")["global_step"] == step
    assert signal.getsignal(signal.SIGTERM) == handler
    assert main(command) == 0
    assert_same_state(run(tmp_path / "whole"), out / "last.ckpt")


@pytest.mark.parametrize("validation", [{}, {"share": 0.2, "by": "subject"}])
def test_train_signal_in_last_step_of_stage_stops_before_next(validation, tmp_path, monkeypatch):
    changes = {"stages": [{"epochs": 1}, {"epochs": 1, "learning_rate": 0.02}], "validation": validation}
    run(tmp_path / "whole", **changes)
    hook = "on_validation_epoch_end" if validation else "on_train_epoch_end"
    with monkeypatch.context() as patched:
        original = getattr(RecognitionModule, hook)

        def raise_signal(self):
            original(self)
            os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(RecognitionModule, hook, raise_signal)
        with pytest.raises(trainer.TrainingInterrupted, match=r"stage_1_whole/last.ckpt: the same command resumes it"):
            run(tmp_path / "run", **changes)
        assert not (tmp_path / "run/last.ckpt").exists()
        run(tmp_path / "run", **changes)  # the signal comes after the last step, so it stops nothing
    assert_same_state(tmp_path / "whole/last.ckpt", tmp_path / "run/last.ckpt")


def test_resume_damaged_checkpoint_uses_previous(tmp_path, monkeypatch, caplog):
    uninterrupted, out = run(tmp_path / "whole"), tmp_path / "run"
    with monkeypatch.context() as patched:
        at_step(patched, 8, lambda: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            run(out)
    last = out / "last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    (out / ".last.ckpt.part").write_bytes(b"half a checkpoint")
    with caplog.at_level(logging.WARNING, "actrec_models"):
        run(out)
    assert f"{last}: damaged; resuming from previous.ckpt" in caplog.text
    assert_same_state(uninterrupted, last)
    for path in (last, out / "previous.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(PackageError, match=r"previous.ckpt is refused.*--fresh"):
        run(out)


def test_save_checkpoint_full_disk_keeps_previous(tmp_path, monkeypatch):
    uninterrupted, out, saves = run(tmp_path / "whole"), tmp_path / "run", iter(range(3))
    torch_save = torch.save

    def save(content, file):
        if next(saves, None) is None:
            file.write(b"as much as there was room for")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        torch_save(content, file)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.torch, "save", save)
        with pytest.raises(
            DeviceError, match=r"last.ckpt: the disk is full; make room and give the same command again"
        ):
            run(out)
    assert not list(out.glob(".*.part")), "partial files are removed"
    assert checkpoints.read(out / "last.ckpt")["global_step"] == 3
    run(out)
    assert_same_state(uninterrupted, out / "last.ckpt")


def test_write_error_full_disk_is_found_in_cause(tmp_path):
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 7 vs 8") from None
    except RuntimeError as error:
        message = checkpoints._write_error(tmp_path / "last.ckpt", error)
    assert "the disk is full; make room" in message and "there is no earlier one" in message


def test_resume_other_recipe_or_data_refused(tmp_path, monkeypatch):
    run(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a run with another optimizer, gradient_clip: choose another --out"):
        run(tmp_path, optimizer={"name": "sgd"}, gradient_clip=0.5)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons(24))
    with pytest.raises(ConfigError, match="another data, although it is called the same"):
        run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("init_given", [False, True])
def test_resume_initial_weights_must_be_equal(init_given, tmp_path, monkeypatch):
    first, other = run(tmp_path / "first", epochs=1), run(tmp_path / "other", epochs=1, seed=2)
    name = initial_weights.identity(first)
    assert name.startswith("last.ckpt sha256:")

    uninterrupted = run(tmp_path / "whole", init=[first])
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(trainer.TrainingInterrupted):
            run(tmp_path / "run", init=[first])
    with pytest.raises(ConfigError, match=r"began from last.ckpt sha256:.*leave out --init to resume"):
        run(tmp_path / "run", init=[other])
    renamed = tmp_path / "renamed.ckpt"
    renamed.write_bytes(first.read_bytes())
    path = run(tmp_path / "run", init=[renamed]) if init_given else run(tmp_path / "run")
    assert_same_state(uninterrupted, path)
    assert checkpoints.read(path)["actrec"]["provenance"]["init"] == [name]
    settings, content = checkpoints.open_checkpoint(path)[0], checkpoints.read(path)
    assert provenance.package_provenance(settings, provenance.from_checkpoint(content)).init == (name,)
    with pytest.raises(ConfigError, match="began from random weights, not from last.ckpt"):
        run(tmp_path / "first", epochs=1, init=[other])


def test_provenance_contains_recordings_of_initial_weights(tmp_path, monkeypatch):
    """The recordings of initial weights count as training data, which `actrec eval` excludes."""

    def set_identity(name):
        monkeypatch.setattr(datasets.ClipDataset, "identities", lambda self: (name,))

    def recordings_of(file):
        return checkpoints.read(file)["actrec"]["provenance"]["recordings"]

    set_identity("first")
    first = run(tmp_path / "first", epochs=1)
    set_identity("mine")
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(trainer.TrainingInterrupted):
            run(tmp_path / "run", init=[first])
    assert set(recordings_of(run(tmp_path / "run"))) == {"first", "mine"}
    assert recordings_of(first) == ["first"]


@pytest.mark.slow
def test_resume_unsaved_initial_weights_must_be_given_again(tmp_path, monkeypatch):
    """The initial weights belong to the second stage's network, so the first stage does not save them."""
    first, out = run(tmp_path / "first", epochs=1), tmp_path / "run"
    stages = [{"model": "sem_net", "options": TINY["options"], "window_s": 1.0, "epochs": 1}, {"epochs": 1}]
    with monkeypatch.context() as patched:
        at_step(patched, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(trainer.TrainingInterrupted):
            run(out, init=[first], stages=stages)
    with pytest.raises(ConfigError, match=r"began from last.ckpt sha256:.*no checkpoint.*name the same --init again"):
        run(out, stages=stages)
    assert_same_state(run(out, init=[first], stages=stages), run(tmp_path / "whole", init=[first], stages=stages))
    assert run(out, stages=stages) == out / "last.ckpt", "--init is optional now"


@pytest.mark.slow
def test_resume_between_stages_gives_same_initial_weights(tmp_path, monkeypatch):
    stages = [{"model": "sem_net", "options": TINY["options"], "window_s": 1.0, "epochs": 1}] * 2 + [{"epochs": 1}]
    run(tmp_path / "whole", stages=stages)
    with monkeypatch.context() as patched:
        patched.setattr(RecognitionModule, "on_train_epoch_end", lambda self: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(trainer.TrainingInterrupted):
            run(tmp_path / "run", stages=stages)
    run(tmp_path / "run", stages=stages)
    for name in ("stage_1_sem_net/last.ckpt", "stage_2_sem_net/last.ckpt", "last.ckpt"):
        assert_same_state(tmp_path / "whole" / name, tmp_path / "run" / name)


def test_train_unwritable_folder_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/run", Path("/proc/x")):
        with pytest.raises(DeviceError, match=r"cannot write the run to .*choose another --out"):
            run(folder)


class UnreadableClip(ClipDataset):
    """A dataset with one clip that cannot be read, or that kills the data loader's process that reads it."""

    fault: InputError | None = InputError("clip7.skeleton: the file ends in frame 3")

    def __getitem__(self, index):
        if index == 7 and self.fault is not None:
            raise self.fault
        if index == 7 and torch.utils.data.get_worker_info():  # the training itself reads some clips for their rate
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_train_unreadable_clip_refused_by_name(workers, tmp_path, monkeypatch):
    complete = skeletons()
    clips = UnreadableClip(complete._clips, complete.classes)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: clips)
    with pytest.raises(InputError, match=r"^clip7.skeleton: the file ends in frame 3$"):
        run(tmp_path, dataclasses.replace(EACH_STEP, workers=workers))
    if workers:
        clips.fault = None
        with pytest.raises(DeviceError, match=r"a process that reads clips was killed.*take fewer --workers"):
            run(tmp_path, dataclasses.replace(EACH_STEP, workers=workers))


def test_translate_errors_full_memory_and_disk_name_remedy(tmp_path):
    for exception, message in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "GPU's memory is full.*--set accumulate=4"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to .*No space left.*make room"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "process that reads clips was killed"),
        (RuntimeError("[gloo] Connection reset by peer"), "another process of this run ended"),
    ):
        with pytest.raises(DeviceError, match=message), checkpoints.translate_errors(tmp_path):
            raise exception
    for other in (OSError(errno.EIO, "other"), BrokenPipeError(errno.EPIPE, "other"), EOFError("other")):
        with pytest.raises(type(other), match="other"), checkpoints.translate_errors(tmp_path):
            raise other
    with pytest.raises(RuntimeError, match="mat1"), checkpoints.translate_errors(tmp_path):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_train_loss_not_finite_stops(tmp_path, monkeypatch):
    step = RecognitionModule.training_step
    monkeypatch.setattr(RecognitionModule, "training_step", lambda self, *batch: step(self, *batch) * torch.nan)
    with pytest.raises(ConfigError, match=r"the loss is nan at step 10: lower the learning_rate"):
        run(tmp_path, Machine(accelerator="cpu", workers=0), batch=2)
    # It stops in shorter epochs, and before the checkpoint of a step, too.
    for name, machine in (("short", Machine(accelerator="cpu", workers=0)), ("each", EACH_STEP)):
        with pytest.raises(ConfigError, match=r"the loss is nan at step .*--fresh"):
            run(tmp_path / name, machine)
        assert not (tmp_path / name / "last.ckpt").exists()


def test_resume_finished_run_is_unchanged(tmp_path, monkeypatch):
    path = run(tmp_path)
    modified_ns = path.stat().st_mtime_ns
    at_step(monkeypatch, 10, lambda: pytest.fail("trained again"))
    assert run(tmp_path) == path
    assert path.stat().st_mtime_ns == modified_ns


def test_early_stopping_held_out_subjects_stops_training(tmp_path, monkeypatch):
    validation = {"share": 0.3, "by": "subject", "patience": 1, "metric": "loss"}
    monkeypatch.setattr(RecognitionModule, "training_step", lambda self, batch, index: None)  # the loss never improves
    path = run(tmp_path, validation=validation, epochs=9, schedule={"name": "constant"}, ema_decay=0.0)
    content = checkpoints.read(tmp_path / "last.ckpt")
    assert content["actrec"]["finished"]
    assert 0 < content["epoch"] < 8
    assert path.name == "best.ckpt"
    assert content["actrec"]["provenance"]["held_out"] == 5, "one subject is held out"
    assert yaml.safe_load(yaml.safe_dump(content["actrec"]))["provenance"]["data_sha256"] == skeletons().fingerprint()


LOCK_SCRIPT = """
import os, signal, sys
from pathlib import Path
from actrec_models.training.checkpoints import locked
with locked(Path(sys.argv[1])):
    reader = os.fork()  # like a process that reads clips
    if reader:
        print(reader, flush=True)
    signal.pause()
"""


@pytest.mark.slow
def test_train_locked_folder_refused_until_owner_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())
    owner = subprocess.Popen([sys.executable, "-c", LOCK_SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    reader = int(owner.stdout.readline())
    try:
        with pytest.raises(DeviceError, match=f"another actrec train is writing to '{tmp_path}'"):
            children.run(tmp_path, Machine(), epochs=1)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        owner.kill()
        owner.wait()
        assert children.run(tmp_path, Machine(), epochs=1).is_file()
        assert children.run(tmp_path, Machine(), epochs=1).is_file(), "the run before released its lock"
    finally:
        owner.kill()
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(reader)], check=False)


def test_locked_first_process_only(tmp_path, monkeypatch):
    for name, value in (("NODE_RANK", "1"), ("NODE_RANK", "0")):
        monkeypatch.setenv(name, value)
        with locked(tmp_path):
            assert (tmp_path / LOCK).exists() is (value == "0")


def test_locked_missing_folder_is_not_created(tmp_path):
    with locked(tmp_path / "missing"):
        assert not (tmp_path / "missing").exists()


def test_resume_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path, caplog):
    out = tmp_path / "run"
    run(out)
    for name in (checkpoints.LAST, checkpoints.PREVIOUS):
        content = torch.load(out / name, weights_only=True)
        content["hyper_parameters"]["recipe"]["optimizers"] = "adamw"
        torch.save(content, out / name)
    with pytest.raises(
        PackageError, match=r"last.ckpt was written by an earlier version \(recipe fields optimizers\).*--fresh"
    ):
        run(out)
    assert "damaged" not in caplog.text


def test_translate_errors_keeps_an_error_of_a_process_that_reads_clips(tmp_path):
    text = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback …\nstack expects equal size"
    with pytest.raises(RuntimeError, match="equal size"), checkpoints.translate_errors(tmp_path):
        raise RuntimeError(text)
    for ended in ("(pid 4711) is killed by signal: Killed. ", "(pid(s) 4711) exited unexpectedly"):
        with pytest.raises(DeviceError, match="was killed"), checkpoints.translate_errors(tmp_path):
            raise RuntimeError(f"DataLoader worker {ended}")
