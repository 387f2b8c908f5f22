"""Samplers of training batches over several processes, and the validation split.

Batches depend only on the seed, the epoch and the step, so that a run can resume at any step, and several processes
together see the same batches as one.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import BatchSampler, Sampler

from actrec.datasets import DATASETS
from actrec.datasets.base import ClipDataset
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError

ORIGIN = "origin"
"""Key of a rendered clip's metadata that names the set of its original."""

Draw = tuple[int, int, int]
"""Epoch, index of the clip, and number of its repeat in the epoch."""

PAD = -1
"""Index of a padding sample, which evens out the batches of several processes."""


_LARGE = 150  # more clips of a class in a set are drawn no more often
_POWER = 0.4  # 0: each class of each set equally often; 1: all clips equally often


@dataclass(frozen=True)
class Sampling:
    """How often the clips of the training part are drawn in an epoch."""

    repeats: int = setting(1, "windows drawn of each clip an epoch", range=(1, 1000))
    balance: str = setting(
        "none",
        "classes: every class as often as the others, clips of small ones more often; sets: the classes of each set "
        "alike, in part",
        choices=("none", "classes", "sets"),
    )
    balance_by: str = setting("set", "of sets: key of the metadata that names a clip's set (set, subject, …)")
    set_weights: dict = setting({}, "of sets: factor on the clips of a set, by its name ({cad60: 0.3}); default: 1")

    def weights(self, labels: np.ndarray, metas: Sequence[Mapping[str, int | str]] = ()) -> np.ndarray | None:
        """Return the share [N] of each clip among the draws for balance "sets"; None for the others.

        The m clips of a class in a set share the weight min(m, 150)^0.4. Thus a class of several sets is drawn more
        often than a class of one, which a network would else find in every recording from a similar sensor.
        A factor on a dataset without a clip here has no effect: a split leaves sets out, and not everyone has all.

        Raises:
            ConfigError: A clip has no set, a factor is invalid or for an unknown set, or no clip is drawn.
        """
        if self.balance != "sets":
            given = {"set_weights": bool(self.set_weights), "balance_by": self.balance_by != "set"}
            if unused := [name for name, is_given in given.items() if is_given]:
                raise ConfigError(f"sampling has {', '.join(unused)}, which do nothing without balance: sets")
            return None
        if any(self.balance_by not in meta for meta in metas) or len(metas) != len(labels):
            known = ", ".join(sorted(set.intersection(*map(set, metas)) if metas else set())) or "no metadata"
            raise ConfigError(
                f"sampling.balance_by is '{self.balance_by}': every clip has {known}; choose one of these"
            )
        names = [str(meta[self.balance_by]) for meta in metas]
        factors = {str(name): factor for name, factor in self.set_weights.items()}
        if absent := sorted(set(factors) - {*names, *DATASETS.names()}):
            raise ConfigError(f"set_weights names {absent[0]}; the clips are of {', '.join(sorted(set(names)))}")
        if bad := [name for name, factor in factors.items() if not isinstance(factor, (int, float)) or not factor >= 0]:
            raise ConfigError(f"set_weights of {bad[0]} is {factors[bad[0]]!r}, expected a number of 0 or more")
        pairs = list(zip(labels.tolist(), names, strict=True))
        counts = Counter(pairs)
        weights = np.array([min(counts[pair], _LARGE) ** _POWER / counts[pair] for pair in pairs])
        weights *= [factors.get(name, 1.0) for name in names]
        if not weights.sum() > 0:
            raise ConfigError("set_weights are 0 for all clips: set one above 0")
        return weights / weights.sum()


@dataclass(frozen=True)
class Validation:
    """Validation split of the training part; the test part is never used."""

    share: float = setting(0.0, "approximate share of the training part to hold out; 0: none", range=(0.0, 0.5))
    by: str = setting("", "key of the metadata whose groups are held out whole (subject, view, …); empty: clips")
    only: tuple[int | str, ...] = setting(
        (), "values of `by` to hold out (view 2: [2]); empty: a random `share` of all"
    )
    metric: str = setting("accuracy", "metric that selects the best checkpoint", choices=("accuracy", "loss"))
    patience: int = setting(0, "epochs without improvement before training stops; 0: never", range=(0, 10_000))

    @property
    def holds(self) -> bool:
        """Return whether anything is held out."""
        return bool(self.share or self.only)

    def check(self) -> None:
        """Raise ConfigError if a setting has no effect."""
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        if given and not self.holds:
            raise ConfigError(f"validation has {', '.join(given)} but holds nothing out: set its share")
        if self.only and (self.share or not self.by):
            raise ConfigError(f"validation holds out {', '.join(map(str, self.only))} (only): set by, and no share")

    def split(self, clips: ClipDataset, seed: int) -> tuple[ClipDataset, ClipDataset | None]:
        """Split into training and validation clips; raises ConfigError for an unknown `by` or an empty side."""
        self.check()
        if not self.holds:
            return clips, None
        groups = self._groups(clips)
        if unknown := [str(name) for name in self.only if name not in groups]:
            known = ", ".join(map(str, sorted(set(groups), key=str)[:20]))
            raise ConfigError(f"validation by '{self.by}': no clip has {', '.join(unknown)}; there are {known}")
        held = set(self.only) or self._drawn(groups, seed)
        chosen = np.array([group in held for group in groups])
        if chosen.all():
            raise ConfigError(
                f"validation by {self.by or 'clip'} would hold out all {len(clips)} clips: "
                f"its only groups are {', '.join(map(str, sorted(held, key=str)[:3]))}"
            )
        return clips.subset(np.flatnonzero(~chosen)), clips.subset(np.flatnonzero(chosen))

    def _drawn(self, groups: list[int | str], seed: int) -> set[int | str]:
        rng = np.random.default_rng([seed, 1])
        names = sorted(set(groups), key=str)
        wanted = self.share * len(groups)
        held: set[int | str] = set()
        counts, taken = Counter(groups), 0
        for number in rng.permutation(len(names)):
            if held and taken + counts[names[number]] / 2 > wanted:
                break
            held.add(names[number])
            taken += counts[names[number]]
        return held

    def _groups(self, clips: ClipDataset) -> list[int | str]:
        if not self.by:  # a rendered copy has the name of its clip
            first: dict[str, int] = {}
            return [first.setdefault(name, index) for index, name in enumerate(clips.names)]
        metas = clips.metas
        if any(self.by not in meta for meta in metas):
            known = sorted(set.intersection(*(set(meta) for meta in metas))) if metas else []
            raise ConfigError(
                f"validation by '{self.by}': the clips have {', '.join(known) or 'no metadata'}; choose one of these, "
                "or leave `by` empty"
            )
        return [cast("int | str", self.group(meta)) for meta in metas]

    def group(self, meta: Mapping[str, int | str]) -> int | str | None:
        """Return the group of a clip by its metadata, None without one; of a rendered clip its original's."""
        return meta.get(ORIGIN) or meta.get(self.by) if self.by == "set" else meta.get(self.by)


