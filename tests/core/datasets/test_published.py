"""N-UCLA, UTD-MHAD and SHREC'17 from the files as published, against the archives of the same recordings."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from actrec import datasets
from actrec.datasets.archive import ArchiveSource
from actrec.datasets.base import Clip, ClipDataset
from actrec.skeleton.layouts import HAND_22
from actrec.utils.errors import ConfigError, DeviceError, InputError


def same(published: ArchiveSource, packed: ArchiveSource, count: int) -> None:
    """Every published item that is there: the archive's clip, number for number, and its part of the split."""
    assert packed.packed and not published.packed
    known, there = {e.name: e for e in packed.entries()}, [e for e in published.entries() if e.files]
    assert len(there) == count
    for entry in there:
        clip, other = published.read(entry), packed.read(known[entry.name])
        assert (clip.name, clip.label, entry.label) == (entry.name, other.label, other.label)
        np.testing.assert_array_equal(clip.bodies, other.bodies)
        np.testing.assert_array_equal(clip.stamps_ns, other.stamps_ns)
        for split in packed.splits:
            assert published.part(entry, split) == packed.part(known[entry.name], split) != ""
        assert {key: entry.meta[key] for key in known[entry.name].meta} == known[entry.name].meta


def folder(root: Path, files) -> Path:
    """Links to files in a folder of their own."""
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, root / file.name)
    return root


# -- N-UCLA ------------------------------------------------------------------------------------------------------------


def test_nucla_files_match_archive(data_root):
    same(datasets.source("nucla", data_root / "nucla/raw"), datasets.source("nucla", data_root / "nucla"), 50)


def test_nucla_view_split_matches_published_split(data_root):
    """Every one of the 1,484 names, and the label of each, as the list that the field shares has them."""
    split = json.loads((data_root / "nucla/split_train_val.json").read_text())
    source = datasets.source("nucla", data_root / "nucla")
    entries = source.entries()
    for part, listed in (("train", split["train"]), ("test", split["val"])):
        ours = {e.name: e.label + 1 for e in entries if source.part(e, "view") == part}
        assert ours == {item["file_name"]: item["label"] for item in listed}
        lengths = {e.name: len(source.read(e).stamps_ns) for e in entries if source.part(e, "view") == part}
        assert lengths == {item["file_name"]: item["length"] for item in listed}


def test_nucla_invalid_files_raise(data_root, tmp_path):
    raw = sorted((data_root / "nucla/raw").glob("*.json"))
    root = folder(tmp_path / "all_sqe", raw[:6])
    (root / raw[0].name).write_text("")
    (root / raw[1].name).write_bytes(raw[1].read_bytes()[:1000])
    content = json.loads(raw[2].read_text())
    for name, change in ((raw[2].name, {"label": 7}), (raw[3].name, {}), (raw[4].name, {"skeletons": []})):
        (root / name).write_text(json.dumps({**content, **change}))
    (root / "split_train_val.json").write_text("{}")  # not a sequence
    source = datasets.source("nucla", tmp_path)
    entries = {e.name: e for e in source.entries()}
    assert len(entries) == 6
    messages = [
        "corrupt or not an N-UCLA",
        "corrupt or not an N-UCLA",
        "of class 7, but its file name",
        "but its file name is",
        "is .0., exp",
    ]
    for file, message in zip(raw, messages, strict=False):
        with pytest.raises(InputError, match=f"{file.name}.*{message}"):
            source.read(entries[file.stem])
    content = json.loads(raw[5].read_text())
    assert source.read(entries[raw[5].stem]).bodies.shape[2:] == (25, 3)
    for joints in (np.zeros((3, 20, 3)), np.ones((1, 20, 3))):  # no person, and a single frame
        (root / raw[5].name).write_text(json.dumps({**content, "skeletons": joints.tolist()}))
        if joints.any():
            assert source.read(entries[raw[5].stem]).bodies.shape == (1, 1, 25, 3)
        else:
            with pytest.raises(InputError, match=f"{raw[5].name}' has no body in 3 frames"):
                source.read(entries[raw[5].stem])
    (root / raw[5].name).unlink()
    with pytest.raises(DeviceError, match=raw[5].name):
        source.read(entries[raw[5].stem])


