"""`actrec bench data`: reading of clips, from a dataset's files to samples of training."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from actrec import datasets
from actrec.cli import Parser, amount, count
from actrec.datasets.base import Clip, ClipDataset, Entry, Source
from actrec.datasets.store import PreparedDataset
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError
from actrec_models.data.estimation import STREAM_KEYS, PrepareConfig
from actrec_models.data.preparation import Run, prepare_source
from actrec_models.data.samples import Samples
from actrec_models.networks import create
from actrec_models.training.recipe import Recipe

BATCH, WARM_BATCHES = 64, 4

READERS: tuple[tuple[str, dict[str, Any], str], ...] = (("ntu60", {"incomplete": "keep"}, ""), ("nucla", {}, "raw"))
"""Datasets that are here as published, a file a clip: name, options, folder in its own."""


class Repeated(Source):
    """Clips of another dataset, repeated under new names to simulate a large one."""

    splits: ClassVar = ("all",)

    def __init__(self, source: Source, count: int):
        super().__init__(source.root)
        self.source, self.count = source, count
        self.classes, self.layout = source.classes, source.layout

    @cached_property
    def clips(self) -> list[Clip]:
        """Return the clips of the other dataset."""
        kept = PrepareConfig().kept  # no image is decoded
        keys = {key for stream in kept for key in STREAM_KEYS[stream]}
        clips = (self.source.read(entry) for entry in self.source.entries())
        return [dataclasses.replace(c, streams={k: c.streams[k] for k in c.streams if k in keys}) for c in clips]

    def entries(self) -> list[Entry]:
        """See the base class."""
        return [Entry(f"clip{n:06d}", self.clips[n % len(self.clips)].label) for n in range(self.count)]

    def read(self, entry: Entry) -> Clip:
        """See the base class."""
        return dataclasses.replace(self.clips[int(entry.name[4:]) % len(self.clips)], name=entry.name)

    def part(self, entry: Entry, split: str) -> str:
        """See the base class."""
        return "train"


def data(arguments: list[str]) -> dict[str, Any]:
    """Measure clips a second: readers on one core, the prepared store in order and shuffled, samples with features.

    The store has clips of NTU RGB+D (one or two bodies with pixels) and of N-UCLA (one body), repeated, in a temporary
    folder. The first read verifies every checksum, later ones do not; a copy reads every byte.
    """
    parser = Parser(
        prog="actrec bench data",
        description="Reading of clips: a dataset's files, a prepared store, and samples of training.",
        epilog="Example: actrec bench data --clips 2000 --json",
    )
    root = os.environ.get("ACTREC_DATA", "data")
    parser.add_argument("--data", default=root, help="folder of datasets (default: $ACTREC_DATA, %(default)s)")
    parser.add_argument("--clips", type=count, default=20_000, help="clips of a store (default: %(default)s)")
    parser.add_argument("--seconds", type=amount, default=5.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--scratch", help="folder in which the stores are made for a while (default: the system's)")
    args = parser.parse_args(arguments)
    if args.clips < (least := 2 * WARM_BATCHES * BATCH):
        raise ConfigError(f"--clips is {args.clips}, expected {least} or more: the first batches only warm up")
    if args.scratch and not os.path.isdir(args.scratch):
        raise DeviceError(f"--scratch is '{args.scratch}', which is no folder: name one that is there")
    torch.set_num_threads(1)
    rows = [_reader(args.data, reader, args.seconds) for reader in READERS]
    stores, samples = [], []
    for name, options, _ in READERS:
        with tempfile.TemporaryDirectory(prefix="actrec_bench_", dir=args.scratch) as folder:
            source = datasets.source(name, datasets.folder(args.data, name), **options)
            store, row = _prepared(name, Repeated(source, args.clips), Path(folder) / "store")
            stores += [row, *_reads(name, store)]
            if name == "nucla":
                samples = [
                    _samples(store, workers, varied, args.seconds) for varied in (False, True) for workers in (0, 2)
                ]
    return {"cores": os.cpu_count(), "clips": args.clips, "files": rows, "store": stores, "samples": samples}


class _Clock:
    """Wall time, and processor time of this process."""

    def __init__(self) -> None:
        self._wall, self._core = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.perf_counter() - self._wall

    def rates(self, count: int) -> dict[str, int]:
        """Return the rates of reading `count` clips."""
        core = time.process_time() - self._core
        return {"clips_per_s": round(count / self.seconds), "clips_per_core_s": round(count / core)}


def _reader(root: str, reader: tuple[str, dict[str, Any], str], seconds: float) -> dict[str, Any]:
    """Measure a dataset's own reader, one file after the other."""
    name, options, within = reader
    source = datasets.source(name, Path(datasets.folder(root, name)) / within, **options)
    entries = source.entries()
    frames = sum(len(source.read(entry).stamps_ns) for entry in entries)  # also compiles numba kernels
    count, clock = 0, _Clock()
    while clock.seconds < seconds:
        count += len([source.read(entry) for entry in entries])
    rates = clock.rates(count)
    size = sum(path.stat().st_size for entry in entries for path in entry.files.values())
    return {
        "dataset": name,
        "files": len(entries),
        "frames_a_clip": round(frames / len(entries)),
        "kb_a_clip": round(size / len(entries) / 1e3),
        **rates,
    }


