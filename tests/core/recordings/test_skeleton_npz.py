"""Skeleton files written with numpy: layouts, axes, stamps, labels, and errors whose remedies work."""

import numpy as np
import pytest

from actrec.perception.recorded_joints import read_bodies
from actrec.recordings import RecordingConfig, open_recording, skeleton_npz
from actrec.recordings.labels import own_labels
from actrec.recordings.skeleton_files import open_sequence
from actrec.recordings.skeleton_npz import read_skeleton_npz
from actrec.skeleton.layouts import HANDS, KINECT_V2_25, LAYOUTS, NITE_15, TABLES, convert
from actrec.skeleton.sequence import CAMERA_HEIGHT_M, NEAREST_M, load_npz
from actrec.utils import gravity
from actrec.utils.errors import ActrecError, InputError

J = KINECT_V2_25.index
T = 90
TO_Z_UP, TO_Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), np.diag([1, -1, -1])
SPANS = {"labels": ["wave", "clap", "wave"], "start_s": [1.5, 0.0, 2.0], "end_s": [2, 0.5, 2.5]}


@pytest.fixture(scope="module")
def person(data_root):
    """[90, 25, 3] m, a person of UTD-MHAD before a level camera, who stands, faces it and moves the right arm."""
    body = open_sequence(data_root / "utd_mhad/skeleton/a3_s1_t1_skeleton.mat").bodies[0]
    return np.tile(body[:45], (2, 1, 1)).astype(np.float64)


@pytest.fixture
def write(tmp_path, person):
    def written(**arrays):
        arrays = {"positions": person, "layout": "kinect_v2_25", "fps": 30.0, **arrays}
        file = tmp_path / "a.npz"
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
        return file

    return written


def test_read_positions_and_stamps_as_written(write, person):
    sequence = open_sequence(write())
    np.testing.assert_array_equal(sequence.bodies[0], person.astype(np.float32))
    assert (sequence.stamps_ns[:2].tolist(), sequence.up, sequence.meta["labels"]) == ([0, 33_333_333], None, None)
    for clock in ({"stamps_s": 5 + np.arange(T) / 10}, {"stamps_ns": 5 * 10**9 + np.arange(T) * 10**8}):
        stamps = read_skeleton_npz(write(fps=None, **clock), fps=60).stamps_ns
        assert (stamps[0], stamps[1]) == (5 * 10**9, 51 * 10**8)
    assert read_skeleton_npz(write(fps=None), fps=10).stamps_ns[1] == 10**8
    assert len(list(open_recording(write(), RecordingConfig()).frames())) == T


def test_read_several_bodies_keeps_ids_and_absence(write, person):
    pair = np.stack([person, person + np.array([1, 0, 0])])
    pair[1, :40] = 0
    pair[0, 5, J["head"]] = np.nan
    sequence = read_bodies(write(positions=pair, body_ids=["anna", "ben"], labels=["wave"], body="ben"))
    assert [[body.body_id for body in sequence.bodies_at(t)] for t in (0, 50)] == [["anna"], ["anna", "ben"]]
    assert np.isnan(sequence.bodies[0, 5, J["head"]]).all()
    assert [(clip.label, clip.body, clip.whole) for clip in sequence.meta["labels"]] == [("wave", "ben", True)]


@pytest.mark.parametrize("name", [*TABLES, *HANDS])
def test_read_every_layout_by_name_and_by_joint_names(write, name):
    layout, generator = LAYOUTS[name], np.random.default_rng(0)
    size = 0.1 if name in HANDS else 0.8
    joints = generator.uniform(-size, size, (T, len(layout), 3)) + np.array([0, 0, 3])
    for joint, v in layout.index.items():  # heads up, hips down
        joints[:, v, 1] = 0.4 - size * ("head" in joint or "ear" in joint or "neck" in joint or "shoulder" in joint)
    expected = convert(joints, np.ones(joints.shape[:2]), name, "hand_22" if name in HANDS else "kinect_v2_25")[0]
    order = generator.permutation(len(layout))
    for arrays in (
        {"layout": name, "positions": joints},
        {"layout": [_camel(layout.joints[v]) for v in order], "positions": joints[:, order]},
    ):
        sequence = read_skeleton_npz(write(**arrays))
        np.testing.assert_allclose(sequence.bodies[0], expected, atol=1e-6)
    if name in HANDS:
        with pytest.raises(InputError, match="holds hands"):
            open_sequence(write(layout=name, positions=joints))


def _camel(joint):
    """`LeftShoulder` for shoulder_left."""
    name, _, side = joint.rpartition("_")
    return f"{side}_{name}".title().replace("_", "") if side in ("left", "right") else joint


