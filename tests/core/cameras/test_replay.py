"""The replay driver: pace, seek, loops, stamps, errors."""

import dataclasses
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from actrec import cameras
from actrec.cameras.base import Pace
from actrec.cameras.replay import ReplayCamera
from actrec.recordings.rosbag import bag_reader
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.recordings.rosbag.image_bag import BagRecording
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError
from benchmarks import cameras as cameras_benchmark

PERIOD = 33_333_333
SKELETON = "ntu/skeleton/S001C001P001R001A001.skeleton"


@pytest.fixture(scope="module")
def person_bag(tmp_path_factory, person_frames):
    path = tmp_path_factory.mktemp("replay") / "person"
    with BagWriter(path) as writer:
        for frame in person_frames:
            writer.write_frame(frame)
    return str(path)


def play(limit: int = 10_000, **options: Any) -> tuple[list[Any], Any]:
    with cameras.create("replay", **options) as camera:
        frames: list[Any] = []
        try:
            while len(frames) < limit:
                frames.append(camera.read(10.0))
        except EndOfStream:
            pass
    return frames, camera


def test_replay_frames_returned_as_recorded(person_bag, person_frames):
    frames, _ = play(path=person_bag, rate=0.0, restamp=False)
    assert len(frames) == len(person_frames)
    for before, after in zip(person_frames, frames, strict=True):
        np.testing.assert_array_equal(before.color, after.color)
        np.testing.assert_array_equal(before.depth, after.depth)
        assert before.stamp_ns == after.stamp_ns


@pytest.mark.parametrize("kind", ["bag", "folder"])
def test_replay_knows_without_opening_whether_frames_have_depth(tmp_path, person_frames, kind):
    """Without depth, the graph does not wait for it (`use_depth`)."""
    for name in ("with", "without"):
        if kind == "bag":
            with BagWriter(tmp_path / name) as writer:
                for frame in person_frames[:2]:
                    writer.write_frame(frame if name == "with" else dataclasses.replace(frame, depth=None))
        else:
            (tmp_path / name).mkdir()
            for file in ["1.png", *(["1_depth.png"] if name == "with" else [])]:
                (tmp_path / name / file).touch()
    assert [ReplayCamera(path=str(tmp_path / name)).has_depth for name in ("with", "without")] == [True, False]
    assert not ReplayCamera(path=str(tmp_path / "with"), depth_topic="none").has_depth
    assert ReplayCamera(path=str(tmp_path / "absent")).has_depth, "`open` reports it"


def test_replay_camera_that_is_made_opens_its_bag_once(person_bag, monkeypatch):
    opened = []

    class Counted(bag_reader.Bag):
        def __init__(self, *arguments, **options):
            opened.append(arguments)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(bag_reader, "Bag", Counted)
    camera = ReplayCamera(path=person_bag)
    assert camera.has_color and camera.has_depth and len(opened) == 1


def test_replay_read_after_end_raises_again(person_bag):
    with ReplayCamera(path=person_bag, rate=0.0, start_s=0.2) as camera:
        assert camera.intrinsics.fx == 525
        camera.read(10.0)
        camera.read(10.0)
        for _ in range(3):
            with pytest.raises(EndOfStream, match="has ended"):
                camera.read(10.0)


def test_replay_restamp_starts_now_keeps_intervals(person_bag):
    before = time.time_ns()
    frames, _ = play(path=person_bag, rate=0.0)
    assert before <= frames[0].stamp_ns <= time.time_ns()
    assert {b.stamp_ns - a.stamp_ns for a, b in pairwise(frames)} <= {PERIOD, PERIOD + 1}


def test_replay_loop_stamps_increase(person_bag):
    frames, _ = play(20, path=person_bag, rate=0.0, loop=True)
    assert {b.stamp_ns - a.stamp_ns for a, b in pairwise(frames)} <= {PERIOD, PERIOD + 1}
    np.testing.assert_array_equal(frames[0].color, frames[8].color)
    recorded, _ = play(20, path=person_bag, rate=0.0, loop=True, restamp=False)
    assert recorded[8].stamp_ns == recorded[0].stamp_ns


