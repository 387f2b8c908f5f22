"""3-D view of frames, skeletons and labels in the viewer Rerun, or in an .rrd file."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from actrec.skeleton import layouts
from actrec.types import Body, RgbdFrame
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError

CAMERA = "camera"  # root entity: the camera's optical frame
JPEG_QUALITY = 80

RADII_M = {"skeletons": 0.012, "hands": 0.004, "face": 0.003}
"""Radius of the drawn joints, by topic."""


class Viewer:
    """Rerun log of frames, skeletons and labels, by the camera's time.

    Attributes:
        frames: Number of shown frames.

    Args:
        out: `.rrd` file to write instead of opening a viewer.
        connect: Address that a running viewer prints (`rerun+http://…/proxy`).

    Raises:
        ConfigError: Both are given, or the file's name does not end with `.rrd`.
        DeviceError: There is no display, the file cannot be written, or the viewer cannot be started or reached.
        MissingLibraryError: Rerun is not installed.
    """

    def __init__(self, out: str = "", connect: str = ""):
        if out and connect:
            raise ConfigError("--out and --connect exclude each other; give one of them")
        if out and not out.endswith(".rrd"):
            raise ConfigError(f"--out is '{out}', expected the name of a file that ends with .rrd")
        has_display = not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
        if not (out or connect or has_display):  # the viewer would exit silently
            raise DeviceError("there is no display for the viewer; give --out FILE.rrd, or --connect URL")
        self.frames = 0
        self._rr = _rerun()
        self._rr.init("actrec")
        try:
            if out:
                self._rr.save(out)
            elif connect:
                self._rr.connect_grpc(connect)
            else:
                self._rr.spawn()
        except (OSError, RuntimeError, ValueError) as error:
            action = f"write '{out}'" if out else f"connect to '{connect}'" if connect else "open the viewer"
            cause = str(error).strip().splitlines() or [type(error).__name__]  # further lines list ways to install it
            raise DeviceError(f"cannot {action}: {cause[0]}") from error
        self._rr.log("/", self._rr.ViewCoordinates.RDF, static=True)

    def frame(self, frame: RgbdFrame) -> None:
        """Show the images of a frame."""
        self.frames += 1
        rr = self._at(frame.stamp_ns)
        if frame.color is not None:
            k = frame.intrinsics
            rr.log(CAMERA, rr.Pinhole(image_from_camera=k.matrix, resolution=[k.width, k.height]))
            rr.log(f"{CAMERA}/color", rr.Image(frame.color).compress(jpeg_quality=JPEG_QUALITY))
        if frame.depth is not None:
            # Rerun marks missing depth by 0.
            rr.log(f"{CAMERA}/depth", rr.DepthImage(np.nan_to_num(frame.depth), meter=1.0))

    def bodies(self, topic: str, stamp_ns: int, bodies: Sequence[Body]) -> None:
        """Show bodies, hands or faces of one instant instead of the previous ones; `topic` is a key of `RADII_M`."""
        rr, radius = self._at(stamp_ns), RADII_M[topic]
        strips = [strip for body in bodies for strip in _strips(body)]
        points = [body.positions[np.isfinite(body.positions).all(axis=1)] for body in bodies]
        joints = np.concatenate(points) if points else np.zeros((0, 3), np.float32)
        rr.log(f"{topic}/joints", rr.Points3D(joints, radii=radius))
        rr.log(f"{topic}/bones", rr.LineStrips3D(strips, radii=radius / 2))
        labels = [body.body_id for body, joints in zip(bodies, points, strict=True) if len(joints)]
        centers = np.array([joints.mean(axis=0) for joints in points if len(joints)], np.float32).reshape(-1, 3)
        rr.log(f"{topic}/names", rr.Points3D(centers, labels=labels, radii=radius))

    def label(self, stamp_ns: int, body_id: str, label: str, confidence: float) -> None:
        """Log a body's label as text and its confidence as a curve."""
        rr = self._at(stamp_ns)
        name = body_id or "no_person"
        rr.log(f"action_label/{name}", rr.TextLog(f"{label} {confidence:.2f}"))
        rr.log(f"confidence/{name}", rr.Scalars(confidence))

    def _at(self, stamp_ns: int) -> Any:
        self._rr.set_time(CAMERA, timestamp=stamp_ns / 1e9)
        return self._rr


def _rerun() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise MissingLibraryError(
            # The newest Rerun and pyarrow need NumPy 2, and the messages of ROS 2 the NumPy they were built with.
            f"actrec view needs Rerun ({error}): make venv EXTRAS='live view', or: pip install rerun-sdk 'pyarrow<26' "
            f"'numpy=={np.__version__}'"
        ) from error


def _strips(body: Body) -> list[np.ndarray]:
    """Return the bones with two known ends."""
    layout = layouts.get(body.layout)
    if len(body.positions) != len(layout):
        raise InputError(f"'{body.body_id}' has {len(body.positions)} joints, {layout.name} has {len(layout)}")
    bones = body.positions[np.array(layout.edges)]  # (bones, 2, 3)
    return list(bones[np.isfinite(bones).all(axis=(1, 2))])