@pytest.mark.parametrize("turn", [TO_Z_UP, TO_Y_UP], ids=["z up", "y up"])
def test_read_axes_with_up_shows_person_before_level_camera(write, person, turn):
    """In axes of a room, whose origin is between the feet, the person faces the camera as without them."""
    middle = (person.min(axis=(0, 1)) + person.max(axis=(0, 1))) / 2
    turned = (person - middle) @ turn.T
    up = turn @ [0, -1, 0]
    sequence = read_skeleton_npz(write(positions=turned, up=up))
    body = sequence.bodies[0]
    assert sequence.up.tolist() == [0, -1, 0]
    np.testing.assert_allclose(np.diff(body[0], axis=0)[:, 1], np.diff(person[0], axis=0)[:, 1], atol=1e-5)
    right = body[0, J["shoulder_left"]] - body[0, J["shoulder_right"]]
    assert right[0] > 0.2 and abs(right[2]) < 0.1  # the left shoulder is on the right in the image
    assert body[:, J["spine_base"], 2].min() == pytest.approx(NEAREST_M, abs=1e-4)
    assert np.percentile(np.nanmax(body[..., 1], axis=1), 90) == pytest.approx(CAMERA_HEIGHT_M, abs=0.02)


def test_read_tilted_camera_is_leveled(write, person):
    up = gravity.up_from_angles(5, 20)
    sequence = read_skeleton_npz(write(positions=person @ gravity.level_rotation(up), up=up))
    np.testing.assert_allclose(sequence.bodies[0], person, atol=1e-5)


def test_read_root_at_origin_moves_without_turning(write, person):
    body = read_skeleton_npz(write(positions=person - person[:, :1])).bodies[0]
    np.testing.assert_allclose(body - body[:, :1], person - person[:, :1], atol=1e-5)
    assert body[0, 0, 2] == pytest.approx(NEAREST_M, abs=1e-4)


def test_read_labels_in_order_and_background_between(write, person):
    times = np.arange(4 * T) / 30
    positions = np.tile(person, (4, 1, 1))
    positions[times > 9] = np.nan  # without a person in view
    meta = read_skeleton_npz(write(positions=positions, person="anna", **SPANS)).meta
    spans = [(c.label, c.start_s, c.end_s, c.person) for c in meta["labels"]]
    assert spans == [("clap", 0, 0.5, "anna"), ("wave", 1.5, 2, "anna"), ("wave", 2, 2.5, "anna")]
    background = [(c.label, c.start_s, round(c.end_s, 1), c.person) for c in meta["background"]]
    assert background == [("unknown", 0.5, 1.5, "anna"), ("unknown", 2.5, 7.2, "anna")]
    assert len(read_skeleton_npz(write(labels=[])).meta["background"]) == 1
    assert read_skeleton_npz(write(labels="wave")).meta["background"] == ()


def test_read_background_of_two_people_names_body_and_person(write, person):
    pair = np.stack([person, person + np.array([1, 0, 0])])
    spans = {"labels": ["wave", "clap"], "start_s": [0.0, 1.5], "end_s": [1.5, 3.0], "person": ["anna", "ben"]}
    for ids in (None, ["left", "right"]):
        first, second = ids or ("body_1", "body_2")
        meta = read_skeleton_npz(write(positions=pair, body_ids=ids, body=[first, second], **spans)).meta
        background = [(c.label, c.start_s, round(c.end_s, 1), c.person, c.body) for c in meta["background"]]
        assert background == [("unknown", 1.5, 3.0, "anna", first), ("unknown", 0.0, 1.5, "ben", second)]


def test_read_background_between_labels_of_two_people_is_ignored(write, person):
    spans = {"labels": ["wave", "clap"], "start_s": [1.0, 5.0], "end_s": [2.0, 6.0]}
    positions = np.tile(person, (3, 1, 1))
    for people, expected in (
        (["anna", "ben"], [(0.0, 1.0, "anna"), (6.0, 9.0, "ben")]),
        ("anna", [(0.0, 1.0, "anna"), (2.0, 5.0, "anna"), (6.0, 9.0, "anna")]),
        (None, [(0.0, 1.0, ""), (2.0, 5.0, ""), (6.0, 9.0, "")]),
    ):
        named = {} if people is None else {"person": people}
        background = read_skeleton_npz(write(positions=positions, **spans, **named)).meta["background"]
        assert [(c.start_s, round(c.end_s, 1), c.person) for c in background] == expected


