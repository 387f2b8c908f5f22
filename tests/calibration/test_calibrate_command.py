"""The commands `actrec calibrate board`, `intrinsics` and `check`, from folders and live."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import threading
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest

from actrec.cli import main
from actrec.cli.calibrate import lens, rig
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH, DepthGeometry
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream
from actrec_calibration import views
from actrec_calibration.board import Board
from actrec_calibration.detection import BoardCorners, detect
from actrec_calibration.quality import CoverageConfig, draw_preview
from actrec_calibration.views import ColorImage, RestDetector, ViewCollector, collect_views, read_image
from tests.reference.board_rendering import render, sample_poses

VGA = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1, (0.08, -0.15, 0.001, -0.0015, 0.03))
BOARD = Board.of()
PERIOD_NS = 100_000_000


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Write sixteen images of the board and one without it."""
    folder = tmp_path_factory.mktemp("images")
    for number, pose in enumerate(sample_poses(BOARD, VGA, 16, seed=7)):
        write_image(folder / f"{number}.png", render(BOARD, VGA, pose, blur=0.8, noise=2, seed=number)[0])
    write_image(folder / "16.png", np.full((480, 640, 3), 90, np.uint8))
    return folder


@pytest.fixture
def work_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    return tmp_path


def status(arguments: list[str]) -> int:
    try:
        return main(["calibrate", *arguments])
    except SystemExit as error:
        return int(error.code or 0)


def test_intrinsics_from_folder_writes_camera_file(images, work_folder, capsys):
    assert status(["intrinsics", str(images), "--serial", "0123", "--json"]) == 0
    streams = capsys.readouterr()
    output = json.loads(streams.out)
    assert "16 of 17 images" in streams.err
    assert output["file"] == str(work_folder / "cameras/0123_color.yaml")
    found = calibration_files.load("0123").color
    assert found.fx == output["intrinsics"]["fx"] == pytest.approx(525, rel=0.003)
    assert found.cx == pytest.approx(322.3, abs=1) and len(found.distortion) == 5
    header = Path(output["file"]).read_text().splitlines()[:2]
    assert "actrec calibrate intrinsics, 20" in header[0] and "standard deviations: fx 0." in header[1]
    report = work_folder / "calibration_0123_color"
    assert (report / "report.md").is_file() and len(list((report / "views").glob("*.jpg"))) == len(output["views"])

    assert status(["intrinsics", str(images), "--serial", "0123"]) == 2
    assert "exists already: add --overwrite" in capsys.readouterr().err
    assert status(["intrinsics", str(images), "--serial", "0123", "--overwrite", "--model", "rational_polynomial"]) == 0
    assert "wrote" in capsys.readouterr().out
    assert len(calibration_files.load("0123").color.distortion) == 8


def test_intrinsics_of_depth_keeps_extrinsics(images, work_folder, capsys):
    geometry = DepthGeometry(np.eye(4), 1.01, 0.002)
    path = calibration_files.path_of("0123", DEPTH)
    calibration_files.write_intrinsics(path, dataclasses.replace(VGA, fx=500.0), "0123_depth", geometry)
    assert status(["intrinsics", str(images), "--serial", "0123", "--part", "depth", "--overwrite"]) == 0
    assert "run actrec calibrate depth again" in capsys.readouterr().err
    files = calibration_files.load("0123")
    assert files.geometry.scale == 1.01 and files.depth.fx == pytest.approx(525, rel=0.003) and files.color is None


def test_read_image_16_bit_stretches_contrast(work_folder):
    image = render(BOARD, VGA, sample_poses(BOARD, VGA, 1, seed=7)[0], blur=0.8, noise=2)[0][..., 0]
    for gray in (image, image.astype(np.uint16) * 3):  # most values of a Kinect's infrared image are below 1000
        assert cv2.imwrite(str(work_folder / "1.png"), gray)
        corners = detect(BOARD, read_image(work_folder / "1.png").color)
        assert corners is not None and len(corners) == 20


@pytest.mark.parametrize(
    ("change", "holds"), [({}, True), ({"fx": 530.25, "fy": 528.23}, False), ({"cx": 327.3}, False)]
)
def test_check_exit_status_depends_on_stored_lens(images, work_folder, capsys, change, holds):
    path = calibration_files.path_of("0123", COLOR)
    calibration_files.write_intrinsics(path, dataclasses.replace(VGA, **change), "0123_color")
    assert status(["check", str(images), "--serial", "0123", "--json"]) == (0 if holds else 1)
    output = json.loads(capsys.readouterr().out)
    assert output["holds"] is holds and (output["moved_px"] > output["tolerance_px"]) is not holds
    assert status(["check", str(images), "--against", str(path)]) == (0 if holds else 1)
    assert ("does not hold" in capsys.readouterr().out) is not holds