class EpochBatchSampler(Sampler[list[Draw]]):
    """Batch sampler that yields one epoch per iteration; after resuming, the first one begins at `steps_done`.

    A step has `batch` clips in all processes together, in `accumulate` parts. Balance "sets" needs the metadata `metas`
    of the clips.

    Raises:
        ConfigError: There are fewer clips than a batch holds, a batch does not divide among the processes, or metadata
            and sampling do not fit (`Sampling.weights`).
    """

    def __init__(
        self,
        labels: np.ndarray,
        sampling: Sampling,
        seed: int,
        batch: int,
        accumulate: int = 1,
        *,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        steps_done: int = 0,
        metas: Sequence[Mapping[str, int | str]] = (),
    ):
        if batch % (accumulate * world):
            raise ConfigError(
                f"a batch of {batch} clips does not divide among {world} processes × {accumulate} parts: "
                f"choose a multiple of {accumulate * world}"
            )
        self.labels, self.sampling, self.seed = np.asarray(labels), sampling, seed
        self.batch, self.accumulate, self.rank, self.world = batch, accumulate, rank, world
        self.epoch, self.steps_done = epoch, steps_done
        self._weights = sampling.weights(self.labels, metas)
        self.steps = len(self.labels) * sampling.repeats // batch
        if not self.steps:
            raise ConfigError(
                f"a batch of {batch} clips is more than the training part's {len(self.labels) * sampling.repeats}: "
                "choose a smaller batch"
            )

    def __len__(self) -> int:
        """Return the number of batch parts in an epoch."""
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        # Count an epoch at its first batch: loaders with workers make iterators that they never use.
        epoch, first = self.epoch, self.steps_done
        self.epoch, self.steps_done = epoch + 1, 0
        order = self.order(epoch)
        size = self.batch // (self.accumulate * self.world)
        for part in range(first * self.accumulate, len(self)):
            start = (part * self.world + self.rank) * size
            yield [(epoch, int(index), int(again)) for index, again in order[start : start + size]]

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch [draws, 2]: index and number of the repeat."""
        rng = np.random.default_rng([self.seed, 0, epoch])
        count = len(self.labels)
        if self._weights is not None:
            return _weighted_order(self._weights, count * self.sampling.repeats, rng)
        if self.sampling.balance == "none":
            drawn = rng.permutation(count * self.sampling.repeats)
            return np.stack([drawn % count, drawn // count], axis=1)
        classes = np.unique(self.labels)
        each = math.ceil(count * self.sampling.repeats / len(classes))
        rows = []
        for label in classes:
            members = rng.permutation(np.flatnonzero(self.labels == label))
            numbers = np.arange(each)
            rows.append(np.stack([members[numbers % len(members)], numbers // len(members)], axis=1))
        return rng.permutation(np.concatenate(rows))[: count * self.sampling.repeats]


def _weighted_order(weights: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return an order [draws, 2] in which each clip has its share `weights` [N] of the draws, rounded up or down."""
    clips = rng.permutation(len(weights))
    ends = np.floor(np.cumsum(weights[clips]) * draws + rng.random()).astype(int)
    ends = np.minimum(ends, draws)
    ends[-1] = draws
    counts = np.diff(ends, prepend=0)
    again = np.arange(draws) - np.repeat(ends - counts, counts)
    return rng.permutation(np.stack([np.repeat(clips, counts), again], axis=1))


def rank_batches(count: int, batch: int, rank: int = 0, world: int = 1) -> BatchSampler:
    """Return batches of every clip once for one process of `world`, padded with `PAD` to equal lengths."""
    indices = [*range(rank, count, world)]
    return BatchSampler(indices + [PAD] * (math.ceil(count / world) - len(indices)), batch, drop_last=False)
