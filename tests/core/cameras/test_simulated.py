"""Simulated camera driver: timing, end of stream, ground truth, invalid settings."""

import threading

import numpy as np
import pytest

from actrec import cameras
from actrec.cameras import simulated
from actrec.cameras.simulated import SimulatedCamera
from actrec.simulation.scene import CameraPose
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError
from actrec.utils.geometry import unproject

SMALL = {"width": 160, "height": 120, "start_stamp_ns": 0}


def frames(**options):
    with SimulatedCamera(realtime=False, **{**SMALL, **options}) as camera:
        result = []
        with pytest.raises(EndOfStream):
            while True:
                result.append(camera.read())
    return result


def test_read_frame_follows_data_contract() -> None:
    result = frames(duration=0.5, fps=30.0)
    assert len(result) == 15
    assert [f.stamp_ns for f in result[:3]] == [0, 33333333, 66666667]
    for frame in result:
        frame.check()
        assert frame.color.dtype == np.uint8 and frame.depth.dtype == np.float32
        assert frame.frame_id == "camera_color_optical_frame"
        known = frame.depth[np.isfinite(frame.depth)]
        assert known.min() > 0.4 and known.max() < 6 and 0 < np.isnan(frame.depth).mean() < 0.2
        (body,) = frame.skeletons
        assert (body.body_id, body.layout) == ("actor_1", "kinect_v2_25")
        assert body.positions.shape == (25, 3) and body.positions.dtype == np.float32


def test_prepare_renders_before_open(monkeypatch) -> None:
    rendered, render = [], SimulatedCamera._render

    def record_render(camera, scene, number):
        rendered.append(number)
        return render(camera, scene, number)

    monkeypatch.setattr(SimulatedCamera, "_render", record_render)
    camera = SimulatedCamera(**SMALL, script="nosuch.npz")  # a missing file is reported by open
    camera.prepare()
    assert rendered == [0]
    with pytest.raises(DeviceError, match="not open"):
        camera.read()


def test_read_same_seed_repeats() -> None:
    first, again, other = (frames(duration=0.2, seed=seed, actions=["throw"]) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.color, b.color)
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.skeletons[0].positions, b.skeletons[0].positions)
    assert not np.array_equal(first[2].color, other[2].color)


def test_read_without_noise_depth_is_exact() -> None:
    with SimulatedCamera(noise=False, realtime=False, **SMALL) as camera:
        frame = camera.read()
        assert np.isfinite(frame.depth).all()
        np.testing.assert_array_equal(frame.depth, camera.snapshot.rendering.depth)


@pytest.mark.parametrize("height", [2.5, 2.6, 3.0])
def test_read_camera_at_ceiling_is_inside_room(height) -> None:
    options = {"width": 80, "height": 60, "noise": False, "realtime": False, "actors": 0}
    with SimulatedCamera(**options, camera_height=height, camera_pitch=-10.0) as camera:
        frame = camera.read()
    points = unproject(np.moveaxis(np.indices((60, 80))[::-1], 0, -1), frame.depth, frame.intrinsics)
    above = height - (points @ CameraPose(height, np.radians(-10.0)).rotation.T)[..., 1]
    assert (frame.depth > 0).all() and above.min() > -1e-3 and above.max() < max(2.6, height + 0.1) + 1e-3


def test_actions_at_any_stamp() -> None:
    with SimulatedCamera(actions=["wave"], actors=2, realtime=False, **SMALL) as camera:
        frame = camera.read()
        assert camera.actions_at(frame.stamp_ns) == {"actor_1": "wave", "actor_2": "wave"}
        assert {camera.actions_at(round(t * 1e9))["actor_1"] for t in np.arange(0, 20, 0.2)} == {"wave", "idle"}
        assert len(frame.skeletons) == 2