def test_check_other_size_needs_same_aspect(images, work_folder, capsys):
    path = calibration_files.path_of("0123", COLOR)
    calibration_files.write_intrinsics(path, VGA.resized(1280, 960), "0123_color")
    assert status(["check", str(images), "--serial", "0123"]) == 0
    calibration_files.write_intrinsics(path, VGA.resized(1280, 720), "0123_color")
    assert status(["check", str(images), "--serial", "0123"]) == 1
    assert "of another aspect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source",
    [
        ["--topic", "camera/image_rect_color"],
        ["--driver", "azure_kinect", "--driver-option", "rectify=true"],
    ],
)
@pytest.mark.parametrize("command", ["check", "intrinsics"])
def test_rectified_images_are_refused(work_folder, capsys, command, source):
    path = calibration_files.path_of("0123", COLOR)
    calibration_files.write_intrinsics(path, VGA, "0123_color")
    before = path.read_bytes()
    words = ["--overwrite"] if command == "intrinsics" else []
    assert status([command, *source, "--serial", "0123", *words]) == 2
    assert "raw" in capsys.readouterr().err and path.read_bytes() == before


def test_topic_of_a_stereo_module_is_not_refused():
    arguments = argparse.Namespace(topic="camera/infra1/image_rect_raw", driver=None, driver_option=[])
    lens._refuse_rectified(arguments)