def test_nucla_uppercase_names_read(data_root, tmp_path):
    for name, raw in (
        ("nucla", "nucla/raw/a01_s01_e00_v01.json"),
        ("utd_mhad", "utd_mhad/skeleton/a1_s1_t1_skeleton.mat"),
    ):
        file = next(iter(sorted((data_root / raw).parent.glob("*" + Path(raw).suffix))))
        (tmp_path / name).mkdir()
        shutil.copy(file, tmp_path / name / file.name.upper())
        source = datasets.source(name, tmp_path / name)
        (entry,) = source.entries()
        assert file.name.startswith(entry.name) and len(source.read(entry).stamps_ns)
        shutil.copy(file, tmp_path / name)
        with pytest.raises(InputError, match="belong to the same sample; remove one"):
            source.entries()


def test_nucla_invalid_folders_raise(data_root, tmp_path):
    with pytest.raises(DeviceError, match=r"holds neither nucla_skeletons\.npz nor the files as published"):
        datasets.create("nucla", tmp_path)
    with pytest.raises(DeviceError, match="no folder .*--data or ACTREC_DATA.*--root"):
        datasets.create("nucla", tmp_path / "none")
    raw = sorted((data_root / "nucla/raw").glob("*.json"))
    folder(tmp_path / "a", raw[:1])
    folder(tmp_path / "b", raw[:1])
    with pytest.raises(InputError, match="belong to the same sample; remove one"):
        datasets.create("nucla", tmp_path)
    (tmp_path / "b" / raw[0].name).rename(tmp_path / "b" / "a07_s01_e00_v01.json")
    with pytest.raises(InputError, match=r"a07_s01_e00_v01\.json' is of an action or a view that N-UCLA does not have"):
        datasets.create("nucla", tmp_path)


def test_archive_duplicate_item_raises(data_root, tmp_path):
    with np.load(data_root / "nucla/nucla_skeletons.npz") as archive:
        arrays = dict(archive)
    frames = int(arrays["length"][:2].sum())
    arrays = {key: value[:2] for key, value in arrays.items() if key != "xyz"} | {"xyz": arrays["xyz"][:frames]}
    arrays["name"][1] = arrays["name"][0]
    np.savez(tmp_path / "nucla_skeletons.npz", **arrays)
    with pytest.raises(InputError, match=f"holds {arrays['name'][0]} twice"):
        datasets.create("nucla", tmp_path)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_archive_clip_without_body_raises_on_read(data_root, tmp_path, missing):
    with np.load(data_root / "nucla/nucla_skeletons.npz") as archive:
        arrays = dict(archive)
    first, second = arrays["length"][:2]
    arrays = {key: value[:2] for key, value in arrays.items() if key != "xyz"} | {
        "xyz": arrays["xyz"][: first + second]
    }
    arrays["xyz"][first:] = missing
    np.savez(tmp_path / "nucla_skeletons.npz", **arrays)
    source = datasets.source("nucla", tmp_path)
    seen, unseen = source.entries()
    assert len(source.read(seen).stamps_ns) == first
    with pytest.raises(InputError, match=rf"nucla_skeletons\.npz': '{unseen.name}' has no body in {second} frames"):
        source.read(unseen)