def test_actions_at_everyday_actions_begin_after_the_pause() -> None:
    names = ["idle", "clap", "sit down", "use_a_computer"]
    with SimulatedCamera(actions=names, pause=2.0, realtime=False, **SMALL) as camera:
        found = [camera.actions_at(round(t * 1e9))["actor_1"] for t in np.arange(0, 20, 0.1)]
        begins = [k for k in range(1, 200) if found[k] != found[k - 1]]
        assert [found[k] for k in begins][:6] == ["clap", "idle", "sit_down", "idle", "use a computer", "idle"]
        waits = [begins[0] / 2, *(after - before for before, after in zip(begins[1::2], begins[2::2], strict=False))]
        assert all(15 <= tenths <= 25 for tenths in waits[:3]), waits


def test_scene_flow_of_last_frame_is_exact() -> None:
    with SimulatedCamera(actions=["walk"], realtime=False, fps=1.0, **SMALL) as camera:
        with pytest.raises(DeviceError, match="no frame yet"):
            camera.scene_flow(0.1)
        for _ in range(3):
            camera.read()
        flow = camera.scene_flow(1 / 30)
        assert [hand.side for hand in camera.hands()] == ["left", "right"]
        person = camera.snapshot.rendering.people == 0
        assert np.linalg.norm(flow[person], axis=-1).mean() > 0.3
        assert (flow[~person] == 0).all()


def test_read_without_actors_has_no_bodies() -> None:
    (frame, *_) = frames(actors=0, duration=0.1)
    assert frame.skeletons == []


