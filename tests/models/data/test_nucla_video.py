"""N-UCLA's color videos: rendered clips in the published folders and names, and the papers' recipes on them."""

import dataclasses
import json
from functools import lru_cache

import av
import cv2
import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.base import Entry
from actrec.datasets.nucla import CLASSES, Nucla
from actrec.features.crops import body_box
from actrec.skeleton.layouts import KINECT_V1_20, KINECT_V2_25
from actrec.utils.camera_model import project
from actrec.utils.errors import InputError
from actrec_models.data.rendered import RenderedConfig, RenderedItem
from actrec_models.training import recipe, trainer

OPTIONS = RenderedConfig(width=160, height=120, fps=12.0, actors=2, held_out=1, noise=False, actions=["wave", "throw"])
SIZE = (OPTIONS.width, OPTIONS.height)
FRAMES = 6
V2_NAMES = {"hip_center": "spine_base", "spine": "spine_mid", "shoulder_center": "spine_shoulder"}
TO_V1 = [KINECT_V2_25.index[V2_NAMES.get(joint, joint)] for joint in KINECT_V1_20.joints]
NAMES = [f"a{a:02}_s{s:02}_e00_v{v:02}" for a in (1, 2) for s in (1, 2) for v in (1, 2, 3)]


@lru_cache
def rendered(action):
    """Return exact joints [T, 25, 3] in the optical frame and their pixels [T, 25, 2], and images [T, H, W, 3]."""
    item = RenderedItem(OPTIONS, Entry("", action - 1, {"subject": 1, "view": 1, "take": 1}))
    joints = item.bodies[0, :FRAMES]
    return joints, project(joints, item.intrinsics), item.color(range(FRAMES))