@pytest.mark.parametrize(
    ("name", "array", "change", "message"),
    [
        ("nucla", "xyz", lambda v: v.astype(str), r"xyz is <U32 .*expected \[frames, 20, 3\]"),
        ("nucla", "name", lambda v: v[:-1], "name does not hold 3 names"),
        ("nucla", "label", lambda v: v - 5, "label holds -4, expected 1 to 10"),
        ("utd_mhad", "length", lambda v: v.astype(float), r"length is float64 \[3\], expected 3 whole numbers"),
        ("utd_mhad", "action", lambda v: v[:-1], r"action is int8 \[2\], expected 3 whole"),
        ("shrec17_28", "finger", lambda v: v + 2, "finger holds 3, expected 1 to 2"),
        ("shrec17_28", "is_train", lambda v: v[:, None], r"is_train is bool \[3, 1\]"),
    ],
)
def test_archive_inconsistent_arrays_raises(data_root, tmp_path, name, array, change, message):
    source = datasets.source(name, data_root / datasets.FAMILIES.get(name, name))
    assert isinstance(source, ArchiveSource)
    with np.load(source.root / source.archive) as archive:
        length = archive["length"][:3]
        arrays = {key: archive[key][: length.sum() if key == "xyz" else 3] for key in archive.files}
    np.savez(tmp_path / source.archive, **{**arrays, array: change(arrays[array])})
    with pytest.raises(InputError, match=f"{source.archive}': .*{message}"):
        datasets.create(name, tmp_path)


# -- UTD-MHAD ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def utd_mhad(data_root, tmp_path):
    """The published folders alone."""
    for kind in ("skeleton", "depth"):
        (tmp_path / kind.capitalize()).symlink_to(data_root / "utd_mhad" / kind)
    return tmp_path


def test_utd_mhad_files_match_archive(data_root, utd_mhad):
    published = datasets.source("utd_mhad", utd_mhad)
    same(published, datasets.source("utd_mhad", data_root / "utd_mhad"), 14)
    assert [e.meta["action"] for e in published.entries()][:3] == [1, 3, 5]  # by number, not by letter
    assert pickle.loads(pickle.dumps(published)).fingerprint(published.entries()) == published.fingerprint(
        published.entries()
    )


def test_utd_mhad_invalid_files_raise(data_root, tmp_path):
    raw = sorted((data_root / "utd_mhad/skeleton").glob("*.mat"))[:4]
    root = folder(tmp_path / "Skeleton", raw)
    (root / raw[0].name).write_bytes(b"")
    (root / raw[1].name).write_bytes(raw[1].read_bytes()[:500])
    shutil.copy(data_root / f"utd_mhad/depth/{raw[2].name.replace('skeleton', 'depth')}", root / raw[2].name)
    source = datasets.source("utd_mhad", tmp_path)
    entries = {f"{e.name}_skeleton.mat": e for e in source.entries()}
    for file, message in zip(raw, ("corrupt or no MATLAB", "corrupt or no MATLAB", "holds no 'd_skel'"), strict=False):
        with pytest.raises(InputError, match=f"{file.name}.*{message}"):
            source.read(entries[file.name])
    assert len(source.read(entries[raw[3].name]).bodies) == 1
    (root / raw[0].name).rename(root / "a28_s1_t1_skeleton.mat")
    with pytest.raises(InputError, match=r"a28_s1_t1_skeleton\.mat' is of an action or a subject"):
        source.entries()


def test_utd_mhad_single_or_no_frame(tmp_path):
    joints = np.random.default_rng(0).normal(0, 0.3, (20, 3))
    savemat(tmp_path / "a1_s1_t1_skeleton.mat", {"d_skel": joints})  # so MATLAB stores 20×3×1
    savemat(tmp_path / "a1_s1_t2_skeleton.mat", {"d_skel": joints[..., None][..., :0]})
    source = datasets.source("utd_mhad", tmp_path)
    one, none = source.entries()
    assert source.read(one).bodies.shape == (1, 1, 25, 3)
    with pytest.raises(InputError, match=r"a1_s1_t2.*d_skel is \[20, 3, 0\], expected"):
        source.read(none)


