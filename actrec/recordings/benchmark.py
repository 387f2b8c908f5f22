"""What replaying and recording cost: CPU time a frame, by format."""

import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.config import build
from actrec.frames import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.recordings import open_recording
from actrec.recordings.bag_writer import BagWriter
from actrec.recordings.base import RecordingConfig

INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


def measure(arguments: list[str]) -> dict[str, Any]:
    """Writes and reads frames of blurred noise, 640×480, as a bag and as a folder.

    Args:
        arguments: `--frames N`.

    Returns:
        A row for each: format, what was done, CPU milliseconds a frame, megabytes a frame.
    """
    parser = Parser(prog="actrec bench recordings", description=measure.__doc__)
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
    colour = cv2.GaussianBlur(noise, (0, 0), 3)
    depth = cv2.GaussianBlur(noise[..., 0], (0, 0), 3).astype(np.float32) / 50 + 1
    period = NANOSECONDS // 30
    return [RgbdFrame(k * period, np.roll(colour, k, 1), np.roll(depth, k, 1), INTRINSICS) for k in range(count)]


def _write_bag(path: Path, frames: list[RgbdFrame]) -> None:
    with BagWriter(path) as writer:
        for frame in frames:
            writer.write_frame(frame)


def _write_folder(path: Path, frames: list[RgbdFrame]) -> None:
    path.mkdir()
    for k, frame in enumerate(frames):
        assert frame.colour is not None and frame.depth is not None
        cv2.imwrite(str(path / f"color{k}.png"), cv2.cvtColor(frame.colour, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(path / f"depth{k}.png"), (frame.depth * 1000).astype(np.uint16))


def _read(path: Path) -> None:
    config = build(RecordingConfig, {"intrinsics": "525,525,319.5,239.5", "depth_scale": 0.001})
    with open_recording(path, config) as recording:
        for _ in recording.frames():
            pass
