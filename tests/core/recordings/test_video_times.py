"""Stamps of video frames, truncated videos, codecs without a decoder, and videos of an Azure Kinect."""

import errno
import logging
import shlex
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from actrec.recordings import RecordingConfig, open_recording, video
from actrec.utils.errors import InputError

GAPS = [0, 1, 2, 3, 10, 11, 12, 30, 31, 32]
"""Ticks of the frames of a camera that drops some."""


def written(path, ticks, codec="mpeg4", rate=10, **tags):
    with av.open(str(path), "w") as file:
        file.metadata.update(tags)
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for tick in ticks:
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * tick % 256, np.uint8), format="rgb24")
            picture.pts, picture.time_base = tick, Fraction(1, rate)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def ticks_of(path, start_s=0.0, rate=10, **options):
    with open_recording(path, RecordingConfig(hfov_deg=60.0, **options)) as recording:
        return [round(frame.stamp_ns * rate / 1e9) for frame in recording.frames(start_s)]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "mpeg4"), ("a.avi", "mjpeg"), ("a.mkv", "mpeg4"), ("a.MP4", "mpeg4")]
)
def test_video_recording_dropped_frames_keep_stamps(tmp_path, name, codec):
    path = written(tmp_path / name, GAPS, codec)
    assert ticks_of(path) == GAPS
    assert ticks_of(path, 1.05) == [11, 12, 30, 31, 32]


def test_video_recording_fps_option_scales_avi_slots(tmp_path):
    assert ticks_of(written(tmp_path / "a.avi", GAPS), rate=20, fps=20.0) == GAPS


def test_video_recording_truncated_video_warns_with_time(tmp_path, caplog):
    whole = written(tmp_path / "whole.mkv", range(60))
    with caplog.at_level(logging.WARNING):
        assert len(ticks_of(whole)) == 60
        assert "it is truncated" not in caplog.text
        data = whole.read_bytes()
        (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
        left = ticks_of(tmp_path / "cut.mkv")
    assert 10 < len(left) < 50
    assert f"cut.mkv' ends at {left[-1] / 10:.1f} s of its stated 6.0 s: it is truncated" in caplog.text


def test_video_recording_shorter_than_stated_warns_without_tolerance(tmp_path, caplog, monkeypatch):
    """The words that the other tests must not find."""
    monkeypatch.setattr(video, "_TRUNCATED_S", -100.0)
    ticks_of(written(tmp_path / "a.mkv", range(5)))
    assert "it is truncated" in caplog.text


def test_video_recording_late_start_does_not_warn(tmp_path, caplog):
    path = written(tmp_path / "late.mkv", range(50, 60))
    assert ticks_of(path) == list(range(10))
    assert "it is truncated" not in caplog.text


@pytest.mark.parametrize("name", ["slow.mkv", "slow.mp4"])
def test_video_recording_slow_video_does_not_warn(tmp_path, caplog, name):
    path = written(tmp_path / name, range(4), rate=Fraction(1, 3))
    assert ticks_of(path, rate=1) == [0, 3, 6, 9]
    assert "it is truncated" not in caplog.text


def test_video_recording_azure_kinect_file_warns(tmp_path, caplog):
    assert ticks_of(written(tmp_path / "k.mkv", range(3), K4A_DEPTH_MODE="NFOV_UNBINNED")) == [0, 1, 2]
    assert (
        "k.mkv' is from an Azure Kinect; to get its depth, use driver azure_kinect with its option recording"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "changes", "codec"),
    [
        ("my clip.mp4", {b"mp4v": b"evc1", b"esds": b"free"}, ", evc,"),  # FFmpeg knows it, PyAV's has no decoder
        ("a.mp4", {b"mp4v": b"xq9z", b"esds": b"free"}, ", xq9z,"),
        ("a.avi", {b"FMP4": b"XQ9Z"}, ", XQ9Z,"),
        ("a.mkv", {b"V_MPEG4/ISO/ASP": b"V_MPEG9/ISO/ASP"}, ", that is unknown,"),
    ],
)
def test_video_recording_codec_without_decoder_raises_with_its_name(tmp_path, name, changes, codec):
    path = written(tmp_path / name, range(3))
    data = path.read_bytes()
    for old, new in changes.items():
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    for use in (ticks_of, video.read_video_info):
        with pytest.raises(InputError, match=f"{name}' has a codec{codec} that the FFmpeg of PyAV") as caught:
            use(path)
        assert "\n" not in str(caught.value) and "corrupt" not in str(caught.value)
    command = shlex.split(str(caught.value).partition("convert it on a computer that plays it: ")[2])
    assert command == ["ffmpeg", "-i", str(path), "-c:v", "libx264", str(path.with_name(f"{path.stem}_h264.mp4"))]


def test_video_recording_decoder_that_needs_hardware_raises_with_its_codec(tmp_path):
    """FFmpeg has such a decoder for AV1."""
    path = written(tmp_path / "a.mp4", range(3))
    with pytest.raises(InputError, match=r"a\.mp4' has a codec, mpeg4, that .* cannot decode; convert it on"):
        with video.open_video(path) as container, video._ffmpeg_errors(path, container):
            av.error.err_check(-errno.ENOSYS)


@pytest.mark.parametrize("encoders", [video._ENCODERS, ()])
def test_video_writer_of_any_encoder_keeps_times_and_size(tmp_path, monkeypatch, encoders):
    monkeypatch.setattr(video, "_ENCODERS", encoders)
    path, ticks = tmp_path / "out.mp4", [0, 1, 2, 2, 7, 8, 20]  # tenths of a second; one stamp comes twice
    writer = video.VideoWriter(path)
    for tick in ticks:
        writer.write(np.full((47, 65, 3), 10 * tick, np.uint8), 10**18 + tick * 10**8)
    writer.close()
    writer.close()
    assert (writer.codec == "mpeg4") == (not encoders)
    capture, times = cv2.VideoCapture(str(path)), []
    while (found := capture.read())[0]:
        assert found[1].shape == (46, 64, 3)
        assert abs(float(found[1].mean()) - 10 * ticks[len(times)]) < 6
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    np.testing.assert_allclose(times, np.array(ticks) / 10, atol=1e-3)
    with av.open(str(path)) as played:
        assert played.duration / av.time_base == pytest.approx(2.0, abs=0.11)
