"""Body tracking of the Azure Kinect driver with the simulated libk4abt, whose joints are exact."""

import dataclasses

import numpy as np
import pytest

from actrec.cameras.azure_kinect.camera import AzureKinectCamera
from actrec.skeleton.layouts import AZURE_KINECT_32, KINECT_V2_25
from actrec.utils.errors import DeviceError
from tests.core.cameras.k4a import studio

PERIOD_US = 33_333
PATIENT = {"body_wait_s": 20.0}
SPINE = KINECT_V2_25.index["spine_mid"]
OTHERS = [v for v in range(25) if v != SPINE]


def exact_joints() -> np.ndarray:
    """Return [25, 3] in the color camera's frame."""
    return studio.rendered_views()[0].bodies[0].positions


def with_people(*people: tuple[int, np.ndarray, np.ndarray]):
    return dataclasses.replace(studio.shot(), people=list(people))


@pytest.fixture
def person() -> tuple[int, np.ndarray, np.ndarray]:
    """Return the actor as a result of the tracker: in the depth camera's frame, all joints visible."""
    to_depth = np.linalg.inv(studio.TO_COLOR)
    joints = studio.azure_joints(exact_joints()) @ to_depth[:3, :3].T + to_depth[:3, 3]
    return 7, joints, np.full(32, 2)


@pytest.fixture
def tracked(sdk, tmp_path):
    def make(*shots, lens=(), **options):
        sdk.plug(studio.simulated_camera(*shots, lens=lens).write(tmp_path / "scene"))
        return AzureKinectCamera(library=sdk.library, body_library=sdk.body_library, bodies=True, **options)

    return make


def test_bodies_joints_are_exact_in_color_frame(sdk, tracked, person):
    with tracked(with_people(person), **PATIENT) as camera:
        sdk.push(0, 1_000_000)
        (body,) = camera.read().skeletons
    exact = exact_joints()
    assert (body.body_id, body.layout) == ("body_7", "kinect_v2_25")
    assert np.abs(body.positions - exact)[OTHERS].max() < 1e-5
    a = KINECT_V2_25.index
    chest = 4 * exact[a["spine_shoulder"]] - 3 * exact[a["neck"]]
    middle = 0.5 * exact[a["spine_base"]] + 0.25 * chest + 0.25 * exact[a["neck"]]
    assert np.abs(body.positions[SPINE] - middle).max() < 1e-5
    assert np.abs(body.pixels - studio.rendered_views()[0].bodies[0].pixels)[OTHERS].max() < 0.02
    assert (body.scores == 1).all() and body.positions.dtype == np.float32


def test_bodies_pixels_include_distortion(sdk, tracked, person):
    with tracked(with_people(person), lens=studio.LENS, **PATIENT) as camera:
        sdk.push(0, 1_000_000)
        frame = camera.read()
    (body,) = frame.skeletons
    straight = studio.rendered_views()[0].bodies[0].pixels
    x, y = ((straight - [studio.COLOR.cx, studio.COLOR.cy]) / [studio.COLOR.fx, studio.COLOR.fy]).T
    k1, k2, p1, p2, k3, k4, k5, k6 = studio.LENS
    r = x * x + y * y
    radial = (1 + r * (k1 + r * (k2 + r * k3))) / (1 + r * (k4 + r * (k5 + r * k6)))
    u = studio.COLOR.fx * (x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)) + studio.COLOR.cx
    v = studio.COLOR.fy * (y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y) + studio.COLOR.cy
    assert np.abs(body.pixels - np.stack([u, v], -1))[OTHERS].max() < 0.02
    assert np.abs(body.pixels - straight).max() > 1


