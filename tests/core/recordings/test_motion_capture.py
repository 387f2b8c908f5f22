"""Motion capture files, against positions that are known."""

import numpy as np
import pytest

from actrec.recordings import open_recording
from actrec.recordings.motion_capture import read_amc, read_bvh
from actrec.simulation.scene import scripted_scene
from actrec.skeleton.layouts import BVH_21, KINECT_V2_25
from actrec.skeleton.sequence import CAMERA_HEIGHT_M, NEAREST_M
from actrec.types import Intrinsics
from actrec.utils.errors import DeviceError, InputError
from tests.core.datasets.motion_files import amc_text, asf_text, bvh_text

J = KINECT_V2_25.index
NAMES = {
    "bandai": ["Hips", "Spine", "Chest", "Neck", "Head", "Shoulder", "UpperArm", "LowerArm", "Hand", "UpperLeg",
               "LowerLeg", "Foot", "Toes"],
    "mixamo": ["Hips", "Spine", "Spine1", "Neck", "Head", "Shoulder", "Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot",
               "ToeBase"],
}  # fmt: skip
KINDS = list(dict.fromkeys(joint.partition("_")[0] for joint in BVH_21.joints))


def joint_names(program: str) -> list[str]:
    """Return the names that a program gives to the joints of `bvh_21`: Hand_L, mixamorig:LeftHand."""
    names = []
    for joint in BVH_21.joints:
        kind, _, side = joint.partition("_")
        name = NAMES[program][KINDS.index(kind)]
        mark = {"bandai": f"{name}_{side[:1].upper()}" if side else name, "mixamo": f"mixamorig:{side.title()}{name}"}
        names.append(mark[program])
    return names


BANDAI = joint_names("bandai")


def standing(frames: int = 5) -> np.ndarray:
    """A standing person [T, 21, 3] m, y up, who faces +x, with the left at −z, and walks along x."""
    rows = {"hips": (0, 0.94), "spine": (0, 1.1), "chest": (0, 1.2), "neck": (0, 1.36), "head": (0, 1.43),
            "clavicle": (0.05, 1.33), "shoulder": (0.1, 1.33), "elbow": (0.1, 1.09), "wrist": (0.1, 0.87),
            "hip": (0.07, 0.9), "knee": (0.07, 0.5), "ankle": (0.07, 0.09), "toe": (0.07, 0.02)}  # fmt: skip
    pose = []
    for joint in BVH_21.joints:
        kind, _, side = joint.partition("_")
        across, height = rows[kind]
        pose.append((0.1 if kind == "toe" else 0.0, height, across * {"left": -1, "right": 1, "": 0}[side]))
    return np.array(pose) + np.arange(frames)[:, None, None] * np.array([0.1, 0, 0])


def check_standing(sequence) -> None:
    body, up = sequence.bodies[0], sequence.up
    np.testing.assert_allclose(up, [0, -1, 0])
    np.testing.assert_allclose(body[:, J["spine_base"], 2], NEAREST_M + 0.1 * np.arange(len(body))[::-1], atol=1e-4)
    assert (body[:, J["shoulder_left"], 0] > 0.09).all() and (body[:, J["shoulder_right"], 0] < -0.09).all()
    np.testing.assert_allclose(body[:, J["foot_left"]][:, 1], CAMERA_HEIGHT_M, atol=1e-4)
    np.testing.assert_allclose(body[:, J["foot_left"], 2] - body[:, J["ankle_left"], 2], -0.1, atol=1e-4)


@pytest.mark.parametrize("program", NAMES)
@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0, 1 / 0.0254, 0.45 / 0.0254], ids=["m", "cm", "mm", "inch", "cmu"])
def test_read_bvh_any_names_and_unit_faces_the_camera(tmp_path, program, scale):
    (tmp_path / "a.bvh").write_text(bvh_text(standing(), joint_names(program), scale, fps=50))
    sequence = read_bvh(tmp_path / "a.bvh")
    check_standing(sequence)
    assert sequence.stamps_ns[4] == 80_000_000
    missing = np.isnan(sequence.bodies[0]).all((0, 2))
    assert {j.split("_")[0] for j in np.array(KINECT_V2_25.joints)[missing]} == {"hand", "thumb"}


