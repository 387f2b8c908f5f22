"""Playback of bags of different drivers: encodings, pairing, topics, errors."""

import sqlite3
import struct
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from actrec.recordings import RecordingConfig, open_recording, skeleton_files
from actrec.recordings.rosbag.bag_files import recover
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import Body
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError

COLOR, DEPTH = "/camera/color/image_raw", "/camera/depth_registered/image_raw"
INFO, DEPTH_INFO = "/camera/color/camera_info", "/camera/depth_registered/camera_info"
START, PERIOD = 1_700_000_000_000_000_000, 33_333_333
H, W = 48, 64
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
MILLIMETERS = RNG.integers(0, 5000, (H, W)).astype(np.uint16)
MILLIMETERS[:4] = 0
METERS = np.where(MILLIMETERS > 0, MILLIMETERS / np.float32(1000), np.nan).astype(np.float32)


def stamps(count):
    return [START + k * PERIOD for k in range(count)]


def frames_of(path: Any, start_s: float = 0.0, **options: Any) -> list[Any]:
    with open_recording(path, RecordingConfig(**options)) as recording:
        return list(recording.frames(start_s))


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_bag_recording_mcap_and_sqlite3_round_trip(tmp_path, bag, plugin):
    with bag(tmp_path / "b", plugin) as b:
        b.info(INFO, START, W, H)
        for k, stamp in enumerate(stamps(5)):
            b.image(DEPTH, stamp, np.roll(MILLIMETERS, k, axis=1), "16UC1")
            b.image(COLOR, stamp, np.roll(RGB, k, axis=1), "rgb8")
    with open_recording(tmp_path / "b") as recording:
        frames: list[Any] = list(recording.frames())
        assert recording.intrinsics.distortion == (0.1, -0.2, 0.001, 0.002, 0.05)
        assert (recording.intrinsics.fx, recording.intrinsics.fy) == (600, 601)
        assert recording.duration_s == pytest.approx(4 * PERIOD / 1e9)
    assert [frame.stamp_ns for frame in frames] == stamps(5)
    assert {frame.frame_id for frame in frames} == {"lens"}
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.color, np.roll(RGB, k, axis=1))
        np.testing.assert_array_equal(frame.depth, np.roll(METERS, k, axis=1))
    files = [*(tmp_path / "b").glob("*.mcap"), *(tmp_path / "b").glob("*.db3")]
    assert len(frames_of(files[0])) == 5  # the file itself, without its folder's metadata


@pytest.mark.parametrize("pad", [0, 1, 6])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_bag_recording_color_encodings_and_padding_decoded(tmp_path, bag, encoding, pad):
    pixels = {
        "rgb8": RGB,
        "bgr8": RGB[..., ::-1],
        "rgba8": np.dstack([RGB, RGB[..., 0]]),
        "bgra8": np.dstack([RGB[..., ::-1], RGB[..., 0]]),
        "mono8": RGB[..., 0],
    }[encoding]
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, pixels, encoding, pad=pad)
    (frame,) = frames_of(tmp_path / "b")
    np.testing.assert_array_equal(frame.color, np.repeat(RGB[..., :1], 3, -1) if encoding == "mono8" else RGB)


@pytest.mark.parametrize("pad", [0, 2, 3])
@pytest.mark.parametrize("big", [False, True])
def test_bag_recording_depth_encodings_byte_order_and_padding_decoded(tmp_path, bag, big, pad):
    meters = METERS.copy()
    meters[0, :3] = [np.inf, -1.0, 0.0]
    for encoding, pixels in (("16UC1", MILLIMETERS), ("32FC1", meters)):
        with bag(tmp_path / encoding) as b:
            b.info(INFO, START, W, H)
            b.image(DEPTH, START, pixels, encoding, pad=pad, big=big)
            b.image(COLOR, START, RGB, "rgb8")
        (frame,) = frames_of(tmp_path / encoding)
        np.testing.assert_array_equal(frame.depth, METERS)


