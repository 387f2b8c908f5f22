"""The script that `torchrun` starts in test_ddp: `actrec train` on synthetic clips, with recorded batches."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import RATE_HZ, example_clip
from actrec.types import NANOSECONDS
from actrec_models.data.samplers import EpochBatchSampler
from actrec_models.networks import create
from tests.models.small import FLOW

RECIPE = {
    "model": "c3d_flow", "options": {**FLOW, "dropout": 0.0}, "dataset": "made_up", "unknown_dataset": "", "split": "",
    "batch": 4, "epochs": 2, "learning_rate": 0.01, "optimizer": {"name": "sgd"}, "schedule": {"name": "constant"},
    "augmentation": {"before": 0.0}, "validation": {"share": 0.25},
}  # fmt: skip
"""A recipe of a network without batch norms, which processes on a CPU do not synchronize."""
FRAMES = 20


def clips(*_, **__):
    """Return a dataset of eleven clips of scene flow."""
    network = create("c3d_flow", num_classes=2, **FLOW)
    stamps = (np.arange(FRAMES) / RATE_HZ * NANOSECONDS).astype(np.int64)
    found = []
    for number in range(11):
        clip = example_clip(network.input_specs, FRAMES, seed=number)
        clip["flow"] = clip["flow"] + np.float32(0.5 * (number % 2))
        found.append(Clip(f"clip{number}", number % 2, stamps, clip.pop("bodies"), clip))
    return ClipDataset(found, ("still", "moving"))


def record_batches(folder):
    """Make each process write its sampled batches to a file."""
    original = EpochBatchSampler.__iter__

    def record(self):
        with open(Path(folder) / f"draws_{self.rank}.txt", "a", encoding="utf-8") as file:
            for batch in original(self):
                print(*(f"{epoch}:{index}" for epoch, index, _ in batch), file=file, flush=True)
                yield batch

    EpochBatchSampler.__iter__ = record  # type: ignore[method-assign]


if __name__ == "__main__":
    datasets.create = clips
    record_batches(os.environ["ACTREC_TEST_NOTES"])
    sys.exit(main(sys.argv[1:]))
