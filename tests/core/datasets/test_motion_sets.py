"""Kinder-Gator, KARD, CAD-60, Bandai-Namco, HDM05, Florence 3D, UTKinect and MSR Action3D."""

import json
from pathlib import Path

import numpy as np
import pytest

from actrec import datasets
from actrec.datasets import cad60, florence3d, msr_action3d
from actrec.recordings import skeleton_files
from actrec.skeleton import layouts
from actrec.skeleton.layouts import KINECT_V2_25, known_joints
from actrec.utils import gravity
from actrec.utils.errors import ConfigError, DeviceError, InputError
from tests.core.datasets import motion_files
from tests.core.datasets.motion_files import FOLDERS, SOURCES, WRITERS

INDEX = KINECT_V2_25.index
LAYOUTS = {
    "bandai_namco": "bvh_21",
    "cad60": "nite_15",
    "hdm05": "asf_31",
    "kard": "nite_15",
    "kinder_gator": "kinect_v1_20",
}


def arrays_of(small: Path, name: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    with np.load(small / name / SOURCES[name].archive) as archive:
        arrays = dict(archive)
    return arrays, np.split(arrays["xyz"].astype(np.float64), np.cumsum(arrays["length"])[:-1])


def write_all(name: str, folder: Path, small: Path) -> list[Path]:
    arrays, clips = arrays_of(small, name)
    return [WRITERS[name](folder, k, arrays, xyz) for k, xyz in enumerate(clips)]


@pytest.mark.parametrize("name", FOLDERS)
def test_motion_archive_clips_keep_the_data_contract(small, name):
    source = datasets.source(name, small / name)
    known = known_joints(LAYOUTS[name])
    for entry in source.entries():
        clip = source.read(entry)
        body = clip.bodies[0]
        assert (np.isfinite(body).all(-1) == known).all() and (np.diff(clip.stamps_ns) > 0).all()
        assert body[:, INDEX["head"], 1].mean() < body[:, 0, 1].mean() < body[:, INDEX["ankle_left"], 1].mean()
        assert (
            np.median(body[0, INDEX["shoulder_left"], 0] - body[0, INDEX["shoulder_right"], 0]) > 0.03
        )  # faces the camera
        assert 1.0 < body[..., 2][np.isfinite(body[..., 2])].min() < 5.0
        assert np.degrees(np.arccos(clip.streams["up"] @ np.array(gravity.LEVEL))) < 5


@pytest.mark.parametrize("name", WRITERS)
def test_motion_published_files_match_archive(small, tmp_path, name):
    files = write_all(name, tmp_path, small)
    packed, published = datasets.source(name, small / name), datasets.source(name, tmp_path)
    by_label = {(e.label, e.meta.get("subject", e.meta.get("style"))): e for e in published.entries()}
    assert len(by_label) == len(files) == 3
    for entry in packed.entries():
        other = by_label[entry.label, entry.meta.get("subject", entry.meta.get("style"))]
        if name not in ("cad60", "bandai_namco"):  # recordings have a number in files, takes are counted in the archive
            assert (other.name, other.meta) == (entry.name, entry.meta)
        for split in packed.splits:
            assert published.part(other, split) == packed.part(entry, split) != ""
        a, b = packed.read(entry), published.read(other)
        np.testing.assert_allclose(b.bodies, a.bodies, atol=2e-4)
        np.testing.assert_allclose(b.stamps_ns, a.stamps_ns, atol=2e5)


@pytest.fixture(scope="module")
def kinder_gator(data_root):
    return datasets.source("kinder_gator", data_root / "motion/kinder_gator")


@pytest.mark.parametrize(
    ("name", "split", "train", "test"),
    [("kinder_gator", "subject", 580, 579), ("kard", "leave_one_out", 486, 54), ("hdm05", "actor", 188, 99)],
)
def test_motion_split_has_its_clips(data_root, kinder_gator, name, split, train, test):
    root = data_root / "motion" / FOLDERS[name]
    source = kinder_gator if name == "kinder_gator" else datasets.source(name, root)
    parts = [source.part(entry, split) for entry in source.entries()]
    assert (parts.count("train"), parts.count("test")) == (train, test)


def test_people_of_kinder_gator_are_chosen(small):
    names = {p: {e.name for e in datasets.source("kinder_gator", small / "kinder_gator", people=p).entries()}
             for p in ("all", "adults", "children")}  # fmt: skip
    assert names["adults"] | names["children"] == names["all"] and len(names["adults"]) * len(names["children"]) == 2


def test_kinder_gator_spread_arms_are_cut(small):
    keep, cut = (datasets.source("kinder_gator", small / "kinder_gator", spread_arms=s) for s in ("keep", "cut"))
    entries = keep.entries()
    frames = [[len(source.read(entry).stamps_ns) for entry in entries] for source in (keep, cut)]
    assert frames[0] == [motion_files.FRAMES] * 3 and all(3 < b < a for a, b in zip(*frames, strict=True))
    assert keep.fingerprint(entries) != cut.fingerprint(entries)


def test_leave_one_out_tests_every_person_once(small):
    tested = []
    for fold in range(1, 5):
        source = datasets.source("cad60", small / "cad60", fold=fold)
        tested += [e.name for e in source.entries() if source.part(e, "leave_one_out") == "test"]
    assert sorted(tested) == sorted(e.name for e in source.entries())
    with pytest.raises(ConfigError, match="CAD-60 has 4 folds; got fold 5"):
        datasets.source("cad60", small / "cad60", fold=5)


def test_cad60_right_handed_people_phone_with_the_right_hand(data_root):
    """Person 3 is the left-handed one; the archive's names are mirrored."""
    source = datasets.source("cad60", data_root / "motion/cad60")
    higher = {}
    for entry in source.entries():
        if source.classes[entry.label] in ("talking on the phone", "drinking water"):
            left, right = (
                np.nanmean(source.read(entry).bodies[0, :, INDEX[f"wrist_{s}"], 1]) for s in ("left", "right")
            )
            higher.setdefault(entry.meta["subject"], set()).add("left" if left < right else "right")
    assert higher == {1: {"right"}, 2: {"right"}, 3: {"left"}, 4: {"right"}}


def test_kinder_gator_left_handed_adult_draws_with_the_left_hand(kinder_gator):
    left = set()
    for entry in kinder_gator.entries():
        if kinder_gator.classes[entry.label] == "draw a circle" and entry.meta["people"] == "adults":
            body = kinder_gator.read(entry).bodies[0, 40:-20]
            reach = np.ptp(body, axis=0).sum(-1)
            left |= {entry.meta["subject"]} if reach[INDEX["hand_left"]] > reach[INDEX["hand_right"]] else set()
    assert left == {921}


# -- the datasets of the final measurement: files after the format -----------------------------------------------------


def person(frames: int = 6, joints=KINECT_V2_25) -> dict[str, np.ndarray]:
    """A person who faces the sensor, in Kinect space: the left at negative x, a right hand that rises."""
    rows = {"head": (0, 0.6), "neck": (0, 0.4), "torso": (0, 0.2), "spine": (0, 0.1), "shoulder_center": (0, 0.4),
            "hip_center": (0, 0.0), "shoulder": (0.2, 0.4), "elbow": (0.25, 0.15), "wrist": (0.27, -0.05),
            "hand": (0.28, -0.1), "hip": (0.1, 0.0), "knee": (0.1, -0.4), "ankle": (0.1, -0.8), "foot": (0.1, -0.85),
    }  # fmt: skip
    found = {}
    for joint in joints:
        kind, _, side = (
            joint.removesuffix("_center").rpartition("_") if joint.endswith(("left", "right")) else (joint, "", "")
        )
        x, y = rows[kind if side else joint]
        found[joint] = np.tile([x * {"left": -1, "right": 1}.get(side, 0), y, 2.5], (frames, 1))
    found["hand_right"] = found["hand_right"] + np.linspace(0, 0.6, frames)[:, None] * [0, 1, 0]
    return found


def check_person(body: np.ndarray, hand: str) -> None:
    """The left at the image's right, and the hand that rises is the right one."""
    assert (body[:, INDEX["shoulder_left"], 0] > body[:, INDEX["shoulder_right"], 0]).all()
    assert body[0, INDEX[f"{hand}_right"], 1] - body[-1, INDEX[f"{hand}_right"], 1] > 0.5
    np.testing.assert_allclose(body[0, INDEX[f"{hand}_left"], 1], body[-1, INDEX[f"{hand}_left"], 1], atol=1e-6)
    assert body[0, INDEX["head"], 1] == pytest.approx(-0.6) and body[0, INDEX["ankle_left"], 1] > 0.7


def florence_text(mirror: int = 1) -> str:
    joints = person(joints=florence3d.JOINTS)
    rows = np.stack([joints[j] for j in florence3d.JOINTS], axis=1) * [1000 * mirror, 1000, 1000]
    videos = [(1, 1, 1), (2, 1, 9), (3, 10, 4)]
    return "".join(
        f"{v} {s} {a} " + " ".join(f"{x:.3f}" for x in row.reshape(-1)) + "\n" for v, s, a in videos for row in rows
    )


@pytest.mark.parametrize("mirror", [1, -1])
def test_florence3d_file_read(tmp_path, mirror):
    (tmp_path / florence3d.Florence3d.archive).write_text(florence_text(mirror))
    source = datasets.source("florence3d", tmp_path, fold=10)
    entries = source.entries()
    assert [(source.classes[e.label], e.meta["subject"]) for e in entries] == [("wave", 1), ("bow", 1), ("clap", 10)]
    assert [source.part(e, "leave_one_out") for e in entries] == ["train", "train", "test"]
    check_person(source.read(entries[0]).bodies[0], "wrist")


def msr_text(mirror: int = 1) -> str:
    joints = person(joints=msr_action3d.JOINTS)
    rows = np.stack([joints[j] for j in msr_action3d.JOINTS], axis=1) * [mirror, 1, 1]
    return "".join(f"{x:.5f} {y:.5f} {z:.5f} 1.0\n" for x, y, z in rows.reshape(-1, 3))


@pytest.mark.parametrize("mirror", [1, -1])
def test_msr_action3d_files_read(tmp_path, mirror):
    (tmp_path / "a20_s02_e03_skeleton3D.txt").write_text(msr_text(mirror))
    source = datasets.source("msr_action3d", tmp_path)
    (entry,) = source.entries()
    assert (source.classes[entry.label], source.part(entry, "subject")) == ("pick up and throw", "test")
    clip = source.read(entry)
    check_person(clip.bodies[0], "hand")
    assert clip.stamps_ns[3] == 200_000_000


@pytest.mark.parametrize("first", ["knee", "ankle"])
def test_msr_action3d_legs_of_the_other_side_are_put_right(tmp_path, first):
    """Subjects 2 and 3 have such clips; the joints stay in a clip whose legs are right."""
    wrong = [joint for joint in msr_action3d.JOINTS if joint.split("_")[0] in ("knee", "ankle", "foot")]
    wrong = [joint for joint in wrong if first == "knee" or not joint.startswith("knee")]
    other = {joint: joint.replace("left", "*").replace("right", "left").replace("*", "right") for joint in wrong}
    joints = person(joints=msr_action3d.JOINTS)
    for name, taken in (("a05_s02_e01", joints), ("a05_s02_e02", {j: joints[other.get(j, j)] for j in joints})):
        rows = np.stack([taken[j] for j in msr_action3d.JOINTS], axis=1)
        text = "".join(f"{x:.5f} {y:.5f} {z:.5f} 1.0\n" for x, y, z in rows.reshape(-1, 3))
        (tmp_path / f"{name}_skeleton3D.txt").write_text(text)
    source = datasets.source("msr_action3d", tmp_path)
    intact, exchanged = (source.read(entry).bodies for entry in source.entries())
    assert intact[0, 0, INDEX["knee_left"], 0] > intact[0, 0, INDEX["knee_right"], 0]
    np.testing.assert_array_equal(exchanged, intact)


def test_msr_action3d_sequence_of_zeros_is_no_item(tmp_path):
    for name in ("a13_s09_e01", "a13_s09_e02", "a07_s04_e01"):
        text = msr_text() if name != "a13_s09_e02" else "0 0 0 0\n" * 40
        (tmp_path / f"{name}_skeleton3D.txt").write_text(text)
    found = [
        [entry.name for entry in datasets.source("msr_action3d", tmp_path, noisy=noisy).entries()]
        for noisy in (True, False)
    ]
    assert found == [["a07_s04_e01", "a13_s09_e01"], ["a13_s09_e01"]]


def test_florence3d_in_its_published_folder_is_read(tmp_path):
    (tmp_path / "Florence_3d_actions").mkdir()
    (tmp_path / "Florence_3d_actions" / florence3d.Florence3d.archive).write_text(florence_text())
    assert len(datasets.source("florence3d", tmp_path).entries()) == 3


def utkinect_text() -> str:
    joints = person(12, layouts.KINECT_V1_20.joints)
    rows = np.stack([joints[j] for j in layouts.KINECT_V1_20.joints], axis=1)
    numbers = [10, 11, 11, 12, 14, 16, 18, 20, 21, 22, 30, 31]  # with gaps, and a frame twice
    return "".join(
        f"{n} " + " ".join(f"{x:.5f}" for x in row.reshape(-1)) + "\n" for n, row in zip(numbers, rows, strict=True)
    )


UTKINECT_LABELS = "s01_e01\nwalk: 10 14\nsitDown: 16 22 \ncarry: NaN NaN\ns02_e01\nclapHands: 1 2\n"


def test_utkinect_actions_are_cut_from_recordings(tmp_path):
    (tmp_path / "joints").mkdir()
    (tmp_path / "joints/joints_s01_e01.txt").write_text(utkinect_text())
    (tmp_path / "actionLabel.txt").write_text(UTKINECT_LABELS)
    source = datasets.source("utkinect", tmp_path)
    entries = source.entries()  # of the recordings that are there
    assert [(e.name, source.classes[e.label]) for e in entries] == [
        ("s01_e01_walk", "walk"),
        ("s01_e01_sitDown", "sit down"),
    ]
    walk, sit = (source.read(e) for e in entries)
    np.testing.assert_array_equal(walk.stamps_ns, np.round(np.array([0, 1, 2, 4]) * 1e9 / 30))
    assert len(sit.stamps_ns) == 5 and source.part(entries[0], "subject") == "train"
    assert walk.bodies[0, 0, INDEX["shoulder_left"], 0] > 0 > walk.bodies[0, 0, INDEX["shoulder_right"], 0]


def test_utkinect_in_linked_folders_read(tmp_path):
    for folder, file, text in (
        ("a", "joints_s01_e01.txt", utkinect_text()),
        ("b", "actionLabel.txt", UTKINECT_LABELS),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text)
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / folder).symlink_to(tmp_path / folder)
    assert len(datasets.source("utkinect", tmp_path / "root").entries()) == 2


