"""The Rerun view logs frames, joints and labels at the camera's time, without missing joints."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from actrec.cli import main
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError
from actrec.visualization.rerun_view import Viewer
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
    for name in ("Pinhole", "Image", "DepthImage", "Points3D", "LineStrips3D", "TextLog", "Scalars"):
        setattr(fake, name, Entity)
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


def test_viewer_frame_logged_at_its_stamp(rerun):
    depth = np.full((4, 6), 2.0, np.float32)
    depth[0] = np.nan
    viewer = Viewer()
    frame = RgbdFrame(5_500_000_000, np.zeros((4, 6, 3), np.uint8), depth, Intrinsics(6, 4, 5.0, 5.0, 2.5, 1.5))
    viewer.frame(frame)
    assert viewer.frames == 1
    assert {stamp for stamp, entity, _ in rerun.logged if entity != "/"} == {5.5}
    found = entities(rerun)
    assert found["camera"].named["resolution"] == [6, 4]
    assert (found["camera/depth"].values[0][0] == 0).all()
    assert found["camera/depth"].named["meter"] == 1.0 and "skeletons/joints" not in found


def test_viewer_missing_joints_not_drawn(rerun):
    viewer = Viewer(out="x.rrd")
    viewer.bodies("skeletons", 1, [body(), body(body_id="body_2", positions=np.full((25, 3), np.nan, np.float32))])
    found = entities(rerun)
    assert found["skeletons/joints"].values[0].shape == (4, 3)
    # Of the first four joints of kinect_v2_25 three bones have both ends at most.
    assert 1 <= len(found["skeletons/bones"].values[0]) <= 3
    assert found["skeletons/names"].named["labels"] == ["body_1"]
    viewer.bodies("skeletons", 2, [])
    assert entities(rerun)["skeletons/joints"].values[0].shape == (0, 3), "who left is shown no more"


@pytest.mark.parametrize(
    ("layout", "kind", "message"),
    [("nosuch", ConfigError, "nosuch"), ("hand_21", InputError, "'body_1' has 25 joints, hand_21 has 21")],
)
def test_viewer_unknown_layout_raises(rerun, layout, kind, message):
    with pytest.raises(kind, match=message):
        Viewer().bodies("skeletons", 1, [body(layout=layout)])


def test_viewer_label_logged(rerun):
    viewer = Viewer(connect="rerun+http://robot:9876/proxy")
    viewer.label(1, "body_1", "wave", 0.75)
    viewer.label(2, "", "unknown", 0.0)
    found = entities(rerun)
    assert found["action_label/body_1"].values == ("wave 0.75",)
    assert found["action_label/no_person"].values == ("unknown 0.00",)


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
    with pytest.raises(DeviceError, match="no display .*; give --out FILE.rrd, or --connect URL"):
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
        (["--driver", "nosuch"], "unknown camera driver 'nosuch'"),
    ],
)
def test_view_command_invalid_use_exits_2(rerun, arguments, message, capsys):
    assert main(["view", *arguments]) == 2
    assert message in capsys.readouterr().err