REFUSED = {
    "pixels": (lambda p: {"positions": p[..., :2]}, "pixels or other 2-D joints"),
    "axes": (lambda p: {"positions": p.swapaxes(1, 2)}, "swap the last two axes"),
    "flat": (lambda p: {"positions": p.reshape(T, 75)}, r"\(-1, 25, 3\)"),
    "frames first": (lambda p: {"positions": p[:, None]}, r"bodies go first: positions\.transpose\(1, 0, 2, 3\)"),
    "other layout": (lambda p: {"layout": "kinect_v1_20"}, "layouts of 25 joints: kinect_v2_25"),
    "spelling": (lambda p: {"layout": "kinect_25"}, r"unknown layout 'kinect_25' \(did you mean kinect_v2_25\?\)"),
    "joint name": (lambda p: {"layout": ["hed", *KINECT_V2_25.joints[1:]]}, r"no joint 'hed'.*did you mean head"),
    "joint twice": (lambda p: {"layout": ["head", *KINECT_V2_25.joints[1:]]}, "lists joint 'head' twice"),
    "joint missing": (lambda p: {"layout": KINECT_V2_25.joints[1:]}, "lacks spine_base of kinect_v2_25"),
    "infinite": (lambda p: {"positions": np.where(p == p.max(), np.inf, p)}, "infinite values; write NaN"),
    "empty": (lambda p: {"positions": p * np.nan}, "no joint in any of 90 frames"),
    "no frames": (lambda p: {"positions": p[:0]}, "no joint in any of 0 frames"),
    "millimeters": (lambda p: {"positions": p * 1000}, r"people are 1,\d{3} m tall.*in mm: save positions / 1000"),
    "centimeters": (lambda p: {"positions": p * 100}, r"people are 1\d\d m tall.*in cm: save positions / 100"),
    "normalized": (lambda p: {"positions": p / 10}, r"people are 0\.1\d* m tall, expected 0\.4 to 3"),
    "y up": (lambda p: {"positions": p * [-1, -1, 1]}, r"stand along \[0, 1, 0\], but up is .* the default: save up"),
    "gravity": (lambda p: {"up": [0, 9.81, 0]}, r"stand along \[0, -1, 0\], but up is \[0\.0, 1\.0, 0\.0\]: save"),
    "mirrored": (lambda p: {"positions": p * [-1, 1, 1]}, "feet point backward, so people are mirrored"),
    "no direction": (lambda p: {"up": [0, 0, 0]}, r"expected a direction.*as \[0, -1, 0\]"),
    "no clock": (lambda p: {"fps": None}, "none of stamps_s, stamps_ns, fps.*--recording fps=HZ"),
    "two clocks": (lambda p: {"stamps_s": np.arange(T)}, "has stamps_s and fps: keep one"),
    "rate": (lambda p: {"fps": 0}, "fps is 0, expected 0.5 to 1000"),
    "NaN stamp": (
        lambda p: {"fps": None, "stamps_s": np.where(np.arange(T) == 7, np.nan, np.arange(T) / 30)},
        "stamps_s is nan in 1 frames, first 7; remove these frames",
    ),
    "milliseconds": (lambda p: {"fps": None, "stamps_s": 33.3 * np.arange(T)}, "33.3 s apart by stamps_s"),
    "stamps stand": (lambda p: {"fps": None, "stamps_s": np.arange(T) // 2 / 15}, "from frame 0 .*sort the frames"),
    "float32": (
        lambda p: {"fps": None, "stamps_s": (1.7e9 + np.arange(T) / 30).astype(np.float32)},
        "float32 is too coarse",
    ),
    "too few stamps": (lambda p: {"fps": None, "stamps_s": np.arange(T - 1)}, "a number for each of 90 frames"),
    "typo": (lambda p: {"label": "wave"}, r"array label \(did you mean labels\?\); rename or remove it"),
    "numbers": (lambda p: {"labels": [3]}, "expected texts, such as 'wave'"),
    "objects": (lambda p: {"labels": np.array(["wave", None])}, "array labels holds Python objects"),
    "no spans": (lambda p: {"labels": ["wave", "clap"]}, "has labels but no start_s: save one for each of the 2"),
    "no labels": (lambda p: {"start_s": [1]}, "has start_s but no labels"),
    "reversed": (lambda p: {"labels": ["wave"], "start_s": [2], "end_s": [1]}, "from 2 to 1 s ends before it starts"),
    "overlap": (
        lambda p: {**SPANS, "end_s": [2.2, 0.5, 2.5]},
        r"'wave' from 2 to 2.5 s overlaps 'wave', which ends at 2.2 s",
    ),
    "outside": (lambda p: {"labels": ["a"], "start_s": [1], "end_s": [3.5]}, "lasts 2.97 s; they count in s from"),
    "frame numbers": (lambda p: {"labels": ["a"], "start_s": [30], "end_s": [80]}, "divide frame numbers"),
    "stamps of the clock": (
        lambda p: {"fps": None, "stamps_s": 9 + np.arange(T) / 30, "labels": ["a"], "start_s": [10], "end_s": [11]},
        "subtract its stamp",
    ),
    "other spelling": (lambda p: {"labels": "Unknown"}, "have the label 'unknown'"),
    "people": (lambda p: {**SPANS, "person": ["anna", "ben"]}, "person has 2 entries for 3 labels"),
    "ids": (lambda p: {"body_ids": ["1"]}, "1 different names"),
    "foreign body": (lambda p: {"labels": "wave", "body": "ben"}, "body has 'ben', which is no id; body_ids: body_1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_read_wrong_array_raises_with_cause(write, person, case):
    make, message = REFUSED[case]
    with pytest.raises(ActrecError, match=message) as caught:
        open_sequence(write(**make(person)))
    assert "a.npz" in str(caught.value) and "\n" not in str(caught.value)


REMEDIES = [
    (lambda p: {"positions": p[:, None]}, {"positions": lambda a: a["positions"].transpose(1, 0, 2, 3)}),
    (lambda p: {"positions": p.swapaxes(1, 2)}, {"positions": lambda a: a["positions"].swapaxes(-1, -2)}),
    (lambda p: {"positions": p.reshape(T, 75)}, {"positions": lambda a: a["positions"].reshape(-1, 25, 3)}),
    (lambda p: {"positions": p * 1000}, {"positions": lambda a: a["positions"] / 1000}),
    (lambda p: {"positions": p @ TO_Z_UP.T}, {"up": lambda a: [0, 0, 1]}),
    (lambda p: {"positions": p * [-1, 1, 1]}, {"positions": lambda a: a["positions"] * [-1, 1, 1]}),
    (lambda p: {"positions": p @ TO_Y_UP.T}, {"up": lambda a: [0, 1, 0]}),
    (lambda p: {"positions": p * [-1, -1, 1]}, {"positions": lambda a: a["positions"] * [-1, -1, 1]}),
    (lambda p: {"labels": np.array(["wave"], dtype=object)}, {"labels": lambda a: np.array(a["labels"], dtype=str)}),
]


@pytest.mark.parametrize(("make", "remedy"), REMEDIES)
def test_read_remedy_of_error_works(write, person, make, remedy):
    arrays = make(person)
    with pytest.raises(InputError) as caught:
        open_sequence(write(**arrays))
    for name, change in remedy.items():
        arrays[name] = change(arrays)
        assert name != "up" or f"save up={arrays['up']}" in str(caught.value)
    body = open_sequence(write(**arrays)).bodies[0]
    np.testing.assert_allclose(np.diff(body, axis=0)[..., 1], np.diff(person, axis=0)[..., 1], atol=1e-5)


def test_read_nite_joints_missing_hands_are_nan(write, person):
    names = [joint.replace("hand", "wrist").replace("foot", "ankle") for joint in NITE_15.joints]
    joints = np.stack([person[:, J[{"torso": "spine_mid"}.get(n, n)]] for n in names], axis=1)
    body = open_sequence(write(positions=joints, layout="nite_15")).bodies[0]
    assert np.isnan(body[:, J["hand_tip_left"]]).all() and np.isfinite(body[:, J["wrist_left"]]).all()


def test_read_arrays_beyond_the_limit_raises_before_they_are_unpacked(tmp_path, write, monkeypatch):
    monkeypatch.setattr(skeleton_npz, "_MAX_BYTES", 1 << 20)
    file = write(positions=np.zeros((4000, 25, 3)))
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, **np.load(file))
    assert packed.stat().st_size < 1 << 16
    for path in (file, packed):
        with pytest.raises(InputError, match="holds 2 MB of arrays, at most 1 MB are read"):
            read_skeleton_npz(path)
    with pytest.raises(InputError, match="holds 2 MB of arrays, at most 1 MB"):
        load_npz(packed, ("fps",), 1 << 20)


def test_own_labels_are_of_no_file_in_a_recording_of_images(tmp_path, write, person):
    """`actrec simulate` writes the actor's joints beside its images, with arrays of its own."""
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave/0.png").touch()
    np.savez(tmp_path / "wave/joints.npz", positions=person, pixels=person[..., :2])
    (tmp_path / "files").mkdir()
    (write(positions=person)).rename(tmp_path / "files/one.npz")
    assert list(own_labels(tmp_path)) == ["files/one.npz"]
