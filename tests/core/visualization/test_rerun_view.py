"""The Rerun view logs images, joints, labels and events at the camera's time, without missing joints."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from actrec.cli import main
from actrec.recognition import ActionEvent
from actrec.types import Body, Intrinsics
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError
from actrec.visualization.overlay import Caption
from actrec.visualization.rerun_view import Viewer
from actrec.visualization.snapshots import Snapshot
from tests.tiny_model import person_at


class Entity:
    """Stand-in for any archetype of Rerun, with its arguments."""

    def __init__(self, *values, **named):
        self.values, self.named = values, named

    def compress(self, **_named):
        return self


@pytest.fixture
def rerun(monkeypatch):
    """A stand-in for Rerun that keeps the log as (seconds, entity, archetype)."""
    fake: Any = types.ModuleType("rerun")
    fake.logged, now = [], []
    for name in ("Pinhole", "Image", "Points3D", "LineStrips3D", "TextDocument", "TextLog", "Scalars"):
        setattr(fake, name, Entity)
    blueprint: Any = types.ModuleType("rerun.blueprint")
    views = ("Spatial2DView", "Spatial3DView", "TextDocumentView", "TextLogView", "TimeSeriesView")
    for name in ("Blueprint", "Horizontal", "Vertical", *views):
        setattr(blueprint, name, Entity)
    monkeypatch.setitem(sys.modules, "rerun.blueprint", blueprint)
    fake.send_blueprint = lambda layout: setattr(fake, "layout", layout)
    fake.ViewCoordinates = types.SimpleNamespace(RDF="RDF")
    fake.init = fake.spawn = fake.save = fake.connect_grpc = lambda *_: None
    fake.set_time = lambda timeline, timestamp: now.append(timestamp)
    fake.log = lambda entity, what, static=False: fake.logged.append((now[-1] if now else None, entity, what))
    monkeypatch.setitem(sys.modules, "rerun", fake)
    monkeypatch.setenv("DISPLAY", ":0")
    return fake


def entities(rerun):
    return {entity: what for _, entity, what in rerun.logged}


def body(**changed):
    positions = person_at(0.0)
    positions[4:] = np.nan
    values = {"body_id": "body_1", "layout": "kinect_v2_25", "positions": positions, **changed}
    return Body(**values, pixels=np.full((25, 2), np.nan, np.float32), scores=np.ones(25, np.float32))


def test_viewer_image_and_cloud_logged_at_the_stamp(rerun):
    depth = np.full((4, 6), 2.0, np.float32)
    depth[0] = np.nan
    viewer, camera = Viewer(), Intrinsics(6, 4, 5.0, 5.0, 2.5, 1.5)
    viewer.show(Snapshot(5_500_000_000, color=np.zeros((4, 6, 3), np.uint8), depth=depth, intrinsics=camera))
    assert viewer.frames == 1
    assert {stamp for stamp, entity, _ in rerun.logged if entity != "/"} == {5.5}
    found = entities(rerun)
    assert found["camera"].named["resolution"] == [6, 4] and found["camera/image"].values[0].shape == (4, 6, 3)
    points = found["cloud"].values[0]
    assert points.shape == (18, 3) and (points[:, 2] == 2.0).all(), "missing depth is no point"


def test_viewer_layout_has_one_camera_panel_and_no_image_in_3d(rerun):
    Viewer()

    def views(entity):
        return [entity, *(view for part in entity.values if isinstance(part, Entity) for view in views(part))]

    shown = [view.named.get("contents") for view in views(rerun.layout) if "name" in view.named]
    assert sum(contents == ["camera/image"] for contents in shown) == 1
    assert [c for c in shown if c and "cloud" in c] == [["skeletons/**", "hands/**", "face/**", "cloud", "camera"]]


def test_viewer_missing_joints_not_drawn(rerun):
    viewer = Viewer(out="x.rrd")
    viewer.show(Snapshot(1, [body(), body(body_id="body_2", positions=np.full((25, 3), np.nan, np.float32))]))
    found = entities(rerun)
    assert found["skeletons/joints"].values[0].shape == (4, 3) and len(found["skeletons/joints"].named["colors"]) == 4
    # Of the first four joints of kinect_v2_25 three bones have both ends at most.
    assert 1 <= len(found["skeletons/bones"].values[0]) <= 3
    assert found["skeletons/names"].named["labels"] == ["body_1"] and "camera/image" not in found
    viewer.show(Snapshot(2))
    assert entities(rerun)["skeletons/joints"].values[0].shape == (0, 3), "who left is shown no more"


@pytest.mark.parametrize(
    ("layout", "kind", "message"),
    [("nosuch", ConfigError, "nosuch"), ("hand_21", InputError, "'body_1' has 25 joints, hand_21 has 21")],
)
def test_viewer_unknown_layout_raises(rerun, layout, kind, message):
    with pytest.raises(kind, match=message):
        Viewer().show(Snapshot(1, [body(layout=layout)]))


def test_viewer_labels_and_events_logged(rerun):
    viewer = Viewer(connect="rerun+http://robot:9876/proxy")
    viewer.label(1, "body_1", Caption("wave", 0.75), 0.1, "tiny")
    viewer.label(2, "", Caption("unknown", 0.0), None, "tiny")
    found = entities(rerun)
    assert found["labels"].values == ("# wave\n75%, body_1\n\n*unknown*, no_person",), "large text of all people"
    viewer.label(10_000_000_000, "body_2", Caption("throw", 0.5), None, "tiny")
    assert entities(rerun)["labels"].values == ("# throw\n50%, body_2",), "only who is there"
    assert found["confidence/body_1"].values == (0.75,)
    times, place = (1_000_000_000, 3_500_000_000, 4_000_000_000), (0.0, 0.0, 2.0)
    for kind in ("began", "ended"):
        viewer.event(ActionEvent(1, kind, "body_1", "wave", 0, 0.9, *times, place, "tiny"))
    texts = [what.values[0] for _, entity, what in rerun.logged if entity == "events"]
    assert texts == ["body_1 began wave", "body_1 ended wave after 2.5 s, 90%"]


def test_viewer_invalid_output_or_missing_library_raises(rerun, monkeypatch):
    with pytest.raises(ConfigError, match="ends with .rrd"):
        Viewer(out="clip.mp4")
    with pytest.raises(ConfigError, match="give one of them"):
        Viewer(out="a.rrd", connect="somewhere")

    def refused(*_args):
        raise RuntimeError("no display\nPATH=…")

    rerun.spawn = refused
    with pytest.raises(DeviceError, match="cannot open the viewer: no display$"):
        Viewer()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DeviceError, match="no display .*; give --web .* --out FILE.rrd, or --connect URL"):
        Viewer()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingLibraryError, match="make venv EXTRAS='live view'"):
        Viewer()


def test_view_command_recording_logged(rerun, data_root, capsys):
    values = [f"path={data_root / 'nucla/nucla_skeletons.npz'}", "sequence=a01_s01_e00_v03", "rate=0.0"]
    assert main(["view", "--driver", "replay", *(word for v in values for word in ("--driver-option", v))]) == 0
    assert "frames sent to the viewer" in capsys.readouterr().err
    assert sum(entity == "skeletons/joints" for _, entity, _ in rerun.logged) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--driver-option", "path=x"], "--driver-option: needs --driver"),
        (["--driver", "simulated", "--ros-args", "-r", "a:=b"], "--ros-args: not used with --driver"),
        (["--driver", "simulated", "--hands-and-face"], "--hands-and-face: of a running graph, not used with --driver"),
        (["--driver", "nosuch"], "unknown camera driver 'nosuch'"),
    ],
)
def test_view_command_invalid_use_exits_2(rerun, arguments, message, capsys):
    assert main(["view", *arguments]) == 2
    assert message in capsys.readouterr().err