def write_sequence(root, name, repeats=1):
    """Write the skeleton, in Kinect camera space, and the mirrored video with each image `repeats` times."""
    action = int(name[1:3])
    joints, _, images = rendered(action)
    kinect = joints[:, TO_V1] * [-1.0, -1.0, 1.0]
    content = {"file_name": name, "skeletons": kinect.tolist(), "label": action}
    (root / f"{name}.json").write_text(json.dumps(content))
    action, subject, episode, view = name.split("_")
    folder = root / "multiview_action_videos" / action
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(folder / f"{view}_{subject}_{episode}.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for image in np.repeat(images, repeats, axis=0):
            mirrored = np.ascontiguousarray(image[:, ::-1])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(mirrored, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nucla")
    for name in NAMES:
        write_sequence(folder, name, repeats=2 if name == NAMES[-1] else 1)
    return folder


def test_nucla_videos_show_the_skeletons(root):
    source = Nucla(root)
    entries = {entry.name: entry for entry in source.entries()}
    assert list(entries) == sorted(NAMES) and all("color" in entry.files for entry in entries.values())
    for name in (NAMES[0], NAMES[-1]):  # the video of the last has every image twice
        _, shown, images = rendered(int(name[1:3]))
        clip = source.read(entries[name])
        color, pixels = clip.streams["color"], clip.streams["pixels"]
        assert color.shape == images.shape
        assert np.abs(color.astype(int) - images).mean() < 6 < np.abs(color[:, :, ::-1].astype(int) - images).mean()
        placed = [v for v in TO_V1 if v != KINECT_V2_25.index["spine_mid"]]  # a bit lower on a Kinect v1
        assert np.abs(pixels[0][:, placed] - shown[:, placed]).max() < 0.5
        box = body_box(pixels[0, 0], 1.2)
        assert box is not None and 0 < box[0] < SIZE[0] and 0 < box[1] < SIZE[1] and box[2] > 20
        assert set(clip.streams) >= {"up", "motion", "size"}
        frames = list(source.frames(entries[name]))
        assert len(frames) == FRAMES and frames[0].depth is None
        np.testing.assert_array_equal(frames[-1].color, color[-1])


def write_frames(root, name, first=90467319):
    """Write a sequence as frames with times in ms; frame 1 has no skeleton, images come 12 ms after skeletons."""
    joints, _, images = rendered(int(name[1:3]))
    folder = root / "multiview_action" / f"view_{int(name[-2:])}" / name[:11]
    folder.mkdir(parents=True)
    lines = []
    for t, (frame, image) in enumerate(zip(joints[:, TO_V1] * [-1.0, -1.0, 1.0], images, strict=True)):
        time = first + 80 * t
        lines.append(f"{t + 8} 0 {time}")
        rows = "" if t == 1 else "1\n" + "".join(f"{x:.6f},{y:.6f},{z:.6f},2\n" for x, y, z in frame)
        (folder / f"frame_{t + 8}_tc_{time}_skeletons.txt").write_text(rows)
        cv2.imwrite(str(folder / f"frame_{t + 8}_tc_{time + 12}_rgb.jpg"), image[:, ::-1, ::-1])
        cv2.imwrite(str(folder / f"frame_{t + 8}_tc_{time}_depth_vis.jpg"), image[:60, :80])
    (folder / "fileList.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_nucla_frame_folders_give_skeletons_and_images_by_time(tmp_path):
    folder = write_frames(tmp_path, "a02_s01_e03_v02")
    source = Nucla(tmp_path)
    (entry,) = source.entries()
    assert (entry.name, entry.label, entry.meta["view"]) == ("a02_s01_e03_v02", 1, 2)
    clip = source.read(entry)
    joints, _, images = rendered(2)
    kept = [0, 2, 3, 4, 5]
    assert (clip.stamps_ns / 1e6).tolist() == [80 * t for t in kept]
    placed = [v for v in TO_V1 if v != KINECT_V2_25.index["spine_mid"]]
    np.testing.assert_allclose(clip.bodies[0][:, placed], joints[kept][:, placed], atol=1e-5)
    assert np.abs(clip.streams["color"].astype(int) - images[kept]).mean() < 6
    (folder / "frame_10_tc_90467479_skeletons.txt").write_text("1\n0.1,0.2,2.0,2\n")
    with pytest.raises(InputError, match="frame_10_tc_90467479_skeletons.txt' has 1 joints, expected 20"):
        source.read(entry)
    (folder / "fileList.txt").write_text("8 0 later\n")
    with pytest.raises(InputError, match="'8 0 later' has no frame and time"):
        source.read(entry)
    (folder / "fileList.txt").write_text(f"8 0 {'9' * 300}\n")
    with pytest.raises(InputError, match="has no frame and time"):
        source.read(entry)


def test_nucla_frame_folders_without_skeletons_are_no_items(tmp_path, caplog):
    """As ten of the published ones are; a list may repeat a frame, or begin a record twice."""
    folder = write_frames(tmp_path, "a02_s01_e03_v02")
    for file in write_frames(tmp_path, "a02_s01_e04_v02").glob("*_skeletons.txt"):
        file.write_text("")
    (write_frames(tmp_path, "a02_s01_e05_v02") / "fileList.txt").unlink()
    source = Nucla(tmp_path)
    (entry,) = source.entries()
    assert entry.name == "a02_s01_e03_v02" and "2 of 3 folders have no skeleton" in caplog.text
    expected = source.read(entry)
    lines = (folder / "fileList.txt").read_text().splitlines()
    lines[0] = f"{' '.join(lines[0].split()[:2])} {lines[0]}"
    (folder / "fileList.txt").write_text("\n".join([*lines, lines[-1]]) + "\n")
    np.testing.assert_array_equal(source.read(entry).bodies, expected.bodies)


def test_nucla_official_splits(root):
    source = Nucla(root, fold=2)
    parts = {split: {e.name for e in source.entries() if source.part(e, split) == "test"} for split in source.splits}
    for split, view in (("view", 3), ("view_1", 1), ("view_2", 2)):
        assert parts[split] == {name for name in NAMES if name.endswith(str(view))}
    assert parts["subject"] == {name for name in NAMES if "_s02_" in name}


def test_nucla_videos_change_the_fingerprint_of_skeletons_only_if_there(root, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in root.glob("*.json"):
        (alone / file.name).write_bytes(file.read_bytes())
    digests = [source.fingerprint(source.entries()) for source in (
        Nucla(alone), Nucla(alone, mirrored=False), Nucla(alone, fold=3), Nucla(root), Nucla(root, mirrored=False)
    )]  # fmt: skip
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_nucla_video_of_other_recording_refused(root, tmp_path):
    write_sequence(tmp_path, NAMES[0], repeats=5)
    with pytest.raises(InputError, match=r"v01_s01_e00.avi' has 30 frames at 30 Hz but its skeleton 6"):
        _ = (source := Nucla(tmp_path)).read(source.entries()[0]).streams["color"]
    (tmp_path / "multiview_action_videos/a01/v01_s01_e00.avi").unlink()
    with pytest.raises(InputError, match=r"no camera frames here: there is no a01/v01_s01_e00.avi"):
        source.frames(source.entries()[0])


SMALL = {
    "p_i3d_nucla": {"frames": 8, "size": 32, "width": 0.05, "hidden": 6, "attention_units": 5, "clips": 2},
    "vpn_nucla": {"frames": 8, "size": 32, "width": 0.05, "embedding_size": 8},
}


@pytest.mark.parametrize("name", SMALL)
def test_nucla_recipe_trains_on_videos(root, tmp_path, name):
    shipped = recipe.read(f"papers/{name}")
    few = [{**stage, "epochs": 1} for stage in shipped.stages if stage["name"] == "joint"]
    small = dataclasses.replace(
        shipped, options={**shipped.options, **SMALL[name]}, stages=few, epochs=1, batch=4, precision="32-true",
        validation={},
    )  # fmt: skip
    trained = trainer.train(small, "", tmp_path, progress=False, threads=1, root=str(root))
    assert trained.is_file()
    clips = datasets.create("nucla", root, split="view", part="train")
    assert len(clips) == 8 and clips.classes == CLASSES and clips.streams == {"bodies", "color"}
