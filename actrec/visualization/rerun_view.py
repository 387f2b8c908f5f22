"""View of images, skeletons, labels and events in the viewer Rerun, or in an .rrd file, with its layout."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from actrec.recognition import ActionEvent
from actrec.recognition.events import BEGAN
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, UNKNOWN, Body
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError
from actrec.visualization import overlay
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import LiveView, Snapshot, point_cloud

CAMERA = "camera"  # root entity: the camera's optical frame
JPEG_QUALITY = 80
CLOUD_POINTS = 12_000
CLOUD_RADIUS_M = 0.004  # small, so that the skeletons in the people are seen between the points
NO_PERSON = "no_person"
CAPTION_S = 2.0  # for which a label is shown
DIM = 0.6  # brightness of the points

RADII_M = {"skeletons": 0.02, "hands": 0.005, "face": 0.004}
"""Radius of the drawn joints, by entity."""


class Viewer(LiveView):
    """Rerun log of images, people, labels and events, by the camera's time.

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
            raise DeviceError(
                "there is no display for the viewer; give --web for a page in any browser, --out FILE.rrd, or "
                "--connect URL"
            )
        self._captions: dict[str, tuple[int, Caption]] = {}  # body id to stamp and label
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
        self._rr.send_blueprint(_layout())
        self._rr.log("/", self._rr.ViewCoordinates.RDF, static=True)

    def show(self, snapshot: Snapshot) -> None:
        """Show the annotated image, the depth image as points, and people instead of the previous ones.

        Raises InputError if a body has not the joints of its layout, ConfigError if the layout is unknown.
        """
        rr = self._at(snapshot.stamp_ns)
        for entity, bodies in (("skeletons", snapshot.bodies), ("hands", snapshot.hands), ("face", snapshot.faces)):
            self._log_bodies(entity, bodies)
        if snapshot.color is None:
            return
        self.frames += 1
        if (k := snapshot.intrinsics) is not None:
            rr.log(CAMERA, rr.Pinhole(image_from_camera=k.matrix, resolution=[k.width, k.height]))
        rr.log(f"{CAMERA}/image", rr.Image(snapshot.annotated()).compress(jpeg_quality=JPEG_QUALITY))
        points, colors = point_cloud(snapshot, CLOUD_POINTS)
        rr.log("cloud", rr.Points3D(points, colors=(DIM * colors).astype(np.uint8), radii=CLOUD_RADIUS_M))

    def label(self, stamp_ns: int, body_id: str, caption: Caption, latency_s: float | None, model: str) -> None:
        """Show a body's label as large text, and its confidence as a curve."""
        rr, name = self._at(stamp_ns), body_id or NO_PERSON
        if body_id:
            self._captions.pop(NO_PERSON, None)
        self._captions[name] = stamp_ns, caption
        limit_ns = CAPTION_S * NANOSECONDS
        self._captions = {k: v for k, v in self._captions.items() if abs(stamp_ns - v[0]) <= limit_ns}
        texts = [
            f"# {c.label}\n{c.confidence:.0%}, {who}" if c.label != UNKNOWN else f"*{c.label}*, {who}"
            for who, (_, c) in sorted(self._captions.items())
        ]
        rr.log("labels", rr.TextDocument("\n\n".join(texts), media_type="text/markdown"))
        rr.log(f"confidence/{name}", rr.Scalars(caption.confidence))

    def event(self, event: ActionEvent) -> None:
        """Log the begin or the end of an action."""
        rr = self._at(event.stamp_ns)
        seconds = (event.end_ns - event.start_ns) / NANOSECONDS
        text = (
            f"{event.body_id} began {event.label}"
            if event.kind == BEGAN
            else (f"{event.body_id} ended {event.label} after {seconds:.1f} s, {event.confidence:.0%}")
        )
        rr.log("events", rr.TextLog(text, level="INFO"))

    def _log_bodies(self, entity: str, bodies: Sequence[Body]) -> None:
        rr, radius = self._rr, RADII_M[entity]
        strips = [(strip, overlay.color_of(body.body_id)) for body in bodies for strip in _strips(body)]
        seen = [body.positions[np.isfinite(body.positions).all(axis=1)] for body in bodies]
        joints = np.concatenate(seen) if seen else np.zeros((0, 3), np.float32)
        colors = [overlay.color_of(body.body_id) for body, points in zip(bodies, seen, strict=True) for _ in points]
        rr.log(f"{entity}/joints", rr.Points3D(joints, radii=radius, colors=colors))
        rr.log(
            f"{entity}/bones",
            rr.LineStrips3D([s for s, _ in strips], radii=radius / 2, colors=[color for _, color in strips]),
        )
        if entity == "skeletons":
            labels = [body.body_id for body, points in zip(bodies, seen, strict=True) if len(points)]
            tops = [points[np.argmin(points[:, 1])] - [0.0, 0.2, 0.0] for points in seen if len(points)]
            rr.log(f"{entity}/names", rr.Points3D(np.array(tops).reshape(-1, 3), labels=labels, radii=0.001))

    def _at(self, stamp_ns: int) -> Any:
        self._rr.set_time(CAMERA, timestamp=stamp_ns / 1e9)
        return self._rr


def _layout() -> Any:
    """Return Rerun's blueprint: the image and the events on the left, labels and the 3-D view on the right."""
    rrb = importlib.import_module("rerun.blueprint")
    space = rrb.Spatial3DView(origin="/", name="3-D", contents=["skeletons/**", "hands/**", "face/**", "cloud", CAMERA])
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                rrb.Spatial2DView(origin=CAMERA, name="camera", contents=[f"{CAMERA}/image"]),
                rrb.Horizontal(
                    rrb.TextLogView(origin="events", name="events"),
                    rrb.TimeSeriesView(origin="confidence", name="confidence"),
                ),
                row_shares=[3, 1],
            ),
            rrb.Vertical(
                rrb.TextDocumentView(origin="labels", name="labels"),
                space,
                row_shares=[1, 2],
            ),
            column_shares=[3, 2],
        ),
        collapse_panels=True,
    )


def _rerun() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise MissingLibraryError(
            # The newest Rerun and pyarrow need NumPy 2, and the messages of ROS 2 the NumPy they were built with.
            f"actrec view needs Rerun ({error}): make venv EXTRAS='live view', or: pip install rerun-sdk 'pyarrow<26' "
            f"'numpy=={np.__version__}'; or give --web, which needs none"
        ) from error


def _strips(body: Body) -> list[np.ndarray]:
    """Return the bones with two known ends."""
    layout = layouts.get(body.layout)
    if len(body.positions) != len(layout):
        raise InputError(f"'{body.body_id}' has {len(body.positions)} joints, {layout.name} has {len(layout)}")
    bones = body.positions[np.array(layout.edges)]  # (bones, 2, 3)
    return list(bones[np.isfinite(bones).all(axis=(1, 2))])