class Clock:
    """Fake of `time` in the driver; waiting advances it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.set_s = 0.0  # by which the system's clock was set
        self.stopped_s = 0.0  # for which the process is stopped as it reads the system's clock next
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        self.now, self.stopped_s = self.now + self.stopped_s, 0.0
        return round((self.now + self.set_s) * 1e9)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    real, reader = threading.Event.wait, threading.get_ident()

    def wait(event, seconds=None) -> bool:
        # Ignore waits of other threads, such as a progress bar, and waits for a thread to start.
        if threading.get_ident() != reader or seconds is None:
            return real(event, seconds)
        clock.waits.append(seconds)
        clock.now += seconds
        return False

    monkeypatch.setattr(simulated, "time", clock)
    monkeypatch.setattr(threading.Event, "wait", wait)
    return clock


def test_read_realtime_waits_for_frame(clock) -> None:
    with SimulatedCamera(fps=10.0, **{**SMALL, "start_stamp_ns": -1}) as camera:
        stamps = [camera.read().stamp_ns for _ in range(4)]
    assert stamps == [100_000_000_000 + k * 100_000_000 for k in range(4)]
    assert clock.waits == pytest.approx([0.1, 0.1, 0.1])
    assert camera.skipped == 0


@pytest.mark.parametrize("start_stamp_ns", [-1, 0])
@pytest.mark.parametrize("set_s", [3600.0, -3600.0, 0.5])
def test_read_stamps_follow_a_system_clock_that_is_set(clock, set_s, start_stamp_ns) -> None:
    with SimulatedCamera(fps=10.0, **{**SMALL, "start_stamp_ns": start_stamp_ns}) as camera:
        before = camera.read().stamp_ns
        expected = camera.actions_at(before + 200_000_000)
        clock.set_s = set_s
        after = [camera.read() for _ in range(2)]
        assert camera.actions_at(after[-1].stamp_ns) == expected
    step = round(set_s * 1e9) if start_stamp_ns < 0 and abs(set_s) > 1 else 0
    assert [frame.stamp_ns - before - step for frame in after] == [100_000_000, 200_000_000]


def test_read_stop_of_the_process_is_no_clock_that_is_set(clock) -> None:
    camera = SimulatedCamera(fps=10.0, **{**SMALL, "start_stamp_ns": -1})
    clock.stopped_s = 10.0
    with camera:
        assert camera.read().stamp_ns == 110_000_000_000
        clock.stopped_s = 10.0
        assert camera.read().stamp_ns in (110_100_000_000, 120_000_000_000)
        assert abs(camera.read().stamp_ns - clock.time_ns()) < 200_000_000


def test_read_late_returns_newest_and_counts_drops(clock) -> None:
    with SimulatedCamera(fps=10.0, **SMALL) as camera:
        camera.read()
        clock.now += 0.57
        assert camera.read().stamp_ns == 500_000_000
        assert camera.skipped == 4
        assert camera.read().stamp_ns == 600_000_000
        assert camera.skipped == 4


def test_read_ignores_waits_of_other_threads(clock) -> None:
    other = threading.Thread(target=lambda: threading.Event().wait(0.01))
    other.start()
    other.join()
    assert clock.now == 100.0 and not clock.waits


def test_read_timeout_raises(clock) -> None:
    with SimulatedCamera(fps=0.2, **SMALL) as camera:
        camera.read()
        with pytest.raises(DeviceError, match=r"no frame within 1.0 s; use a timeout of 5 s"):
            camera.read(timeout_s=1.0)
        assert camera.read(timeout_s=10.0).stamp_ns == 5_000_000_000


def test_close_wakes_waiting_reader() -> None:
    camera = SimulatedCamera(fps=0.1, **SMALL)
    camera.open()
    camera.read()
    caught: list[BaseException] = []

    def read() -> None:
        try:
            camera.read(timeout_s=60.0)
        except DeviceError as error:
            caught.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    camera.close()
    reader.join(timeout=20)
    assert not reader.is_alive() and len(caught) == 1
    with pytest.raises(DeviceError, match="is not open"):
        camera.read()
    camera.close()


def test_open_again_starts_over() -> None:
    camera = SimulatedCamera(realtime=False, **SMALL)
    stamps = []
    for _ in range(2):
        camera.open()
        stamps.append([camera.read().stamp_ns for _ in range(2)])
        camera.close()
    assert stamps[0] == stamps[1]
    with pytest.raises(DeviceError, match="is not open"):
        camera.actions_at(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": ["juggle"]}, "unknown simulated action 'juggle'; known: all, bow, .*, clap, "),
        ({"actions": []}, "no action to perform"),
        ({"fps": 0.0}, r"SimulatedConfig.fps is 0.0, allowed: 0.1 to 1000"),
        ({"actors": 7}, "SimulatedConfig.actors is 7, allowed: 0 to 5"),
        ({"sensor": "lidar"}, "allowed: structured_light, time_of_flight, stereo"),
        ({"sequence": "a01"}, "set script=FILE"),
        ({"color": True}, "unknown option color of SimulatedConfig; known: actions"),
    ],
)
def test_create_invalid_setting_raises(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        cameras.create("simulated", **options)


def test_open_invalid_script_raises(tmp_path) -> None:
    with pytest.raises(DeviceError, match="there is no file"):
        SimulatedCamera(script=str(tmp_path / "gone.npz")).open()
    (tmp_path / "broken.npz").write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="corrupt"):
        SimulatedCamera(script=str(tmp_path / "broken.npz")).open()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="notes.txt"):
        SimulatedCamera(script=str(tmp_path / "notes.txt")).open()


def test_read_script_ends_or_loops(data_root) -> None:
    script = {"script": str(data_root / "nucla" / "raw" / "a01_s07_e00_v03.json"), "fps": 5.0}
    played = frames(**script)
    assert len(played) > 5
    again = frames(**script, loop=True, duration=(len(played) + 3) / 5)
    assert len(again) == len(played) + 3
    with pytest.raises(ConfigError, match="holds no sequence 'a99'"):
        SimulatedCamera(**script, sequence="a99").open()
    with SimulatedCamera(**script, realtime=False, **SMALL) as camera:
        assert camera.actions_at(camera.read().stamp_ns) == {"actor_1": "pick up with one hand"}