def test_bag_recording_compressed_images_decoded(tmp_path, bag):
    smooth = cv2.GaussianBlur(RGB, (0, 0), 5)
    bgr = cv2.cvtColor(smooth, cv2.COLOR_RGB2BGR)
    png = cv2.imencode(".png", bgr)[1].tobytes()
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    depth_png = cv2.imencode(".png", MILLIMETERS)[1].tobytes()
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.compressed(
            f"{DEPTH}/compressedDepth", START, "16UC1; compressedDepth png", struct.pack("<iff", 0, 0, 0) + depth_png
        )
        b.compressed(f"{COLOR}/compressed", START, "rgb8; png compressed bgr8", png)
        b.compressed(f"{DEPTH}/compressedDepth", START + PERIOD, "16UC1; compressedDepth png", bytes(12) + depth_png)
        b.compressed(f"{COLOR}/compressed", START + PERIOD, "rgb8; jpeg compressed bgr8", jpeg)
    first, second = frames_of(tmp_path / "b")
    np.testing.assert_array_equal(first.color, smooth)
    assert np.abs(second.color.astype(int) - smooth).mean() < 2
    np.testing.assert_array_equal(first.depth, METERS)
    assert first.frame_id == "lens"


def test_bag_recording_quantized_float_depth_decoded(tmp_path, bag):
    """32FC1 in compressedDepth is inverse depth, quantized: depth = a / (value − b)."""
    a, b_ = 100 * 101.0, 1 - 100 * 101.0 / 10
    meters = np.linspace(0.6, 9.5, H * W).reshape(H, W).astype(np.float32)
    quantized = (a / meters + b_).astype(np.uint16)
    quantized[0] = 0
    data = struct.pack("<iff", 0, a, b_) + cv2.imencode(".png", quantized)[1].tobytes()
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.compressed(f"{DEPTH}/compressedDepth", START, "32FC1; compressedDepth png", data)
        b.image(COLOR, START, RGB, "rgb8")
    (frame,) = frames_of(tmp_path / "b")
    assert np.isnan(frame.depth[0]).all()
    np.testing.assert_allclose(frame.depth[1:], meters[1:], rtol=2e-3)


def test_bag_recording_unsupported_encoding_lists_supported(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, RGB, "8UC3")
    with pytest.raises(InputError, match=r"supported encoding \(rgb8, bgr8, .*has: /camera/color/image_raw \(8UC3\)"):
        open_recording(tmp_path / "b")
    with pytest.raises(InputError, match="image encoding '8UC3' is not supported here; supported: rgb8"):
        open_recording(tmp_path / "b", RecordingConfig(color_topic=COLOR))


def test_bag_recording_without_depth_warns_once(tmp_path, bag, caplog):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(4):
            b.image(COLOR, stamp, RGB, "rgb8")
    frames = frames_of(tmp_path / "b")
    assert len(frames) == 4 and all(frame.depth is None for frame in frames)
    assert sum("has no depth topic" in record.message for record in caplog.records) == 1


def test_bag_recording_without_camera_info_needs_option(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.image(COLOR, START, RGB, "rgb8")
    with pytest.raises(InputError, match="has no camera_info for /camera/color/image_raw: give option intrinsics="):
        open_recording(tmp_path / "b")
    with open_recording(tmp_path / "b", RecordingConfig(intrinsics="50,51,31.5,23.5")) as recording:
        assert (recording.intrinsics.fx, recording.intrinsics.cy, recording.intrinsics.width) == (50, 23.5, W)
    with open_recording(tmp_path / "b", RecordingConfig(hfov_deg=90.0)) as recording:
        assert recording.intrinsics.fx == pytest.approx(W / 2)


def test_bag_recording_of_a_driver_without_calibration_plays_by_its_field_of_view(tmp_path, bag):
    """Such a driver publishes camera_info with K of zeros, as usb_cam does."""
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, 0, 0, k=[0.0] * 9)
        b.image(COLOR, START, RGB, "rgb8")
    with pytest.raises(
        InputError, match="uncalibrated camera .fx is 0.: give option intrinsics=.* or state .*hfov_deg"
    ):
        open_recording(tmp_path / "b")
    with open_recording(tmp_path / "b", RecordingConfig(hfov_deg=90.0)) as recording:
        assert recording.intrinsics.fx == pytest.approx(W / 2)


def pixel(lens: Any, point: Sequence[float]) -> np.ndarray:
    """Return the pixel [2] of a point, by OpenCV."""
    zero, d = np.zeros(3), np.array(lens.distortion)
    pixels: np.ndarray = cv2.projectPoints(np.array([point]), zero, zero, lens.matrix, d)[0]
    return pixels[0, 0]


