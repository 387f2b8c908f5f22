"""`actrec bench recordings` and `ntu`: frames and skeletons from files."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.cli import Parser, count
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
from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import config
from actrec.utils.camera_model import KINECT_V1, project
from actrec.utils.errors import DeviceError
from actrec.utils.geometry import kinect_to_optical


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
    return [RgbdFrame(k * period, np.roll(color, k, 1), np.roll(depth, k, 1), KINECT_V1) for k in range(count)]


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
