import pickle
import shutil

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from actrec import datasets
from actrec.datasets.store import PreparedDataset
from actrec.datasets.sysu import CLASSES, Sysu, clip_number, read_folds, read_sysu
from actrec.skeleton.layouts import KINECT_V1_20, KINECT_V2_25
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data.preparation import prepare

FRAMES = 6
FOCAL, CENTER = 525.0, (319.5, 239.5)
UPWARDS = {"hip_center": 0.0, "spine": 0.1, "shoulder_center": 0.5, "head": 0.7, "shoulder": 0.45, "elbow": 0.2,
           "wrist": 0.0, "hand": -0.05, "hip": -0.05, "knee": -0.45, "ankle": -0.85, "foot": -0.9}  # fmt: skip
OUT = {"shoulder": 0.18, "elbow": 0.25, "wrist": 0.3, "hand": 0.3, "hip": 0.1, "knee": 0.1, "ankle": 0.1, "foot": 0.1}


def world(t=0):
    """Return the joints [20, 3] of a person who faces the sensor: y up, x to the sensor's left."""
    joints = []
    for name in KINECT_V1_20.joints:
        joint, _, side = name.rpartition("_")
        sign = {"left": -1, "right": 1}.get(side, 0)
        joints.append((sign * OUT.get(joint, 0) + 0.01 * t, UPWARDS.get(name if not sign else joint), 2.5))
    return np.array(joints)


def project(joints, mirrored=False):
    """Return pixels [20, 2]; u decreases as x increases unless the image is mirrored."""
    u = CENTER[0] - FOCAL * joints[:, 0] / joints[:, 2]
    v = CENTER[1] - FOCAL * joints[:, 1] / joints[:, 2]
    return np.stack([639 - u if mirrored else u, v], axis=1)


def write_clip(folder, frames=FRAMES, mirrored=False, images=False):
    folder.mkdir(parents=True, exist_ok=True)
    joints = [world(t) for t in range(frames)]
    savemat(folder / "sklWorld.mat", {"SW": np.stack(joints, axis=-1)})
    savemat(folder / "sklImage.mat", {"S": np.stack([project(j, mirrored) for j in joints], axis=-1)})
    if images:
        (folder / "rgb").mkdir(exist_ok=True)
        for t, j in enumerate(joints):
            image = np.full((480, 640, 3), 40, np.uint8)
            u, v = np.round(project(j, mirrored)[KINECT_V1_20.index["hand_right"]]).astype(int)
            cv2.rectangle(image, (int(u) - 8, int(v) - 8), (int(u) + 8, int(v) + 8), (0, 0, 255), -1)  # red
            cv2.imwrite(str(folder / "rgb" / f"{t + 1}.jpg"), image)
    return folder


@pytest.fixture(scope="module")
def sysu_root(tmp_path_factory):
    """Write all 480 clips with one frame each."""
    root = tmp_path_factory.mktemp("sysu")
    write_clip(root / "one", frames=1)
    world_mat = (root / "one/sklWorld.mat").read_bytes()
    for person in range(40):
        for action in range(1, 13):
            folder = root / f"3DvideoNorm/{'Pp'[person % 2]}{person:02}/video{action}"
            folder.mkdir(parents=True)
            (folder / "sklWorld.mat").write_bytes(world_mat)
    return root


def make_folds(rng, same_subject):
    """Return the training clips of each fold: of half of the subjects, or half of each subject's clips."""
    rows = []
    for _ in range(30):
        if same_subject:
            rows.append([clip_number(s, a) for s in range(1, 41) for a in sorted(rng.permutation(12)[:6] + 1)])
        else:
            rows.append([clip_number(s, a) for s in sorted(rng.permutation(40)[:20] + 1) for a in range(1, 13)])
    return np.array(rows)


def complement(rows):
    return np.array([sorted(set(range(1, 481)) - set(row)) for row in rows])