# -- bad input ---------------------------------------------------------------------------------------------------------


def cut_line(text: str) -> str:
    """Cut a file in the middle of a line, like a full disk."""
    return text[: int(len(text) * 0.7)].rsplit("\n", 1)[0] + "\n0.1"


@pytest.mark.parametrize("name", ["kinder_gator", "kard", "cad60", "bandai_namco"])
def test_motion_damaged_files_raise(small, tmp_path, name):
    files = write_all(name, tmp_path, small)
    texts = [file.read_text() for file in files]
    source = datasets.source(name, tmp_path)
    entries = {e.files["skeleton"]: e for e in source.entries()}
    for damage in (cut_line(texts[0]), "", "hello world\n" * 20, texts[0].replace("1", "x"), "\x00\x01"):
        files[0].write_text(damage)
        with pytest.raises(InputError, match=files[0].name):
            source.read(entries[files[0]])
    files[1].unlink()
    with pytest.raises(DeviceError, match=files[1].name):
        source.read(entries[files[1]])
    assert np.isfinite(source.read(entries[files[2]]).bodies).any()


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("kard", "a19_s01_e01_realworld.txt", "", "of an action or a subject that KARD does not have"),
        ("kard", "a01_s11_e01_realworld.txt", "", "of an action or a subject that KARD"),
        ("kinder_gator", "POSE-p565_01-Fly-to-the-moon-1.csv", "", "of an action or a subject that Kinder-Gator"),
        ("bandai_namco", "dataset-1_sing_normal_001.bvh", "", "of an action or a subject that Bandai-Namco"),
        ("bandai_namco", "dataset-1_bow_rich_001.bvh", "", "of an action or a subject that Bandai-Namco"),
        ("hdm05", "HDM_xx_squat1Reps_001_120.amc", "", "of an action or a subject that HDM05"),
        ("msr_action3d", "a21_s01_e01_skeleton3D.txt", "", "of an action or a subject that MSR Action3D"),
        ("cad60", "data1/activityLabel.txt", "0510175400,cooking,\nEND\n", "line 1: no activity 'cooking' in CAD-60"),
        ("cad60", "data1/activityLabel.txt", "0510175400,still,\n", "does not end with END: it is truncated"),
        ("cad60", "data1/activityLabel.txt", "0510175401,still,\nEND\n", "is not listed in its activityLabel"),
        ("utkinect", "actionLabel.txt", "walk: 1 2\n", "line 1: 'walk: 1 2' is no recording"),
        ("utkinect", "actionLabel.txt", "s01_e01\nfly: 1 2\n", "line 2: 'fly: 1 2' is no recording and no action"),
        ("utkinect", "actionLabel.txt", "s01_e01\nwalk: 9 2\n", "line 2: frames 9 to 2 are no span"),
        ("utkinect", "actionLabel.txt", "s01_e01\nwalk: \u00b2 3\n", "line 2: frames \u00b2 to 3 are no span"),
        ("utkinect", "actionLabel.txt", "s11_e01\nwalk: 1 2\n", "lists 's11_e01', but UTKinect has subjects 1 to 10"),
        ("florence3d", "Florence_dataset_WorldCoordinates.txt", "1 1 1 " + "0.5 " * 44, "line 1 has 47 columns, exp"),
        ("florence3d", "Florence_dataset_WorldCoordinates.txt", "1 1 10 " + "5 " * 45, "action is 10, expected 1 to 9"),
        ("florence3d", "Florence_dataset_WorldCoordinates.txt", "1 nan 1 " + "5 " * 45, "actor is nan, expected 1 to"),
        ("florence3d", "Florence_dataset_WorldCoordinates.txt", ("1 1 1 " + "5 " * 45 + "\n1 1 2 " + "5 " * 45),
         "video 1 has several actors or actions"),
    ],
)  # fmt: skip
def test_motion_unknown_names_and_lists_raise(tmp_path, name, file, text, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    if name == "cad60":
        (tmp_path / "data1/0510175400.txt").write_text("END\n")
    if name == "utkinect":
        (tmp_path / "joints_s01_e01.txt").write_text(utkinect_text())
        (tmp_path / "joints_s11_e01.txt").write_text(utkinect_text())
    with pytest.raises(InputError, match=message):
        datasets.source(name, tmp_path).entries()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("kard", lambda text: text.rsplit("\n", 2)[0], "lines, expected 15 a frame: it is truncated"),
        ("kinder_gator", lambda text: text.replace("Timestamp", "Time"), "has no header of a Kinder-Gator file"),
        ("kinder_gator", lambda text: "\n".join([*text.splitlines(), text.splitlines()[1]]), "stamps .* not increase"),
        ("cad60", lambda text: text.removesuffix("END\n"), "does not end with END: it is truncated"),
        ("cad60", lambda text: text.replace("\n2,", "\n1,"), "its frame numbers do not increase"),
        ("bandai_namco", lambda text: text.replace("Hand_R", "Tail"), "has no joint for wrist_right; name them as in"),
        ("bandai_namco", lambda text: text.replace("Zrotation", "Wrotation"), "has the channels .* Wrotation"),
        ("bandai_namco", lambda text: text.replace("OFFSET 0 0 0", "OFFSET 0 0"), "not a BVH file: could not convert"),
        ("bandai_namco", lambda text: text.replace("Zrotation", "Xrotation"), "has the channels Xposition"),
        ("bandai_namco", lambda text: text.replace("Frames:", "Pictures:"), "states no number of frames"),
        ("bandai_namco", lambda text: text.rsplit(" ", 30)[0], "frames of 129: it is truncated"),
    ],
)  # fmt: skip
def test_motion_invalid_content_raises(small, tmp_path, name, change, message):
    file = write_all(name, tmp_path, small)[0]
    source = datasets.source(name, tmp_path)
    entry = next(e for e in source.entries() if e.files["skeleton"] == file)
    file.write_text(change(file.read_text()))
    with pytest.raises(InputError, match=f"{file.name}.*{message}"):
        source.read(entry)


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("msr_action3d", "a01_s01_e01_skeleton3D.txt", "0 0 0 0\n" * 39, "has 39 lines, expected 20 a frame"),
        ("msr_action3d", "a01_s01_e01_skeleton3D.txt", "0 0 0 0\n" * 40, "has no body in 2 frames"),
        ("msr_action3d", "a01_s01_e01_skeleton3D.txt", "0 0 0\n" * 40, "line 1 has 3 columns, expected 4"),
        ("msr_action3d", "a01_s01_e01_skeleton3D.txt", "0 0 5000 0\n" * 40, "more than 1000 m away"),
        ("utkinect", "joints_s01_e01.txt", "1.5 " + "1 " * 60, "a frame number is no whole number"),
        ("utkinect", "joints_s01_e01.txt", "5 " + "1 " * 60, "has no frame from 10 to 14, which actionLabel.txt lists"),
        ("utkinect", "joints_s01_e01.txt", "10 " + "1 " * 59, "line 1 has 60 columns, expected 61"),
    ],
)
def test_motion_invalid_recordings_raise(tmp_path, name, file, text, message):
    (tmp_path / file).write_text(text)
    (tmp_path / "actionLabel.txt").write_text(UTKINECT_LABELS)
    source = datasets.source(name, tmp_path)
    with pytest.raises(InputError, match=message):
        source.read(source.entries()[0])


