"""Two trainings never write to one folder."""

import signal
import subprocess
import sys

import pytest

from actrec import datasets
from actrec.utils.errors import DeviceError
from actrec_models.training.checkpoints import LOCK, locked
from actrec_models.training.trainer import Machine
from tests.models.children import run
from tests.models.made_up import skeletons

HOLDER = """
import os, signal, sys
from pathlib import Path
from actrec_models.training.checkpoints import locked
with locked(Path(sys.argv[1])):
    reader = os.fork()  # as a process that reads clips is
    if reader:
        print(reader, flush=True)
    signal.pause()
"""


def test_a_second_run_is_refused_until_the_first_is_killed_whoever_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    reader = int(holder.stdout.readline())
    try:
        with pytest.raises(DeviceError, match=f"another actrec train is writing to '{tmp_path}'"):
            run(tmp_path, Machine(), epochs=1)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        holder.kill()
        holder.wait()
        assert run(tmp_path, Machine(), epochs=1).is_file()
        assert run(tmp_path, Machine(), epochs=1).is_file(), "the run before let go of its folder"
    finally:
        holder.kill()
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(reader)], check=False)


def test_the_first_of_several_processes_has_it(tmp_path, monkeypatch):
    for name, value in (("NODE_RANK", "1"), ("NODE_RANK", "0")):
        monkeypatch.setenv(name, value)
        with locked(tmp_path):
            assert (tmp_path / LOCK).exists() is (value == "0")


def test_a_folder_that_cannot_be_written_to_is_not_locked(tmp_path):
    with locked(tmp_path / "absent"):
        assert not (tmp_path / "absent").exists()
