"""Skeleton files of every format, on the recordings as published."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from actrec.datasets import archive, nucla, utd_mhad
from actrec.datasets.ntu import skeletons
from actrec.datasets.ntu.skeletons import COLOR_SIZE
from actrec.perception import recorded_joints
from actrec.perception.gravity import angle_deg
from actrec.perception.recorded_joints import read_bodies
from actrec.recognition.offline import OfflineRecognizer
from actrec.recordings import RecordingConfig, labels, open_recording, skeleton_files
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.geometry import kinect_to_optical

LEFT, RIGHT = KINECT_V2_25.index["shoulder_left"], KINECT_V2_25.index["shoulder_right"]
HEAD, BASE = KINECT_V2_25.index["head"], KINECT_V2_25.index["spine_base"]


def check(sequence):
    """The data contract: shapes, types, optical frame, missing joints."""
    bodies, frames = len(sequence.body_ids), len(sequence)
    assert sequence.bodies.shape == (bodies, frames, 25, 3)
    assert sequence.scores.shape == (bodies, frames, 25)
    assert sequence.pixels.shape == (bodies, frames, 25, 2)
    assert {a.dtype for a in (sequence.bodies, sequence.scores, sequence.pixels)} == {np.dtype(np.float32)}
    assert sequence.stamps_ns.dtype == np.int64 and (np.diff(sequence.stamps_ns) > 0).all()
    assert all(body_id[0].isalpha() for body_id in sequence.body_ids)
    assert sequence.scores.min() >= 0 and sequence.scores.max() <= 1
    assert (np.isnan(sequence.bodies).any(-1) == (sequence.scores == 0)).all()
    middle = np.nanmedian(sequence.bodies, axis=(0, 1))
    assert 0.5 < middle[BASE, 2] < 5  # in front of the camera
    assert middle[HEAD, 1] < middle[BASE, 1]  # y is down


def test_read_ntu_every_file_returns_all_values(data_root):
    files = sorted((data_root / "ntu/skeleton").glob("*.skeleton"))
    assert len(files) == 11
    for file in files:
        sequence = skeletons.read_ntu_skeleton(file)
        check(sequence)
        lines = file.read_text().split("\n")
        assert len(sequence) == int(lines[0])
        assert sequence.label == int(file.stem[-3:])
        assert sequence.stamps_ns[30] == 1_000_000_000
        # The last joint of the last body, straight from the file's last line.
        last = [float(value) for value in lines[-2].split()]
        raw = skeletons.read_ntu_file(file)
        np.testing.assert_allclose(raw.positions[-1, -1, -1], last[:3], rtol=1e-6)
        np.testing.assert_allclose(raw.color_pixels[-1, -1, -1], last[5:7], rtol=1e-6)
        assert raw.states[-1, -1, -1] == last[11]


def test_read_ntu_joints_project_to_recorded_pixels(data_root):
    """Depth camera: one focal length and center explain every pixel, x growing with the Kinect's x (mirrored)."""
    for file in sorted((data_root / "ntu/skeleton").glob("*.skeleton")):
        raw = skeletons.read_ntu_file(file)
        tracked = raw.states == 2
        x, _, z = raw.positions[tracked].T.astype(np.float64)
        design = np.stack([x / z, np.ones_like(z)], axis=1)
        (focal, center), *_ = np.linalg.lstsq(design, raw.depth_pixels[tracked][:, 0], rcond=None)
        assert 360 < focal < 370 and 250 < center < 270
        assert np.abs(design @ [focal, center] - raw.depth_pixels[tracked][:, 0]).max() < 0.2


def test_read_ntu_pixels_agree_with_optical_frame(data_root):
    """Unmirrored pixels match the projected joints, except for a constant offset between the cameras."""
    for file in sorted((data_root / "ntu/skeleton").glob("*.skeleton")):
        sequence = skeletons.read_ntu_skeleton(file)
        nominal = Intrinsics(*COLOR_SIZE, 1060, 1060, 959.5, 539.5)
        tracked = sequence.scores == 1
        offset = (project(sequence.bodies, nominal) - sequence.pixels)[tracked]
        assert np.abs(offset - np.median(offset, axis=0)).max() < 12
        assert np.abs(np.median(offset, axis=0)).max() < 45  # 5 cm between the two cameras, and an off-center lens