@pytest.mark.parametrize(
    ("name", "array", "change", "message"),
    [
        ("kard", "xyz", lambda v: v[:, :14], r"xyz is float32 \[\d+, 14, 3\], expected \[frames, 15, 3\]"),
        ("kard", "trial", lambda v: v + 3, "trial holds 4, expected 1 to 3"),
        ("cad60", "length", lambda v: v - 1, "the lengths add up to 117 but xyz holds 120 frames"),
        ("cad60", "action", lambda v: v * 0 + 19, "action holds 19, expected 1 to 18"),
        ("hdm05", "actor", lambda v: v[:2], "names or actor are not of HDM05's eleven classes"),
        ("hdm05", "names", lambda v: v[::-1], "names or actor are not of HDM05's eleven classes"),
        ("kinder_gator", "names", lambda v: v[:9], "names or seconds are not Kinder-Gator's"),
        ("kinder_gator", "seconds", lambda v: v[::-1], "the stamps of .* do not increase"),
        ("bandai_namco", "styles", lambda v: np.char.add(v, "x"), "contents or styles name activex"),
        ("bandai_namco", "content", lambda v: v.astype(float), "content is float64 .*expected 3 whole numbers"),
    ],
)  # fmt: skip
def test_motion_archive_inconsistent_arrays_raises(small, tmp_path, name, array, change, message):
    arrays, _ = arrays_of(small, name)
    np.savez(tmp_path / SOURCES[name].archive, **{**arrays, array: change(arrays[array])})
    with pytest.raises(InputError, match=f"{SOURCES[name].archive}': .*{message}"):
        datasets.create(name, tmp_path)