def test_replay_start_and_duration_limit_frames(person_bag, person_frames):
    frames, camera = play(path=person_bag, rate=0.0, restamp=False, start_s=0.1, duration_s=0.1)
    assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in person_frames[3:6]]
    assert camera.config.start_s == 0.1
    looped, _ = play(7, path=person_bag, rate=0.0, restamp=False, start_s=0.1, duration_s=0.1, loop=True)
    assert [f.stamp_ns for f in looped] == [f.stamp_ns for f in person_frames[3:6] * 3][:7]


def test_replay_reopened_continues_with_increasing_stamps(person_bag):
    camera = ReplayCamera(path=person_bag, rate=0.0)
    stamps: list[int] = []
    for _ in range(2):
        with camera:
            stamps += [camera.read(10.0).stamp_ns for _ in range(4)]
    assert all(a < b for a, b in pairwise(stamps))


def test_replay_start_after_end_raises(person_bag):
    camera = ReplayCamera(path=person_bag, start_s=9.0)
    with pytest.raises(ConfigError, match=r"cannot start .* at 9 s: it lasts 0.23 s"):
        camera.open()


def test_replay_rate_paces_frames():
    """Due times are compared, without waiting."""
    pace = Pace(rate=2.0)
    pace.advance(10**9)
    began = pace.due(10**9)
    assert pace.due(2 * 10**9) == pytest.approx(began + 0.5, abs=1e-6)
    pace.advance(2 * 10**9)
    assert pace.due(10**9, loops=1) == pytest.approx(began + 1.0, abs=1e-6)  # one period after the last
    pace.restart()
    assert pace.due(5 * 10**9) == pytest.approx(began, abs=5.0)