def test_read_ntu_two_bodies_and_empty_frame_keeps_both(tmp_path, data_root):
    lines = (data_root / "ntu/skeleton/S001C001P001R001A001.skeleton").read_text().split("\n")
    first = lines[2:29]  # id line, number of joints, 25 joints
    other = ["72057594037939999" + first[0][17:], *first[1:]]
    file = tmp_path / "S001C001P001R001A050.skeleton"
    file.write_text("\n".join(["3", "1", *first, "0", "2", *first, *other]) + "\n")
    sequence = skeleton_files.open_sequence(file)
    assert sequence.body_ids == ("body_72057594037931101", "body_72057594037939999")
    assert np.isfinite(sequence.bodies).all((2, 3)).tolist() == [[True, False, True], [False, False, True]]
    assert [len(sequence.bodies_at(t)) for t in range(3)] == [1, 0, 2]
    assert sequence.label == 50


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.999])
def test_read_ntu_truncated_file_raises(tmp_path, data_root, cut):
    text = (data_root / "ntu/skeleton/S001C001P001R001A001.skeleton").read_text()
    file = tmp_path / "cut.skeleton"
    file.write_text(text[: int(len(text) * cut)].rsplit(" ", 1)[0])
    with pytest.raises(InputError, match=r"cut\.skeleton' is truncated"):
        skeletons.read_ntu_skeleton(file)


def test_read_ntu_extra_values_raises(tmp_path, data_root):
    file = tmp_path / "long.skeleton"
    file.write_text((data_root / "ntu/skeleton/S001C001P001R001A001.skeleton").read_text() + "1 2 3\n")
    with pytest.raises(InputError, match="3 values after the last of 103 frames"):
        skeletons.read_ntu_skeleton(file)


@pytest.mark.parametrize("text", ["hello world", "", "2.5 1", "\x00\x01"])
def test_read_ntu_foreign_file_raises(tmp_path, text):
    file = tmp_path / "x.skeleton"
    file.write_text(text)
    with pytest.raises(InputError, match="x.skeleton"):
        skeleton_files.open_sequence(file)


def test_read_nucla_json_and_npz_return_same_joints(data_root):
    sequences = {s.name: s for s in nucla.read_nucla_npz(data_root / "nucla/nucla_skeletons.npz")}
    assert len(sequences) == 1484 and sum(s.meta["is_train"] for s in sequences.values()) == 1020
    files = sorted((data_root / "nucla/raw").glob("*.json"))
    assert len(files) == 50
    for file in files:
        single = skeleton_files.open_sequence(file)
        check(single)
        packed = sequences[single.name]
        np.testing.assert_array_equal(single.bodies, packed.bodies)
        assert single.label == packed.label
        assert packed.meta["is_train"] == (packed.meta["view"] != 3)


def test_read_nucla_json_returns_raw_numbers(data_root):
    """Joint by joint against the file, in the optical frame: x and y change sign, z stays."""
    file = data_root / "nucla/raw/a01_s01_e00_v01.json"
    sequence = nucla.read_nucla_json(file, fps=10)
    raw = np.array(json.loads(file.read_text())["skeletons"], np.float32)
    np.testing.assert_array_equal(sequence.bodies[0, :, HEAD], raw[:, 3] * [-1, -1, 1])
    np.testing.assert_array_equal(sequence.bodies[0, :, LEFT], raw[:, 4] * [-1, -1, 1])
    assert sequence.stamps_ns[-1] == (len(raw) - 1) * 100_000_000
    assert sequence.meta["label_name"] == "pick up with one hand"


def test_read_nucla_missing_joints_are_nan(data_root):
    sequences = nucla.read_nucla_npz(data_root / "nucla/nucla_skeletons.npz")
    missing = sum(int(np.isnan(s.bodies).any(-1).sum()) for s in sequences)
    assert 0 < missing < 100  # twelve zero joints and the joints computed from them
    assert not any((s.bodies == 0).all(-1).any() for s in sequences)


