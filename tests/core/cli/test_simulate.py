"""`actrec simulate`: its output is readable as a recording."""

import json
import os
import signal

import cv2
import numpy as np
import pytest

from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import main
from actrec.recordings import RecordingConfig, open_recording
from actrec.utils import gravity
from actrec.utils.errors import EndOfStream

SMALL = ["--set", "width=160", "height=120", "fps=10", "start_stamp_ns=0"]


def test_simulate_folder_reads_back_as_rendered(tmp_path, capsys) -> None:
    out = tmp_path / "wave"
    arguments = ["simulate", "--action", "wave", "--seconds", "0.5", "--seed", "3", "--out", str(out), "--json", *SMALL]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"frames": 5, "written": [str(out)]}
    options = {"width": 160, "height": 120, "fps": 10.0, "start_stamp_ns": 0}
    with (
        open_recording(out) as recording,
        SimulatedCamera(actions=["wave"], seed=3, duration=0.5, realtime=False, **options) as camera,
    ):
        for frame in recording.frames():
            rendered = camera.read()
            np.testing.assert_array_equal(frame.color, rendered.color)
            np.testing.assert_allclose(frame.depth, rendered.depth, atol=1e-6)
            assert frame.stamp_ns == rendered.stamp_ns
            assert frame.intrinsics.fx == pytest.approx(rendered.intrinsics.fx)
        with pytest.raises(EndOfStream):
            camera.read()
    joints = np.load(out / "joints.npz")
    assert joints["positions"].shape == (1, 5, 25, 3) and joints["pixels"].shape == (1, 5, 25, 2)
    assert joints["body_ids"].tolist() == ["actor_1"] and set(joints["actions"].ravel()) == {"wave"}
    np.testing.assert_array_equal(joints["stamps_ns"], np.arange(5) * 100_000_000)


@pytest.mark.parametrize("states_gravity", [True, False])
def test_simulate_folder_keeps_the_mounting_of_the_camera(tmp_path, states_gravity) -> None:
    settings = [*SMALL, "camera_roll=90", "camera_pitch=20", f"gravity={str(states_gravity).lower()}"]
    assert main(["simulate", "--seconds", "0.2", "--out", str(tmp_path / "tilted"), *settings]) == 0
    config, up = RecordingConfig(mount="upside_down"), gravity.up_from_angles(90, 20)
    with open_recording(tmp_path / "tilted") as recording, open_recording(tmp_path / "tilted", config) as set_up:
        found, given = next(recording.frames()), next(set_up.frames())
    assert found.up_source == "camera" and (found.up is not None) == states_gravity
    if states_gravity:
        np.testing.assert_allclose(found.up, up, atol=1e-4)
    np.testing.assert_array_equal(given.up, gravity.parse_mount("upside_down"))
    assert given.up_source == "setting"


def test_simulate_overwrite_removes_longer_recording(tmp_path) -> None:
    out = tmp_path / "wave"
    for frames in (4, 2):
        assert main(["simulate", "--seconds", str(frames / 10), "--out", str(out), "--overwrite", *SMALL]) == 0
        (out / "000000_notes.png").touch()
    with open_recording(out) as recording:
        assert len(list(recording.frames())) == 2
    assert (out / "000000_notes.png").exists()


def test_simulate_preview_is_playable(tmp_path) -> None:
    av = pytest.importorskip("av")
    file = tmp_path / "two.mp4"
    assert main(["simulate", "--actors", "2", "--seconds", "0.4", "--preview", str(file), *SMALL]) == 0
    with av.open(str(file)) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(images) == 4 and images[0].shape == (120, 320, 3)