def _prepared(name: str, source: Repeated, out: Path) -> tuple[PreparedDataset, dict[str, Any]]:
    count = len(source.clips)  # read before the clock runs
    clock = _Clock()
    summary = prepare_source(name, source, {"all": source}, out, {}, PrepareConfig(), Run())
    size = round(summary.bytes / summary.clips / 1e3)
    row = {"dataset": name, "what": f"written ({count} clips repeated)", "kb_a_clip": size}
    return PreparedDataset(out), {**row, **clock.rates(summary.clips)}


def _reads(name: str, store: PreparedDataset) -> Iterable[dict[str, Any]]:
    """Read every clip once, in several ways; the new files are in the page cache."""
    order = np.arange(len(store))
    shuffled = np.random.default_rng(1).permutation(order)
    _, size = store.size
    ways = (
        ("first, in order, checksums verified", order, _touch_none),
        ("later, in order", order, _touch_none),
        ("later, shuffled", shuffled, _touch_none),
        ("later, shuffled, every array copied", shuffled, _copy),
    )
    for what, indices, look in ways:
        clock = _Clock()
        for index in indices.tolist():
            look(store[index])
        row = {"dataset": name, "what": what, "kb_a_clip": round(size / len(store) / 1e3)}
        yield {**row, **clock.rates(len(indices))}


def _touch_none(clip: Clip) -> None:
    # Access lazy values, so that their cost is measured.
    for key in clip.streams:
        clip.streams[key]


def _copy(clip: Clip) -> None:
    for array in (clip.stamps_ns, clip.bodies, *(clip.streams[key] for key in clip.streams)):
        array.copy()


def _samples(store: ClipDataset, workers: int, varied: bool, seconds: float) -> dict[str, Any]:
    """Measure batches of samples as in training."""
    recipe = config.build(Recipe, {})
    network = create(recipe.model, num_classes=len(store.classes), **recipe.network_options())
    augmentation = recipe.check() if varied else None
    samples = Samples(store, network.input_specs, recipe.window(network), recipe, augmentation)
    loader = DataLoader(samples, BATCH, shuffle=True, num_workers=workers)
    drawn, first, clock = 0, WARM_BATCHES * BATCH, _Clock()
    for _ in loader:
        drawn += BATCH
        if drawn == first:
            clock = _Clock()  # workers have started by now
        if drawn > first and clock.seconds > seconds:
            break
    rates = clock.rates(drawn - first)
    if workers:
        del rates["clips_per_core_s"]  # theirs is not known here
    return {"network": recipe.model, "samples": "augmented" if varied else "as they are", "workers": workers, **rates}
