"""Where a model package comes from, and how good it was found."""

from dataclasses import dataclass, field
from typing import Any

UNTRAINED = "none"
"""Stands for the dataset of a network that nobody trained."""
_TAKEN = {"stretched": "cut out and stretched into the window", "whole": "looked at as a whole"}


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        dataset, split: What it was trained on and how that was divided.
        seed, epochs: Of the training run; whole epochs of all its stages.
        accuracy: Top-1 on the split's test part, 0..1.
        licence: Note on what the data's licence allows ("research use").
        recipe: The command that trains it again.
        commit: Of the source that trained it.
        created: ISO 8601 date and time.
        onnx_sha256: Hash of `model.onnx`; `write` fills it in.
        figures: Further named figures.
        settings: Every field of the recipe, as it was trained.
        data_sha256: Fingerprint of the training part.
        init: Name and hash of each file of weights that the training began from; empty for random ones.
        command: The command line that trained it.
        packages: Versions of Python and of the libraries that computed.
        trained_on: Machine and device.
        hours: That the training took.
    """

    dataset: str
    split: str
    seed: int
    epochs: int
    accuracy: float
    licence: str
    recipe: str
    commit: str
    created: str
    onnx_sha256: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data_sha256: str = ""
    init: tuple[str, ...] = ()
    command: str = ""
    packages: dict[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    hours: float = 0.0

    @property
    def untrained(self) -> bool:
        """Whether nobody trained it. A checkpoint from within its first epoch, which has no whole one, is trained."""
        return self.epochs == 0 and self.dataset == UNTRAINED

    @property
    def live_note(self) -> str:
        """What to know before it labels a camera, where it was judged on recordings that were taken another way."""
        found = self.figures.get("live_accuracy")
        if not isinstance(found, float):
            return ""
        taken = _TAKEN.get(str(self.figures.get("clips")), "taken otherwise than live")
        live = f"{found:.1%} in windows as a camera gives them"
        return f"recordings {taken}: {self.accuracy:.1%} of them are right, {live}"
