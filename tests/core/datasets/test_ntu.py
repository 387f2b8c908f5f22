"""NTU RGB+D 60 and 120 as datasets: file search, official splits, incomplete samples, images, bad input."""

import pickle
import shutil

import cv2
import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.base import Entry, LazyStreams
from actrec.datasets.ntu.cameras import fit_cameras
from actrec.datasets.ntu.dataset import SUBJECTS_60, SUBJECTS_120, Ntu60, Ntu120
from actrec.datasets.ntu.skeletons import read_ntu_file
from actrec.perception.lifting import lift
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.errors import ConfigError, DeviceError, InputError
from tests import ntu_text

FIRST = "S001C001P001R001A001"
LIST_60, LIST_120, LIST_BEFORE = Ntu60.lists
HEAD = (
    '{} of the captured samples in the "NTU RGB+D" dataset have missing or incomplete skeleton data.\n'
    "If you are working on skeleton-based analysis, please ignore these files in your training and testing "
    "procedures.\n\n"
)


def name(setup=1, camera=1, subject=1, replication=1, action=1):
    return f"S{setup:03}C{camera:03}P{subject:03}R{replication:03}A{action:03}"


@pytest.fixture
def dataset(tmp_path):
    """Return a function that writes samples with these names, of one person each, and returns their root."""

    def make(*names, frames=12, folder="nturgb+d_skeletons"):
        for sample in names:
            ntu_text.write(tmp_path / folder / f"{sample}.skeleton", {1: ntu_text.person(frames)}, frames)
        return tmp_path

    return make


def entry(**of):
    return Entry(name(**of), of.get("action", 1) - 1, {"setup": 1, "camera": 1, "subject": 1, "action": 1, **of})


def test_ntu_published_recordings_read(data_root):
    clips = datasets.create("ntu60", data_root / "ntu", split="cross_subject", part="train", incomplete="keep")
    assert len(clips) == 11 and clips.names[0] == FIRST and clips.classes[clips.labels[10]] == "rub two hands together"
    assert clips.metas[10] == {"setup": 3, "camera": 1, "subject": 15, "replication": 1, "action": 34}
    for clip in (clips[i] for i in range(len(clips))):
        frames = len(clip.stamps_ns)
        assert clip.bodies.shape == (1, frames, 25, 3) and clip.bodies.dtype == np.float32
        assert clip.streams["pixels"].shape == (1, frames, 25, 2)
    assert len(datasets.create("ntu60", data_root / "ntu", split="cross_view", part="train", incomplete="keep")) == 0
    assert len(datasets.create("ntu120", data_root / "ntu", split="cross_setup", part="test", incomplete="keep")) == 11


def test_ntu_splits_match_official_splits(tmp_path):
    """Training subjects, cameras and setups match the papers and the authors' code."""
    small, large = Ntu60(tmp_path), Ntu120(tmp_path)
    assert len(SUBJECTS_60) == 20 and len(SUBJECTS_120) == 53 and SUBJECTS_60 < SUBJECTS_120
    assert max(SUBJECTS_60) <= 40 and max(SUBJECTS_120) <= 106
    assert len(small.classes) == 60 and len(large.classes) == 120 and len(set(large.classes)) == 120
    assert large.classes[:60] == small.classes
    of_camera = [small.part(entry(camera=camera), "cross_view") for camera in (1, 2, 3)]
    assert of_camera == ["test", "train", "train"]
    of_setup = [large.part(entry(setup=setup), "cross_setup") for setup in range(1, 33)]
    assert of_setup == ["test", "train"] * 16
    of_subject = [large.part(entry(subject=subject), "cross_subject") for subject in (1, 3, 100, 106)]
    assert of_subject == ["train", "test", "train", "test"]
    assert small.part(entry(subject=38), "cross_subject") == "train" != small.part(entry(subject=39), "cross_subject")
    with pytest.raises(ConfigError, match="ntu has split cross_subject, cross_view; got 'cross_setup'"):
        small.part(entry(), "cross_setup")