def test_motion_missing_files_raise(tmp_path):
    for name in ("florence3d", "msr_action3d", "utkinect", "kard"):
        with pytest.raises(DeviceError, match="no folder .*--data or ACTREC_DATA"):
            datasets.source(name, tmp_path / "none").entries()
        with pytest.raises(DeviceError, match=r"holds (no|neither) "):
            datasets.source(name, tmp_path).entries()
    (tmp_path / "joints_s01_e01.txt").write_text(utkinect_text())
    with pytest.raises(
        DeviceError, match=r"holds no actionLabel\.txt, which has the actions of UTKinect: copy it there"
    ):
        datasets.source("utkinect", tmp_path).entries()
    (tmp_path / "HDM_mm_squat1Reps_001_120.amc").write_text("")
    with pytest.raises(
        DeviceError, match=r"holds no HDM_MM\.asf, the skeleton of 'hdm_mm_squat1reps_001_120': copy it there"
    ):
        datasets.source("hdm05", tmp_path).entries()


def test_motion_missing_joints_are_nan(small, tmp_path):
    arrays, clips = arrays_of(small, "kard")
    clips[0][3, 2] = np.nan
    clips[0][4, 2] = 0
    file = WRITERS["kard"](tmp_path, 0, arrays, clips[0])
    body = datasets.source("kard", tmp_path).read(datasets.source("kard", tmp_path).entries()[0]).bodies[0]
    shoulder = np.isnan(body[:, INDEX["shoulder_right"]]).any(-1)
    assert shoulder[3] and shoulder[4] and shoulder.sum() == 2, file


