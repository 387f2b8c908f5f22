"""What reading NTU RGB+D costs on one core, and how well the cameras found from each file explain its pixels."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.errors import DeviceError
from actrec.geometry import kinect_to_optical, project
from actrec.recordings.cleaning import BodyCleaning, clean
from actrec.recordings.ntu import COLOUR_SIZE, DEPTH_SIZE, read_ntu_file, read_ntu_skeleton, unmirror
from actrec.recordings.ntu_cameras import fit_cameras

SAMPLES = 114_480
"""Of NTU RGB+D 120."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Reads `.skeleton` files over and over, and compares projected joints with the files' own pixels.

    Args:
        arguments: `--data FOLDER`, `--files N`, `--repeat N`.

    Returns:
        Samples a second of CPU time, and a row for each file: distance in px in both pictures, median, 95th percentile
        and largest.

    Raises:
        DeviceError: The folder holds no `.skeleton` file.
    """
    parser = Parser(prog="actrec bench ntu", description=measure.__doc__)
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
    for picture, found, own in (
        ("colour", cameras.pixels(joints), unmirror(recording.colour_pixels, COLOUR_SIZE[0])),
        ("depth", project(joints, cameras.depth), unmirror(recording.depth_pixels, DEPTH_SIZE[0])),
    ):
        away = np.linalg.norm(found - own, axis=-1)
        away = away[np.isfinite(away)]
        for name, value in (("median", np.median(away)), ("95 %", np.percentile(away, 95)), ("max", away.max())):
            row[f"{picture} {name} px"] = round(float(value), 3)
    return row