def test_bag_recording_mirrored_is_flipped_back(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(DEPTH, START, MILLIMETERS, "16UC1")
        b.image(COLOR, START, RGB, "rgb8")
    ((plain,), (flipped,)) = (frames_of(tmp_path / "b", mirror=mirror) for mirror in ("auto", "yes"))
    np.testing.assert_array_equal(flipped.color, plain.color[:, ::-1])
    np.testing.assert_array_equal(flipped.depth, plain.depth[:, ::-1])
    u, v = pixel(plain.intrinsics, (0.3, 0.2, 2.0))
    np.testing.assert_allclose(pixel(flipped.intrinsics, (-0.3, 0.2, 2.0)), [W - 1 - u, v])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 32, "height": 24}, "is for 32×24 images, but the color images are 64×48"),
        ({"width": W, "height": H, "fx": 0.0}, "uncalibrated camera"),
        ({"width": W, "height": H, "fx": float("nan")}, "uncalibrated camera"),
        ({"width": W, "height": H, "model": "ftheta"}, "lens model 'ftheta'"),
    ],
)
def test_bag_recording_mismatched_camera_info_raises(tmp_path, bag, arguments, message):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, **arguments)
        b.image(COLOR, START, RGB, "rgb8")
    with pytest.raises(InputError, match=message):
        open_recording(tmp_path / "b")


