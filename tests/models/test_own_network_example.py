"""The example of an own network, run as its command on the recordings of UTD-MHAD."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_own_network_example_trains_a_registered_network(root: Path, data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "examples/own_network.py"), str(data_root), str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    checkpoint, *table = done.stdout.splitlines()
    assert checkpoint == str(tmp_path / "last.ckpt") and Path(checkpoint).is_file()
    accuracies = [float(row["accuracy"]) for row in csv.DictReader(table)]
    assert len(accuracies) == 4 and accuracies[0] < 0.3 and accuracies[-1] > 0.6, "27 classes"
