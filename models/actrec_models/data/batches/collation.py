"""Clips and the random numbers of their augmentation, joined to batches."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actrec.datasets.base import Clip
from actrec.types import NANOSECONDS
from actrec.utils.errors import InputError
from actrec_models.data import augmentation
from actrec_models.data.augmentation import TimedBodies, Variation
from actrec_models.data.batches.features import body_count
from actrec_models.data.samples import Place, Samples

Batch = dict[str, Any]


class BatchSamples(Samples):
    """Clips and random numbers for `BatchFeatures`, to be joined by `collate`."""

    def _recorded(self, clip: Clip, place: Place | None, rng: np.random.Generator) -> dict[str, Any]:
        level = self._in_axes(clip)
        stretched = self.recipe.clips == "stretched"
        stamps = clip.window_stamps(self.window.seconds, self.window.frames, stretched) if place is None else place[0]
        return self._packed(TimedBodies(level.stamps_ns, level.bodies, stamps))

    def _varied_inputs(self, window: TimedBodies, rng: np.random.Generator) -> dict[str, Any]:
        assert self.augmentation is not None
        draw = augmentation.draw_hands if self.hands else augmentation.draw_bodies
        made = self._packed(window)
        made["variation"] = draw(len(window.bodies), len(window.sample_ns), self.augmentation, rng)
        if self.normalized is not None:
            made["after"] = augmentation.draw_after_normalization(self.augmentation, rng)
        return made

    def _packed(self, window: TimedBodies) -> dict[str, Any]:
        most = min(map(body_count, self.specs))
        if len(window.bodies) > most:
            raise InputError(f"a clip has {len(window.bodies)} bodies, but {self.recipe.model} takes up to {most}")
        end, joints = window.sample_ns[-1], window.bodies
        times, wanted = (window.stamps_ns - end) / NANOSECONDS, (window.sample_ns - end) / NANOSECONDS
        gaps = bool(np.isnan(joints).any())
        if not gaps:  # frames outside the window are only needed for joints that are missing in it
            used = slice(
                max(int(np.searchsorted(times, wanted[0], "right")) - 1, 0), np.searchsorted(times, wanted[-1]) + 1
            )
            joints, times = joints[:, used], times[used]
        return {"joints": joints, "times": times, "wanted": wanted, "gaps": gaps}


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Join samples of `BatchSamples`: joints are padded with NaN, and times with infinity, to the same M and L."""
    joints = [sample["joints"] for sample in samples]
    count, bodies, frames = len(samples), max(map(len, joints)), max(each.shape[1] for each in joints)
    padded = np.full((count, bodies, frames, *joints[0].shape[2:]), np.nan, np.float32)
    times = np.full((count, frames), np.inf)
    for number, (sample, each) in enumerate(zip(samples, joints, strict=True)):
        padded[number, : len(each), : each.shape[1]] = each
        times[number, : each.shape[1]] = sample["times"]
    made: Batch = {
        "joints": torch.from_numpy(padded),
        "times": torch.from_numpy(times),
        "wanted": _stacked([sample["wanted"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "gaps": any(sample["gaps"] for sample in samples),
    }
    if "variation" in samples[0]:
        made |= _join([sample["variation"] for sample in samples], bodies)
    if "after" in samples[0]:
        made["after"] = _stacked([sample["after"] for sample in samples]).float()
    return made


def _stacked(values: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(values))


def _rows(chosen: Iterable[bool]) -> Tensor:
    return torch.tensor([number for number, is_chosen in enumerate(chosen) if is_chosen], dtype=torch.int64)


def _join(variations: Sequence[Variation], bodies: int) -> Batch:
    """Return the fields of variations by name; "…_rows" are the samples to which the fields before it apply."""
    first = variations[0]
    noise = np.zeros((len(variations), bodies, *first.noise.shape[1:]), np.float32)
    for number, each in enumerate(variations):
        noise[number, : len(each.noise)] = each.noise
    made: Batch = {"noise": torch.from_numpy(noise)}
    for name in ("turn", "factor", "bias", "lost"):
        made[name] = _stacked([getattr(each, name) for each in variations])
    made["noise_size"] = torch.tensor([each.noise_size for each in variations])
    made["smoothed"] = torch.tensor([each.smoothed for each in variations if each.smoothed])
    made["smoothed_rows"] = _rows(each.smoothed > 0 for each in variations)
    exchanged = [each.exchanged for each in variations if each.exchanged is not None]
    made["exchanged"] = _stacked(exchanged) if exchanged else torch.zeros(0, dtype=torch.bool)
    made["exchanged_rows"] = _rows(each.exchanged is not None for each in variations)
    made["mirrored_rows"] = _rows(each.mirrored for each in variations)
    if first.stretch is not None:
        made["stretch"] = _stacked([each.stretch for each in variations])
    if first.held is not None:
        made["reach"] = torch.tensor([each.reach for each in variations])
        made["held"] = _stacked([each.held for each in variations])
    return made