def test_replay_clock_set_back_stamps_increase():
    pace = Pace(rate=0.0)
    stamps = [pace.advance(stamp) for stamp in (0, PERIOD, 2 * PERIOD, PERIOD // 2, PERIOD // 2 + PERIOD)]
    assert np.diff(stamps).tolist() == [PERIOD] * 4


def test_replay_clock_set_forward_does_not_wait():
    """A robot without a real-time clock starts in 1970 and sets its clock while it records."""
    pace, later = Pace(rate=1.0), 1_700_000_000 * 10**9
    stamps = [pace.advance(stamp) for stamp in (0, PERIOD)]
    assert pace.due(later) - pace.due(PERIOD) == pytest.approx(PERIOD / 1e9, abs=1e-6)
    stamps += [pace.advance(stamp) for stamp in (later, later + PERIOD)]
    assert np.diff(stamps).tolist() == [PERIOD] * 3
    assert pace.due(later + PERIOD + 60 * 10**9) > pace.due(later + PERIOD) + 59, "a pause is waited for"


def test_replay_bag_stamps_jump_back_plays_all_frames(tmp_path, bag):
    start, recorded = 1_700_000_000 * 10**9, [0, 1, 2, -30, -29, -28]
    with bag(tmp_path / "b") as b:
        b.info("/camera/color/camera_info", start, 8, 4)
        for k, step in enumerate(recorded):
            pixels = np.full((4, 8, 3), k, np.uint8)
            b.image("/camera/color/image_raw", start + step * PERIOD, pixels, "rgb8", log_time=start + k * PERIOD)
    frames, _ = play(path=str(tmp_path / "b"), rate=0.0, restamp=False)
    assert [(f.stamp_ns - start) // PERIOD for f in frames] == recorded
    frames, _ = play(path=str(tmp_path / "b"), rate=0.0)
    assert all(b.stamp_ns - a.stamp_ns == PERIOD for a, b in pairwise(frames))


def test_replay_skeleton_file_returns_joints_without_images(data_root):
    frames, _ = play(path=str(data_root / SKELETON), rate=0.0)
    assert len(frames) == 103 and all(f.color is None and f.depth is None for f in frames)
    assert all(len(f.skeletons) == 1 and f.skeletons[0].layout == "kinect_v2_25" for f in frames)
    packed = str(data_root / "utd_mhad/utd_mhad_skeletons.npz")
    frames, _ = play(path=packed, rate=0.0, sequence="a3_s2_t1", restamp=False, fps=15.0)
    assert frames[15].stamp_ns == 10**9
    with pytest.raises(ConfigError, match="choose one by name"):
        play(path=packed)


def test_replay_folder_or_video_returns_frames(data_root):
    options = {"intrinsics": "525,525,319.5,239.5", "depth_scale": 0.001, "rate": 0.0}
    frames, _ = play(5, path=str(data_root / "rgbd/person_turning"), **options)
    assert all(f.depth is not None for f in frames)
    frames, _ = play(5, path=str(data_root / "videos/street_720p.avi"), hfov_deg=70.0, rate=0.0, start_s=1.0)
    assert all(f.depth is None and f.color.shape == (720, 1280, 3) for f in frames)


def test_replay_invalid_options_raise(tmp_path, person_bag):
    with pytest.raises(ConfigError, match="needs a recording: set its option path"):
        cameras.create("replay")
    with pytest.raises(ConfigError, match=r"ReplayConfig\.format is 'ros1'"):
        cameras.create("replay", path=person_bag, format="ros1")
    with pytest.raises(ConfigError, match="unknown option speed .* known: .*rate"):
        cameras.create("replay", path=person_bag, speed=2)
    with pytest.raises(ConfigError, match=r"rate is -1"):
        cameras.create("replay", path=person_bag, rate=-1.0)
    with pytest.raises(DeviceError, match="there is no recording"):
        cameras.create("replay", path=str(tmp_path / "none")).open()
    with pytest.raises(InputError, match="holds no color images"):
        cameras.create("replay", path=str(tmp_path)).open()
    camera: Any = cameras.create("replay", path=person_bag)
    for use in (lambda: camera.read(), lambda: camera.intrinsics):
        with pytest.raises(DeviceError, match="is not open"):
            use()
    camera.close()
    camera.close()


def test_bench_camera_recording_ends_reports(person_bag):
    options = ["--driver-option", f"path={person_bag}", "--driver-option", "rate=0"]
    figures = cameras_benchmark.measure(["--driver", "replay", *options, "--minutes", "5"])
    assert figures["frames"] == 8 and figures["interval_p50_ms"] > 0


def test_replay_error_in_worker_reaches_reader(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info("/camera/color/camera_info", 0, 8, 4)
        for k in range(3):
            size = (4, 8, 3) if k < 2 else (5, 8, 3)
            b.image("/camera/color/image_raw", k * PERIOD, np.zeros(size, np.uint8), "rgb8")
    with cameras.create("replay", path=str(tmp_path / "b"), rate=0.0) as camera:
        camera.read(10.0)
        camera.read(10.0)
        for _ in range(2):
            with pytest.raises(InputError, match=r"bag '.*b': color is uint8\[5, 8, 3\]"):
                camera.read(10.0)


def test_replay_close_wakes_waiting_reader(person_bag):
    camera = cameras.create("replay", path=person_bag, rate=0.0001)
    camera.open()
    camera.read(10.0)
    caught = []

    def wait():
        try:
            camera.read(10.0)
        except DeviceError as error:
            caught.append(str(error))

    reader = threading.Thread(target=wait)
    reader.start()
    camera.close()
    reader.join(timeout=10)
    assert not reader.is_alive() and len(caught) == 1
    before = threading.active_count()
    play(1, path=person_bag, rate=0.0, loop=True)
    assert threading.active_count() == before


def test_replay_disk_that_fails_ends_the_recording(person_bag, monkeypatch):
    """A DeviceError would be read again and again."""
    messages = BagRecording._messages

    def failing(self, topics, start=None):
        if start is not None:  # playback, not opening
            raise OSError(5, "Input/output error")
        return messages(self, topics, start)

    monkeypatch.setattr(BagRecording, "_messages", failing)
    with ReplayCamera(path=person_bag, rate=0.0) as camera, pytest.raises(InputError, match="Input/output error"):
        camera.read(10.0)


def test_replay_clock_set_forward_does_not_end_the_duration(tmp_path, bag):
    later = 1_700_000_000 * 10**9
    with bag(tmp_path / "b") as b:
        b.info("/camera/color/camera_info", 0, 8, 4)
        for k, stamp in enumerate([0, PERIOD, later, later + PERIOD]):
            b.image("/camera/color/image_raw", stamp, np.zeros((4, 8, 3), np.uint8), "rgb8", log_time=k * PERIOD)
    frames, _ = play(path=str(tmp_path / "b"), rate=0.0, duration_s=1.0)
    assert len(frames) == 4