def test_bag_recording_depth_of_other_size_raises(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(DEPTH, START, MILLIMETERS[::2, ::2], "16UC1")
        b.image(COLOR, START, RGB, "rgb8")
    with pytest.raises(InputError, match="register depth to color first"):
        frames_of(tmp_path / "b")


def test_bag_recording_depth_pairs_within_half_a_frame(tmp_path, bag, caplog):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k, stamp in enumerate(stamps(6)):
            late = {3: PERIOD // 2 + 4_000_000}.get(k, 5_000_000)  # the fourth depth image is too late
            b.image(COLOR, stamp, np.full((H, W, 3), k, np.uint8), "rgb8")
            b.image(DEPTH, stamp + late, np.full((H, W), 1000 + k, np.uint16), "16UC1")
    frames = frames_of(tmp_path / "b")
    pairs = [(int(f.color[0, 0, 0]), round(float(f.depth[0, 0]) * 1000) - 1000) for f in frames]
    assert pairs == [(0, 0), (1, 1), (2, 2), (4, 3), (5, 5)] or pairs == [(0, 0), (1, 1), (2, 2), (4, 4), (5, 5)]
    assert "skipped 1 color images without depth" in caplog.text


def test_bag_recording_depth_never_pairs_raises(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(5):
            b.image(COLOR, stamp, RGB, "rgb8")
            b.image(DEPTH, stamp + 10**10, MILLIMETERS, "16UC1", log_time=stamp)
    with pytest.raises(InputError, match="none of 5 color images has depth within 16.7 ms.*depth_topic='none'"):
        frames_of(tmp_path / "b")
    assert len(frames_of(tmp_path / "b", depth_topic="none")) == 5


def test_bag_recording_depth_at_half_rate_pairs(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k, stamp in enumerate(stamps(8)):
            b.image(COLOR, stamp, RGB, "rgb8")
            if k % 2 == 0:
                b.image(DEPTH, stamp + 100, MILLIMETERS, "16UC1")
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b")] == stamps(8)[::2]


@pytest.mark.parametrize("late", [DEPTH, COLOR])
def test_bag_recording_topics_logged_far_apart_pair(tmp_path, bag, late):
    """Registered depth or compressed color is logged 0.6 s late."""
    logged = [(stamp + 600_000_000 * (topic == late), stamp, topic) for stamp in stamps(40) for topic in (DEPTH, COLOR)]
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for log_time, stamp, topic in sorted(logged):
            pixels, encoding = (MILLIMETERS, "16UC1") if topic == DEPTH else (RGB, "rgb8")
            b.image(topic, stamp, pixels, encoding, log_time=log_time)
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b")] == stamps(40)
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b", start_s=20 * PERIOD / 1e9)] == stamps(40)[20:]


def test_bag_recording_stamps_jump_back_plays_as_recorded(tmp_path, bag):
    recorded = [*stamps(5), *[stamp - 10**9 for stamp in stamps(5)]]
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k, stamp in enumerate(recorded):
            b.image(DEPTH, stamp, np.full((H, W), 1000 + k, np.uint16), "16UC1", log_time=START + k * PERIOD)
            b.image(COLOR, stamp, np.full((H, W, 3), k, np.uint8), "rgb8", log_time=START + k * PERIOD)
    frames = frames_of(tmp_path / "b")
    assert [frame.stamp_ns for frame in frames] == recorded
    assert [round(float(frame.depth[0, 0]) * 1000) - 1000 for frame in frames] == list(range(10))


def test_bag_recording_start_s_skips_frames(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START - 10**9, W, H)
        for stamp in stamps(30):
            b.image(DEPTH, stamp, MILLIMETERS, "16UC1")
            b.image(COLOR, stamp, RGB, "rgb8")
    assert [f.stamp_ns for f in frames_of(tmp_path / "b", start_s=20 * PERIOD / 1e9)] == stamps(30)[20:]


def test_bag_recording_topics_chosen_by_option_and_preference(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info("/cam/color/camera_info", START, W, H, fx=700.0)
        b.info("/cam/infra1/camera_info", START, W, H, fx=400.0)
        b.image("/cam/infra1/image_rect_raw", START, RGB[..., 0], "mono8")
        b.image("/cam/depth/image_rect_raw", START, MILLIMETERS[::2, ::2], "16UC1")
        b.image("/cam/aligned_depth_to_color/image_raw", START, MILLIMETERS, "16UC1")
        b.image("/cam/color/image_raw", START, RGB, "rgb8")
    with open_recording(tmp_path / "b") as recording:
        frame: Any = next(recording.frames())
        assert recording.intrinsics.fx == 700
    np.testing.assert_array_equal(frame.color, RGB)
    np.testing.assert_array_equal(frame.depth, METERS)
    infra = RecordingConfig(color_topic="/cam/infra1/image_rect_raw", depth_topic="none")
    with open_recording(tmp_path / "b", infra) as recording:
        assert recording.intrinsics.fx == 400
    with pytest.raises(ConfigError, match="no messages on color_topic '/nothing'; it has: /cam/aligned"):
        open_recording(tmp_path / "b", RecordingConfig(color_topic="nothing"))


def test_bag_recording_two_equal_cameras_raises(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        for name in ("left", "right"):
            b.info(f"/{name}/color/camera_info", START, W, H)
            b.image(f"/{name}/color/image_raw", START, RGB, "rgb8")
    with pytest.raises(
        ConfigError, match="several: /left/color/image_raw, /right/color/image_raw; choose one with color_topic"
    ):
        open_recording(tmp_path / "b")
    assert len(frames_of(tmp_path / "b", color_topic="/right/color/image_raw")) == 1


def test_bag_recording_without_images_raises(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.put("/talk", "std_msgs/msg/String", START, b.store.types["std_msgs/msg/String"](data="hello"))
    with pytest.raises(InputError, match=r"has neither images .*it has: /talk \(std_msgs/msg/String\)"):
        open_recording(tmp_path / "b")


@pytest.mark.parametrize(
    ("plugin", "damage", "result"),
    [
        (StoragePlugin.MCAP, lambda whole: whole[: len(whole) // 2], 40),
        (StoragePlugin.MCAP, lambda whole: whole[: len(whole) // 3] + bytes(2000), 40),
        (StoragePlugin.SQLITE3, lambda whole: whole[: len(whole) // 2], 40),
        (StoragePlugin.MCAP, lambda whole: whole[:70], "holds no whole message .*copy it again"),
        (StoragePlugin.SQLITE3, lambda whole: whole[:4096], r"is corrupt \(.*actrec record --recover"),
        (StoragePlugin.MCAP, lambda whole: b"", "is not an mcap file: it is empty; copy it again"),
        (StoragePlugin.SQLITE3, lambda whole: b"", "is not an sqlite3 file: it is empty; copy it again"),
        (StoragePlugin.MCAP, lambda whole: b"no bag at all", "is not an mcap file: it starts with b'no bag a"),
        (StoragePlugin.SQLITE3, lambda whole: b"no bag at all", "is not an sqlite3 file: it starts with b'no bag"),
        (StoragePlugin.MCAP, None, r"holds no .mcap or .db3 file; metadata.yaml lists b.mcap: copy them into it"),
    ],
)
def test_open_recording_truncated_plays_whole_messages_and_corrupt_raises(
    tmp_path, bag, caplog, plugin, damage, result
):
    with bag(tmp_path / "b", plugin) as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(300):
            b.image(COLOR, stamp, RGB, "rgb8")
    (file,) = (file for file in (tmp_path / "b").iterdir() if file.suffix != ".yaml")
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    if isinstance(result, str):
        with pytest.raises(InputError, match=result) as caught:
            frames_of(tmp_path / "b")
        assert "\n" not in str(caught.value)
        return
    frames = frames_of(tmp_path / "b")
    assert result < len(frames) < 300
    assert [frame.stamp_ns for frame in frames] == stamps(len(frames))
    assert caplog.text.count(f"'{file.name}' is damaged or not finished (") == 1
    assert f"`actrec record --recover '{tmp_path / 'b'}' --out NEW`" in caplog.text
    assert recover(tmp_path / "b", tmp_path / "saved")[COLOR] >= len(frames)
    caplog.clear()
    assert len(frames_of(tmp_path / "saved")) >= len(frames) and "not finished" not in caplog.text


def test_bag_recording_damaged_message_skipped(tmp_path, bag, caplog):
    with bag(tmp_path / "b", StoragePlugin.SQLITE3) as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(3):
            b.image(COLOR, stamp, RGB, "rgb8")
    file = next((tmp_path / "b").glob("*.db3"))
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 100) WHERE id = 3")
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b")] == [stamps(3)[0], stamps(3)[2]]
    assert f"a message on {COLOR} is damaged" in caplog.text


def test_open_recording_without_metadata_plays_and_absent_raises(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, RGB, "rgb8")
    (tmp_path / "b/metadata.yaml").unlink()
    (tmp_path / "b/b.mcap").rename(tmp_path / "b/monday morning.mcap")
    assert len(frames_of(tmp_path / "b")) == 1
    with pytest.raises(DeviceError, match="there is no recording"):
        open_recording(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="is not a known recording"):
        open_recording(tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="unknown recording format 'rosbag1'; known: bag, folder, skeleton, video"):
        open_recording(tmp_path / "x.txt", format="rosbag1")


def test_skeleton_bag_recording_returns_bodies(tmp_path, data_root):
    sequence = skeleton_files.open_sequence(data_root / "utd_mhad/skeleton/a3_s1_t1_skeleton.mat")
    with BagWriter(tmp_path / "b") as writer:
        for index, stamp in enumerate(sequence.stamps_ns):
            bodies = sequence.bodies_at(index) if index != 5 else []
            writer.write_bodies("/robot/skeletons", START + int(stamp), "lens", bodies)
    frames = frames_of(tmp_path / "b", start_s=0.1)
    assert [frame.stamp_ns - START for frame in frames] == sequence.stamps_ns[3:].tolist()
    assert all(frame.color is None and frame.frame_id == "lens" for frame in frames)
    assert frames[2].skeletons == []
    np.testing.assert_array_equal(frames[0].skeletons[0].positions, sequence.bodies[0, 3])
    np.testing.assert_array_equal(frames[0].skeletons[0].scores, sequence.scores[0, 3])
    with pytest.raises(ConfigError, match="choose one of its topics with skeleton_topic: /robot/skeletons"):
        frames_of(tmp_path / "b", skeleton_topic="skeletons")


def test_skeleton_bag_recording_other_layout_converted(tmp_path):
    v1 = Body("body_1", "kinect_v1_20", np.ones((20, 3), np.float32), np.ones((20, 2), np.float32), np.ones(20))
    with BagWriter(tmp_path / "b") as writer:
        writer.write_bodies("/skeletons", START, "lens", [v1])
    (frame,) = frames_of(tmp_path / "b")
    assert frame.skeletons[0].layout == "kinect_v2_25" and frame.skeletons[0].positions.shape == (25, 3)
    strange = Body("body_1", "smpl_24", np.ones((24, 3), np.float32), np.ones((24, 2), np.float32), np.ones(24))
    with BagWriter(tmp_path / "c") as writer:
        writer.write_bodies("/skeletons", START, "lens", [strange])
    with pytest.raises(ActrecError, match="unknown skeleton layout 'smpl_24'"):
        frames_of(tmp_path / "c")


def test_bag_recording_damaged_first_message_is_skipped(tmp_path, bag):
    with bag(tmp_path / "b", StoragePlugin.SQLITE3) as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(3):
            b.image(COLOR, stamp, RGB, "rgb8")
    with sqlite3.connect(next((tmp_path / "b").glob("*.db3"))) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 100) WHERE id = 2")
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b")] == stamps(3)[1:]
