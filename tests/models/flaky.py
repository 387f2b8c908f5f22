"""Datasets that misbehave while they are prepared, importable by the workers of a preparation."""

import os
import signal
import time
from pathlib import Path

from actrec import datasets
from actrec.datasets.nucla import Nucla


class Deadly(Nucla):
    """N-UCLA, of which some items kill the process that reads them: one once, one always."""

    folds = 0

    def __init__(self, root, once="", always="", marks=""):
        super().__init__(root)
        self.once, self.always, self.marks = once, always, marks

    def read(self, entry):
        mark = Path(self.marks) / f"{entry.name}.killed"
        if entry.name == self.always or (entry.name == self.once and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(entry)


class Slow(Nucla):
    """N-UCLA, which takes its time: in a process with `ends_never`, so much for the ninth item that it is killed."""

    ends_never = False
    count = 0

    def read(self, entry):
        Slow.count += 1
        time.sleep(600.0 if Slow.ends_never and Slow.count > 8 else 0.05)
        return super().read(entry)


def names_of(folder):
    """The sequences of N-UCLA in a folder."""
    return sorted(path.stem for path in Path(folder).glob("*.json"))


def register():
    """Makes them known in this process, as "deadly" and "slow"."""
    datasets.DATASETS.add("deadly", f"{__name__}:Deadly")
    datasets.DATASETS.add("slow", f"{__name__}:Slow")