def test_sysu_joints_in_optical_frame(tmp_path):
    clip, mirrored = read_sysu(write_clip(tmp_path / "video1"), "a")
    assert clip.bodies.shape == (1, FRAMES, 25, 3) and not mirrored
    hand = KINECT_V2_25.index["hand_right"]
    expected = world(3)[KINECT_V1_20.index["hand_right"]] * [-1, -1, 1]
    np.testing.assert_allclose(clip.bodies[0, 3, hand], expected, atol=1e-6)
    np.testing.assert_allclose(clip.pixels[0, 3, hand], project(world(3))[KINECT_V1_20.index["hand_right"]], atol=1e-3)
    # The x axis of the optical frame points right in the image.
    u, x = clip.pixels[0, 0, :, 0], clip.bodies[0, 0, :, 0]
    assert np.corrcoef(u, x)[0, 1] > 0.99


def test_sysu_mirrored_image_flipped_back(tmp_path):
    original, _ = read_sysu(write_clip(tmp_path / "plain"), "a")
    restored, mirrored = read_sysu(write_clip(tmp_path / "mirrored", mirrored=True), "a")
    assert mirrored
    np.testing.assert_allclose(restored.pixels, original.pixels, atol=1e-3)


def test_sysu_missing_joints_and_single_frame_read(tmp_path):
    folder = write_clip(tmp_path / "video1")
    joints = np.stack([world(t) for t in range(FRAMES)], axis=-1)
    joints[KINECT_V1_20.index["foot_left"], :, 2] = 0
    savemat(folder / "sklWorld.mat", {"SW": joints})
    sequence, _ = read_sysu(folder, "a")
    foot = KINECT_V2_25.index["foot_left"]
    assert np.isnan(sequence.bodies[0, 2, foot]).all() and np.isnan(sequence.pixels[0, 2, foot]).all()
    assert np.isfinite(sequence.bodies[0, 1, foot]).all()
    assert len(read_sysu(write_clip(tmp_path / "short", frames=1), "a")[0]) == 1


@pytest.mark.parametrize(("file", "value", "message"), [
    ("sklWorld.mat", {"SW": np.zeros((20, 3, 4))}, "has no body in 4 frames"),
    ("sklWorld.mat", {"SW": np.ones((19, 3, 4))}, r"is \[19, 3, 4\], expected \[20, 3, frames\]"),
    ("sklWorld.mat", {"SW": np.zeros((20, 3, 0))}, r"expected \[20, 3, frames\]"),
    ("sklWorld.mat", {"X": np.ones(3)}, "holds no 'SW' but X"),
    ("sklWorld.mat", {"SW": np.stack([1000 * world(t) for t in range(3)], -1)}, "not in the Kinect's space"),
    ("sklWorld.mat", {"SW": np.stack([world(t) * [1, -1, 1] for t in range(3)], -1)}, "not in the Kinect's space"),
    ("sklWorld.mat", {"SW": "text"}, "'SW' is <U4, expected numbers"),
    ("sklImage.mat", {"S": np.ones((20, 2, 4))}, "has 4 frames but 'sklWorld.mat' 6"),
    ("sklImage.mat", {"S": np.ones((20, 3, 6))}, r"expected \[20, 2, frames\]"),
])  # fmt: skip
def test_sysu_invalid_file_raises(tmp_path, file, value, message):
    folder = write_clip(tmp_path / "video1")
    savemat(folder / file, value)
    with pytest.raises(InputError, match=f"{file}'.*{message}"):
        read_sysu(folder, "a")


def test_sysu_truncated_empty_or_missing_file_raises(tmp_path):
    folder = write_clip(tmp_path / "video1")
    path = folder / "sklWorld.mat"
    for content in (path.read_bytes()[:300], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"sklWorld\.mat' is corrupt or no MATLAB file"):
            read_sysu(folder, "a")
    path.unlink()
    with pytest.raises(DeviceError, match="there is no file"):
        read_sysu(folder, "a")


