"""`actrec label`: videos with people, without, rotated, of variable rate and 4K; its files, and its refusals."""

import contextlib
import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from actrec import inference
from actrec.cameras import webcam
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import main, to_width
from actrec.inference import package
from actrec.recognition.offline import OfflineRecognizer
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.recordings.video import VideoWriter
from actrec.scene_flow.primal_dual import gpu
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import folders
from actrec.utils.errors import DeviceError, EndOfStream
from tests.documents import blocks, tutorial
from tests.example_scene import FLOW, WINDOW
from tests.tiny_model import write_any

TICKS = [0, 1, 2, 3, 10, 11, 12, 30]
"""Ticks of 0.1 s of the frames of a camera that drops some."""


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def played(path):
    """Return the images [T, H, W, 3] BGR and the times in s, as OpenCV plays a video."""
    capture, images, times = cv2.VideoCapture(str(path)), [], []
    while True:
        found, image = capture.read()
        if not found:
            return np.stack(images), np.array(times)
        images.append(image)
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)


def empty_video(path, size=(64, 48), ticks=TICKS):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for tick in ticks:
            image = np.full((size[1], size[0], 3), 90, np.uint8)
            image[: size[1] // 2, : size[0] // 2] = 230  # the upper left corner
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def rotated(path):
    """Set the matrix of an MP4's track header, as a telephone held upright does: turn by 90° clockwise."""
    data = bytearray(path.read_bytes())
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path


def test_label_backend_is_of_all_networks(tmp_path, monkeypatch, capsys) -> None:
    """A running graph may fill the GPU: no engine is opened."""
    empty_video(tmp_path / "empty.mp4")
    monkeypatch.setattr(inference, "first_with_engine", lambda *_: pytest.fail("looks for an engine"))
    assert main(["label", str(tmp_path / "empty.mp4"), "--backend", "onnxruntime"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_label_real_video_writes_video_and_labels(data_root, tmp_path, capsys) -> None:
    video, out = data_root / "videos/people_1080p.mp4", tmp_path / "new" / "labeled.mp4"
    windows, events = tmp_path / "windows.csv", tmp_path / "events.csv"
    command = ["label", str(video), "--out", str(out), "--windows", str(windows), "--csv", str(events), "--json"]
    assert main([*command, "--labels", "windows", "--duration", "1.2"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures["events"] == []
    assert figures["frames"] == 36 and figures["people"] >= 2 and figures["place"] == "estimated"
    assert figures["written"] == [str(out), str(events), str(windows)]
    assert "a person must be in view for 3 s before an action: use --labels windows" in printed.err
    images, times = played(out)
    originals, expected = (each[:36] for each in played(video))
    assert images.shape == originals.shape
    np.testing.assert_allclose(times, expected, atol=1e-3)
    changed = np.abs(images[30].astype(int) - originals[30]).max(axis=2) > 90
    assert 0.003 < changed.mean() < 0.2  # skeletons and banners
    labels = rows(windows)
    assert {"body_1", "body_2"} <= {row["person"] for row in labels} and len(labels) >= 4
    assert all(float(row["start_s"]) < float(row["end_s"]) <= 1.3 and " 0." in row["best"] for row in labels)
    assert rows(events) == [] and events.read_text().startswith("start_s,end_s,person,label,confidence,x_m,y_m,z_m,")


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    """Return a video without depth of a simulated person who waves after a pause."""
    video = tmp_path_factory.mktemp("videos") / "wave.mp4"
    options = {"realtime": False, "fps": 10.0, "duration": 6.0, "seed": 5}
    with contextlib.closing(VideoWriter(video)) as writer:
        with SimulatedCamera(actions=["idle", "wave"], **options) as camera, contextlib.suppress(EndOfStream):
            while True:
                frame = camera.read()
                writer.write(frame.color, frame.stamp_ns)
    return video


def test_label_simulated_wave_without_depth_is_found_at_its_place(wave, tmp_path, capsys) -> None:
    video, events = wave, tmp_path / "events.csv"
    settings = ["--set", "events.evidence_s=1", "--recording", "hfov_deg=62.7", "--csv", str(events)]
    assert main(["label", str(video), *settings]) == 0
    (event,) = rows(events)
    assert event["label"] == "wave" and event["place"] == "estimated" and float(event["confidence"]) > 0.6
    assert 1 <= float(event["start_s"]) < float(event["end_s"]) <= 6
    assert float(event["z_m"]) == pytest.approx(2.9, rel=0.25)  # the simulated distance
    printed = capsys.readouterr()
    assert "wave" in printed.out and "1 action(s) of 1 person(s) in 60 frames" in printed.out


def test_label_frames_too_far_apart_end_with_the_cause(wave, capsys) -> None:
    assert main(["label", str(wave), "--every", "6"]) == 0
    printed = capsys.readouterr()
    assert "0 action(s) of 1 person(s) in 10 frames" in printed.out
    assert "windows restart too often to be labeled: skeletons are more than max_gap_s (0.5 s) apart" in printed.err


@pytest.mark.slow
def test_label_video_example_prints_the_wave_and_writes_the_video(wave, root, tmp_path) -> None:
    out = tmp_path / "labeled.mp4"
    command = [sys.executable, str(root / "examples/label_video.py"), str(wave), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"body_1 wave [01]\.\d\d, \d\.\d m away", done.stdout), done.stdout + done.stderr
    assert len(played(out)[0]) == 60


@pytest.mark.slow
def test_webcam_tutorial_greets_a_person_who_waves(wave, capsys) -> None:
    (code,) = blocks(tutorial("webcam"), "python")
    exec(code.replace('SOURCE = "0"', f"SOURCE = {str(wave)!r}"), {})
    printed = capsys.readouterr().out
    assert re.search(r"(body_\d): wave \(\d\.\d\d\), \d\.\d m away\nhello, \1!\n", printed), printed


@pytest.mark.parametrize("step", ["read", "process"])
def test_webcam_tutorial_interrupted_at_any_step_ends_without_a_traceback(step, wave, capsys, monkeypatch) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    kind = {"read": webcam.WebcamCamera, "process": OfflineRecognizer}[step]
    monkeypatch.setattr(kind, step, interrupted)
    (code,) = blocks(tutorial("webcam"), "python")
    exec(code.replace('SOURCE = "0"', f"SOURCE = {str(wave)!r}"), {})
    assert capsys.readouterr().out == "wave at the camera; Ctrl-C ends\n"


def labels_of(recording, tmp_path, *options):
    file = tmp_path / "windows.csv"
    assert main(["label", str(recording), "--labels", "windows", "--windows", str(file), *options]) == 0
    return [row["label"] for row in rows(file)]


@pytest.fixture
def turned(tmp_path):
    """Return a function that writes a video of 3.5 s of a person who waves before a camera that is rolled."""

    def written(roll, **scene):
        video = tmp_path / "turned.mp4"
        options = {"realtime": False, "fps": 15.0, "duration": 3.5, "seed": 5, "camera_roll": float(roll), **scene}
        with contextlib.closing(VideoWriter(video)) as writer:
            with SimulatedCamera(actions=["wave"], **options) as camera, contextlib.suppress(EndOfStream):
                while True:
                    frame = camera.read()
                    writer.write(frame.color, frame.stamp_ns)
        return video

    return written


@pytest.mark.slow
def test_label_short_clip_upside_down_is_labeled_as_upright(turned, tmp_path, capsys) -> None:
    """Shorter than the window in which people are observed, so that the direction is searched before."""
    labels = labels_of(turned(180), tmp_path)
    assert len(labels) >= 10 and set(labels[2:]) == {"wave"}  # the first windows hold only the arm that rises
    assert "the camera counts as level" not in capsys.readouterr().err
    assert labels_of(turned(0), tmp_path) == labels


@pytest.mark.slow
def test_label_still_person_sideways_names_the_option_that_mends_it(turned, tmp_path, capsys, caplog) -> None:
    video = turned(-90, facing=60.0)  # as a person who lies on the back
    assert labels_of(video, tmp_path).count("wave") < 5
    assert "because the direction of gravity is unknown: set --recording mount=level, or" in capsys.readouterr().err
    (option,) = {word for line in caplog.messages for word in line.split() if word.startswith("mount=")}
    labels = labels_of(video, tmp_path, "--recording", option)
    assert labels.count("wave") >= 10 and "counts as level" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("roll", [90, -90])
def test_label_still_person_sideways_who_faces_the_camera_is_labeled_as_upright(roll, turned, tmp_path, caplog) -> None:
    assert labels_of(turned(roll), tmp_path).count("wave") >= 10
    assert "if this is wrong, set --recording mount=level" in caplog.text


@pytest.mark.slow
def test_label_depth_in_another_unit_gives_estimated_places(tmp_path, capsys) -> None:
    out = tmp_path / "wave"
    arguments = ["--action", "wave", "--seconds", "3", "--set", "fps=10", "--seed", "5", "--out", str(out)]
    assert main(["simulate", *arguments]) == 0
    for options, place in ([], "measured"), (["--recording", "depth_scale=0.01"], "estimated"):
        capsys.readouterr()
        assert main(["label", str(out), "--set", "events.evidence_s=1", "--json", *options]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["place"] == place and {event["place"] for event in figures["events"]} == {place}


def test_label_rotated_video_of_variable_rate_stays_upright_and_keeps_its_times(tmp_path, capsys) -> None:
    video, out, events = rotated(empty_video(tmp_path / "phone.mp4")), tmp_path / "out.mp4", tmp_path / "events.csv"
    assert main(["label", str(video), "--out", str(out), "--csv", str(events)]) == 0
    images, times = played(out)
    assert images.shape[1:3] == (64, 48)
    assert images[0][:20, 30:].min() > 180 > images[0][:20, :18].max()  # the corner is now the upper right one
    np.testing.assert_allclose(times, np.array(TICKS) / 10, atol=1e-3)
    assert rows(events) == []
    assert "actrec: no person was found" in capsys.readouterr().err
    assert main(["label", str(video), "--out", str(out), "--every", "3", "--duration", "1.05", "--json"]) == 0
    np.testing.assert_allclose(played(out)[1], [0.0, 0.3], atol=1e-3)
    assert json.loads(capsys.readouterr().out)["frames"] == 2


def test_label_large_video_is_scaled_down(tmp_path, monkeypatch) -> None:
    """Also if FFmpeg could take its name for a protocol, into the home folder: a shell leaves the ~ of --out=~/…"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    name = "2026-05-01T12:30.mp4" if os.name == "posix" else "large.mp4"
    empty_video(tmp_path / name, (3840, 2160), [0, 1])
    assert main(["label", name, "--out=~/out.mp4"]) == 0
    assert played(tmp_path / "out.mp4")[0].shape == (2, 1080, 1920, 3)


def test_label_names_device_of_scene_flow(tmp_path, monkeypatch, capsys) -> None:
    """A model of PD-Flow on frames with depth; the GPU's CuPy is missing."""
    made = write_any(tmp_path / "dis", [FLOW], WINDOW)
    trained = dataclasses.replace(made.provenance, scene_flow={"method": "pd_flow", "height": 48})
    package.write(tmp_path / "pd_flow", dataclasses.replace(made, provenance=trained), made.read_onnx())
    with BagWriter(tmp_path / "bag") as bag:
        for k in range(3):
            color, depth = np.full((48, 64, 3), k, np.uint8), np.full((48, 64), 2.0, np.float32)
            bag.write_frame(RgbdFrame(k * 10**8, color, depth, Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)))
    monkeypatch.setattr(gpu, "unused", lambda: "CuPy is not installed: install it")
    for model, lines in (
        ("pd_flow", ["actrec: scene flow by pd_flow on CPU: CuPy is not installed: install it"]),
        ("dis", []),
    ):
        assert main(["label", str(tmp_path / "bag"), "--model", str(tmp_path / model)]) == 0
        assert [line for line in capsys.readouterr().err.splitlines() if "scene flow by" in line] == lines


def test_label_wrong_use_is_refused_in_one_line(tmp_path, data_root, capsys) -> None:
    text, video = tmp_path / "notes.mp4", str(empty_video(tmp_path / "empty.mp4"))
    text.write_text("not a video")
    flow = str(write_any(tmp_path / "flow", [FLOW], WINDOW).path)
    skeletons = str(next((data_root / "ntu/skeleton").glob("*.skeleton")))
    for arguments, status, message in (
        ([str(tmp_path / "gone.mp4")], 1, "there is no recording"),
        ([str(text)], 1, "not a video that FFmpeg reads"),
        ([str(tmp_path / "flow" / "model.yaml")], 1, "is not a known recording"),
        ([video, "--out", video], 2, "is given twice"),
        ([video, "--csv", f"{text}/events.csv"], 1, "cannot write"),
        ([video, "--out", str(tmp_path)], 1, "it is a folder"),
        ([video, "--out", str(tmp_path / "labeled.xyz")], 1, "choose another file such as preview.mp4"),
        ([video, "--model", flow], 2, "requires scene flow, which needs depth, .* such as joint_tcn_everyday"),
        ([video, "--model", "nonsense"], 1, "no model package 'nonsense'; known: "),
        ([video, "--set", "nonsense=1"], 2, "unknown option nonsense"),
        ([video, "--set", "threads=4"], 2, "unknown option threads"),
        ([video, "--set", "nonsense=1", "--set", "top_k=2"], 2, "unknown option nonsense"),
        ([video, "--recording", "mount=up", "--recording", "hfov_deg=70"], 2, "mount is 'up'"),
        ([video, "--recording", "mount=sideways"], 2, "mount is 'sideways', expected level, upside_down"),
        ([skeletons, "--out", str(tmp_path / "out.mp4")], 2, "has joints without images: leave out --out"),
    ):
        assert main(["label", *arguments]) == status, arguments
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("actrec: ")]
        assert re.search(message, line), line


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_label_output_that_is_a_link_to_the_recording_is_refused(tmp_path, capsys, link) -> None:
    video = empty_video(tmp_path / "video.mp4")
    content = video.read_bytes()
    link(video, tmp_path / "link.mp4")
    assert main(["label", str(tmp_path / "link.mp4"), "--out", str(video)]) == 2
    assert "is given twice" in capsys.readouterr().err and video.read_bytes() == content


def test_label_skeleton_recording_is_labeled_without_images(data_root, capsys) -> None:
    recording = data_root / "ntu/skeleton/S001C001P001R001A008.skeleton"  # sit down
    assert main(["label", str(recording), "--set", "events.evidence_s=1", "--json"]) == 0
    (event,) = json.loads(capsys.readouterr().out)["events"]
    assert event["label"] == "sit down" and event["place"] == "measured"


@pytest.mark.slow
def test_label_needs_no_ros(tmp_path) -> None:
    video = empty_video(tmp_path / "empty.mp4")
    program = (
        "import sys; sys.modules['rclpy'] = sys.modules['actrec_nodes'] = sys.modules['torch'] = None\n"
        f"from actrec.cli import main; sys.exit(main(['label', {str(video)!r}, '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["frames"] == len(TICKS)


@pytest.fixture
def some_images(tmp_path):
    """A folder of six images without people, the last of which is half copied."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 90, np.uint8))
    return folder


def test_label_keeps_the_results_until_an_error(some_images, tmp_path, capsys) -> None:
    last = some_images / "5.png"
    last.write_bytes(last.read_bytes()[:40])
    files = ["--csv", str(tmp_path / "e.csv"), "--windows", str(tmp_path / "w.csv"), "--recording", "hfov_deg=60"]
    assert main(["label", str(some_images), *files]) == 1
    said = capsys.readouterr()
    assert "in 5 frames" in said.out and (tmp_path / "e.csv").is_file() and (tmp_path / "w.csv").is_file()
    assert "5.png' cannot be decoded" in said.err and "ended at 0.1 of 0.2 s: the results are of this part" in said.err


def test_label_interrupted_says_so(some_images, tmp_path, capsys, monkeypatch) -> None:
    process, calls = OfflineRecognizer.process, []

    def interrupted(self, frame):
        calls.append(frame)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return process(self, frame)

    monkeypatch.setattr(OfflineRecognizer, "process", interrupted)
    assert (
        main(["label", str(some_images), "--csv", str(tmp_path / "e.csv"), "--recording", "hfov_deg=60", "--json"])
        == 130
    )
    said = capsys.readouterr()
    assert json.loads(said.out)["interrupted"] and "interrupted at 0.1 of 0.2 s" in said.err
    assert (tmp_path / "e.csv").is_file()


def test_label_table_that_cannot_be_written_loses_no_other(some_images, tmp_path, capsys, monkeypatch) -> None:
    write = folders.write_file

    def full(path, *rest):
        if path.name == "e.csv":
            raise DeviceError("cannot write 'e.csv' (No space left on device): name another file")
        write(path, *rest)

    monkeypatch.setattr(folders, "write_file", full)
    files = ["--csv", str(tmp_path / "e.csv"), "--windows", str(tmp_path / "w.csv"), "--recording", "hfov_deg=60"]
    assert main(["label", str(some_images), *files]) == 1
    assert "No space left" in capsys.readouterr().err and (tmp_path / "w.csv").is_file()


def test_label_video_of_a_camcorder(tmp_path, capsys) -> None:
    path = tmp_path / "00001.MTS"
    with av.open(str(path), "w", format="mpegts") as file:
        stream = file.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(50):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    assert main(["label", str(path), "--recording", "hfov_deg=60"]) == 0
    assert "in 50 frames" in capsys.readouterr().out


def test_status_lines_fit_the_terminal(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert [len(to_width(text)) for text in ("short", "long" * 50)] == [79, 79]


def test_label_interrupted_after_the_last_frame_loses_nothing(some_images, tmp_path, capsys, monkeypatch) -> None:
    finish = OfflineRecognizer.finish

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        return finish(self)

    monkeypatch.setattr(OfflineRecognizer, "finish", interrupted)
    files = ["--csv", str(tmp_path / "e.csv"), "--recording", "hfov_deg=60", "--json"]
    assert main(["label", str(some_images), *files]) == 0
    assert (tmp_path / "e.csv").is_file() and json.loads(capsys.readouterr().out)["frames"] == 6


def test_label_interrupted_before_the_first_frame_keeps_an_earlier_table(some_images, tmp_path, monkeypatch) -> None:
    @contextlib.contextmanager
    def interrupted(seconds):
        os.kill(os.getpid(), signal.SIGINT)
        yield lambda to: None

    monkeypatch.setattr("actrec.cli.label.bar", interrupted)
    (tmp_path / "e.csv").write_text("earlier")
    assert main(["label", str(some_images), "--csv", str(tmp_path / "e.csv"), "--recording", "hfov_deg=60"]) == 130
    assert (tmp_path / "e.csv").read_text() == "earlier"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize("option", ["--csv", "--windows"])
def test_label_output_that_is_a_pipe_is_refused_before_the_work(tmp_path, capsys, option) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["label", str(empty_video(tmp_path / "video.mp4")), option, str(tmp_path / "pipe")]) == 1
    said = capsys.readouterr()
    assert "a pipe or a device" in said.err and "frames" not in said.out
