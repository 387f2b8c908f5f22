"""`actrec bench renderer` and `actrec bench actor`: how fast the simulated camera is, how well its actor is seen."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from actrec.capture.simulated import SimulatedCamera
from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.errors import EndOfStream
from actrec.frames import RgbdFrame
from actrec.perception import BodyPerception, FacePerception, HandPerception
from actrec.simulation.performance import CYCLE
from actrec.skeleton.layouts import KINECT_V2_25

LIMBS = [
    KINECT_V2_25.index[f"{joint}_{side}"]
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
]
_CASES = ((1, False), (1, True), (2, False), (2, True))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Frames a second of processor time (one thread) for one and two actors, without and with sensor noise."""
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


def recognise(arguments: list[str]) -> dict[str, Any]:
    """How well the perception sees the actor, action by action: bodies, hands and faces against the exact truth."""
    parser = Parser(
        prog="actrec bench actor", description="Perception of the simulated actor against the exact truth.",
        epilog="Example: actrec bench actor --seconds 5 --actions wave throw",
    )  # fmt: skip
    parser.add_argument("--actions", nargs="+", default=[*CYCLE, "idle"], help="actions to perform (default: all)")
    parser.add_argument("--seconds", type=amount, default=5.0, help="of each action (default: 5)")
    parser.add_argument("--fps", type=amount, default=15.0, help="frames a second (default: 15)")
    args = parser.parse_args(arguments)
    return {"fps": args.fps, "actor": [_recognised(action, args.seconds, args.fps) for action in args.actions]}


def _recognised(action: str, seconds: float, fps: float) -> dict[str, Any]:
    parts = (BodyPerception(), HandPerception(), FacePerception())
    found: dict[str, list[float]] = {"body": [], "face": [], "px": [], "mm": [], "hand": [], "hand_px": []}
    with SimulatedCamera(actions=[action], realtime=False, duration=seconds, fps=fps) as camera:
        for frame in _frames(camera):
            bodies = parts[0].process(frame)
            found["body"].append(bool(bodies))
            found["face"].append(bool(parts[2].process(frame, bodies)))
            if bodies:
                truth = frame.skeletons[0]
                found["px"] += np.linalg.norm(bodies[0].pixels - truth.pixels, axis=1)[LIMBS].tolist()
                found["mm"] += (1000 * np.linalg.norm(bodies[0].positions - truth.positions, axis=1)[LIMBS]).tolist()
            hands = {hand.side: hand for hand in parts[1].process(frame, bodies)}
            for truth_hand in camera.hands():
                seen = hands.get(truth_hand.side)
                found["hand"].append(seen is not None)
                if seen is not None:
                    found["hand_px"].append(
                        float(np.nanmedian(np.linalg.norm(seen.pixels - truth_hand.pixels, axis=1)))
                    )
    for part in parts:
        part.close()
    return {
        "action": action, "frames": len(found["body"]), "body": _share(found["body"]),
        "limbs_px_p50": _at(found["px"], 50), "limbs_px_p90": _at(found["px"], 90),
        "limbs_mm_p50": _at(found["mm"], 50), "face": _share(found["face"]),
        "hands": _share(found["hand"]), "fingers_px_p50": _at(found["hand_px"], 50),
    }  # fmt: skip


def _frames(camera: SimulatedCamera) -> Iterator[RgbdFrame]:
    try:
        while True:
            yield camera.read()
    except EndOfStream:
        return


def _share(values: list[float]) -> float:
    return round(float(np.mean(values)), 3)


def _at(values: list[float], percentile: float) -> float:
    known = [value for value in values if np.isfinite(value)]
    return round(float(np.percentile(known, percentile)), 1) if known else float("nan")