def test_read_utd_mhad_mat_and_npz_return_same_joints(data_root):
    sequences = {s.name: s for s in utd_mhad.read_utd_mhad_npz(data_root / "utd_mhad/utd_mhad_skeletons.npz")}
    assert len(sequences) == 861
    files = sorted((data_root / "utd_mhad/skeleton").glob("*.mat"))
    assert len(files) == 14
    for file in files:
        single = skeleton_files.open_sequence(file)
        check(single)
        np.testing.assert_allclose(single.bodies, sequences[single.name].bodies, atol=1e-6)
        assert (single.label, single.meta["subject"], single.meta["trial"]) == (sequences[single.name].label, 1, 1)


def test_read_utd_mhad_right_hand_action_moves_right_hand(data_root):
    """Right-handed actions move the right hand, which lies to the camera's left."""
    hand_left, hand_right = KINECT_V2_25.index["hand_left"], KINECT_V2_25.index["hand_right"]
    for sequence in utd_mhad.read_utd_mhad_npz(data_root / "utd_mhad/utd_mhad_skeletons.npz"):
        if sequence.label in (1, 2, 3):
            reach = np.ptp(sequence.bodies[0], axis=0).sum(-1)
            assert reach[hand_right] > 3 * reach[hand_left]
            assert (sequence.bodies[0, :, RIGHT, 0] < sequence.bodies[0, :, LEFT, 0]).all()


JOINTS = ",".join(["0.1,0.2,2.0,2"] * 25)


def test_read_kinect_csv_capture_returns_joints_and_stamps(data_root):
    files = sorted((data_root / "kinect_v2_csv").glob("*.csv"))
    assert len(files) == 7
    for file in files:
        sequence = skeleton_files.open_sequence(file)
        check(sequence)
        row = [float(value) for value in file.read_text().splitlines()[-1].rstrip(",").split(",")]
        assert sequence.stamps_ns[-1] == int(row[0]) * 100
        np.testing.assert_allclose(sequence.bodies[0, -1, -1], np.array(row[-4:-1]) * [-1, -1, 1], rtol=1e-6)
        assert 0.030 < np.median(np.diff(sequence.stamps_ns)) / 1e9 < 0.036


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2,3", "not a Kinect v2 capture, whose lines have 101 numbers: .* save other joints as .npz"),
        (f"time,{','.join(['x'] * 100)}\n5,{JOINTS}", "save other joints as .npz"),
        (f"5,{JOINTS}\n6,1,2", "line 2 has 3 values, expected 101; remove or complete it"),
        (",".join(["x"] * 101), "not a Kinect"),
        (f"{10**20},{JOINTS}", "not a Kinect"),  # two times without a comma between them
        (f"{10**17},{JOINTS}", "line 1: time 1000+ "),
        (f"5,{JOINTS}\n5,{JOINTS}", "line 2: time 5 does not increase"),
    ],
)
def test_read_kinect_csv_invalid_row_raises(tmp_path, row, message):
    file = tmp_path / "bad.csv"
    file.write_text(row + "\n")
    with pytest.raises(InputError, match=message):
        skeleton_files.open_sequence(file)


@pytest.mark.slow
def test_open_sequence_name_or_index_selects_sequence(data_root):
    file = data_root / "nucla/nucla_skeletons.npz"
    by_name = skeleton_files.open_sequence(file, "a01_s01_e01_v01")
    sequences = skeleton_files.open_sequences(file)
    index = [s.name for s in sequences].index("a01_s01_e01_v01")
    assert (
        skeleton_files.open_sequence(file, index).name
        == skeleton_files.open_sequence(file, str(index)).name
        == by_name.name
    )
    with pytest.raises(ConfigError, match="holds 1484 sequences; choose one by name"):
        skeleton_files.open_sequence(file)
    with pytest.raises(ConfigError, match="no sequence 'absent'"):
        skeleton_files.open_sequence(file, "absent")
    with pytest.raises(ConfigError, match="no sequence '1484'"):
        skeleton_files.open_sequence(file, 1484)