def test_bodies_confidence_becomes_score(sdk, tracked, person):
    number, joints, levels = person
    levels = levels.copy()
    levels[AZURE_KINECT_32.index["wrist_left"]] = 1
    levels[AZURE_KINECT_32.index["ankle_right"]] = 0
    with tracked(with_people((number, joints, levels)), **PATIENT) as camera:
        sdk.push(0, 1_000_000)
        (body,) = camera.read().skeletons
    a = KINECT_V2_25.index
    assert body.scores[a["wrist_left"]] == 0.5 and body.scores[a["ankle_right"]] == 0
    assert np.isnan(body.positions[a["ankle_right"]]).all() and np.isnan(body.pixels[a["ankle_right"]]).all()
    assert np.isfinite(body.positions).all(-1).sum() == 24


def test_bodies_belong_to_their_frame(sdk, tracked, person):
    number, joints, levels = person
    shots = [with_people(*[(number + i, joints + np.array([0.01 * i, 0, 0]), levels)] * (i % 3)) for i in range(6)]
    with tracked(*shots, **PATIENT) as camera:
        for i in range(6):
            sdk.push(i, 1_000_000 + i * PERIOD_US)
            found = camera.read().skeletons
            assert [body.body_id for body in found] == [f"body_{number + i}"] * (i % 3)
        assert camera.without_bodies == 0


def test_bodies_slow_tracker_drops_bodies_not_frames(sdk, tracked, person):
    _, joints, levels = person
    shots = [with_people((i, joints, levels)) for i in range(10)]
    with tracked(*shots, body_wait_s=0.0) as camera:
        sdk.bodies.fake_bodies_hold(1)
        for i in range(8):
            sdk.push(i, 1_000_000 + i * PERIOD_US)
            assert camera.read().skeletons == []
        assert camera.without_bodies == 8
        # More than two queued captures would delay all later ones.
        assert sdk.live()["capture"] == 2
    sdk.bodies.fake_bodies_hold(0)
    assert sdk.live() == {}


def test_bodies_late_result_is_not_used_for_later_frame(sdk, tracked, person):
    _, joints, levels = person
    with tracked(*[with_people((i, joints, levels)) for i in range(3)], body_wait_s=2.0) as camera:
        sdk.bodies.fake_bodies_hold(1)
        sdk.push(0, 1_000_000)
        assert camera.read().skeletons == []
        sdk.bodies.fake_bodies_hold(0)
        sdk.push(2, 1_000_000 + 2 * PERIOD_US)
        assert camera.read().skeletons[0].body_id == "body_2"


def test_bodies_failed_tracker_raises_until_reopened(sdk, tracked, person):
    camera = tracked(with_people(person), **PATIENT)
    with camera:
        sdk.bodies.fake_bodies_break(1)
        sdk.push(0, 1_000_000)
        with pytest.raises(DeviceError, match="body tracking has failed"):
            camera.read()
    sdk.bodies.fake_bodies_break(0)
    with camera:
        sdk.push(0, 1_000_000)
        assert len(camera.read().skeletons) == 1


def test_bodies_tracker_uses_configured_processor(sdk, tracked, tmp_path):
    with tracked(body_processing="cpu", body_model="/models/lite.onnx"):
        assert sdk.bodies.fake_bodies_processing() == 1
        assert sdk.bodies.fake_bodies_model() == b"/models/lite.onnx"
    with pytest.raises(DeviceError, match="does not start on tensorrt"):
        tracked(body_processing="tensorrt").open()
    assert sdk.live() == {}


def test_bodies_releases_all_handles(sdk, tracked, person):
    with tracked(with_people(person), **PATIENT) as camera:
        for i in range(20):
            sdk.push(0, 1_000_000 + i * PERIOD_US)
            assert len(camera.read().skeletons) == 1
        assert sdk.live() == {"device": 1, "transformation": 1, "tracker": 1}
        assert sdk.made("body frame") >= 20


def test_bodies_model_in_the_home_folder_is_found(sdk, tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with tracked(body_model="~/lite.onnx"):
        assert sdk.bodies.fake_bodies_model() == str(tmp_path / "lite.onnx").encode()
