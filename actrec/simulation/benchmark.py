"""`actrec bench renderer`: frames a second of the simulated camera on one core."""

import argparse
import time
from typing import Any

import cv2

from actrec.capture.simulated import SimulatedCamera

_CASES = ((1, False), (1, True), (2, False), (2, True))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Frames a second of processor time (one thread) for one and two actors, without and with sensor noise."""
    parser = argparse.ArgumentParser(
        prog="actrec bench renderer", description="Speed of the simulated camera on one core.",
        epilog="Example: actrec bench renderer --frames 300 --json",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=300, help="frames a case (default: 300)")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
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