def test_sysu_entries_and_folds_read(sysu_root):
    rng = np.random.default_rng(1)
    subject_rows = make_folds(rng, same_subject=False)
    savemat(sysu_root / "cross_subject_folds.mat", {"train": subject_rows, "test": complement(subject_rows)})
    cells = np.empty((1, 30), object)
    same_rows = make_folds(rng, same_subject=True)
    for k in range(30):
        cells[0, k] = same_rows[k][:, None]
    savemat(sysu_root / "same_subject_folds.mat", {"trainIndex": cells})
    source = Sysu(sysu_root)
    entries = source.entries()
    assert len(entries) == 480 and len({entry.name for entry in entries}) == 480
    assert (entries[0].name, entries[12].name, entries[-1].name) == ("P00_video1", "P02_video1", "p39_video12")
    assert [entry.label for entry in entries[:12]] == list(range(12)) and len(CLASSES) == 12
    assert Sysu.folds == 30
    for fold in (1, 17, 30):
        for split, rows in (("cross_subject", subject_rows), ("same_subject", same_rows)):
            dataset = Sysu(sysu_root, fold=fold)
            parts = [dataset.part(entry, split) for entry in entries]
            assert [n + 1 for n, part in enumerate(parts) if part == "train"] == sorted(rows[fold - 1])
            assert parts.count("test") == 240
    train = datasets.create("sysu", sysu_root, split="cross_subject", part="train", fold=3)
    test = datasets.create("sysu", sysu_root, split="cross_subject", part="test", fold=3)
    subjects = [{meta["subject"] for meta in part.metas} for part in (train, test)]
    assert not subjects[0] & subjects[1] and len(train) == len(test) == 240
    assert pickle.loads(pickle.dumps(source)).part(entries[5], "same_subject") in ("train", "test")
    assert source.fingerprint(entries[:3]) == Sysu(sysu_root, fold=9).fingerprint(entries[:3])


