"""`actrec bench transport`, `recordings`, `ntu` and `data`: images and clips through processes, files and stores."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from actrec import datasets
from actrec.cli import Parser, amount, count
from actrec.datasets.base import Clip, ClipDataset, Entry, Source
from actrec.datasets.ntu.cameras import fit_cameras
from actrec.datasets.ntu.skeletons import (
    COLOR_SIZE,
    DEPTH_SIZE,
    BodyCleaning,
    clean,
    read_ntu_file,
    read_ntu_skeleton,
    unmirror,
)
from actrec.datasets.store import PreparedDataset
from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import config
from actrec.utils.camera_model import project
from actrec.utils.errors import DeviceError
from actrec.utils.geometry import kinect_to_optical
from actrec_models.data.estimation import STREAM_KEYS, PrepareConfig
from actrec_models.data.preparation import Run, prepare_source
from actrec_models.data.samples import Samples
from actrec_models.networks import create
from actrec_models.training.recipe import Recipe
from actrec_nodes.bringup import transport as image_transport


def transport(arguments: list[str]) -> dict[str, Any]:
    """Measure image transport between two processes, with our profile and with Fast DDS's defaults."""
    parser = Parser(prog="actrec bench transport", description="Images between two processes.")
    parser.add_argument("--seconds", type=amount, default=10.0, help="how long to publish (default: %(default)s)")
    seconds = parser.parse_args(arguments).seconds
    profiles = {"actrec's": True, "Fast DDS's default": False}
    rows = [{"profile": name, **image_transport.measure(seconds, own)} for name, own in profiles.items()]
    return {"640×480 at 30 Hz": rows}


INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


def recordings(arguments: list[str]) -> dict[str, Any]:
    """Write and read frames of blurred noise, 640×480, as a bag and as a folder."""
    parser = Parser(
        prog="actrec bench recordings", description="Processor time to write and to replay a frame, by format."
    )
    parser.add_argument("--frames", type=count, default=60, help="frames to write and read")
    frames = _frames(parser.parse_args(arguments).frames)
    rows = []
    with tempfile.TemporaryDirectory(prefix="actrec_bench_") as folder:
        bag, images = Path(folder) / "bag", Path(folder) / "images"
        for name, path, write in (("bag (mcap)", bag, _write_bag), ("folder (png)", images, _write_folder)):
            for action, call in (("write", lambda w=write, p=path: w(p, frames)), ("replay", lambda p=path: _read(p))):
                began = time.process_time()
                call()
                spent = 1000 * (time.process_time() - began) / len(frames)
                size = sum(file.stat().st_size for file in path.rglob("*.*")) / 1e6 / len(frames)
                rows.append({"format": name, "action": action, "cpu_ms": round(spent, 2), "mb": round(size, 2)})
    return {"frames": len(frames), "rows": rows}


def _frames(count: int) -> list[RgbdFrame]:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    color = cv2.GaussianBlur(noise, (0, 0), 3)
    depth = cv2.GaussianBlur(noise[..., 0], (0, 0), 3).astype(np.float32) / 50 + 1
    period = NANOSECONDS // 30
    return [RgbdFrame(k * period, np.roll(color, k, 1), np.roll(depth, k, 1), INTRINSICS) for k in range(count)]


def _write_bag(path: Path, frames: list[RgbdFrame]) -> None:
    with BagWriter(path) as writer:
        for frame in frames:
            writer.write_frame(frame)


def _write_folder(path: Path, frames: list[RgbdFrame]) -> None:
    path.mkdir()
    for k, frame in enumerate(frames):
        assert frame.color is not None and frame.depth is not None
        cv2.imwrite(str(path / f"color{k}.png"), cv2.cvtColor(frame.color, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(path / f"depth{k}.png"), (frame.depth * 1000).astype(np.uint16))


def _read(path: Path) -> None:
    settings = config.build(RecordingConfig, {"intrinsics": "525,525,319.5,239.5", "depth_scale": 0.001})
    with open_recording(path, settings) as recording:
        for _ in recording.frames():
            pass


SAMPLES = 114_480
"""Of NTU RGB+D 120."""


def ntu(arguments: list[str]) -> dict[str, Any]:
    """Read `.skeleton` files repeatedly, and compare projected joints with the files' own pixels."""
    parser = Parser(
        prog="actrec bench ntu", description="NTU RGB+D's files: reading speed, and the cameras found in them."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of .skeleton files, e.g. nturgb+d_skeletons")
    parser.add_argument("--files", type=count, default=100, help="how many of them")
    parser.add_argument("--repeat", type=count, default=5, help="times that each is read; the fastest round counts")
    args = parser.parse_args(arguments)
    files = sorted(args.data.rglob("*.skeleton"))[: args.files]
    if not files:
        raise DeviceError(f"'{args.data}' holds no .skeleton file; check the path")
    read_ntu_file(files[0])  # compiles
    spent = {
        "file": _seconds(read_ntu_file, files, args.repeat),
        "clip": _seconds(lambda file: clean(read_ntu_skeleton(file), BodyCleaning()), files, args.repeat),
    }
    return {
        "files": len(files),
        "megabytes a file": round(sum(file.stat().st_size for file in files) / len(files) / 1e6, 3),
        "files parsed a second": round(1 / spent["file"]),
        "clips a second, bodies cleaned": round(1 / spent["clip"]),
        "megabytes of text a second": round(
            sum(file.stat().st_size for file in files) / len(files) / 1e6 / spent["clip"]
        ),
        "minutes for NTU 120 on one core": round(SAMPLES * spent["clip"] / 60, 1),
        "cameras": [_cameras(file) for file in files],
    }


def _seconds(read: Callable[[Path], Any], files: list[Path], repeat: int) -> float:
    rounds = []
    for _ in range(repeat):
        began = time.process_time()
        for file in files:
            read(file)
        rounds.append((time.process_time() - began) / len(files))
    return min(rounds)


def _cameras(file: Path) -> dict[str, Any]:
    recording = read_ntu_file(file)
    cameras, joints = fit_cameras(recording), kinect_to_optical(recording.positions)
    row: dict[str, Any] = {"file": file.stem, "frames": joints.shape[1]}
    for image, found, own in (
        ("color", cameras.pixels(joints), unmirror(recording.color_pixels, COLOR_SIZE[0])),
        ("depth", project(joints, cameras.depth), unmirror(recording.depth_pixels, DEPTH_SIZE[0])),
    ):
        away = np.linalg.norm(found - own, axis=-1)
        away = away[np.isfinite(away)]
        for name, value in (("median", np.median(away)), ("95 %", np.percentile(away, 95)), ("max", away.max())):
            row[f"{image} {name} px"] = round(float(value), 3)
    return row


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
    batch = 64
    loader = DataLoader(samples, batch, shuffle=True, num_workers=workers)
    drawn, first, clock = 0, 4 * batch, _Clock()
    for _ in loader:
        drawn += batch
        if drawn == first:
            clock = _Clock()  # workers have started by now
        if drawn > first and clock.seconds > seconds:
            break
    rates = clock.rates(drawn - first)
    if workers:
        del rates["clips_per_core_s"]  # theirs is not known here
    return {"network": recipe.model, "samples": "augmented" if varied else "as they are", "workers": workers, **rates}
