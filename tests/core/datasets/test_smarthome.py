import json
import pickle

import av
import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.smarthome import (
    CLASSES,
    CLASSES_CROSS_VIEW,
    Smarthome,
    SmarthomeConfig,
    parse_name,
    read_smarthome,
)
from actrec.skeleton.layouts import KINECT_V2_25, LCRNET_13, convert
from actrec.utils.camera_model import KINECT_V1, project
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.geometry import rotation

NAME = "Cook.Cleanup_p02_r00_v02_c03"
HEIGHTS = {"ankle": 0.8, "knee": 0.4, "hip": 0.0, "wrist": 0.0, "elbow": -0.25, "shoulder": -0.5}
HALF_WIDTHS = {"ankle": 0.1, "knee": 0.1, "hip": 0.12, "wrist": 0.3, "elbow": 0.25, "shoulder": 0.18}


def person(x=0.0, z=3.0, t=0):
    """Return the joints [13, 3] of a person at (x, z) in the optical frame who waves with the right hand."""
    joints = {}
    for side, sign in (("right", -1), ("left", 1)):
        joints |= {f"{joint}_{side}": (x + sign * HALF_WIDTHS[joint], y, z) for joint, y in HEIGHTS.items()}
    joints["head"] = (x, -0.75, z - 0.05)
    joints["wrist_right"] = (x - 0.4, -0.6, z - 0.2 - 0.02 * t)
    return np.array([joints[name] for name in LCRNET_13.joints])


def published(people, axes=(-1, -1, 1), score=3.0):
    """Return a frame as published: relative to the person's center, in LCR-Net's axes (y up, x to the image's left)."""
    frame = []
    for joints in people:
        pose = (joints - joints.mean(axis=0)) * axes
        frame.append({
            "pose2d": project(joints, KINECT_V1).T.reshape(-1).tolist(), "pose3d": pose.T.reshape(-1).tolist(),
            "cumscore": score,
        })  # fmt: skip
    return frame


def write(folder, name=NAME, frames=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    frames = [published([person(t=t)]) for t in range(12)] if frames is None else frames
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"njts": 13, "K": 20, "frames": frames, **more}))
    return path


