"""What a camera sees and the graph says of it, shown in 3-D by Rerun (its viewer, or a file for it)."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from actrec.skeleton import layouts
from actrec.types import Body, RgbdFrame
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError

CAMERA = "camera"
"""The entity below which all lies: the camera's optical frame."""

QUALITY = 80
"""Of the JPEGs that color is sent as."""

WIDTHS_M = {"skeletons": 0.012, "hands": 0.004, "face": 0.003}
"""Radius of what is drawn, by topic."""


class Viewer:
    """Gives Rerun what it is told, by the camera's time.

    Args:
        out: File to write, `.rrd`, instead of opening a viewer here.
        connect: Address of a viewer that runs elsewhere, as it prints it (`rerun+http://…/proxy`).

    Attributes:
        frames: How many frames it was given.

    Raises:
        ConfigError: Both are given, or the file is no `.rrd`.
        DeviceError: There is no display, the file cannot be written, or the viewer cannot be started or reached.
        MissingLibraryError: Rerun is not installed.
    """

    def __init__(self, out: str = "", connect: str = ""):
        if out and connect:
            raise ConfigError("--out writes a file and --connect shows elsewhere: give one of them")
        if out and not out.endswith(".rrd"):
            raise ConfigError(f"--out is '{out}', expected the name of a file that ends with .rrd")
        if not (out or connect or _has_display()):
            raise DeviceError("there is no display here for the viewer: give --out FILE.rrd, or --connect URL")
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
            where = f"write '{out}'" if out else f"show at '{connect}'" if connect else "open the viewer"
            why = str(error).strip().splitlines() or [type(error).__name__]  # what follows lists ways to install it
            raise DeviceError(f"cannot {where}: {why[0]}") from error
        self._rr.log("/", self._rr.ViewCoordinates.RDF, static=True)

    def frame(self, frame: RgbdFrame) -> None:
        """Shows the images of a frame."""
        self.frames += 1
        rr = self._at(frame.stamp_ns)
        if frame.color is not None:
            known = frame.intrinsics
            rr.log(CAMERA, rr.Pinhole(image_from_camera=known.matrix, resolution=[known.width, known.height]))
            rr.log(f"{CAMERA}/color", rr.Image(frame.color).compress(jpeg_quality=QUALITY))
        if frame.depth is not None:
            # What is missing is 0 to Rerun.
            rr.log(f"{CAMERA}/depth", rr.DepthImage(np.nan_to_num(frame.depth), meter=1.0))

    def bodies(self, topic: str, stamp_ns: int, bodies: Sequence[Body]) -> None:
        """Shows all bodies, hands or faces of one instant in place of those before.

        Args:
            topic: "skeletons", "hands" or "face".
            stamp_ns: The instant.
            bodies: Those seen; empty where nobody is.

        Raises:
            ConfigError: Unknown layout.
            InputError: A body has other joints than its layout.
        """
        rr, radius = self._at(stamp_ns), WIDTHS_M[topic]
        strips = [strip for body in bodies for strip in _strips(body)]
        points = [body.positions[np.isfinite(body.positions).all(axis=1)] for body in bodies]
        joints = np.concatenate(points) if points else np.zeros((0, 3), np.float32)
        rr.log(f"{topic}/joints", rr.Points3D(joints, radii=radius))
        rr.log(f"{topic}/bones", rr.LineStrips3D(strips, radii=radius / 2))
        named = [(body.body_id, seen.mean(axis=0)) for body, seen in zip(bodies, points, strict=True) if len(seen)]
        middles = np.array([middle for _, middle in named], np.float32).reshape(-1, 3)
        rr.log(f"{topic}/names", rr.Points3D(middles, labels=[name for name, _ in named], radii=radius))

    def label(self, stamp_ns: int, body_id: str, label: str, confidence: float) -> None:
        """Writes what a body does into the log, and its confidence into a curve."""
        rr = self._at(stamp_ns)
        name = body_id or "nobody"
        rr.log(f"action_label/{name}", rr.TextLog(f"{label} {confidence:.2f}"))
        rr.log(f"confidence/{name}", rr.Scalars(confidence))

    def _at(self, stamp_ns: int) -> Any:
        self._rr.set_time(CAMERA, timestamp=stamp_ns / 1e9)
        return self._rr


def _has_display() -> bool:
    """A viewer without one ends at once, and nobody tells."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _rerun() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise MissingLibraryError(
            f"actrec view needs Rerun ({error}): make venv EXTRAS='live view', or: pip install 'rerun-sdk==0.23.1' "
            "'pyarrow<21' (later ones need numpy 2, which ROS and MediaPipe do not take)"
        ) from error


def _strips(body: Body) -> list[np.ndarray]:
    """The bones of which both ends are known."""
    layout = layouts.get(body.layout)
    if len(body.positions) != len(layout):
        raise InputError(f"'{body.body_id}' has {len(body.positions)} joints, {layout.name} has {len(layout)}")
    bones = body.positions[np.array(layout.edges)]  # (bones, 2, 3)
    return list(bones[np.isfinite(bones).all(axis=(1, 2))])