@pytest.mark.parametrize("name", FOLDERS)
def test_motion_archives_are_skeleton_files(small, name):
    path = small / name / SOURCES[name].archive
    sequences = skeleton_files.open_sequences(path)
    assert len(sequences) == 3 and all(s.meta["format"] == name for s in sequences)
    assert skeleton_files.open_sequence(path, 1).meta["label_name"] in SOURCES[name].classes


def test_group_names_of_kinder_gator_are_its_classes(data_root):
    """Every action of the dataset's own list of groups is a class, in its order."""
    groups = json.loads((data_root / "motion/kinder_gator/groups.json").read_text())
    assert len(groups["of_action"]) == len(SOURCES["kinder_gator"].classes)


def test_cad60_person_seen_from_behind_is_the_same_person_turned():
    joints = person(joints=cad60.JOINTS)
    facing = np.stack([joints[j] for j in cad60.JOINTS], axis=1)
    behind = facing * [-1, 1, -1] + [0, 0, 5]  # half a turn about the vertical at 2.5 m
    stamps = np.arange(len(facing)) * 33_333_333
    a, b = (cad60._sequence("a", xyz, stamps, 3, 1).bodies for xyz in (facing, behind))
    np.testing.assert_allclose(b, a * [-1, 1, -1] + [0, 0, 5], atol=1e-5)


def test_cad60_people_at_the_whiteboard_write_before_themselves(data_root):
    source, index = datasets.source("cad60", data_root / "motion/cad60"), KINECT_V2_25.index
    for entry in source.entries():
        if source.classes[entry.label] == "writing on whiteboard":
            body = source.read(entry).bodies[0].astype(np.float64)
            left = body[:, index["shoulder_left"]] - body[:, index["shoulder_right"]]
            up = body[:, index["spine_shoulder"]] - body[:, index["spine_base"]]
            hand = body[:, index["wrist_right"]] - body[:, index["spine_mid"]]
            assert np.median((np.cross(left, up) * hand).sum(-1)) > 0, entry.name
