"""`actrec bench camera`: what a camera driver gives over minutes: its pace, its delay, frames left out, memory."""

import sys
import time
from typing import Any

import numpy as np
import psutil

from actrec import capture, keyvalues
from actrec.capture.base import Camera
from actrec.cli import Parser
from actrec.errors import ConfigError, EndOfStream

_SETTLED = 0.1
"""Share of the run after which memory is looked at first: caches are full then."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Pace, delay at the beginning and at the end, interval of the stamps, memory and the driver's own figures.

    Raises:
        ConfigError: The time is not positive.
    """
    parser = Parser(
        prog="actrec bench camera", description="A camera over minutes: does it leak, does its delay grow?",
        epilog="Example: actrec bench camera --driver realsense --driver-option fps=30 --minutes 10",
    )  # fmt: skip
    parser.add_argument("--driver", default="simulated", help="a name in actrec.capture (default: simulated)")
    parser.add_argument("--driver-option", action="append", default=[], metavar="KEY=VALUE", help="setting of it")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    args = parser.parse_args(arguments)
    if not args.minutes > 0:
        raise ConfigError(f"--minutes is {args.minutes:g}, expected more than 0")
    options = keyvalues.read(args.driver_option, "driver option")
    with capture.create(args.driver, **options) as camera:
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
