"""Small data sets of made-up skeletons, and a network that learns them in no time."""

from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from actrec.datasets.base import Clip, ClipDataset
from actrec.types import NANOSECONDS

CLASSES = ("rests", "waves")
TINY: dict[str, Any] = {
    "model": "sem_net", "options": {"bodies": 1, "frames": 8, "channels": [4, 8], "strides": [2, 2], "heads": 2,
    "embedding": 4, "dropout": 0.2, "kernels": [3], "dilations": [1]}, "dataset": "made_up", "split": "",
    "unknown_dataset": "", "window_s": 1.0, "batch": 4, "epochs": 2, "learning_rate": 0.01,
    "augmentation": {"before": 0.0},
}  # fmt: skip


def skeletons(count=22, classes=CLASSES):
    """Clips of one body of subjects 0 to 4 in turn, whose hands go further in every class than in the one before."""
    rng = np.random.default_rng(0)
    stamps = (np.arange(12) / 12 * NANOSECONDS).astype(np.int64)
    stand = rng.normal((0, 0, 3), 0.4, (25, 3))
    clips = []
    for number in range(count):
        label = number % len(classes)
        bodies = stand + rng.normal(0, 0.01, (1, 12, 25, 3))
        bodies[:, :, [7, 11], 1] += 0.4 * label * np.sin(np.arange(12))[None, :, None]
        clips.append(Clip(f"clip{number}", label, stamps, bodies.astype(np.float32)))
    made = ClipDataset(clips, classes)
    made.entries = [replace(entry, meta={"subject": number % 5}) for number, entry in enumerate(made.entries)]
    return made


def write(path, **changes):
    """A recipe file for these clips."""
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path
