"""Write a driver for a camera of your own, and run the graph with it.

The camera is a program that writes images to a folder: 0001_depth.png (16 bit, mm, registered to color), then 0001.png.
A driver of a real camera calls its library in `open`, `read` and `close`.

Usage: python examples/own_camera.py FOLDER [options of actrec run, such as --duration 20]
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import cameras, cli
from actrec.cameras import Camera
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.config import build, setting
from actrec.utils.errors import DeviceError


@dataclass(frozen=True)
class SnapshotsConfig:
    """Settings: parameters `snapshots.folder` and so on of camera_node, and `--driver-option folder=…`."""

    folder: str = setting("snapshots", "Folder to which the camera's program writes.")
    focal: float = setting(525.0, "Focal length.", unit="px", range=(1.0, 1e5))


class SnapshotsCamera(Camera):
    """Returns the newest pair of images, once."""

    config_class = SnapshotsConfig

    def __init__(self, **options: Any):
        self.config = build(SnapshotsConfig, options)
        self._last = ""
        self._intrinsics: Intrinsics | None = None

    def open(self) -> None:
        """Wait for the first image."""
        if not Path(self.config.folder).is_dir():
            raise DeviceError(f"there is no folder '{self.config.folder}': start the camera's program")
        self._intrinsics = self.read(timeout_s=5.0).intrinsics

    def close(self) -> None:
        """Stop; nothing is open between two reads."""
        self._intrinsics = None

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images, once open."""
        if self._intrinsics is None:
            raise DeviceError("the camera is not open")
        return self._intrinsics

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame, or raise DeviceError, after which camera_node opens the camera again."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            names = [path.stem for path in Path(self.config.folder).glob("*.png") if not path.stem.endswith("_depth")]
            newest = max(names, default="")
            if newest > self._last and (frame := self._load(newest)) is not None:
                self._last = newest
                return frame
            time.sleep(0.005)
        raise DeviceError(f"no new image in '{self.config.folder}' for {timeout_s:g} s")

    def _load(self, name: str) -> RgbdFrame | None:
        path = Path(self.config.folder) / f"{name}.png"
        color = cv2.imread(str(path))
        millimeters = cv2.imread(str(path.with_name(f"{name}_depth.png")), cv2.IMREAD_UNCHANGED)
        if color is None or millimeters is None:  # half written
            return None
        height, width = color.shape[:2]
        focal = self.config.focal
        return RgbdFrame(
            stamp_ns=path.stat().st_mtime_ns,  # the capture time, by the system's clock
            color=cv2.cvtColor(color, cv2.COLOR_BGR2RGB),
            depth=np.where(millimeters > 0, millimeters / 1000, np.nan).astype(np.float32),
            intrinsics=Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2),
        )


cameras.DRIVERS.add("snapshots", "own_camera:SnapshotsCamera")  # module:class

if __name__ == "__main__":
    chosen = ["--driver", "snapshots", "--driver-option", f"folder={sys.argv[1]}"]
    sys.exit(cli.main(["run", *chosen, *sys.argv[2:]]))
