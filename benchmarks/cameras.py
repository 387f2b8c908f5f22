"""`actrec bench camera`, `renderer`, `gravity`: drivers over minutes, the simulated camera, direction of gravity."""

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import psutil

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, count
from actrec.perception.gravity import GravityEstimator
from actrec.types import NANOSECONDS
from actrec.utils import config, gravity
from actrec.utils.errors import ConfigError, EndOfStream

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
        memory.append(process.memory_info().rss / 1e6)
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


_CASES = ((1, False), (1, True), (2, False), (2, True))


def measure_renderer(arguments: list[str]) -> dict[str, Any]:
    """Measure frames per second of processor time for one and two actors, without and with sensor noise."""
    parser = Parser(
        prog="actrec bench renderer", description="Speed of the simulated camera on one core.",
        epilog="Example: actrec bench renderer --frames 300 --json",
    )  # fmt: skip
    parser.add_argument("--frames", type=count, default=300, help="frames a case (default: 300)")
    parser.add_argument("--width", type=count, default=640)
    parser.add_argument("--height", type=count, default=480)
    parser.add_argument("--sensor", default="structured_light", help="noise model of the depth sensor")
    args = parser.parse_args(arguments)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        rows = [_case(args, actors, noise) for actors, noise in _CASES]
    finally:
        cv2.setNumThreads(threads)
    return {"size": f"{args.width}x{args.height}", "frames": args.frames, "renderer": rows}


def _case(args: argparse.Namespace, actors: int, noise: bool) -> dict[str, Any]:
    options = {"width": args.width, "height": args.height, "sensor": args.sensor, "actors": actors, "noise": noise}
    with SimulatedCamera(realtime=False, **options) as camera:
        camera.read()
        spent, began = time.process_time(), time.perf_counter()
        for _ in range(args.frames):
            camera.read()
        spent, wall = time.process_time() - spent, time.perf_counter() - began
    return {
        "actors": actors, "noise": "on" if noise else "off", "fps_of_one_core": round(args.frames / spent, 1),
        "ms_a_frame": round(1000 * spent / args.frames, 2), "fps_by_the_clock": round(args.frames / wall, 1),
    }  # fmt: skip


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