@pytest.mark.parametrize(
    ("axes", "signs", "said"),
    [
        ((0, 2, 1), (1, -1, 1), "[0, 0, 1]"),
        ((0, 1, 2), (1, -1, -1), "[0, -1, 0]"),
        ((1, 0, 2), (1, -1, 1), "[1, 0, 0]"),
    ],
    ids=["z up", "y down", "x up"],
)
def test_read_bvh_other_axes_are_turned_upright(tmp_path, caplog, axes, signs, said):
    (tmp_path / "a.bvh").write_text(bvh_text(standing()[..., list(axes)] * signs, BANDAI))
    check_standing(read_bvh(tmp_path / "a.bvh"))
    assert f"people stand along {said}, which is taken as up instead of y" in caplog.text


def test_read_bvh_actor_who_lies_stays(tmp_path, caplog):
    """The hierarchy's offsets stand along y, and all frames lie along z."""
    head = bvh_text(standing(), BANDAI).partition("MOTION")[0]
    lying = bvh_text(standing()[..., [0, 2, 1]] * [1, -1, 1], BANDAI).partition("MOTION")[2]
    (tmp_path / "a.bvh").write_text(f"{head}MOTION{lying}")
    body = read_bvh(tmp_path / "a.bvh").bodies[0, 0]
    assert np.ptp(body[[J["head"], J["spine_base"]], 1]) < 0.1 and not caplog.text


def test_read_bvh_joint_named_by_separators_alone_is_skipped(tmp_path):
    names = [name if name != "Head" else "mixamorig:" for name in BANDAI]
    (tmp_path / "a.bvh").write_text(bvh_text(standing(1), names))
    with pytest.raises(InputError, match="has no joint for head; name them as"):
        read_bvh(tmp_path / "a.bvh")


def test_read_bvh_rotations_turn_the_joints_below(tmp_path):
    """Channels Zrotation Xrotation Yrotation, in this order; a joint without position channels keeps its offset."""
    text = bvh_text(standing(1), BANDAI)
    head, motion = text.split("MOTION\n")
    values = motion.splitlines()[2].split()
    first = [line.split()[1] for line in head.splitlines() if line.startswith(("JOINT", "ROOT"))].index("UpperArm_L")
    column = 3 + 6 * (first - 1)
    values[column + 3 : column + 6] = ["0", "90", "0"]  # the arm, which hangs, turns about x
    (tmp_path / "a.bvh").write_text(f"{head}MOTION\nFrames: 1\nFrame Time: 0.02\n{' '.join(values)}\n")
    body = read_bvh(tmp_path / "a.bvh").bodies[0, 0]
    # About +x (where the person looks), −y goes to −z: to the person's left, which is the image's right.
    np.testing.assert_allclose(body[J["elbow_left"]] - body[J["shoulder_left"]], [0.24, 0, 0], atol=1e-4)
    np.testing.assert_allclose(body[J["wrist_left"]] - body[J["shoulder_left"]], [0.46, 0, 0], atol=1e-4)
    np.testing.assert_allclose(body[J["elbow_right"]] - body[J["shoulder_right"]], [0, 0.24, 0], atol=1e-4)


@pytest.fixture
def amc(tmp_path):
    """A person who stands with spread arms, bends the left knee by 90° and turns by 90° to the left."""
    (tmp_path / "HDM_mm.asf").write_text(asf_text())
    file = tmp_path / "HDM_mm_squat_001_120.amc"
    file.write_text(amc_text([{}, {"ltibia": "90"}, {"root": "3 17 1 0 90 0"}]))
    return file


def test_read_amc_returns_joints_in_meters(amc):
    sequence = read_amc(amc)
    body, unit = sequence.bodies[0], 0.0254 / 0.45
    assert np.isfinite(body).all() and sequence.stamps_ns[1] == 8_333_333

    def bone(frame, a, b):
        return body[frame, J[b]] - body[frame, J[a]]

    # The left at the image's right, thigh and shin down; forearm and hand bones add up.
    np.testing.assert_allclose(bone(0, "hip_left", "knee_left"), [0, 7.0 * unit, 0], atol=1e-5)
    np.testing.assert_allclose(bone(0, "elbow_left", "wrist_left"), [(3.2 + 2) * unit, 0, 0], atol=1e-5)
    np.testing.assert_allclose(bone(0, "wrist_left", "hand_tip_left"), [4 * unit, 0, 0], atol=1e-5)
    np.testing.assert_allclose(bone(0, "hip_left", "hip_right"), [-3.2 * unit, 0, 0], atol=1e-5)
    # The knee's own x axis is turned by 20° about z ("axis 0 0 20"): the shin goes back, away from the camera.
    shin = bone(1, "knee_left", "ankle_left") / (6.8 * unit)
    turned = np.array([np.cos(np.radians(20)), np.sin(np.radians(20)), 0])  # in the file's axes, y up
    down = np.array([0.0, -1, 0])
    expected = turned * (turned @ down) + np.cross(turned, down)  # Rodrigues' formula at 90°
    np.testing.assert_allclose(shin, expected * [1, -1, -1], atol=1e-5)
    # Turned by 90° about y: the left, at the image's right before, goes away from the camera.
    np.testing.assert_allclose(
        bone(2, "shoulder_right", "shoulder_left"), [0, 0, bone(0, "shoulder_right", "shoulder_left")[0]], atol=1e-5
    )


