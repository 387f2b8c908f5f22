import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

import actrec_models.networks
from actrec import datasets
from actrec.datasets.base import Clip, LazyStreams
from actrec.datasets.ntu.skeletons import read_ntu_skeleton
from actrec.datasets.video_streams import ColorVideo, VideoConfig
from actrec.features.clips import cut, window_inputs
from actrec.perception.pipeline import BodyPerception
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import stamps_at
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.calibration_files import from_hfov
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.geometry import motion_between_images
from actrec_models.data.rendered import RenderedRgbd

SIZE = (128, 96)
MARK = 24
TOP = 40
"""Side of the moving square, and its upper edge, in pixels."""


def image_at(t):
    """Return an image of a textured square that moves right by 1 px per frame; a corner's brightness encodes t."""
    image = np.full((SIZE[1], SIZE[0], 3), 20, np.uint8)
    image[:16, -16:] = 8 * t
    x = 4 + t
    square = np.random.default_rng(7).integers(120, 255, (MARK, MARK, 3), dtype=np.uint8)
    image[TOP : TOP + MARK, x : x + MARK] = square
    return image


def write_video(path, frames, fps=30):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for t in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_at(t), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_folder(folder, frames):
    folder.mkdir()
    for t in range(frames):
        cv2.imwrite(str(folder / f"frame{t + 1}.png"), image_at(t)[..., ::-1])
    return folder


@pytest.fixture(scope="module", params=["file", "folder"])
def video(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "v.avi", 30) if request.param == "file" else write_folder(folder / "rgb", 30)


def frame_numbers(images):
    """Return the frame number of each image, read from the brightness of its corner."""
    return np.round(np.asarray(images)[:, 2:10, -10:-2].mean(axis=(1, 2, 3)) / 8).astype(int).tolist()


def test_color_video_frames_match_stamps(video):
    stream = ColorVideo(video, stamps_at(30.0, 30))
    color = stream.color()
    assert color.shape == (30, 96, 128, 3) and color.dtype == np.uint8
    assert frame_numbers(color) == list(range(30))
    assert np.abs(color[12].astype(int) - image_at(12)).mean() < 6


def test_color_video_converts_only_requested_frames(video, monkeypatch):
    from actrec.recordings import image_folder
    from actrec.recordings import video as recordings_video

    converted = []
    for module, name in ((recordings_video, "to_rgb"), (image_folder, "read_image")):
        original = getattr(module, name)

        def count_call(*arguments, original=original):
            converted.append(1)
            return original(*arguments)

        monkeypatch.setattr(module, name, count_call)
    stamps = stamps_at(30.0, 30)
    clip = Clip("c", 0, stamps, np.zeros((1, 30, 25, 3), np.float32), ColorVideo(video, stamps).streams())
    sampled = clip.at_stamps(clip.stamps_ns[[3, 9, 9, 20]] + 1_000_000)
    assert "color" in sampled and not converted  # images are decoded on access only
    assert frame_numbers(sampled["color"]) == [3, 9, 9, 20]
    assert len(converted) <= 4  # three images, and one more for a folder's image size
    assert sampled["color"] is sampled["color"]


def test_color_video_single_clip_decodes_only_its_images(video, monkeypatch):
    stamps, decoded = stamps_at(30.0, 30), []
    original = ColorVideo.at

    def count_call(self, indices):
        decoded.append(len(indices))
        return original(self, indices)

    monkeypatch.setattr(ColorVideo, "at", count_call)
    clip = Clip("c", 0, stamps, np.zeros((1, 30, 25, 3), np.float32), ColorVideo(video, stamps).streams())
    sample = clip.at_stamps(stamps)
    single, from_all = cut(sample, 10, 5, alone=True), cut(clip.at_stamps(stamps), 10, 5)
    np.testing.assert_array_equal(single["color"], from_all["color"])
    assert decoded == [5, 30] and frame_numbers(single["color"]) == [10, 11, 12, 13, 14]
    with pytest.raises(InputError, match="has no frames 28 to 33 of 30"):
        cut(sample, 28, 5, alone=True)["color"]


def test_color_video_any_order_and_mirrored(video):
    stamps = stamps_at(30.0, 30)
    images = ColorVideo(video, stamps).at(np.array([20, 3, 20]))
    assert frame_numbers(images) == [20, 3, 20]
    mirrored = ColorVideo(video, stamps, mirror=True).at(np.array([20, 3, 20]))
    np.testing.assert_array_equal(mirrored, images[:, :, ::-1])