def test_open_sequences_absent_corrupt_or_foreign_file_raises(tmp_path, data_root):
    with pytest.raises(DeviceError, match="there is no file"):
        skeleton_files.open_sequence(tmp_path / "none.json")
    for name, content in (
        ("a.npz", b"PK\x03\x04rubbish"),
        ("b.mat", b"MATLAB 5.0 rubbish"),
        ("c.json", b'{"skeletons": [['),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            skeleton_files.open_sequences(tmp_path / name)
    shutil.copy(data_root / "shrec17/shrec17_skeletons.npz", tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"d\.npz' is not a skeleton file; known formats: .*kinect_v2_csv"):
        skeleton_files.open_sequences(tmp_path / "d.npz")
    whole = (data_root / "utd_mhad/skeleton/a1_s1_t1_skeleton.mat").read_bytes()
    (tmp_path / "e.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"e\.mat' is corrupt"):
        skeleton_files.open_sequences(tmp_path / "e.mat")
    np.savez(tmp_path / "f.npz", xyz=np.zeros((4, 20, 3)), length=[3], name=["x"], label=[1], is_train=[True])
    with pytest.raises(InputError, match="lengths add up to 3 but xyz holds 4 frames"):
        skeleton_files.open_sequences(tmp_path / "f.npz")


def test_open_sequences_mat_of_too_large_arrays_raises_before_they_are_unpacked(tmp_path, data_root, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_MAT_BYTES", 100_000)
    savemat(tmp_path / "packed.mat", {"d_skel": np.zeros((20, 3, 2000))}, do_compression=True)
    assert (tmp_path / "packed.mat").stat().st_size < 10_000
    with pytest.raises(InputError, match=r"packed\.mat' is corrupt .*its arrays have more than 100000 bytes"):
        skeleton_files.open_sequences(tmp_path / "packed.mat")
    assert len(skeleton_files.open_sequences(data_root / "utd_mhad/skeleton/a1_s1_t1_skeleton.mat")) == 1


def test_files_with_names_in_capitals_are_recordings(tmp_path, data_root):
    whole = next((data_root / "nucla/raw").glob("*.json"))
    shutil.copy(whole, tmp_path / "A.JSON")
    joints = nucla.read_nucla_json(whole).bodies[0]
    np.savez(tmp_path / "b.npz", positions=joints, layout="kinect_v2_25", fps=30.0)
    (tmp_path / "b.npz").rename(tmp_path / "B.NPZ")
    for name in ("A.JSON", "B.NPZ"):
        assert len(skeleton_files.open_sequence(tmp_path / name).stamps_ns) == len(joints)
    assert labels.is_recording(tmp_path / "A.JSON") and labels.is_recording(tmp_path / "B.NPZ")


def test_open_sequences_pickled_arrays_raises(tmp_path):
    np.savez(tmp_path / "p.npz", xyz=np.array([{}], dtype=object), length=[1], name=["x"], label=[1], is_train=[True])
    with pytest.raises(InputError, match=r"p\.npz"):
        skeleton_files.open_sequences(tmp_path / "p.npz")


def test_skeleton_recording_frames_have_the_direction_of_gravity_of_their_dataset(data_root) -> None:
    path = sorted((data_root / "nucla/raw").rglob("*.json"))[0]
    recording: Any = open_recording(path)
    frames = list(recording.frames())
    assert recording.sequence.up is not None
    assert all(np.array_equal(frame.up, recording.sequence.up) for frame in frames)


def tilted(path, up, data_root):
    """Write a Kinect capture as a camera with `up` records it, as .csv or, in m in the optical frame, as .npz."""
    sequence = skeleton_files.open_sequence(data_root / "kinect_v2_csv/Ges01_wavehand.csv")
    bodies = sequence.bodies @ gravity.level_rotation(up)
    if path.suffix == ".npz":
        np.savez(path, positions=bodies, layout="kinect_v2_25", stamps_ns=sequence.stamps_ns)
        return path
    states = (2 * sequence.scores[0]).astype(int)
    joints = np.dstack([np.nan_to_num(kinect_to_optical(bodies[0])), states])  # its own inverse
    text = [
        f"{stamp // 100}," + ",".join(f"{x:.5f},{y:.5f},{z:.5f},{int(state)}" for x, y, z, state in row)
        for stamp, row in zip(sequence.stamps_ns - sequence.stamps_ns[0], joints, strict=True)
    ]
    path.write_text("\n".join(text))
    return path


def up_of_label(path, **options):
    """Return `up` of the last window, as `actrec label` finds it."""
    with open_recording(path, RecordingConfig(**options)) as recording, OfflineRecognizer() as worker:
        worker.find_gravity(recording.frames())
        for frame in recording.frames():
            worker.process(frame)
        (window,) = worker.recognizer.windows().values()
    return window["up"]


@pytest.mark.parametrize("name", ["a.csv", "a.npz"])
def test_read_bodies_file_of_tilted_camera_is_leveled_as_by_label(tmp_path, data_root, name) -> None:
    up = gravity.up_from_angles(0, 30)
    path = tilted(tmp_path / name, up, data_root)
    sequence = read_bodies(path)
    assert angle_deg(sequence.up, up) < 8
    np.testing.assert_allclose(up_of_label(path), sequence.up, atol=1e-6)
    leveled = np.nanmedian(sequence.bodies @ gravity.level_rotation(sequence.up).T, axis=(0, 1))
    lean = leveled[HEAD] - leveled[BASE]
    assert np.degrees(np.arctan2(abs(lean[2]), -lean[1])) < 12, "the trunk is upright"


def test_read_bodies_of_a_camera_that_is_turned_meanwhile_rotates_the_joints_before(tmp_path, monkeypatch) -> None:
    """As `actrec label` does, by the direction of gravity that is estimated in each frame."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before, after = np.array([0.0, -1.0, 0.0], np.float32), np.array([1.0, 0.0, 0.0], np.float32)
    joints = np.random.default_rng(0).normal((0, 0, 3), 0.3, (25, 3)).astype(np.float32)

    class Turned:
        def __init__(self, remedy: str):
            self.frames, self.gravity = 0, SimpleNamespace(conclude=lambda: after)

        @property
        def up(self) -> np.ndarray:
            return before if self.frames <= 2 else after

        def find_gravity(self, frames: object) -> None:
            pass

        def process(self, frame: RgbdFrame) -> list[Body]:
            self.frames += 1
            return [Body("body_1", "kinect_v2_25", joints, joints[:, :2], np.ones(25, np.float32))]

        def close(self) -> None:
            pass

    monkeypatch.setattr(recorded_joints, "BodyPerception", Turned)
    (tmp_path / "images").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), np.full((48, 64, 3), number, np.uint8))
    found = read_bodies(tmp_path / "images", RecordingConfig(hfov_deg=60.0, fps=10.0))
    np.testing.assert_array_equal(found.up, after)
    np.testing.assert_allclose(found.bodies[0, :2], [joints @ gravity.rotation_between(before, after).T] * 2, atol=1e-6)
    np.testing.assert_array_equal(found.bodies[0, 2:], [joints] * 2)


def test_read_bodies_mount_sets_the_direction_unless_the_file_states_it(tmp_path, data_root) -> None:
    mount, up = "3,28", gravity.up_from_angles(3, 28)
    csv = tilted(tmp_path / "a.csv", gravity.up_from_angles(0, 30), data_root)
    np.testing.assert_allclose(read_bodies(csv, RecordingConfig(mount=mount)).up, up, atol=1e-6)
    np.testing.assert_allclose(up_of_label(csv, mount=mount), up, atol=1e-6)
    with np.load(tilted(tmp_path / "a.npz", gravity.up_from_angles(0, 30), data_root)) as arrays:
        np.savez(tmp_path / "stated.npz", **arrays, up=gravity.up_from_angles(0, 30))
    for found in (
        read_bodies(tmp_path / "stated.npz", RecordingConfig(mount=mount)).up,
        up_of_label(tmp_path / "stated.npz", mount=mount),
    ):
        assert gravity.is_level(found), "its joints are leveled already"
    with pytest.raises(ConfigError, match="mount is 'sideways'"):
        read_bodies(csv, RecordingConfig(mount="sideways"))
