"""How exact the calibrations of depth and of a camera's place on a robot are, on simulated views with known truth."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.frames import Intrinsics
from actrec_calibration import extrinsics, floor, hand_eye, simulated
from actrec_calibration.boards import Board
from actrec_calibration.transforms import apart

SENSORS = ("time_of_flight", "stereo", "structured_light")
SCALE, BIAS = 1.004, -0.012
FLOOR_VIEWS = 5
_ARM_CAMERA = Intrinsics(1280, 720, 910.0, 910.0, 641.0, 358.0, (0.1, -0.2, 0.001, 0.0, 0.0))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Calibrates simulated cameras, a new one for each seed, and compares with the truth.

    Args:
        arguments: `--seeds N`, `--views N`.

    Returns:
        A row for each calibration: mean and worst error in mm and degrees, mean stated standard deviation, and the mean
        and worst error of the depth bias in mm where one is found.
    """
    parser = Parser(prog="actrec bench calibration-robot", description=measure.__doc__)
    parser.add_argument("--seeds", type=count, default=10, help="calibrations of each kind")
    parser.add_argument("--views", type=count, default=25, help="of each calibration (the floor takes 5)")
    args = parser.parse_args(arguments)
    rows = []
    for sensor in SENSORS:
        for infrared in (True, False):
            name = f"depth to colour, {sensor}, {'infrared' if infrared else 'depth alone'}"
            rows.append(_row(name, args.seeds, partial(_depth, views=args.views, sensor=sensor, infrared=infrared)))
    for mount in hand_eye.MOUNTS:
        rows.append(_row(f"hand-eye, camera on the {mount}", args.seeds, partial(_arm, views=args.views, mount=mount)))
    for sensor in SENSORS:
        rows.append(_row(f"floor and board, {sensor}", args.seeds, partial(_floor, sensor=sensor)))
    return {"seeds": args.seeds, "views": args.views, "calibrations": rows}


_Errors = tuple[tuple[float, float], float, float | None]
"""Distance in metres and angle in degrees from the truth; stated deviation of the place in metres; bias error."""


def _row(name: str, seeds: int, calibrate: Callable[[int], _Errors]) -> dict[str, Any]:
    errors = [calibrate(seed) for seed in range(seeds)]
    mm, degrees = 1e3 * np.array([place for (place, _), _, _ in errors]), np.array([a for (_, a), _, _ in errors])
    row = {
        "calibration": name,
        "mm mean": round(float(mm.mean()), 3),
        "mm worst": round(float(mm.max()), 3),
        "degrees mean": round(float(degrees.mean()), 4),
        "degrees worst": round(float(degrees.max()), 4),
        "stated mm": round(1e3 * float(np.mean([sigma for _, sigma, _ in errors])), 3),
    }
    if errors[0][2] is not None:
        bias = 1e3 * np.array([bias for _, _, bias in errors], np.float64)
        row |= {"bias mm mean": round(float(bias.mean()), 3), "bias mm worst": round(float(bias.max()), 3)}
    return row


def _depth(seed: int, views: int, sensor: str, infrared: bool) -> _Errors:
    rig = simulated.kinect(sensor=sensor, scale=SCALE, bias=BIAS)
    board = Board.of(columns=10, rows=7, square=0.06, marker=0.045)
    seen = simulated.pairs(board, rig, views, seed, infrared)
    found = extrinsics.calibrate(board, seen, extrinsics.Cameras(rig.colour, rig.depth))
    error = apart(found.geometry.to_colour, rig.to_colour)
    return error, float(np.linalg.norm(found.sigma_m)), abs(found.geometry.bias - BIAS)


def _arm(seed: int, views: int, mount: str) -> _Errors:
    arm, board = simulated.Arm.drawn(mount, seed), Board.of()
    seen = simulated.arm_views(arm, board, _ARM_CAMERA, views, seed)
    found = hand_eye.calibrate(seen, _ARM_CAMERA, mount)
    return apart(found.camera, arm.camera), float(np.linalg.norm(found.sigma_m)), None


def _floor(seed: int, sensor: str) -> _Errors:
    rig = simulated.kinect(sensor=sensor)
    board = Board.of(columns=7, rows=5, square=0.08, marker=0.06)
    room = simulated.Room.drawn(board, seed)
    random = np.random.default_rng(seed)
    views = []
    for number in range(FLOOR_VIEWS):
        seen = simulated.corners(board, rig.colour, room.board(), rig.corner_px, random)
        views.append((seen, floor.find_floor(room.depth(rig, seed, number), rig.depth)))
    found = floor.calibrate(board, views, room.lying, rig.colour, rig.to_colour)
    return apart(found.camera, room.camera), float(np.linalg.norm(found.sigma_m)), None