def test_color_video_scaled_images_keep_pixels_aligned(video):
    stamps = stamps_at(30.0, 30)
    pixels = np.full((1, 30, 25, 2), np.nan, np.float32)
    pixels[0, :, 0] = [[4 + t + (MARK - 1) / 2, TOP + (MARK - 1) / 2] for t in range(30)]
    for side, size in ((0, SIZE), (64, (64, 48)), (500, SIZE)):
        streams = ColorVideo(video, stamps, VideoConfig(max_side=side)).streams(pixels, SIZE)
        assert streams["size"].tolist() == list(size)
        assert streams["color"].shape[1:3] == size[::-1]
        for t in (0, 15, 29):
            u, v = np.round(streams["pixels"][0, t, 0]).astype(int)
            assert streams["color"][t, v, u].mean() > 100
            assert np.isnan(streams["pixels"][0, t, 1:]).all()


def test_color_video_pixels_of_other_image_size_scaled(video):
    pixels = np.full((1, 30, 1, 2), 10.0, np.float32)
    streams = ColorVideo(video, stamps_at(30.0, 30)).streams(pixels, (640, 240))
    np.testing.assert_allclose(streams["pixels"][0, 0, 0], [10.5 / 5 - 0.5, 10.5 / 2.5 - 0.5], rtol=1e-5)


def test_color_video_motion_matches_marker(video):
    stamps = stamps_at(30.0, 30)
    pixels = np.full((2, 30, 25, 2), np.nan, np.float32)
    pixels[0, :, 0] = [[4 + t + (MARK - 1) / 2, TOP + (MARK - 1) / 2] for t in range(30)]
    motion = ColorVideo(video, stamps).streams(pixels)["motion"]
    assert motion.shape == pixels.shape and motion.dtype == np.float32
    # The square moves by 1 px per frame at 30 Hz; the last frame repeats the motion.
    np.testing.assert_allclose(np.median(motion[0, :, 0], axis=0), [30, 0], atol=3)
    np.testing.assert_array_equal(motion[0, -1], motion[0, -2])
    assert np.isnan(motion[1]).all() and np.isnan(motion[0, :, 1:]).all()
    assert ColorVideo(video, stamps).streams()["size"].tolist() == list(SIZE)


def test_color_video_other_rate_matched_by_time(tmp_path):
    path = write_video(tmp_path / "v.avi", 30, fps=15)  # two seconds
    stream = ColorVideo(path, stamps_at(30.0, 60))
    assert frame_numbers(stream.at(np.array([0, 1, 2, 30, 59]))) == [0, 0, 1, 15, 29]
    frames = list(stream.frames(Intrinsics(640, 480, 500, 500, 319.5, 239.5)))
    assert [frame.stamp_ns for frame in frames] == stamps_at(30.0, 60).tolist()
    assert frame_numbers([frame.color for frame in frames])[:5] == [0, 0, 1, 1, 2]
    frames[0].check()


def test_color_video_few_missing_frames_repeated(tmp_path):
    path = write_video(tmp_path / "v.avi", 28)
    assert frame_numbers(ColorVideo(path, stamps_at(30.0, 30)).at(np.array([26, 27, 28, 29]))) == [26, 27, 27, 27]


def test_color_video_other_length_raises(tmp_path):
    path = write_video(tmp_path / "v.avi", 20)
    with pytest.raises(InputError, match=r"v\.avi' has 20 frames at 30 Hz but its skeleton 30"):
        ColorVideo(path, stamps_at(30.0, 30)).color()
    folder = write_folder(tmp_path / "rgb", 20)
    with pytest.raises(InputError, match=r"rgb' has 20 frames .* its skeleton 30"):
        ColorVideo(folder, stamps_at(30.0, 30)).color()
    assert len(ColorVideo(path, stamps_at(30.0, 30), VideoConfig(tolerance=0.5)).color()) == 30