def test_read_amc_step_and_rate(amc):
    assert len(read_amc(amc, step=2)) == 2 and read_amc(amc, step=2).stamps_ns[1] == 16_666_667
    assert open_recording(amc).duration_s == pytest.approx(2 / 120)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "it has no frames"),
        (lambda text: text.rsplit("\n", 4)[0], "frame 3 lacks"),
        (lambda text: text.replace("ltibia 90", "ltibia"), "'ltibia' has 0 values, expected 1"),
        (lambda text: text.replace("ltibia 90", "ltibia x"), "does not fit 'HDM_mm.asf'"),
        (lambda text: text.replace("ltibia 90", "ltibia nan"), "a value is not a number"),
        (lambda text: text.replace("ltibia 90", "tail 90"), "expected no such bone"),
        (lambda text: text.replace("\n3\n", "\n4\n"), "frame 4 follows frame 2"),
    ],
)
def test_read_amc_damaged_file_raises(amc, change, message):
    amc.write_text(change(amc.read_text()))
    with pytest.raises(InputError, match=f"{amc.name}.*{message}"):
        read_amc(amc)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "is truncated or not an ASF file"),
        (lambda text: text[: len(text) // 2], "is truncated or not an ASF file"),
        (lambda text: text.replace("length 7.0", "length x"), "is truncated or not an ASF file"),
        (
            lambda text: text.replace("axis 0 0 20 XYZ", "axis 0 0 XYZ"),
            "needs three numbers of direction, three of axis",
        ),
        (lambda text: text.replace("direction 0 1 0", "direction nan 1 0"), "needs three numbers of direction"),
        (lambda text: text.replace("order TX", "order"), "the order of its root is not"),
        (lambda text: text.replace("lfemur", "lthigh"), "has no bone lfemur"),
    ],
)
def test_read_asf_damaged_file_raises(amc, change, message):
    asf = amc.parent / "HDM_mm.asf"
    asf.write_text(change(asf.read_text()))
    with pytest.raises(InputError, match=f"HDM_mm.asf.*{message}"):
        read_amc(amc)


def test_read_amc_without_skeleton_raises_and_remedy_works(amc):
    (amc.parent / "HDM_mm.asf").rename(amc.parent / "other.asf")
    with pytest.raises(DeviceError, match=r"has no skeleton: copy the actor's \.asf beside it"):
        read_amc(amc)
    (amc.parent / "other.asf").rename(amc.parent / "HDM_mm.asf")
    assert len(read_amc(amc)) == 3


def test_read_bvh_legs_in_no_unit_raises(tmp_path):
    (tmp_path / "a.bvh").write_text(bvh_text(standing(), BANDAI, 7.3))
    with pytest.raises(
        InputError, match=r"a\.bvh': thigh and shin measure 5\.91, a person's in none of m, cm, mm, inch"
    ):
        read_bvh(tmp_path / "a.bvh")


@pytest.mark.parametrize("kind", ["bvh", "amc"])
def test_simulated_actor_follows_motion_capture(tmp_path, amc, kind):
    if kind == "bvh":
        path = tmp_path / "walk.bvh"
        path.write_text(bvh_text(standing(20), BANDAI))
    else:
        path = amc
        path.write_text(amc_text([{}] * 12))
    scene = scripted_scene(Intrinsics(160, 120, 131.0, 131.0, 79.5, 59.5), path)
    recorded = open_recording(path)
    frame = scene.at(0.0)
    (body,) = frame.bodies
    truth = next(iter(recorded.frames())).skeletons[0].positions
    known = np.isfinite(truth).all(-1)
    assert np.abs(body.positions - truth)[known].max() < 0.08
    assert (frame.rendering.depth < 3.5).any() and scene.camera.height == pytest.approx(CAMERA_HEIGHT_M, abs=0.15)