@pytest.mark.parametrize("axes", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
def test_smarthome_joints_match_person_position(tmp_path, axes):
    truth = [person(x=0.02 * t, t=t) for t in range(20)]
    read = read_smarthome(write(tmp_path, frames=[published([joints], axes) for joints in truth]))
    expected = convert(np.stack(truth), np.ones((20, 13)), "lcrnet_13")[0]
    assert read.bodies.shape == (1, 20, 25, 3) and read.bodies.dtype == np.float32
    np.testing.assert_allclose(read.bodies[0, 5:15], expected[5:15], atol=0.02)
    # The right hand waves in front of the person: left, right and depth are not exchanged.
    hand, base = KINECT_V2_25.index["wrist_right"], KINECT_V2_25.index["spine_base"]
    assert (read.bodies[0, :, hand, 2] < read.bodies[0, :, base, 2]).all()
    np.testing.assert_allclose(read.pixels[0, 3, hand], project(truth[3][6], KINECT_V1), atol=0.01)
    assert read.stamps_ns[1] == 50_000_000  # 20 Hz
    assert read.label == CLASSES.index("Cook.Cleanup") + 1
    assert (read.meta["subject"], read.meta["camera"], read.name) == (2, 3, NAME)


def test_smarthome_noisy_poses_keep_orientation(tmp_path):
    rng, frames, truth = np.random.default_rng(5), [], [person(t=t) for t in range(20)]
    for joints in truth:
        frame = published([joints + rng.normal(0, 0.04, joints.shape)])
        frame[0]["pose2d"] = (np.array(frame[0]["pose2d"]) + rng.normal(0, 4, 26)).tolist()
        frames.append(frame)
    read = read_smarthome(write(tmp_path, frames=frames))
    expected = convert(np.stack(truth), np.ones((20, 13)), "lcrnet_13")[0]
    relative = [bodies - bodies.mean(axis=1, keepdims=True) for bodies in (read.bodies[0], expected)]
    assert np.linalg.norm(relative[0] - relative[1], axis=-1).mean() < 0.1
    assert np.abs((read.bodies[0] - expected).mean(axis=1)).max() < 0.3  # at 3 m


def test_smarthome_poses_of_other_camera_rotated(tmp_path):
    turned, truth = [], []
    other = rotation(0, 1.45) @ rotation(1, 0.9)  # z up, another viewing direction
    for t in range(24):
        joints = person(t=t)
        middle = joints.mean(axis=0)
        truth.append((joints - middle) @ rotation(1, 0.2 * t).T + middle)  # the person turns
        frame = published([truth[-1]], axes=1)
        pose = np.reshape(frame[0]["pose3d"], (3, 13)).T @ other.T
        turned.append([{**frame[0], "pose3d": pose.T.reshape(-1).tolist()}])
    read = read_smarthome(write(tmp_path, frames=turned))
    expected = convert(np.stack(truth), np.ones((24, 13)), "lcrnet_13")[0]
    assert np.linalg.norm(read.bodies[0, 4:20] - expected[4:20], axis=-1).mean() < 0.05


def test_smarthome_people_tracked_and_sorted_by_visibility(tmp_path):
    frames = []
    for t in range(30):
        near, far = person(x=-1.0 + 0.05 * t, z=3.0), person(x=1.0, z=4.5)
        here = [far, near] if t % 2 else [near, far]  # the order in the file changes
        if 10 <= t < 14:
            here = [far]  # the near person is not detected for some frames
        if t >= 20:
            here = [*here, person(x=0.0, z=6.0)]
        frames.append(published(here))
    read = read_smarthome(write(tmp_path, frames=frames))
    assert len(read.bodies) == 2  # the two of three people with most frames
    base = KINECT_V2_25.index["spine_base"]
    assert np.abs(read.bodies[0, :, base, 0] - 1.0).max() < 0.05  # the far person, in every frame
    near = read.bodies[1, :, base, 0]
    assert np.isnan(near[10:14]).all() and np.isfinite(np.delete(near, range(10, 14))).all()
    assert np.nanmax(np.abs(near - (-1.0 + 0.05 * np.arange(30)))) < 0.25
    everybody = read_smarthome(write(tmp_path, frames=frames), SmarthomeConfig(bodies=8))
    assert len(everybody.bodies) == 3


def test_smarthome_depth_error_keeps_identity(tmp_path):
    frames = [published([person(z=4.0, t=t)]) for t in range(20)]
    for frame in frames[3:16:4]:  # estimated as a child, which is 1.2 m nearer
        frame[0]["pose3d"] = (0.7 * np.array(frame[0]["pose3d"])).tolist()
    read = read_smarthome(write(tmp_path, frames=frames))
    assert len(read.bodies) == 1 and np.isfinite(read.bodies).all()
    assert (
        np.nanmax(np.abs(read.bodies[0, :, KINECT_V2_25.index["spine_mid"], 2] - 4.0)) < 0.1
    )  # at the median position


@pytest.mark.parametrize("marker", [0.0, -1.0])
def test_smarthome_person_without_pixels_missing(tmp_path, marker):
    frames = [published([person(t=t)]) for t in range(12)]
    for frame in frames:  # relative to the feet
        frame[0]["pose3d"] = np.add(frame[0]["pose3d"], np.repeat([0.0, 0.9, 0.0], 13)).tolist()
    for frame in frames[4:7]:
        frame[0]["pose2d"] = [marker] * 26
    read = read_smarthome(write(tmp_path, frames=frames))
    assert len(read.bodies) == 1 and np.isnan(read.bodies[0, 4:7]).all()
    assert np.isfinite(np.delete(read.bodies[0], range(4, 7), axis=0)).all()


def test_smarthome_outlier_poses_keep_others(tmp_path):
    rng = np.random.default_rng(0)
    truth = [person(x=0.02 * t, t=t) for t in range(20)]
    frames = [published([joints]) for joints in truth]
    for frame in frames[:9]:  # poses from before the person is visible
        frame[0]["pose3d"] = rng.normal(0, 0.4, 39).tolist()
    read = read_smarthome(write(tmp_path, frames=frames))
    expected = convert(np.stack(truth), np.ones((20, 13)), "lcrnet_13")[0]
    last = [np.isfinite(body).all(axis=(1, 2))[12:].all() for body in read.bodies].index(True)
    np.testing.assert_allclose(read.bodies[last, 12:, 5:15], expected[12:, 5:15], atol=0.1)


@pytest.mark.parametrize("marker", [0.0, -1.0])
def test_smarthome_joints_without_pixels_missing(tmp_path, marker):
    truth = [person(x=0.02 * t, t=t) for t in range(20)]
    frames = [published([joints]) for joints in truth]
    unseen = [LCRNET_13.index["ankle_left"], LCRNET_13.index["elbow_right"]]
    for frame in frames[5:]:  # refined from one estimator that lost the person
        pixels = np.reshape(frame[0]["pose2d"], (2, 13))
        pixels[:, unseen] = marker
        frame[0]["pose2d"] = pixels.reshape(-1).tolist()
    read = read_smarthome(write(tmp_path, frames=frames))
    expected = convert(np.stack(truth), np.ones((20, 13)), "lcrnet_13")[0]
    seen = np.isfinite(read.bodies[0]).all(axis=-1)
    missing = [KINECT_V2_25.index[joint] for joint in ("ankle_left", "elbow_right")]
    assert len(read.bodies) == 1 and seen[:5].all() and not seen[5:, missing].any() and seen[5:, :3].all()
    np.testing.assert_allclose(read.bodies[0][seen], expected[seen], atol=0.02)
    np.testing.assert_array_equal(np.isfinite(read.pixels[0]).all(axis=-1), seen)


def test_smarthome_single_or_empty_frames_read(tmp_path):
    assert read_smarthome(write(tmp_path, frames=[published([person()])])).bodies.shape == (1, 1, 25, 3)
    read = read_smarthome(write(tmp_path, frames=[[], published([person()]), []]))
    assert np.isnan(read.bodies[0, [0, 2]]).all() and np.isfinite(read.bodies[0, 1]).all()


def changed(key, change):
    frames = [published([person()]) for _ in range(3)]
    frames[1][0][key] = change(frames[1][0][key])
    return frames


@pytest.mark.parametrize(("frames", "message"), [
    ([[], []], "has no body in 2 frames"),
    ([], "holds no frames"),
    (changed("pose3d", lambda v: v[:-1]), r"frame 2, 'pose3d' has shape \[38\]"),
    (changed("pose2d", lambda v: [*v[:-1], float("nan")]), "frame 2, 'pose2d' .* not finite"),
    (changed("pose2d", lambda v: [1e300, *v[1:]]), "frame 2, 'pose2d' .* too large"),
    (changed("pose3d", lambda v: [*v[:-1], 2e3]), "frame 2, 'pose3d' .* too large.* 3 × 13 numbers below 1000"),
    (changed("pose2d", lambda v: ["a"] * 26), "frame 2, 'pose2d' has values that are not numbers"),
    (changed("pose2d", lambda v: v + [0] * 8), r"'pose2d' has shape \[34\].*expected 2 × 13"),
    ([[{"pose2d": [0] * 26}]], "without 'pose3d': take the skeletons with 3D poses"),
    ([3], "frame 1 is not a list of persons"),
    ([["x"]], "frame 1 has a person without"),
])  # fmt: skip
def test_smarthome_invalid_file_raises(tmp_path, frames, message):
    path = write(tmp_path, frames=frames)
    with pytest.raises(InputError, match=f"{NAME}.json.*{message}"):
        read_smarthome(path)


def test_smarthome_other_units_or_people_raises(tmp_path):
    millimetres = [published([person()], axes=(-1000, -1000, 1000)) for _ in range(3)]
    with pytest.raises(InputError, match="not in meters"):
        read_smarthome(write(tmp_path, frames=millimetres))
    strange = [published([person()]) for _ in range(3)]
    for frame in strange:
        frame[0]["pose2d"] = np.random.default_rng(0).uniform(0, 480, 26).tolist()
    with pytest.raises(InputError, match="does not project to 'pose2d'"):
        read_smarthome(write(tmp_path, frames=strange))


def test_smarthome_truncated_missing_or_foreign_file_raises(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text()[:500])
    with pytest.raises(InputError, match=f"{NAME}.json' is truncated or not JSON"):
        read_smarthome(path)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="holds no 'frames'"):
        read_smarthome(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is truncated or not JSON"):
        read_smarthome(path)
    with pytest.raises(DeviceError, match="check the path"):
        read_smarthome(tmp_path / "gone.json")


def test_smarthome_names_parsed():
    assert parse_name("Walk_p25_r12_v15_c06_pose3d") == {
        "activity": "Walk", "subject": 25, "recording": 12, "video": 15, "camera": 6,
    }  # fmt: skip
    assert parse_name("labels") == {}


@pytest.fixture
def root(tmp_path):
    for name in ("Walk_p03_r00_v01_c01", "Walk_p02_r00_v01_c02", "Walk_p02_r01_v01_c05",
                 "Drink.Fromcup_p02_r00_v01_c06", "WatchTV_p03_r00_v01_c01", "WatchTV_p02_r00_v01_c02"):  # fmt: skip
        write(tmp_path / "json", name)
    (tmp_path / "json" / "notes.json").write_text("{}")
    return tmp_path


def names(clips):
    return list(clips.names)


def test_smarthome_splits_match_published_splits(root):
    def part(split, part, **options):
        return [name[:-12] for name in names(datasets.create("smarthome", root, split=split, part=part, **options))]

    assert part("cross_subject", "train") == ["Walk_p03", "WatchTV_p03"]
    assert len(part("cross_subject", "test")) == 4
    assert part("cross_view_1", "train") == ["Walk_p03"]  # WatchTV is not one of the 19 activities
    assert part("cross_view_1", "test") == ["Walk_p02"]  # camera 5 is in neither part
    assert part("cross_view_2", "train") == ["Drink.Fromcup_p02", "Walk_p03"]
    assert part("cross_view_2", "train", activities="cross_view") == ["Drink.Fromcup_p02", "Walk_p03"]
    with pytest.raises(ConfigError, match="cross_view_1, cross_view_2; got 'cross_view'"):
        part("cross_view", "train")


def test_smarthome_classes_follow_activities():
    assert list(CLASSES) == sorted(CLASSES)  # the authors' order
    assert len(set(CLASSES)) == 31 and len(set(CLASSES_CROSS_VIEW)) == 19 and set(CLASSES_CROSS_VIEW) < set(CLASSES)


def test_smarthome_labels_follow_classes(root):
    everything = Smarthome(root)
    some = Smarthome(root, activities="cross_view")
    assert everything.classes == CLASSES and some.classes == CLASSES_CROSS_VIEW
    for source in (everything, some):
        for entry in source.entries():
            assert source.classes[entry.label] == entry.meta["activity"]
    assert len(some.entries()) == 4
    assert everything.fingerprint(everything.entries()) != some.fingerprint(some.entries())
    assert pickle.loads(pickle.dumps(some)).classes == CLASSES_CROSS_VIEW
    assert Smarthome.measure == "mean_class_accuracy"


def test_smarthome_invalid_root_raises(root, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DeviceError, match="holds no skeletons"):
        Smarthome(empty).entries()
    with pytest.raises(DeviceError, match="there is no folder"):
        Smarthome(empty / "gone").entries()
    write(root / "again", "Walk_p03_r00_v01_c01")
    with pytest.raises(InputError, match=r"Walk_p03_r00_v01_c01.*belong to the same sample"):
        Smarthome(root).entries()
    with pytest.raises(ConfigError, match="activities"):
        Smarthome(root, activities="some")


def test_smarthome_clips_of_unknown_activity_skipped_with_warning(root, caplog):
    known = Smarthome(root).entries()
    write(root, "Pour.Fromcup_p03_r00_v01_c01")  # a spelling in the published lists
    assert Smarthome(root).entries() == known
    assert "1 clips are of no Smarthome activity, first Pour.Fromcup_p03_r00_v01_c01: skipping them" in caplog.text


def test_smarthome_videos_without_skeletons_warn(root, caplog):
    known = Smarthome(root).entries()
    (root / "Walk_p03_r00_v05_c01.mp4").touch()
    assert Smarthome(root).entries() == known
    assert "1 videos have no skeletons, first 'Walk_p03_r00_v05_c01': skipping them" in caplog.text


def test_smarthome_all_archives_in_one_root_read(tmp_path, caplog):
    """Depth is published as videos of the same names, skeletons in two releases."""
    for folder, names in (("json", (NAME, "Walk_p03_r00_v01_c01")), ("v1.2", (f"{NAME}_pose3d",))):
        for name in names:
            write(tmp_path / folder, name)
    for folder in ("mp4", "depth"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{NAME}.mp4").touch()
    (entry,) = Smarthome(tmp_path).entries()
    assert entry.files == {
        "skeleton": tmp_path / f"v1.2/{NAME}_pose3d.json", "color": tmp_path / f"mp4/{NAME}.mp4"
    }  # fmt: skip
    assert "1 clips have no skeletons of release 'refined': skipping them" in caplog.text
    first = {e.name: e.files["skeleton"].parent.name for e in Smarthome(tmp_path, release="first").entries()}
    assert first == {NAME: "json", "Walk_p03_r00_v01_c01": "json"}
    (tmp_path / f"mp4/{NAME}.mp4").unlink()
    assert list(Smarthome(tmp_path).entries()[0].files) == ["skeleton"], "depth is no color"


@pytest.mark.parametrize("score", [{}, {"cumscore": None}])
def test_smarthome_skeletons_without_scores_kept(tmp_path, score):
    (found,) = published([person()])
    found.pop("cumscore")
    path = write(tmp_path, frames=[[{**found, **score}]] * 3)
    assert len(read_smarthome(path).bodies) == 1


def video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for t in range(frames):
            image = np.full((480, 640, 3), 40, np.uint8)
            u, v = np.round(project(person(t=t)[6], KINECT_V1)).astype(int)  # the right wrist
            image[v - 12 : v + 13, u - 12 : u + 13] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_smarthome_color_and_pixels_read(root):
    video(root / "Walk_p03_r00_v01_c01.mp4", 12)
    source = Smarthome(root, max_side=320)
    entries = {entry.name: entry for entry in source.entries()}
    clip = source.read(entries["Walk_p03_r00_v01_c01"])
    assert set(clip.streams) == {"color", "size", "pixels", "motion"}
    assert clip.streams["size"].tolist() == [320, 240]
    sampled = clip.at_stamps(clip.stamps_ns[[0, 11]])
    for t in range(2):
        u, v = np.round(sampled["pixels"][0, t, KINECT_V2_25.index["wrist_right"]]).astype(int)
        assert sampled["color"][t, v, u, 0] > 150 > sampled["color"][t, v, u, 2]
    frames = list(source.frames(entries["Walk_p03_r00_v01_c01"]))
    assert [frame.stamp_ns for frame in frames] == clip.stamps_ns.tolist()
    assert frames[0].depth is None and frames[0].intrinsics.fx == pytest.approx(262.5)
    without = source.read(entries["Walk_p02_r00_v01_c02"])
    assert set(without.streams) == {"pixels", "size"}
    with pytest.raises(InputError, match="no camera frames"):
        source.frames(entries["Walk_p02_r00_v01_c02"])
    video(root / "Walk_p03_r00_v01_c01.mp4", 40)
    with pytest.raises(InputError, match="has 40 frames at 20 Hz but its skeleton 12"):
        source.read(entries["Walk_p03_r00_v01_c01"]).streams["color"]
