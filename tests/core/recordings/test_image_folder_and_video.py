"""Folders of images, and videos without depth."""

import os
import shutil
from itertools import pairwise
from typing import Any

import av
import cv2
import numpy as np
import pytest

from actrec.cameras.replay import ReplayCamera
from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.image_folder import image_files, read_folder_info
from actrec.utils.calibration_files import from_fov
from actrec.utils.errors import ConfigError, DeviceError, InputError

F525 = "525,525,319.5,239.5"


def frames_of(path: Any, start_s: float = 0.0, **options: Any) -> list[Any]:
    with open_recording(path, RecordingConfig(**options)) as recording:
        return list(recording.frames(start_s))


def test_folder_recording_person_turning_returns_frames(data_root):
    folder = data_root / "rgbd/person_turning"
    with open_recording(folder, RecordingConfig(intrinsics=F525, depth_scale=0.001)) as recording:
        assert recording.duration_s == pytest.approx(99 / 30)
        frames: list[Any] = [frame for frame, _ in zip(recording.frames(), range(3), strict=False)]
        last: list[Any] = list(recording.frames(98.9 / 30))
    raw = cv2.imread(str(folder / "0000000001_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(np.isnan(frames[1].depth), raw == 0)
    np.testing.assert_allclose(np.nan_to_num(frames[1].depth), raw / 1000, atol=1e-6)
    bgr = cv2.imread(str(folder / "0000000001.jpg"))
    np.testing.assert_array_equal(frames[1].color, bgr[..., ::-1])
    assert len(last) == 1 and last[0].stamp_ns == 3_300_000_000


def test_folder_recording_depth_scale_5000_per_meter(data_root):
    for folder in sorted((data_root / "rgbd/pairs").iterdir()):
        frames = frames_of(folder, intrinsics=F525, depth_scale=1 / 5000)
        assert len(frames) == 2
        raw = cv2.imread(str(folder / "depth1.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(np.nan_to_num(frames[1].depth), raw / 5000, rtol=1e-6)
        assert 0.5 < np.nanmedian(frames[0].depth) < 6


def test_folder_recording_depth_npz_returns_meters(data_root):
    folder = data_root / "rgbd/realsense_hands/G06_palm_clip01"
    frames = frames_of(folder, hfov_deg=69.0)
    raw = np.load(folder / "depth_mm.npz")["depth"]
    assert len(frames) == len(raw) == 15
    np.testing.assert_allclose(np.nan_to_num(frames[14].depth), raw[14] / 1000, rtol=1e-6)


def test_folder_recording_unknown_scale_or_intrinsics_raises(data_root):
    folder = data_root / "rgbd/person_turning"
    with pytest.raises(InputError, match="has no intrinsics: give option intrinsics="):
        open_recording(folder)
    with pytest.raises(InputError, match=r"has no depth scale: give option depth_scale \(0\.001"):
        open_recording(folder, RecordingConfig(intrinsics=F525))
    with pytest.raises(ConfigError, match="expected four numbers"):
        open_recording(folder, RecordingConfig(intrinsics="525,525,x,1"))


def small_folder(folder, names, size=(24, 32), depth_size=(24, 32)):
    for color, depth in names:
        for name, image in (
            (color, np.full((*size, 3), 9, np.uint8)),
            (depth, np.full(depth_size, 2000, np.uint16)),
        ):
            if name:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / name), image)
    return folder


def test_folder_recording_intrinsics_yaml_used_and_checked(tmp_path, caplog):
    small_folder(tmp_path / "f", [("rgb/000009.png", "depth/000009.png"), ("rgb/000010.png", "depth/000010.png")])
    text = "width: 32\nheight: 24\nfx: 30\nfy: 31\ncx: 15.5\ncy: 11.5\n"
    (tmp_path / "f/intrinsics.yaml").write_text(text + "depth_scale: 0.0005\nfps: 10\n")
    frames = frames_of(tmp_path / "f")
    assert [frame.stamp_ns for frame in frames] == [0, 100_000_000]
    assert frames[0].intrinsics.fy == 31 and frames[0].depth[0, 0] == pytest.approx(1.0)
    assert frames_of(tmp_path / "f", depth_scale=0.001)[0].depth[0, 0] == pytest.approx(2.0)
    (tmp_path / "f/intrinsics.yaml").write_text(text.replace("width: 32", "width: 640"))
    with pytest.raises(InputError, match="for 640×24 images, but these are 32×24"):
        open_recording(tmp_path / "f", RecordingConfig(depth_scale=0.001))
    for broken, message in (
        ("fx: 30", "lacks 'width'"),
        ("width: [", "is not YAML"),
        ("7", "is not a mapping"),
        (text.replace("fx: 30", "fx: 0"), "uncalibrated camera .fx is 0, fy 31"),
        (text.replace("height: 24", "height: 0"), "is of 32×0 images"),
        (text + "depth_scale: mm", "depth_scale is 'mm', expected a positive number"),
        (text + "depth_scale: -0.001", "depth_scale is '-0.001'"),
        (text + "mount: sideways", "intrinsics.yaml': mount is 'sideways', expected level, upside_down"),
    ):
        (tmp_path / "f/intrinsics.yaml").write_text(broken)
        with pytest.raises(InputError, match=message):
            open_recording(tmp_path / "f")
    ros = tmp_path / "camera.yaml"
    ros.write_text(
        "image_width: 32\nimage_height: 24\ncamera_matrix: {rows: 3, cols: 3, data: [40, 0, 15, 0, 41, 11, 0, 0, 1]}\n"
        "distortion_coefficients: {rows: 1, cols: 5, data: [0.1, 0, 0, 0, 0]}\n"
    )
    (tmp_path / "f/intrinsics.yaml").unlink()
    frames = frames_of(tmp_path / "f", intrinsics=str(ros), depth_scale=0.001)
    assert frames[0].intrinsics.fy == 41 and frames[0].intrinsics.distortion == (0.1, 0, 0, 0, 0)
    undistorted = ros.read_text().replace("0.1", "0") + "distortion_model: pinhole\n"
    ros.write_text(ros.read_text() + "distortion_model: equidistant\n")
    with pytest.raises(InputError, match=r"camera\.yaml': an equidistant lens has 4 coefficients"):
        frames_of(tmp_path / "f", intrinsics=str(ros), depth_scale=0.001)
    ros.write_text(undistorted.replace("data: [0,", "data: [0.1,"))
    with pytest.raises(InputError, match=r"camera\.yaml': the lens model is 'pinhole'"):
        frames_of(tmp_path / "f", intrinsics=str(ros), depth_scale=0.001)
    ros.write_text(undistorted)
    assert frames_of(tmp_path / "f", intrinsics=str(ros), depth_scale=0.001)[0].intrinsics.distortion == ()
    with pytest.raises(ConfigError, match="intrinsics is '0,0,15,11', expected four numbers"):
        frames_of(tmp_path / "f", intrinsics="0,0,15,11", depth_scale=0.001)


def test_folder_recording_tum_stamps_pair_in_time(tmp_path, caplog):
    names = [
        ("rgb/1305031102.175304.png", "depth/1305031102.160407.png"),
        ("rgb/1305031102.211214.png", "depth/1305031102.194330.png"),
        ("rgb/1305031102.243211.png", "depth/1305031102.226738.png"),
        ("rgb/1305031109.000000.png", ""),
    ]
    frames = frames_of(small_folder(tmp_path, names), intrinsics="30,30,15,11", depth_scale=0.0002)
    assert len(frames) == 3
    assert abs(frames[0].stamp_ns - 1305031102175304000) < 1000
    assert "skipping 1 of 4 color images without depth" in caplog.text


def test_folder_recording_folders_in_capitals_found(tmp_path):
    folder = small_folder(tmp_path, [("RGB/1.png", "Depth/1.png"), ("RGB/2.png", "Depth/2.png")])
    assert [frame.depth is None for frame in frames_of(folder, intrinsics="30,30,15,11", depth_scale=0.001)] == [
        False
    ] * 2


@pytest.mark.parametrize("unit", [1, 10**3, 10**9])
def test_folder_recording_names_in_whole_seconds_are_stamps(tmp_path, unit):
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{(1_700_000_000 + 2 * k) * unit}.png"), np.zeros((48, 64, 3), np.uint8))
    frames = frames_of(tmp_path, intrinsics="60,60,32,24")
    assert [frame.stamp_ns for frame in frames] == [(1_700_000_000 + 2 * k) * 10**9 for k in range(3)]


@pytest.mark.parametrize("unit", [10**3, 10**6, 10**9])
def test_folder_recording_names_in_smaller_units_are_stamps(tmp_path, unit):
    start = 1_700_000_000 * unit
    for name, lag in (("rgb", 0), ("depth", unit // 250)):
        (tmp_path / name).mkdir()
        for k in range(4):
            pixels = np.full((48, 64), 1000 + k, np.uint16) if lag else np.full((48, 64, 3), k, np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{start + k * unit // 10 + lag}.png"), pixels)
    frames = frames_of(tmp_path, intrinsics="60,60,32,24", depth_scale=0.001)
    expected = [1_700_000_000_000_000_000 + k * 100_000_000 for k in range(4)]
    np.testing.assert_allclose(
        [frame.stamp_ns - expected[0] for frame in frames], np.subtract(expected, expected[0]), atol=1000
    )
    assert [round(float(frame.depth[0, 0]), 3) for frame in frames] == [1.0, 1.001, 1.002, 1.003]


def test_folder_recording_skipped_color_keeps_numbering_of_stamps(tmp_path):
    names = [(f"rgb/{n}.png", "" if n in (2, 3) else f"depth/{n}.png") for n in range(6)]
    frames = frames_of(small_folder(tmp_path, names), intrinsics="30,30,15,11", depth_scale=0.001, fps=10)
    assert [frame.stamp_ns // 100_000_000 for frame in frames] == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("numbers", "places", "missing"),
    [
        ((0, 1, 2, 5), (0, 1, 2, 5), 2),
        ((10, 20, 30), (0, 1, 2), 0),
        ((0, 2, 8), (0, 1, 4), 2),
        ((0, 2, 4, 5, 7, 9), (0, 2, 4, 5, 7, 9), 4),
        ((33, 67, 100, 133, 200), (0, 1, 2, 3, 5), 1),
        ((7,), (0,), 0),
    ],
)
def test_folder_recording_missing_numbers_count_in_the_stamps(tmp_path, caplog, numbers, places, missing):
    folder = small_folder(tmp_path, [(f"{number:04d}.png", "") for number in numbers])
    frames = frames_of(folder, hfov_deg=60.0, fps=10)
    assert [frame.stamp_ns // 100_000_000 for frame in frames] == [*places]
    assert (f"{missing} numbers between the images are missing" in caplog.text) == bool(missing)


def test_folder_recording_mirrored_is_flipped_back(tmp_path):
    small_folder(tmp_path, [("1.png", "1_depth.png")])
    image, depth = np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32), np.uint16)
    image[5, 3], depth[5, 3] = 255, 2000
    cv2.imwrite(str(tmp_path / "1.png"), image)
    cv2.imwrite(str(tmp_path / "1_depth.png"), depth)
    options = RecordingConfig(intrinsics="30,31,15,11", depth_scale=0.001, mirror="yes")
    with open_recording(tmp_path, options) as recording:
        (frame,) = recording.frames()
        assert recording.intrinsics == frame.intrinsics
    frame.check()
    assert frame.color is not None and frame.depth is not None
    assert frame.color[5, 28].tolist() == [255] * 3 and frame.depth[5, 28] == pytest.approx(2.0)
    assert np.isfinite(frame.depth).sum() == 1 and frame.intrinsics.cx == 16


def test_folder_recording_color_only_and_mixed_sizes(tmp_path, caplog):
    frames = frames_of(small_folder(tmp_path / "c", [("img_1.png", ""), ("img_2.png", "")]), hfov_deg=60.0)
    assert [frame.depth for frame in frames] == [None, None] and "has no depth" in caplog.text
    folder = small_folder(tmp_path / "d", [("color0.png", "depth0.png")], depth_size=(12, 16))
    with pytest.raises(InputError, match=r"color0\.png.*register depth to color first"):
        frames_of(folder, hfov_deg=60.0, depth_scale=0.001)
    folder = small_folder(tmp_path / "e", [("color0.png", "depth7.png")])
    with pytest.raises(InputError, match="no depth image has the number of a color image"):
        frames_of(folder, hfov_deg=60.0, depth_scale=0.001)


def test_folder_recording_empty_folder_or_truncated_image_raises(tmp_path, data_root):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no color images"):
        open_recording(tmp_path / "empty")
    folder = tmp_path / "cut"
    folder.mkdir()
    for name in ("0000000000.jpg", "0000000000_depth.png", "0000000001.jpg", "0000000001_depth.png"):
        shutil.copy(data_root / "rgbd/person_turning" / name, folder / name)
    depth = folder / "0000000001_depth.png"
    depth.chmod(0o644)
    depth.write_bytes(depth.read_bytes()[:50])
    with pytest.raises(InputError, match=r"0000000001_depth\.png' cannot be decoded"):
        frames_of(folder, intrinsics=F525, depth_scale=0.001)
    cv2.imwrite(str(depth), np.zeros((480, 640), np.uint8))
    with pytest.raises(InputError, match=r"is uint8\[480, 640\], expected 16-bit depth"):
        frames_of(folder, intrinsics=F525, depth_scale=0.001)


def test_image_files_other_digits_are_letters(tmp_path):
    for name in ("1\u00b210.png", "1\u00b22.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
    assert [file.name for file in image_files(tmp_path)] == ["1\u00b22.png", "1\u00b210.png"]


def test_image_files_hidden_macos_files_ignored(tmp_path):
    small_folder(tmp_path, [("a_9.png", ""), ("a_10.png", "")])
    for name in ("._a_9.png", "._a_10.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(100))
    assert [file.name for file in image_files(tmp_path)] == ["a_9.png", "a_10.png"]
    assert read_folder_info(tmp_path).frames == 2


def test_video_recording_ntu_video_flipped_back(data_root, caplog):
    file = data_root / "ntu/rgb/S001C001P001R001A001_rgb.avi"
    with open_recording(file) as recording:
        frames: list[Any] = [frame for frame, _ in zip(recording.frames(), range(2), strict=False)]
        assert recording.intrinsics.fx == pytest.approx(1064, abs=1)
    assert "assuming the Kinect v2's field of view" in caplog.text and "without depth" in caplog.text
    with open_recording(file, RecordingConfig(mirror="no")) as recording:
        raw: Any = next(recording.frames())
    np.testing.assert_array_equal(frames[0].color, raw.color[:, ::-1])
    assert [frame.stamp_ns for frame in frames] == [0, 33333333]


def test_video_recording_counts_seeks_and_estimates_field_of_view(data_root, caplog):
    file = data_root / "videos/people_1080p.mp4"
    with open_recording(file) as recording:
        assert recording.intrinsics == from_fov(1920, 1080, 65.0)
    assert "assuming a field of view of 65 degrees along the longer edge" in caplog.text
    with open_recording(file, RecordingConfig(max_edge=480)) as recording:
        assert (recording.intrinsics.width, recording.intrinsics.height) == (480, 270)
        next(recording.frames()).check()
    frames = frames_of(file, hfov_deg=70.0, start_s=2.0)
    assert frames[0].stamp_ns >= 2_000_000_000 > frames[0].stamp_ns - 40_000_000
    all_frames = frames_of(file, hfov_deg=70.0)
    assert len(all_frames) == 72 and all(a.stamp_ns < b.stamp_ns for a, b in pairwise(all_frames))
    assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in all_frames if f.stamp_ns >= 2_000_000_000]
    np.testing.assert_array_equal(frames[0].color, all_frames[-len(frames)].color)
    assert frames_of(file, hfov_deg=70.0, fps=10.0, start_s=6.9)[0].stamp_ns == 6_900_000_000
    with ReplayCamera(path=str(file), hfov_deg=70.0, fps=10.0, rate=0.0, start_s=6.9) as camera:
        assert camera.read(10.0).color is not None
    with pytest.raises(ConfigError, match=r"cannot start .* at 9 s: it lasts 7\.[12]"):
        ReplayCamera(path=str(file), hfov_deg=70.0, fps=10.0, start_s=9.0).open()


def test_video_recording_without_stated_duration_measured(tmp_path):
    """Browsers record such files."""
    with av.open(str(tmp_path / "live.webm"), "w", format="webm", options={"live": "1"}) as file:
        stream = file.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(21):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with open_recording(tmp_path / "live.webm", RecordingConfig(hfov_deg=60.0)) as recording:
        assert recording.duration_s == pytest.approx(2.0, abs=0.01)
        assert [frame.stamp_ns for frame in recording.frames(1.8)] == [1_800_000_000, 1_900_000_000, 2_000_000_000]


def test_video_recording_truncated_or_foreign_file_raises(tmp_path, data_root):
    whole = (data_root / "videos/people_1080p.mp4").read_bytes()
    for name, content in (("cut.mp4", whole[: len(whole) // 2]), ("not.mp4", b"not a video"), ("empty.avi", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name) as caught:
            frames_of(tmp_path / name, hfov_deg=70.0)
        assert "\n" not in str(caught.value)


def test_folder_recording_depth_npz_of_far_more_pixels_than_color_raises(tmp_path):
    (tmp_path / "rgb").mkdir()
    for k in range(2):
        cv2.imwrite(str(tmp_path / f"rgb/{k}.png"), np.zeros((48, 64, 3), np.uint8))
    np.savez_compressed(tmp_path / "depth_mm.npz", depth=np.zeros((2, 2048, 2048), np.uint16))
    with pytest.raises(InputError, match="depth_mm.npz' holds 17 MB of arrays, at most 1 MB are read"):
        frames_of(tmp_path, hfov_deg=69.0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mcap", "a.db3", "a.csv", "a.npz"])
def test_open_recording_pipe_or_device_raises(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / f"device_{name}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"device_{name}"):
        with pytest.raises(DeviceError, match="is a pipe or a device, no recording"):
            open_recording(path, RecordingConfig(intrinsics=F525))


def test_folder_recording_pipe_among_the_images_raises(tmp_path):
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(InputError, match="cannot be decoded"):
        open_recording(tmp_path, RecordingConfig(intrinsics=F525))


def test_folder_recording_without_its_depth(tmp_path):
    folder = small_folder(tmp_path, [("1.png", "1_depth.png"), ("2.png", "2_depth.png")])
    assert [frame.depth for frame in frames_of(folder, hfov_deg=60.0, depth_topic="none")] == [None, None]