def test_ntu_both_datasets_in_one_root_read(dataset):
    dataset(name(), name(camera=2, action=60))
    root = dataset(name(setup=18, action=61), name(setup=32, subject=106, action=120), folder="nturgb+d_skeletons120")
    small, large = (datasets.source(which, root, incomplete="keep").entries() for which in ("ntu60", "ntu120"))
    assert [e.label for e in small] == [0, 59] and [e.label for e in large] == [0, 59, 60, 119]
    assert [e.name for e in large] == sorted(e.name for e in large)


@pytest.mark.parametrize("kind", ["ntu60", "nucla", "smarthome"])
def test_source_links_to_folders_add_no_copies(tmp_path, kind):
    """Two links lead back to a parent folder, and one gives a folder a second name."""
    (tmp_path / "a").mkdir()
    for file in (f"{FIRST}.skeleton", "a01_s01_e00_v01.json", "Walk_p02_r00_v01_c01.json"):
        (tmp_path / "a" / file).touch()
    for link in ("a/up", "a/again", "other"):
        (tmp_path / link).symlink_to(tmp_path / "a" if link == "other" else tmp_path)
    options = {"incomplete": "keep"} if kind == "ntu60" else {}
    assert len(datasets.source(kind, tmp_path, **options).entries()) == 1


def test_ntu_incomplete_samples_skipped(dataset):
    bad, good, absent = name(action=2), name(action=3), name(action=4)
    root = dataset(bad, good)
    (root / LIST_60).write_text(HEAD.format(2) + f"{bad}\n{absent}\n")  # a listed file may be missing
    assert [e.name for e in datasets.source("ntu60", root).entries()] == [good]
    assert len(datasets.source("ntu60", root, incomplete="keep").entries()) == 2
    with pytest.raises(DeviceError, match=f"no {LIST_120}.*incomplete=keep"):
        datasets.source("ntu120", root).entries()
    (root / LIST_60).rename(root / LIST_120)  # the list for NTU RGB+D 120 includes 60's
    for which in ("ntu60", "ntu120"):
        assert [e.name for e in datasets.source(which, root).entries()] == [good]
    (root / LIST_120).unlink()
    (root / LIST_BEFORE).write_text(f"{bad}\n")  # the list's earlier file name
    assert [e.name for e in datasets.source("ntu60", root).entries()] == [good]
    with pytest.raises(DeviceError, match=f"no {LIST_120}"):
        datasets.source("ntu120", root).entries()


def test_ntu_hidden_files_ignored(dataset):
    root = dataset(name())
    for hidden in (f"._{name()}.skeleton", f"._{name()}_rgb.avi"):
        (root / hidden).touch()
    (entry,) = datasets.source("ntu60", root, incomplete="keep").entries()
    assert set(entry.files) == {"skeleton"}


def test_ntu_without_list_raises(dataset):
    with pytest.raises(DeviceError, match=f"has no {LIST_60}.*github.com/shahroudy/NTURGB-D.*incomplete=keep"):
        datasets.create("ntu60", dataset(name()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD.format(2) + name(action=2) + "\n", "names 1 samples, its first line expects 2: it is truncated"),
        (HEAD.format(2) + f"{name()}\n{name()}\n", f"line 5: {name()} is listed twice"),
        (HEAD.format(2) + f"{name()}\nS001C002P005\n", "line 5: 'S001C002P005' is not a sample name"),
        ("", "names 0 samples: it is truncated"),
        (HEAD.format(302), "names 0 samples, its first line expects 302"),
    ],
)
def test_ntu_invalid_list_raises(dataset, content, message):
    root = dataset(name())
    (root / LIST_60).write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        datasets.create("ntu60", root)
    assert LIST_60 in str(raised.value)