def test_simulate_no_noise_writes_complete_depth(tmp_path) -> None:
    assert main(["simulate", "--no-noise", "--seconds", "0.1", "--out", str(tmp_path / "exact"), *SMALL]) == 0
    depth = cv2.imread(str(tmp_path / "exact" / "000000_depth.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and depth.min() > 500


def test_simulate_interrupted_recording_is_whole(tmp_path, monkeypatch) -> None:
    read, count = SimulatedCamera.read, iter(range(100))

    def interrupted(self, *arguments):
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, *arguments)

    monkeypatch.setattr(SimulatedCamera, "read", interrupted)
    assert main(["simulate", "--out", str(tmp_path / "cut"), *SMALL]) == 0
    assert len(np.load(tmp_path / "cut/joints.npz")["stamps_ns"]) == 3


def test_simulate_duration_as_an_option_counts(tmp_path, capsys) -> None:
    assert main(["simulate", "--out", str(tmp_path / "short"), "--json", *SMALL, "duration=0.2"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 2
    joints = np.load(tmp_path / "short/joints.npz")["positions"]
    np.savez(tmp_path / "script.npz", positions=joints, layout="kinect_v2_25", fps=10.0)
    script = ["--script", str(tmp_path / "script.npz"), "--out", str(tmp_path / "endless")]
    assert main(["simulate", *script, *SMALL, "loop=true"]) == 2
    assert "give --seconds" in capsys.readouterr().err and not (tmp_path / "endless").exists()


def test_simulate_list_as_json_has_actions_and_options(capsys) -> None:
    assert main(["simulate", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "wave" in listed["actions"] and "fps" in [option["name"] for option in listed["options"]]


def test_simulate_list_shows_actions_and_options(capsys) -> None:
    assert main(["simulate", "--list"]) == 0
    text = capsys.readouterr().out
    assert "pick_up" in text and "camera_pitch" in text and "structured_light" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "no output: use --out FOLDER"),
        (["--out", "{tmp}/x", "--action", "juggle"], 2, "'juggle'"),
        (["--out", "{tmp}/x", "--seconds", "-1"], 2, "--seconds is -1.0, expected more than 0"),
        (["--out", "{tmp}/x", "--set", "fps"], 2, "--set is 'fps', expected KEY=VALUE"),
        (["--out", "{tmp}/x", "--action", "wave", "--script", "a.npz"], 2, "use one of them"),
        (["--out", "{tmp}/x", "--script", "{tmp}/gone.npz"], 1, "there is no file"),
        (["--out", "{tmp}"], 1, "is not empty: choose another folder"),
        (["--out", "/proc/self", "--overwrite"], 1, "cannot write '/proc/self/intrinsics.yaml': No such file"),
        (
            ["--preview", "/proc/gone.mp4"],
            1,
            "'/proc/gone.mp4': No such file or directory; choose another",
        ),
        (
            ["--preview", "{tmp}/x.what"],
            1,
            "determine output format; choose another file such as preview.mp4",
        ),
    ],
)
def test_simulate_wrong_use_prints_one_line(arguments, status, message, tmp_path, capsys) -> None:
    (tmp_path / "something").write_text("here")
    assert main(["simulate", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)]) == status
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_simulate_non_utf8_folder_name(tmp_path) -> None:
    out = tmp_path / os.fsdecode(b"B\xfccher")  # Latin-1, on which OpenCV itself crashes
    assert main(["simulate", "--seconds", "0.2", "--out", str(out), *SMALL]) == 0
    with open_recording(out) as recording:
        frames = list(recording.frames())
    assert len(frames) == 2 and frames[0].color.shape == (120, 160, 3) and frames[0].depth.shape == (120, 160)


def test_simulate_full_disk_prints_one_line(tmp_path, capsys) -> None:
    pytest.importorskip("av")
    (tmp_path / "video.mp4").symlink_to("/dev/full")
    assert main(["simulate", "--seconds", "0.2", "--preview", str(tmp_path / "video.mp4"), *SMALL]) == 1
    error = capsys.readouterr().err.strip()
    assert "video.mp4': No space left on device; choose another" in error and len(error.splitlines()) == 1


def test_measure_renderer_covers_all_cases() -> None:
    from benchmarks.cameras import measure_renderer

    figures = measure_renderer(["--frames", "2", "--width", "160", "--height", "120"])
    assert [(row["actors"], row["noise"]) for row in figures["renderer"]] == [
        (1, "off"),
        (1, "on"),
        (2, "off"),
        (2, "on"),
    ]
    assert all(row["fps_of_one_core"] > 0 for row in figures["renderer"])


def test_simulate_refused_preview_keeps_the_earlier_recording(tmp_path) -> None:
    out = ["simulate", "--seconds", "0.2", "--out", str(tmp_path / "wave"), *SMALL]
    assert main(out) == 0
    assert main([*out, "--overwrite", "--preview", str(tmp_path / "x.what")]) == 1
    with open_recording(tmp_path / "wave") as recording:
        assert len(list(recording.frames())) == 2


def test_simulate_preview_in_the_new_folder_is_written(tmp_path, capsys) -> None:
    pytest.importorskip("av")
    out = ["simulate", "--seconds", "0.2", "--out", str(tmp_path / "wave"), *SMALL]
    assert main([*out, "--preview", str(tmp_path / "wave/p.mp4")]) == 0
    assert main([*out, "--preview", str(tmp_path / "new.mp4")]) == 1 and not (tmp_path / "new.mp4").exists()
    capsys.readouterr()
    assert main(["simulate", "--out", str(tmp_path / "x"), *SMALL, "duration=0"]) == 2
    assert "script" not in capsys.readouterr().err