def test_color_video_invalid_file_raises(tmp_path):
    stamps = stamps_at(30.0, 30)
    with pytest.raises(DeviceError, match=r"there is no file '.*gone\.avi'"):
        ColorVideo(tmp_path / "gone.avi", stamps).color()
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "empty.avi").write_bytes(b"")
    content = write_video(tmp_path / "v.avi", 30).read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    for name in ("text", "empty", "cut"):
        with pytest.raises(InputError, match=rf"{name}\.avi"):
            ColorVideo(tmp_path / f"{name}.avi", stamps).color()
    (tmp_path / "rgb").mkdir()
    with pytest.raises(InputError, match=r"rgb' holds no images"):
        ColorVideo(tmp_path / "rgb", stamps).color()
    folder = write_folder(tmp_path / "rgb2", 30)
    (folder / "frame7.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"frame7\.png' cannot be decoded: truncated"):
        ColorVideo(folder, stamps).color()
    cv2.imwrite(str(folder / "frame7.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"frame7\.png' is 4×4, the first 128×96"):
        ColorVideo(folder, stamps).color()


@pytest.mark.parametrize("dropped", [0, 12], ids=["first", "middle"])
def test_color_video_lost_key_frame_raises(tmp_path, dropped):
    """Without a key frame, later images would get wrong stamps."""
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "12", "bf": "0", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        packets = [p for t in range(30) for p in stream.encode(av.VideoFrame.from_ndarray(image_at(t), format="rgb24"))]
        container.mux([packet for k, packet in enumerate([*packets, *stream.encode()]) if k != dropped])
    video = ColorVideo(tmp_path / "v.mp4", stamps_at(30.0, 30))
    for read in (video.color, lambda: list(video.shown()), lambda: video.at(np.array([0, 29]))):
        with pytest.raises(InputError, match=r"v\.mp4' is corrupt or truncated: \d+ of 29 frames decoded"):
            read()


def test_color_video_streams_pickled(video):
    streams = ColorVideo(video, stamps_at(30.0, 30)).streams(np.zeros((1, 30, 25, 2), np.float32))
    streams["size"]  # known properties of the video are pickled too
    streams = pickle.loads(pickle.dumps(streams))
    assert frame_numbers(streams.at("color", np.array([5]))) == [5] and streams["pixels"].shape == (1, 30, 25, 2)


# ------------------------------------------------------------------------------------------------ a real recording


@dataclass(frozen=True)
class Recording:
    path: Path
    stamps_ns: np.ndarray
    bodies: np.ndarray
    pixels: np.ndarray


@pytest.fixture(scope="module")
def ntu_video(data_root):
    sequence = read_ntu_skeleton(data_root / "ntu/skeleton/S001C001P001R001A001.skeleton")
    path = data_root / "ntu/rgb/S001C001P001R001A001_rgb.avi"
    return Recording(path, sequence.stamps_ns, sequence.bodies, sequence.pixels)


@pytest.fixture(scope="module")
def ntu(ntu_video):
    video = ColorVideo(ntu_video.path, ntu_video.stamps_ns, VideoConfig(max_side=960), mirror=True)
    streams = video.streams(ntu_video.pixels, (1920, 1080))
    return Clip("S001C001P001R001A001", 0, ntu_video.stamps_ns, ntu_video.bodies, streams)


def test_ntu_pixels_match_pose_estimator(ntu):
    joints = [KINECT_V2_25.index[f"{j}_{s}"] for j in ("shoulder", "elbow", "wrist", "knee") for s in ("left", "right")]
    frames = np.array([5, 50, 95])
    pixels, perception = ntu.streams["pixels"][0], BodyPerception(min_hits=1, smooth=False)
    width, height = (int(side) for side in ntu.streams["size"])
    assert (width, height) == (960, 540)
    intrinsics = from_hfov(width, height, 84.1)
    try:
        for t, color in zip(frames, ntu.streams.at("color", frames), strict=True):
            bodies = perception.process(RgbdFrame(int(ntu.stamps_ns[t]), color, None, intrinsics))
            assert len(bodies) == 1
            distance = np.linalg.norm(bodies[0].pixels[joints] - pixels[t, joints], axis=1) * 2  # px of 1920×1080
            assert np.median(distance) <= 25, (t, distance)
            # With left and right exchanged, the shoulders would be far off.
            swapped = bodies[0].pixels[[joints[1], joints[0]]] - pixels[t, joints[:2]]
            assert np.linalg.norm(swapped, axis=1).min() * 2 > 40
    finally:
        perception.close()


@pytest.mark.parametrize(("name", "options"), [
    ("p_i3d", {"frames": 8, "pose_frames": 4, "width": 0.05, "hidden": 8}),
    ("vpn_i3d", {"frames": 16, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16}),
    ("deepacts_multi", {"modalities": ("body", "motion"), "frames": 16, "width": 4}),
])  # fmt: skip
def test_ntu_samples_give_inputs_of_image_networks(data_root, name, options):
    source = datasets.source("ntu60", data_root / "ntu", incomplete="keep", max_side=480)
    clip = source.read(next(entry for entry in source.entries() if "color" in entry.files))
    model = actrec_models.networks.create(name, num_classes=60, **options)
    window = model.window
    sample = clip.sample(window.seconds, window.frames)
    inputs = window_inputs(sample, model.input_specs, window, starts=[window.starts[-1]])[0]
    for spec in model.input_specs:
        assert inputs[spec.name].shape == tuple(spec.shape) and np.isfinite(inputs[spec.name]).all()
        assert inputs[spec.name].std() > 0.02, spec.name  # not blank
    crops = [spec.name for spec in model.input_specs if "crop" in spec.modality]
    assert not any(np.allclose(inputs[one], inputs[other]) for one, other in itertools.combinations(crops, 2))


def smooth(values):
    """Smooth [T, …] over time, as a Kinect's pixels jitter by more than a hand moves per frame."""
    return gaussian_filter1d(values.astype(float), 2.0, axis=0)


def test_ntu_motion_matches_pixel_speed(ntu_video):
    video = ColorVideo(ntu_video.path, ntu_video.stamps_ns, VideoConfig(max_side=480), mirror=True)
    small = video.pixels(ntu_video.pixels, (1920, 1080))
    motion = video.motion(small)
    for joint in ("hand_right", "wrist_right"):  # the hand moves to the mouth and back
        v = KINECT_V2_25.index[joint]
        assert np.isfinite(motion[0, :, v]).all()
        velocity = np.diff(smooth(small[0, :, v, 1])) * 30  # px/s
        found = smooth(motion[0, :, v, 1])[:-1]
        assert np.corrcoef(found, velocity)[0, 1] > 0.88
        assert 0.72 < np.polyfit(velocity, found, 1)[0] < 1.25  # a search at half size gives only 0.61
    hips = KINECT_V2_25.index["spine_base"]
    assert np.median(np.abs(motion[0, :, hips])) < 5


@dataclass
class MotionSample:
    """Motion [T, V, 2] of a clip in px/s, estimated from noisy images, and its exact pixel velocity."""

    motion: np.ndarray
    speed: np.ndarray


@pytest.fixture(scope="module")
def rendered():
    """Return motion samples of people who wave and throw, from two views."""
    source = RenderedRgbd("none", width=320, height=240, actions=["wave", "throw"], actors=2, held_out=1)
    fps, frames = source.config.fps, np.arange(6, 26)
    measured = []
    for entry in source.entries()[4::12]:
        clip = source.read(entry)
        assert isinstance(clip.streams, LazyStreams)
        color, pixels = clip.streams.at("color", frames), clip.streams["pixels"][0, frames]
        pairs = zip(color[:-1], color[1:], pixels[:-1], strict=True)
        motion = np.array([motion_between_images(before, after, joints, 1 / fps) for before, after, joints in pairs])
        measured.append(MotionSample(motion, np.diff(pixels, axis=0) * fps))
    return measured


def test_rendered_motion_matches_pixel_speed(rendered):
    arms = [KINECT_V2_25.index[f"{j}_{s}"] for j in ("hand", "wrist", "elbow") for s in ("left", "right")]
    speed = np.concatenate([np.linalg.norm(clip.speed, axis=-1) for clip in rendered])  # (T, V)
    error = np.concatenate([np.linalg.norm(clip.motion - clip.speed, axis=-1) for clip in rendered])
    moving = speed[:, arms] > 16
    assert moving.sum() > 60
    assert np.nanmedian(error[:, arms][moving]) < 0.25 * np.median(speed[:, arms][moving])
    assert np.nanmedian(error[speed < 3]) < 3


def test_rendered_motion_assigned_to_first_image_of_pair(rendered):
    elbow = KINECT_V2_25.index["elbow_right"]
    errors = {
        lag: sum(
            np.nanmean(np.abs(clip.motion[2:-2, elbow] - np.roll(clip.speed[:, elbow], lag, axis=0)[2:-2]))
            for clip in rendered
        )
        for lag in (-2, -1, 0, 1, 2)
    }
    assert min(errors, key=lambda lag: errors[lag]) == 0, errors