def test_ntu_invalid_root_raises(dataset, tmp_path):
    with pytest.raises(DeviceError, match="no folder"):
        datasets.create("ntu60", tmp_path / "none", incomplete="keep")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeviceError, match=r"holds no \.skeleton file"):
        datasets.create("ntu60", tmp_path / "empty", incomplete="keep")
    with pytest.raises(ConfigError, match="unknown option incomplet"):
        datasets.create("ntu60", tmp_path, incomplet="keep")
    with pytest.raises(ConfigError, match="'some', allowed: listed, keep"):
        datasets.create("ntu60", tmp_path, incomplete="some")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (f"copy/{name()}.skeleton", r"copy/S001.*' and '.*nturgb.*' belong to the same sample; remove one"),
        (f"{name(action=121)}.skeleton", "has action 121, but NTU RGB.D 120 has 1 to 120"),
        (f"{name(setup=0)}.skeleton", "has setup 0"),
        ("S001C001.skeleton", r"S001C001\.skeleton' is not named SsssCcccPpppRrrrAaaa"),
        (f"{name()} (1).skeleton", "is not named SsssCcccPpppRrrrAaaa"),
    ],
)
def test_ntu_foreign_file_raises(dataset, file, message):
    root = dataset(name())
    (root / file).parent.mkdir(exist_ok=True)
    shutil.copy(root / "nturgb+d_skeletons" / f"{name()}.skeleton", root / file)
    with pytest.raises(InputError, match=message):
        datasets.create("ntu120", root, incomplete="keep")


def test_ntu_two_videos_or_depth_folders_of_one_sample_raises(dataset):
    root = dataset(name())
    for folder in ("rgb", "more"):
        (root / folder).mkdir()
        (root / folder / f"{name()}_rgb.avi").touch()
    with pytest.raises(InputError, match=f"{name()}_rgb.avi' belong to the same sample"):
        datasets.create("ntu60", root, incomplete="keep")
    shutil.rmtree(root / "more")
    for folder in ("nturgb+d_depth_masked", "nturgb+d_depth"):
        (root / folder / name()).mkdir(parents=True)
    (found,) = datasets.source("ntu60", root, incomplete="keep").entries()
    assert found.files["depth"] == root / "nturgb+d_depth" / name()  # preferred to masked maps
    assert found.files["color"] == root / "rgb" / f"{name()}_rgb.avi"
    (root / "again" / name()).mkdir(parents=True)
    with pytest.raises(InputError, match="belong to the same sample"):
        datasets.create("ntu60", root, incomplete="keep")


def test_ntu_folder_with_sample_name_may_hold_any_file(dataset):
    """A folder for each sample may hold skeletons or extracted frames; only depth maps become a stream."""
    root = dataset(name(), folder=f"nturgb+d_skeletons/{name()}")
    for place, file in (("frames", "img_00001.jpg"), ("nturgb+d_depth", "Depth-00000001.png")):
        (root / place / name()).mkdir(parents=True)
        (root / place / name() / file).touch()
    (found,) = datasets.source("ntu60", root, incomplete="keep").entries()
    assert found.files["skeleton"].parent.name == name()
    assert found.files["depth"] == root / "nturgb+d_depth" / name()


def test_ntu_unreadable_samples_raise_and_others_are_read(dataset):
    good, empty, truncated, no_body, missing = (name(action=action) for action in range(1, 6))
    root = dataset(good, empty, truncated, no_body, missing)
    files = {
        sample: root / "nturgb+d_skeletons" / f"{sample}.skeleton" for sample in (empty, truncated, no_body, missing)
    }
    files[empty].write_text("")
    files[truncated].write_text(files[truncated].read_text()[:5000].rsplit(" ", 1)[0])
    files[no_body].write_text("2\n0\n0\n")
    source = datasets.source("ntu60", root, incomplete="keep")
    entries = {e.name: e for e in source.entries()}
    assert source.read(entries[good]).bodies.shape == (1, 12, 25, 3)
    for sample, message in ((empty, "is empty"), (truncated, "is truncated"), (no_body, "has no body in 2 frames")):
        with pytest.raises(InputError, match=f"{sample}.*{message}"):
            source.read(entries[sample])
    files[missing].unlink()
    with pytest.raises(DeviceError, match=missing):
        source.read(entries[missing])