# -- SHREC'17 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shrec17_14", "shrec17_28"])
def test_shrec17_files_match_archive(data_root, name):
    published, packed = datasets.source(name, data_root / "shrec17/raw"), datasets.source(name, data_root / "shrec17")
    labels = {e.name: (e.label, published.part(e, "official")) for e in published.entries()}
    assert labels == {e.name: (e.label, packed.part(e, "official")) for e in packed.entries()}
    assert sum(part == "train" for _, part in labels.values()) == 1960 and len(labels) == 2800
    same(published, packed, 28)
    assert len(datasets.create(name, data_root / "shrec17/raw", part="test")) == 840  # no clip is read yet


def test_shrec17_unpacked_archive_read(data_root, tmp_path):
    (tmp_path / "HandGestureDataset_SHREC2017").symlink_to(data_root / "shrec17/raw")
    same(datasets.source("shrec17_14", tmp_path), datasets.source("shrec17_14", data_root / "shrec17"), 28)


def test_shrec17_gesture_motion_matches_label(data_root):
    """A V goes on to one side all the while; of a cross the first stroke goes down, the second across."""
    source = datasets.source("shrec17_14", data_root / "shrec17")
    sideways = {"swipe v": [], "swipe +": [], "swipe x": []}
    for entry in source.entries():
        if (name := source.classes[entry.label]) in sideways:
            palm = source.read(entry).bodies[0, :, HAND_22.index["palm"], 0]
            sideways[name].append(abs(np.corrcoef(np.arange(len(palm)), palm)[0, 1]) > 0.8)
    shares = {name: np.mean(told) for name, told in sideways.items()}
    assert shares["swipe v"] > 0.6 and shares["swipe +"] == shares["swipe x"] == 0


@pytest.fixture
def shrec17(data_root, tmp_path):
    """The sequences that are here, half of them in either list."""
    raw, root = data_root / "shrec17/raw", tmp_path / "shrec17"
    root.mkdir()
    for source in sorted(raw.glob("gesture_*/*/*/*/skeletons_world.txt")):
        target = root / source.relative_to(raw)
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    rows = [row for part in ("train", "test") for row in (raw / f"{part}_gestures.txt").read_text().splitlines()]
    there = [row for row in rows if (root / path(row.split())).is_file()]
    for part, listed in (("train", there[:14]), ("test", there[14:])):
        (root / f"{part}_gestures.txt").write_text("\n".join(listed) + "\n")
    return root


def path(row):
    return "gesture_{}/finger_{}/subject_{}/essai_{}/skeletons_world.txt".format(*row[:4])


def rows_of(root, part="train"):
    return [line.split() for line in (root / f"{part}_gestures.txt").read_text().splitlines()]


