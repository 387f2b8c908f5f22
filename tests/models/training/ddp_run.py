"""What `torchrun` starts in test_ddp: `actrec train` on made-up clips, with a note of what each process drew."""

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
"""Of a network without batch norms, which processes on a CPU do not share."""
FRAMES = 20


def clips(*_, **__):
    """Eleven clips of scene flow."""
    network = create("c3d_flow", num_classes=2, **FLOW)
    stamps = (np.arange(FRAMES) / RATE_HZ * NANOSECONDS).astype(np.int64)
    made = []
    for number in range(11):
        clip = example_clip(network.input_specs, FRAMES, seed=number)
        clip["flow"] = clip["flow"] + np.float32(0.5 * (number % 2))
        made.append(Clip(f"clip{number}", number % 2, stamps, clip.pop("bodies"), clip))
    return ClipDataset(made, ("still", "moving"))


def note(folder):
    """Has every process write down the draws of its batches."""
    draw = EpochBatchSampler.__iter__

    def noted(self):
        with open(Path(folder) / f"draws_{self.rank}.txt", "a", encoding="utf-8") as file:
            for batch in draw(self):
                print(*(f"{epoch}:{index}" for epoch, index, _ in batch), file=file, flush=True)
                yield batch

    EpochBatchSampler.__iter__ = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    datasets.create = clips
    note(os.environ["ACTREC_TEST_NOTES"])
    sys.exit(main(sys.argv[1:]))