def test_calibrate_wrong_use_exits_with_two(images, work_folder, capsys):
    for arguments, message in (
        ([], "name a calibration"),
        (["intrinsics", str(images)], "name the camera with --serial"),
        (["intrinsics", "--serial", "1"], "give one of: a FOLDER of images, --topic, --driver"),
        (["intrinsics", str(images), "--driver", "replay", "--serial", "1"], "folder and driver are given"),
        (["intrinsics", str(images), "--driver-option", "a=1", "--serial", "1"], "needs --driver"),
        (["intrinsics", str(images), "--serial", "1", "--square", "-1"], "square is -1.0, allowed"),
        (["intrinsics", str(images), "--serial", "1", "--kind", "circles"], "invalid choice"),
        (["board", "--out", "board.svg"], "neither .pdf nor .png"),
    ):
        assert status(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1


def test_intrinsics_unusable_folder_exits_with_one(images, work_folder, capsys):
    (work_folder / "empty").mkdir()
    write_image(work_folder / "blank/1.png", np.zeros((480, 640, 3), np.uint8))
    write_image(work_folder / "mirrored/7.png", cv2.imread(str(images / "3.png"))[:, ::-1, ::-1])
    (work_folder / "damaged").mkdir()
    (work_folder / "damaged/5.png").write_bytes(b"no image")
    (work_folder / "few").mkdir()
    for number in range(3):
        shutil.copy(images / f"{number}.png", work_folder / "few")
    for folder, message in (
        ("nowhere", "'nowhere' is no folder"),
        ("empty", "contains no images"),
        ("blank", "the board is in none of the images"),
        ("mirrored", "7.png: the image of the board is mirrored"),
        ("damaged", "5.png' cannot be decoded"),
        ("few", "3 views of the board are too few: 8"),
    ):
        assert status(["intrinsics", folder, "--serial", "1"]) == 1, folder
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert status(["check", str(images), "--serial", "1"]) == 1
    assert "run actrec calibrate intrinsics first" in capsys.readouterr().err
    assert not (work_folder / "cameras").exists()


@pytest.fixture
def video(work_folder) -> list[str]:
    """Return the arguments of a webcam that plays a video of 640×480 without a board."""
    writer = cv2.VideoWriter(str(work_folder / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 100, (640, 480))
    for _ in range(3):
        writer.write(np.full((480, 640, 3), 90, np.uint8))
    writer.release()
    return ["--driver", "webcam", "--driver-option", f"source={work_folder / 'video.avi'}", "--serial", "desk"]


@pytest.mark.parametrize("damaged", [False, True])
def test_intrinsics_old_file_that_does_not_fit_is_replaced(video, work_folder, capsys, damaged):
    path = calibration_files.path_of("desk", COLOR)
    calibration_files.write_intrinsics(path, VGA.resized(1280, 720), "desk_color")
    if damaged:
        path.write_text("image_width: 640\n")
    assert status(["intrinsics", *video]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    for words in ([], ["--driver-option", "serial=desk"]):
        assert status(["intrinsics", *video, *words, "--overwrite"]) == 1
        assert "the board is in none of the images" in capsys.readouterr().err, "the camera opens"


def test_hand_eye_driver_reads_files_of_the_given_folder(video, work_folder, monkeypatch, capsys):
    monkeypatch.setattr(rig, "open_poses", lambda base, gripper, waiting: nullcontext(None))
    command = ["hand-eye", *video, "--mount", "hand", "--parent", "tool0", "--base", "base_link"]
    (work_folder / "own").mkdir()
    calibration_files.write_intrinsics(work_folder / "own/desk_color.yaml", VGA.resized(1280, 720), "desk_color")
    assert status([*command, "--cameras", str(work_folder / "own")]) == 1
    assert "is for 1280×720 images and these are 640×480" in capsys.readouterr().err
    assert status(command) == 1
    assert "the camera's intrinsics are unknown" in capsys.readouterr().err, "an assumed field of view is no lens"
    assert calibration_files.search_folders() == [work_folder / "cameras"]


def test_new_folder_is_never_one_with_files(work_folder):
    assert views.new_folder(Path("run")) == Path("run")
    for number, expected in ((None, "run_2"), (2, "run_3")):
        folder = Path(f"run_{number}" if number else "run")
        folder.mkdir()
        assert views.new_folder(Path("run")) == Path(f"run_{number}" if number else "run")
        (folder / "1.png").touch()
        assert views.new_folder(Path("run")) == Path(expected)
    assert views.new_folder(Path("run"), Path("mine")) == Path("mine")
    with pytest.raises(ConfigError, match="'run' exists and is not an empty folder: name another one"):
        views.new_folder(Path("other"), Path("run"))


def test_board_command_writes_pdf_and_png(work_folder, capsys):
    assert status(["board", "--out", "board.pdf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paper"] == "a4"
    assert (work_folder / "board.pdf").read_bytes().startswith(b"%PDF")
    assert status(["board", "--out", "c.png", "--kind", "chessboard", "--columns", "7", "--rows", "5"]) == 0
    assert "looks the same upside down" in capsys.readouterr().err


def moving_board(count: int, rest: int, seed: int = 7) -> list[ColorImage]:
    """Render the board at rest for `rest` images at each of `count` poses, and in motion between them."""
    images: list[ColorImage] = []
    for number, pose in enumerate(sample_poses(BOARD, VGA, count, seed)):
        moving = pose.copy()
        moving[:3, 3] += (0.01, 0.005, 0.02)
        for step in range(rest + 1):
            image, _ = render(BOARD, VGA, moving if step == 0 else pose, noise=2, seed=100 * number + step)
            images.append(ColorImage(f"{len(images):03d}", len(images) * PERIOD_NS, image))
    return images


def test_view_collector_takes_resting_board_in_new_pose():
    stream = moving_board(4, 4)
    collector = ViewCollector(BOARD)
    names = [image.name for image in stream if collector.update(image)]
    # The board moves in image 0 and rests from image 1 on; in image 4 it has rested for 0.2 s.
    assert names == ["004", "009", "014", "019"]
    assert collector.coverage.views == 4 and not collector.done
    repeated = [dataclasses.replace(image, stamp_ns=image.stamp_ns + NANOSECONDS * 10) for image in stream]
    assert not any(collector.update(image) for image in repeated)  # the same poses add no views
    preview = draw_preview(stream[-1].color, collector.rest.detection, collector.views, collector.coverage)
    assert preview.shape == (480, 640, 3) and (preview != stream[-1].color).any()


def test_rest_detector_stamps_jump_back_restarts(monkeypatch):
    image = np.zeros((48, 64, 3), np.uint8)
    corners = BoardCorners(np.arange(8), np.arange(16.0).reshape(8, 2))
    monkeypatch.setattr(views, "detect", lambda board, image: corners)
    rest = RestDetector(BOARD)
    rests = [rest.update(ColorImage("", round(s * NANOSECONDS), image)) for s in (99.9, 100, 100.2, 5, 5.1, 5.2, 5.3)]
    assert rests == [False, False, True, False, False, True, True]


def test_collect_views_ends_when_sufficient_or_stopped():
    stream = moving_board(4, 4)

    def reader(source):
        def read(timeout_s):
            image = next(source, None)
            if image is None:
                raise EndOfStream("played")
            return image

        return read

    goal = CoverageConfig(views=2 + 1, filled=0.0, tilted=0, near=0.0, zoom=1.0)
    previews = []
    collected = collect_views(
        reader(iter(stream)), ViewCollector(BOARD, required=goal), threading.Event(), lambda p, t: previews.append(p)
    )
    assert len(collected) == 3 and len(previews) == 15  # the fourth pose is not read
    assert len(collect_views(reader(iter(stream)), ViewCollector(BOARD), threading.Event(), lambda p, t: None)) == 4
    stop = threading.Event()
    after_one = collect_views(
        reader(iter(stream)), ViewCollector(BOARD), stop, lambda p, taken: stop.set() if taken else None
    )
    assert len(after_one) == 1

    def fail(timeout_s):
        raise DeviceError("nothing comes")

    with pytest.raises(DeviceError, match="nothing comes"):
        collect_views(fail, ViewCollector(BOARD), threading.Event(), lambda p, t: None)


@pytest.mark.parametrize("name", ["live", "live.xyz"])
def test_preview_with_unknown_suffix_is_refused(name, work_folder, capsys):
    source = ["--driver", "simulated", "--driver-option", "duration=0.1", "--driver-option", "realtime=false"]
    assert status(["intrinsics", *source, "--serial", "0123", "--preview", name]) == 2
    assert f"--preview is '{name}', expected an image: .bmp, .jpeg, .jpg, .png" in capsys.readouterr().err


def test_preview_with_folder_is_refused(work_folder, capsys):
    assert status(["intrinsics", "images", "--serial", "0123", "--preview", "live.jpg"]) == 2
    assert "--preview shows live images" in capsys.readouterr().err


@pytest.mark.slow
def test_intrinsics_from_driver_saves_images(work_folder, capsys):
    for image in moving_board(9, 4):
        write_image(work_folder / f"stream/rgb/{image.name}.png", image.color)
    source = ["--driver", "replay"]
    for option in (f"path={work_folder / 'stream'}", "rate=0", "fps=10", "intrinsics='500,500,320,240'"):
        source += ["--driver-option", option]
    assert status(["intrinsics", *source, "--serial", "0123", "--preview", "live.jpg", "--report", "report"]) == 0
    streams = capsys.readouterr()
    assert "9 views, " in streams.err and "show the board in the image's" in streams.err
    found = calibration_files.load("0123").color
    assert found.fx == pytest.approx(525, rel=0.003) and found.cy == pytest.approx(237.1, abs=1)
    assert cv2.imread("live.jpg").shape == (480, 640, 3)
    saved = sorted(path.name for path in (work_folder / "report/images").iterdir())
    assert len(saved) == 9 and "9 views in 45 images, saved in 'report/images'" in streams.err
    # The saved images give the same calibration.
    assert status(["intrinsics", "report/images", "--serial", "again", "--report", "again"]) == 0
    assert calibration_files.load("again").color == found
    assert status(["check", *source, "--serial", "0123", "--report", "report"]) == 0
    assert len(list((work_folder / "report/images").iterdir())) == 9, "the views of another run are apart"
    assert list((work_folder / "report/images_2").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there alone")
def test_intrinsics_of_images_whose_names_are_not_utf8(images, work_folder):
    (work_folder / "pictures").mkdir()
    for number in range(16):
        shutil.copy(images / f"{number}.png", work_folder / "pictures" / os.fsdecode(b"B\xfccher_%d.png" % number))
    assert status(["intrinsics", "pictures", "--serial", "1"]) == 0
    assert calibration_files.path_of("1", COLOR).is_file()
    assert (work_folder / "calibration_1_color/report.md").is_file()


def test_intrinsics_interrupted_before_the_first_image_does_not_blame_the_board(work_folder, monkeypatch, capsys):
    def interrupted(topic, waiting):
        signal.raise_signal(signal.SIGINT)
        return nullcontext(lambda timeout_s: pytest.fail("reads after Ctrl-C"))

    monkeypatch.setattr(lens, "open_topic", interrupted)
    assert status(["intrinsics", "--topic", "camera/color/image_raw", "--serial", "1"]) == 130
    assert "none of the images" not in capsys.readouterr().err


def test_board_paper_of_an_image_is_refused(work_folder, capsys):
    assert status(["board", "--out", "b.png", "--paper", "a4"]) == 2
    assert "--paper is of a PDF" in capsys.readouterr().err


def test_intrinsics_report_never_replaces_the_images(images, work_folder, capsys):
    (work_folder / "session/views").mkdir(parents=True)
    for number in range(16):
        write_image(work_folder / f"session/views/{number}.jpg", cv2.imread(str(images / f"{number}.png"))[..., ::-1])
    before = [path.read_bytes() for path in sorted((work_folder / "session/views").iterdir())]
    assert status(["intrinsics", "session/views", "--report", "session", "--serial", "1"]) == 2
    assert "choose another --report" in capsys.readouterr().err
    assert [path.read_bytes() for path in sorted((work_folder / "session/views").iterdir())] == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("intrinsics images --serial 1 --wait 5", "--wait cannot be used with a FOLDER"),
        ("intrinsics --driver simulated --serial 1 --wait 5", "--wait cannot be used with --driver"),
        ("check images --serial 1 --report r", "--report cannot be used with a FOLDER"),
    ],
)
def test_calibrate_option_without_effect_is_refused(words, message, work_folder, capsys):
    assert status(words.split()) == 2 and message in capsys.readouterr().err