def test_ntu_single_frame_and_missing_joints_read(tmp_path):
    file = ntu_text.write(tmp_path / f"{name()}.skeleton", {1: ntu_text.person(1)}, 1)
    rows = file.read_text().split("\n")
    rows[5] = rows[5][:-1] + "0"  # a joint that was not tracked
    file.write_text("\n".join(rows))
    clip = datasets.create("ntu60", tmp_path, incomplete="keep")[0]
    assert (
        clip.bodies.shape == (1, 1, 25, 3)
        and np.isnan(clip.bodies[0, 0]).any(-1).tolist() == [False, True] + [False] * 23
    )
    assert np.isfinite(clip.sample(1.0, 20)["bodies"][0, :, 0]).all()


def test_ntu_cleaning_options_applied(tmp_path):
    bodies = {1: ntu_text.person(20, flat=True), 2: ntu_text.person(20), 3: ntu_text.person(20, seed=1, x=1, move=0.4)}
    ntu_text.write(tmp_path / f"{name()}.skeleton", bodies, 20)
    every = datasets.create("ntu60", tmp_path, incomplete="keep", spread=0.0, max_bodies=0)
    cleaned, alone = (datasets.create("ntu60", tmp_path, incomplete="keep", max_bodies=most) for most in (2, 1))
    assert [len(clips[0].bodies) for clips in (every, cleaned, alone)] == [3, 2, 1]
    np.testing.assert_array_equal(cleaned[0].bodies[0], alone[0].bodies[0])
    assert len({clips.fingerprint() for clips in (every, cleaned, alone)}) == 3


def test_ntu_source_pickled_keeps_fingerprint(dataset):
    source = Ntu60(dataset(name()), incomplete="keep", max_bodies=1)
    other = pickle.loads(pickle.dumps(source))
    assert other.config == source.config
    assert other.fingerprint(other.entries()) == source.fingerprint(source.entries())


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_depth(data_root, tmp_path_factory):
    """Return the root of the first sample with its video, and depth maps of a wall with a disk at the left hand."""
    root = tmp_path_factory.mktemp("ntu")
    (root / f"{FIRST}.skeleton").symlink_to(data_root / f"ntu/skeleton/{FIRST}.skeleton")
    (root / f"{FIRST}_rgb.avi").symlink_to(data_root / f"ntu/rgb/{FIRST}_rgb.avi")
    recording = read_ntu_file(root / f"{FIRST}.skeleton")
    for t in range(4):
        depth = np.full((424, 512), 4500, np.uint16)
        hand = recording.depth_pixels[0, t, KINECT_V2_25.index["hand_left"]].round().astype(int)
        cv2.circle(depth, hand.tolist(), 8, round(1000 * recording.positions[0, t, 7, 2]), -1)
        folder = root / "nturgb+d_depth_masked" / FIRST
        folder.mkdir(parents=True, exist_ok=True)
        if t != 2:  # the third frame has no depth map
            cv2.imwrite(str(folder / f"MDepth-{t + 1:08}.png"), depth)
    return root


def test_ntu_color_and_pixels_are_not_mirrored(data_root):
    """Published images are mirrored; color and pixels are not."""
    source = datasets.source("ntu60", data_root / "ntu", incomplete="keep", max_side=480)
    entry = source.entries()[0]
    clip = source.read(entry)
    capture = cv2.VideoCapture(str(entry.files["color"]))
    published = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    assert isinstance(clip.streams, LazyStreams)
    first = clip.streams.at("color", np.array([0]))[0]
    assert first.shape == (270, 480, 3) and clip.streams["size"].tolist() == [480, 270]
    mirrored = cv2.resize(published[:, ::-1], (480, 270), interpolation=cv2.INTER_AREA)
    assert np.abs(first.astype(int) - mirrored).mean() < 3 < np.abs(first.astype(int) - mirrored[:, ::-1]).mean()
    pixels = clip.streams["pixels"][0, 0]
    left, right = (pixels[KINECT_V2_25.index[f"shoulder_{side}"], 0] for side in ("left", "right"))
    assert left > right  # the person faces the camera
    np.testing.assert_allclose(np.sign(left - right), np.sign(clip.bodies[0, 0, 4, 0] - clip.bodies[0, 0, 8, 0]))


