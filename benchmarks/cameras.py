"""`actrec bench camera`, `gravity`, `recordings`, `ntu`: drivers over minutes, mountings, recordings, NTU's files."""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from actrec import cameras
from actrec.cameras.base import Camera
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
from actrec.perception.gravity import GravityEstimator
from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import config, gravity
from actrec.utils.config import build
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream
from actrec.utils.geometry import kinect_to_optical, project

_SETTLED = 0.1
"""Share of the run after which caches are full and memory is measured first."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Measure rate, delay at the beginning and at the end, stamps, memory and the driver's own figures."""
    parser = Parser(
        prog="actrec bench camera", description="A camera over minutes: does it leak, does its delay grow?",
        epilog="Example: actrec bench camera --driver realsense --driver-option fps=30 --minutes 10",
    )  # fmt: skip
    parser.add_argument("--driver", default="simulated", help="a name in actrec.cameras (default: simulated)")
    parser.add_argument("--driver-option", action="append", default=[], metavar="KEY=VALUE", help="setting of it")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    args = parser.parse_args(arguments)
    if not args.minutes > 0:
        raise ConfigError(f"--minutes is {args.minutes:g}, expected more than 0")
    options = config.parse_pairs(args.driver_option, "driver option")
    with cameras.create(args.driver, **options) as camera:
        return {"driver": args.driver, "minutes": args.minutes, **_watched(camera, args.minutes * 60)}


def _watched(camera: Camera, seconds: float) -> dict[str, Any]:
    process = psutil.Process()
    stamps: list[int] = []
    delays, memory = [], []
    began = told = time.monotonic()
    spent = time.process_time()
    while (now := time.monotonic()) < began + seconds:
        try:
            frame = camera.read(5.0)
        except EndOfStream:  # of a recording that is shorter
            if not stamps:
                raise
            break
        stamps.append(frame.stamp_ns)
        delays.append((time.time_ns() - frame.stamp_ns) / 1e6)
        memory.append(process.memory_info().rss / 2**20)
        if now > told + 10:
            told = now
            print(f"{now - began:.0f} s of {seconds:.0f}, {memory[-1]:.0f} MB", file=sys.stderr)
    share, wall = max(1, int(_SETTLED * len(stamps))), time.monotonic() - began
    intervals = np.diff(stamps) / 1e6
    figures = {key: round(value, 3) for key, value in camera.figures().items()}
    return {
        "frames": len(stamps),
        "fps": round(len(stamps) / wall, 2),
        "cpu_share_of_a_core": round((time.process_time() - spent) / wall, 3),
        "delay_p50_ms_first_tenth": round(float(np.median(delays[:share])), 2),
        "delay_p50_ms_last_tenth": round(float(np.median(delays[-share:])), 2),
        "delay_p99_ms": round(float(np.percentile(delays, 99)), 2),
        "interval_p50_ms": round(float(np.median(intervals)), 2) if len(intervals) else None,
        "interval_p99_ms": round(float(np.percentile(intervals, 99)), 2) if len(intervals) else None,
        "skipped": camera.skipped,
        "memory_mb_after_a_tenth": round(memory[share - 1], 1),
        "memory_mb_at_the_end": round(memory[-1], 1),
        **figures,
    }


INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


def measure_recordings(arguments: list[str]) -> dict[str, Any]:
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
    config = build(RecordingConfig, {"intrinsics": "525,525,319.5,239.5", "depth_scale": 0.001})
    with open_recording(path, config) as recording:
        for _ in recording.frames():
            pass


SAMPLES = 114_480
"""Of NTU RGB+D 120."""


def measure_ntu(arguments: list[str]) -> dict[str, Any]:
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


def measure_gravity(arguments: list[str]) -> dict[str, Any]:
    """Measure the error of `up` in degrees: of a RealSense in software whose mount turns, and of the estimate."""
    parser = Parser(prog="actrec bench gravity", description="Error of the direction of gravity by its source.")
    parser.add_argument("--turn", type=float, default=40.0, help="pitch down within a second, degrees (default: 40)")
    args = parser.parse_args(arguments)
    from tests.core.cameras.software_realsense import moving_camera

    figures: dict[str, Any] = {}
    for name, gyroscope in (("accelerometer and gyroscope", True), ("accelerometer alone", False)):
        # At rest for 3 s, pitched within 1 s, at rest for 4 s.
        found = list(moving_camera(lambda t: args.turn * min(max(t - 3, 0), 1), 8.0, gyroscope))
        parts = {"static": (1, 3), "turning": (3, 4), "1 to 4 s after": (5, 8)}
        figures[name] = {
            part: {"mean": round(float(np.mean(errors)), 2), "largest": round(max(errors), 2)}
            for part, (begin, end) in parts.items()
            if (errors := [_angle(up, true) for t, up, true in found if begin <= t < end and up is not None])
        }
    for name, height, pitch in (("estimate, floor in view", 1.3, 10.0), ("estimate, people alone", 1.3, 10.0)):
        figures[name] = _estimated(height, pitch, args.turn / 2, with_depth="floor" in name)
    return figures


def _estimated(height: float, pitch: float, turn: float, with_depth: bool) -> dict[str, float]:
    """Return the error of an estimate, and the time until it follows a turn of the mount, in s (NaN: 30 s or more)."""
    estimator, found = GravityEstimator(), {"error_deg": np.nan, "follows_turn_after_s": np.nan}
    for number, down in enumerate((pitch, pitch + turn)):
        true = gravity.up_from_angles(0, down)
        options: dict[str, Any] = {"fps": 5, "width": 320, "height": 240, "gravity": False}
        options |= {"camera_pitch": down, "camera_height": height, "start_stamp_ns": number * 20 * NANOSECONDS}
        with cameras.create("simulated", realtime=False, **options) as camera:
            for k in range(150 if number else 100):
                frame = camera.read(5.0)
                estimator.update(frame if with_depth else replace(frame, depth=None), frame.skeletons)
                if number and estimator.up is not None and _angle(estimator.up, true) < 2:
                    found["follows_turn_after_s"] = k / 5
                    break
        if not number and estimator.up is not None:
            found["error_deg"] = round(_angle(estimator.up, true), 2)
    return found


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))