def test_shrec17_invalid_sequences_raise(shrec17):
    rows = rows_of(shrec17)
    assert len(rows) > 5
    files = [shrec17 / path(row) for row in rows]
    text = files[0].read_text()
    lines = text.rstrip("\n").split("\n")
    half = text[: len(text) // 2].rsplit(" ", 1)[0]
    damage = ["", half, "\n".join(lines[:-1]), "\n".join([*lines[:3], "1 2 3"]), "x " * 66]
    for file, content in zip(files, damage, strict=False):
        file.write_text(content)
    files[5].unlink()
    source = datasets.source("shrec17_14", shrec17)
    entries = {e.name: e for e in source.entries()}
    messages = ["is empty", "columns, expected 66", "frames but the list has", "line 4 has 3 columns", "is corrupt"]
    for row, file, message in zip(rows, files, messages, strict=False):
        with pytest.raises(InputError, match=f"{message}") as raised:
            source.read(entries[str(Path(path(row)).parent)])
        assert str(file) in str(raised.value)
    gone = entries[str(Path(path(rows[5])).parent)]
    assert gone.files == {}
    with pytest.raises(DeviceError, match=path(rows[5])):
        source.read(gone)


@pytest.mark.parametrize("far", [2e3, 1e300])  # the second is more than a float32 holds
def test_source_joints_too_far_away_raises(data_root, shrec17, tmp_path, far):
    content = json.loads((data_root / "nucla/raw/a01_s01_e00_v01.json").read_text())
    content["skeletons"][0][4][1] = far
    (tmp_path / "a01_s01_e00_v01.json").write_text(json.dumps(content))
    savemat(tmp_path / "a1_s1_t1_skeleton.mat", {"d_skel": np.full((20, 3, 2), far)})
    row = rows_of(shrec17)[0]
    text = (shrec17 / path(row)).read_text()
    (shrec17 / path(row)).write_text(text.replace(text.split()[3], str(far), 1))
    for name, root in (("nucla", tmp_path), ("utd_mhad", tmp_path), ("shrec17_14", shrec17)):
        source = datasets.source(name, root)
        with pytest.raises(InputError, match="more than 1000 m away"):
            source.read(source.entries()[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[0]], "is listed twice"),
        (lambda rows: [rows[0][:6], *rows[1:]], "line 1 has 6 columns, expected 7"),
        (lambda rows: [["15", *rows[0][1:]], *rows[1:]], "line 1: no gesture 15"),
        (lambda rows: [[*rows[0][:4], "9", *rows[0][5:]], *rows[1:]], "line 1: labels 9 and"),
        (lambda rows: [["a", *rows[0][1:]], *rows[1:]], "is corrupt"),
        (lambda rows: [], "is empty"),
    ],
)
def test_shrec17_invalid_lists_raise(shrec17, change, message):
    rows = change(rows_of(shrec17))
    (shrec17 / "train_gestures.txt").write_text("\n".join(" ".join(row) for row in rows))
    with pytest.raises(InputError, match=message) as raised:
        datasets.create("shrec17_14", shrec17)
    assert "train_gestures.txt" in str(raised.value)


def test_shrec17_overlapping_or_missing_lists_raise(shrec17):
    shutil.copy(shrec17 / "train_gestures.txt", shrec17 / "test_gestures.txt")
    with pytest.raises(InputError, match=r"train_gestures\.txt and test_gestures\.txt both list gesture_"):
        datasets.create("shrec17_14", shrec17)
    (shrec17 / "test_gestures.txt").unlink()
    with pytest.raises(DeviceError, match="test_gestures"):
        datasets.create("shrec17_14", shrec17)
    (shrec17 / "train_gestures.txt").unlink()
    with pytest.raises(DeviceError, match=r"holds neither shrec17_skeletons\.npz nor train_gestures\.txt"):
        datasets.create("shrec17_14", shrec17)


# -- all of them -------------------------------------------------------------------------------------------------------


ARCHIVES = ["nucla", "utd_mhad", "shrec17_14", "kard", "cad60", "hdm05", "kinder_gator", "bandai_namco"]


@pytest.mark.parametrize("name", ["nucla", "utd_mhad", "shrec17_14", "kard"])
def test_source_unknown_split_or_part_raises(data_root, name):
    root = datasets.folder(data_root, name)
    with pytest.raises(ConfigError, match="has split .*; got 'other'"):
        datasets.create(name, root, split="other")
    with pytest.raises(ConfigError, match="has parts train, test; got 'val'"):
        datasets.create(name, root, part="val")


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_damaged_raises(data_root, tmp_path, name):
    packed = datasets.source(name, datasets.folder(data_root, name))
    assert isinstance(packed, ArchiveSource)
    whole = (packed.root / packed.archive).read_bytes()
    (tmp_path / packed.archive).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=packed.archive):
        datasets.create(name, tmp_path)


@pytest.mark.parametrize(
    ("recorded", "found"),
    [((30, 30, 30), (30.0,)), ((30, 30, 60), (30.0, 30.0, 60.0)), ((15, 30, 30), (15.0, 30.0, 30.0))],
)
def test_frame_rates_are_lowest_median_and_highest(recorded, found):
    clips = [
        Clip(str(number), 0, np.arange(11) * round(1e9 / rate_hz), np.zeros((1, 11, 25, 3), np.float32))
        for number, rate_hz in enumerate(recorded)
    ]
    assert ClipDataset(clips, ("wave",)).frame_rates() == found