def test_ntu_frames_depth_registered_to_color(with_depth):
    """The disk at the left hand in the depth map lies at the left hand in the color image."""
    source = datasets.source("ntu60", with_depth, incomplete="keep", max_side=640)
    (entry,) = source.entries()
    clip, hand = source.read(entry), KINECT_V2_25.index["hand_left"]
    pixels, size = clip.streams["pixels"], clip.streams["size"].astype(int).tolist()
    frames = [frame for frame, _ in zip(source.frames(entry), range(3), strict=False)]
    assert [frame.stamp_ns for frame in frames] == clip.stamps_ns[[0, 1, 3]].tolist()  # the third has no depth map
    for frame, t in zip(frames, (0, 1, 3), strict=True):
        frame.check()
        assert frame.depth is not None
        assert [frame.intrinsics.width, frame.intrinsics.height] == size
        u, v = pixels[0, t, hand].round().astype(int)
        assert abs(frame.depth[v, u] - clip.bodies[0, t, hand, 2]) < 0.001
        assert abs(frame.depth[v, size[0] - 1 - u] - 4.5) < 0.001 and np.isnan(frame.depth[:, 0]).all()


def test_ntu_camera_offset_aligns_lifted_joints(with_depth):
    """The color camera is some centimeters beside the depth camera, whose frame joints have."""
    source = datasets.source("ntu60", with_depth, incomplete="keep")
    (entry,) = source.entries()
    clip, hand, frame = source.read(entry), KINECT_V2_25.index["hand_left"], next(source.frames(entry))
    pixels, known = clip.streams["pixels"][0, 0, hand][None], np.ones(1, np.float32)
    lifted, *_ = lift(pixels, None, known, frame.depth, frame.intrinsics)
    assert np.linalg.norm(lifted[0] - clip.bodies[0, 0, hand]) > 0.05
    np.testing.assert_allclose(lifted[0] - source.camera_offset(entry), clip.bodies[0, 0, hand], atol=0.01)


def test_ntu_frames_without_depth_have_color_alone(data_root, dataset):
    source = datasets.source("ntu60", data_root / "ntu", incomplete="keep", max_side=320)
    with_video, without = source.entries()[:2]
    first = next(source.frames(with_video))
    assert first.depth is None and first.color.shape == (180, 320, 3)
    with pytest.raises(InputError, match=f"{without.name}' has no color video"):
        source.frames(without)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "MDepth-00000001.png").write_bytes(b"\x89PNG"), "not an image"),
        (lambda folder: cv2.imwrite(str(folder / "MDepth-00000001.png"), np.zeros((4, 4), np.uint8)), r"uint8\[4, 4\]"),
        (lambda folder: shutil.copy(folder / "MDepth-00000001.png", folder / "Depth-1.png"), "the same frame"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "holds no depth map"),
    ],
)
def test_ntu_invalid_depth_raises(with_depth, tmp_path, damage, message):
    root = tmp_path / "copy"
    shutil.copytree(with_depth, root, symlinks=True)
    damage(root / "nturgb+d_depth_masked" / FIRST)
    source = datasets.source("ntu60", root, incomplete="keep")
    with pytest.raises(InputError, match=message):
        next(source.frames(source.entries()[0]))


def test_ntu_invalid_video_raises(dataset):
    root = dataset(name(), frames=12)
    video = root / f"{name()}_rgb.avi"
    video.write_bytes(b"RIFF but no video")
    source = datasets.source("ntu60", root, incomplete="keep")
    (found,) = source.entries()
    clip = source.read(found)  # skeletons need no video
    assert clip.bodies.shape[1] == 12
    with pytest.raises(InputError, match=f"{name()}_rgb.avi"):
        clip.streams["color"]
    video.unlink()
    with pytest.raises(DeviceError, match=f"{name()}_rgb.avi"):
        source.read(found).streams["color"]


def test_ntu_camera_estimates_agree_between_files(data_root):
    """Fits to different files of one setup and camera give the same focal length."""
    files = sorted((data_root / "ntu/skeleton").glob("S001C001*.skeleton"))
    focal = [fit_cameras(read_ntu_file(file)).color.fx for file in files]
    assert len(files) == 10 and np.std(focal) < 3