def test_sysu_folds_of_subjects_read(sysu_root, tmp_path):
    rng = np.random.default_rng(2)
    subjects = np.array([sorted(rng.permutation(40)[:20] + 1) for _ in range(30)])
    savemat(tmp_path / "a.mat", {"tr_train_subjects": subjects.T})  # one column per fold
    folds = read_folds(tmp_path / "a.mat", "cross_subject")
    expected = ["train" if (n - 1) // 12 + 1 in subjects[4] else "test" for n in (1, 240, 480)]
    assert [next(part for part in folds[4] if n in folds[4][part]) for n in (1, 240, 480)] == expected
    savemat(tmp_path / "b.mat", {"train": subjects, "test": [sorted(set(range(1, 41)) - set(row)) for row in subjects]})
    assert read_folds(tmp_path / "b.mat", "cross_subject") == folds
    listed = [entry for entry in Sysu(sysu_root).entries() if entry.name in ("P00_video1", "p39_video12")]
    listed_source = Sysu(sysu_root, cross_subject_folds=str(tmp_path / "b.mat"), fold=5)  # without a call of `entries`
    assert [listed_source.part(e, "cross_subject") for e in listed] == [expected[0], expected[2]]
    source = Sysu(sysu_root, cross_subject_folds=str(tmp_path / "b.mat"))
    assert source.part(source.entries()[0], "cross_subject") in ("train", "test")


def changed_folds(change):
    rows = make_folds(np.random.default_rng(3), same_subject=False)
    arrays = {"train": rows, "test": complement(rows)}
    return change(arrays) or arrays


@pytest.mark.parametrize(("change", "message"), [
    (lambda a: {"train": a["train"][:29]}, r"'train' \[29, 240\] is not 30 folds"),
    (lambda a: {"x": a["train"]}, "has no array named train or test; it has: x"),
    (lambda a: {**a, "train2": a["train"]}, "several arrays named train"),
    (lambda a: a["train"].__setitem__((4, 0), 481), "fold 5 names 481, but there are 1 to 480"),
    (lambda a: a["train"].__setitem__((4, 0), 0), "fold 5 names 0"),
    (lambda a: a["train"].__setitem__((4, 0), a["train"][4, 1]), "fold 5 names .* twice"),
    (lambda a: a["test"].__setitem__((6, 0), a["train"][6, 0]), "fold 7 trains and tests on clip"),
    (lambda a: {"train": a["train"] + 0.5}, "of fold 1 is not whole numbers"),
    (lambda a: {"train": a["train"] + np.inf}, "of fold 1 is not whole numbers"),
    (lambda a: {"train": a["train"] + 0j * 1j}, "of fold 1 is not whole numbers"),
    (lambda a: {"train": a["train"], "test": a["test"][:, :-36]}, "fold 1 neither trains nor tests on 36 of the 480"),
])  # fmt: skip
def test_sysu_invalid_lists_raise(tmp_path, change, message):
    savemat(tmp_path / "folds.mat", changed_folds(change))
    with pytest.raises(InputError, match=rf"folds\.mat'.*{message}"):
        read_folds(tmp_path / "folds.mat", "cross_subject")


def test_sysu_list_of_other_split_raises(tmp_path):
    savemat(tmp_path / "folds.mat", {"train": make_folds(np.random.default_rng(4), same_subject=True)})
    with pytest.raises(InputError, match="trains and tests on subject 1: .* cross_subject"):
        read_folds(tmp_path / "folds.mat", "cross_subject")
    savemat(tmp_path / "folds.mat", {"train": make_folds(np.random.default_rng(4), same_subject=False)})
    with pytest.raises(InputError, match="has no subject in both parts: it is not a list of split same_subject"):
        read_folds(tmp_path / "folds.mat", "same_subject")


def test_sysu_folds_halved_by_action_accepted(tmp_path):
    """As in the paper, a person's clips may all be in one part."""
    rng = np.random.default_rng(5)
    rows = [[clip_number(s, a) for a in range(1, 13) for s in rng.permutation(40)[:20] + 1] for _ in range(30)]
    savemat(tmp_path / "folds.mat", {"train": np.array(rows)})
    assert len(read_folds(tmp_path / "folds.mat", "same_subject")) == 30


def test_sysu_incomplete_root_raises(tmp_path):
    with pytest.raises(DeviceError, match="there is no folder"):
        Sysu(tmp_path / "gone").entries()
    with pytest.raises(DeviceError, match="holds no <person>/video<n>/sklWorld.mat"):
        Sysu(tmp_path).entries()
    write_clip(tmp_path / "3DvideoNorm/BoTong/video1")
    source = Sysu(tmp_path)
    with pytest.raises(
        DeviceError, match=r"there is no '.*same_subject_folds\.mat', the authors' 30 folds.*option same_"
    ):
        source.part(source.entries()[0], "same_subject")
    with pytest.raises(ConfigError, match="cross_subject, same_subject; got 'view'"):
        source.part(source.entries()[0], "view")
    with pytest.raises(ConfigError, match="fold is 31, allowed: 1 to 30"):
        Sysu(tmp_path, fold=31)
    with pytest.raises(DeviceError, match=r"there is no '.*mine\.mat', the authors' 30 folds"):
        datasets.create("sysu", tmp_path, split="cross_subject", cross_subject_folds="mine.mat")
    savemat(tmp_path / "cross_subject_folds.mat", {"train": make_folds(np.random.default_rng(5), same_subject=False)})
    with pytest.raises(InputError, match="holds 1 subjects, but .* counts 40: copy the others"):
        Sysu(tmp_path).entries()
    assert Sysu(tmp_path).splits == ("cross_subject",)  # the other split has no list
    with pytest.raises(DeviceError, match="there is no .*same_subject_folds"):
        datasets.create("sysu", tmp_path, split="same_subject")
    (tmp_path / "cross_subject_folds.mat").unlink()
    write_clip(tmp_path / "3DvideoNorm/BoTong/video13")
    with pytest.raises(InputError, match="video13' is not one of video1 to video12"):
        Sysu(tmp_path).entries()


def test_prepare_sysu_lists_required_first_and_new_lists_reuse_clips(sysu_root, tmp_path):
    """A clip whose part changes is not read again."""
    root = tmp_path / "sysu"
    shutil.copytree(sysu_root / "3DvideoNorm", root / "3DvideoNorm")
    with pytest.raises(DeviceError, match=r"there is no '.*cross_subject_folds\.mat'"):
        prepare("sysu", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folds = make_folds(np.random.default_rng(6), same_subject=False)
    savemat(root / "cross_subject_folds.mat", {"train": folds})
    first = prepare("sysu", root, tmp_path / "out")
    assert (first.prepared, first.skipped) == (480, [])
    with pytest.raises(ConfigError, match="has split cross_subject; got 'same_subject'"):
        PreparedDataset(tmp_path / "out").part("same_subject", "train")
    savemat(root / "same_subject_folds.mat", {"train": make_folds(np.random.default_rng(6), same_subject=True)})
    savemat(root / "cross_subject_folds.mat", {"test": folds})
    second = prepare("sysu", root, tmp_path / "out")
    assert (second.prepared, second.fingerprint) == (0, first.fingerprint)
    store = PreparedDataset(tmp_path / "out")
    assert len(store.part("same_subject", "train", fold=30)) == 240
    numbers = [clip_number(meta["subject"], meta["action"]) for meta in store.part("cross_subject", "test", 2).metas]
    assert numbers == sorted(folds[1])


def test_prepare_sysu_listed_clip_without_file_skipped(sysu_root, tmp_path):
    root = tmp_path / "sysu"
    shutil.copytree(sysu_root / "3DvideoNorm", root / "3DvideoNorm")
    savemat(root / "cross_subject_folds.mat", {"train": make_folds(np.random.default_rng(7), same_subject=False)})
    (root / "3DvideoNorm/P02/video3/sklWorld.mat").unlink()
    summary = prepare("sysu", root, tmp_path / "out")
    assert summary.clips == 479 and [item["name"] for item in summary.skipped] == ["P02_video3"]
    assert "there is no 'P02/video3/sklWorld.mat'" in summary.skipped[0]["reason"]


@pytest.mark.parametrize("inner", ["", "3DvideoNorm", "SYSU3DAction/3DvideoNorm", "SYSU3DAction"])
def test_sysu_unpacked_archive_read(tmp_path, inner):
    write_clip(tmp_path / inner / "BoTong/video2")
    (tmp_path / inner / "matlabcode").mkdir()  # a folder of the archive
    assert [entry.name for entry in Sysu(tmp_path).entries()] == ["BoTong_video2"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_sysu_color_aligned_with_joints(tmp_path, mirrored):
    write_clip(tmp_path / "BoTong/video2", mirrored=mirrored, images=True)
    source = Sysu(tmp_path, max_side=320)
    clip = source.read(source.entries()[0])
    assert (clip.name, clip.label) == ("BoTong_video2", 1)
    assert set(clip.streams) == {"color", "size", "pixels", "motion"} and clip.streams["size"].tolist() == [320, 240]
    hand = KINECT_V2_25.index["hand_right"]
    sampled = clip.at_stamps(clip.stamps_ns[[0, 5]])
    for t in range(2):
        u, v = np.round(sampled["pixels"][0, t, hand]).astype(int)
        assert sampled["color"][t, v, u, 0] > 150 > sampled["color"][t, v, u, 2]
    assert len(list(source.frames(source.entries()[0]))) == FRAMES
    (tmp_path / "BoTong/video2/rgb/3.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"3\.jpg' .*truncated"):
        clip.streams["color"]
    (tmp_path / "BoTong/video2/rgb/3.jpg").unlink()  # later images would shift by one frame
    with pytest.raises(InputError, match=r"rgb' lacks images between '2\.jpg' and '4\.jpg'"):
        source.read(source.entries()[0]).streams["color"]
    for n in range(4, FRAMES + 1):  # one image per skeleton frame, although the numbers have a gap
        folder = tmp_path / "BoTong/video2/rgb"
        (folder / f"{n}.jpg").rename(folder / f"0{n + 1}.jpg")
    (folder / "3.jpg").write_bytes((folder / "2.jpg").read_bytes())
    assert len(source.read(source.entries()[0]).streams["color"]) == FRAMES


def test_sysu_without_images_or_pixels(tmp_path):
    write_clip(tmp_path / "BoTong/video2")
    source = Sysu(tmp_path)
    assert set(source.read(source.entries()[0]).streams) == {"pixels", "size"}
    with pytest.raises(InputError, match="no camera frames here: there is no folder BoTong/video2/rgb in"):
        source.frames(source.entries()[0])
    (tmp_path / "BoTong/video2/sklImage.mat").unlink()
    assert not source.read(source.entries()[0]).streams
