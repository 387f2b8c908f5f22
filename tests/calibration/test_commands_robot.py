"""`actrec calibrate depth | hand-eye | floor | points` on small folders of rendered images."""

import json
import os
import signal
import threading

import cv2
import numpy as np
import pytest

from actrec import cli
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli.calibrate.lens import name_saved_views
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.calibration_files import DepthGeometry, quaternion
from actrec.utils.errors import DeviceError
from actrec.utils.gravity import angles_from_up
from actrec_calibration import views as views_module
from actrec_calibration.board import Board
from actrec_calibration.poses import invert, pose_difference
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render, sample_poses

BOARD = Board.of(columns=10, rows=7, square=0.06, marker=0.045)
WORDS = ["--columns", "10", "--rows", "7", "--square", "0.06", "--marker", "0.045"]
RIG = simulated.kinect(scale=1.004, bias=-0.012)
VIEWS = 10


@pytest.fixture(autouse=True)
def cameras(tmp_path, monkeypatch):
    """Write calibration files with the intrinsics of both cameras."""
    folder = tmp_path / "cameras"
    monkeypatch.setenv("ACTREC_CAMERAS", str(folder))
    for part, lens in (("color", RIG.color), ("depth", RIG.depth)):
        calibration_files.write_intrinsics(folder / f"0123_{part}.yaml", lens, f"0123_{part}")
    return folder


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Render images of a board into color/, depth/ and ir/."""
    folder, random = tmp_path_factory.mktemp("views"), np.random.default_rng(1)
    noise = SensorNoise(SENSORS[RIG.sensor], RIG.depth, 1)
    for name in ("color", "depth", "ir"):
        (folder / name).mkdir()
    for number in range(VIEWS):
        pose = simulated.sample_pose(BOARD, RIG.color, random, 0.7, 1.5, 40)
        in_depth = invert(RIG.to_color) @ pose
        image = render(BOARD, RIG.color, pose, blur=0.6, noise=3, seed=number)[0]
        gray = render(BOARD, RIG.depth, in_depth, blur=0.6, noise=3, seed=number)[0][..., 0]
        amplitude = (gray.astype(np.uint16) ** 2) // 16  # dark, like infrared images
        _write(folder / f"color/{number}.png", image[..., ::-1])
        _write(folder / f"ir/ir_{number}.png", amplitude)
        _write_depth(
            folder / f"depth/{number}.png", simulated.simulate_board_depth(BOARD, RIG, in_depth, noise, number)
        )
    return folder


def _write(path, image):
    assert cv2.imwrite(str(path), image)


def _write_depth(path, meters):
    _write(path, np.where(np.isfinite(meters), np.round(1000 * np.nan_to_num(meters)), 0).astype(np.uint16))


def _run(capsys, *words):
    status = cli.main(["calibrate", *map(str, words)])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1
    return status, (json.loads(out) if out.startswith("{") else out), err


@pytest.mark.slow
def test_depth_from_folder_writes_camera_file(views, cameras, capsys):
    status, report, _ = _run(capsys, "depth", views, "--serial", "0123", "--json", *WORDS)
    found = calibration_files.load("0123")
    meters, degrees = pose_difference(found.geometry.to_color, RIG.to_color)
    assert status == 0 and meters < 0.002 and degrees < 0.1
    assert abs(found.geometry.bias - RIG.bias) < 0.001 and found.depth == RIG.depth
    assert report["bias_mm"] == pytest.approx(1e3 * found.geometry.bias, abs=1e-3) and report["rms_infrared_px"] < 0.5
    content = (cameras / "0123_depth.yaml").read_text()
    assert content.startswith("# actrec calibrate depth, 20") and "bias_mm" in content
    # A second run does not overwrite the file.
    status, _, err = _run(capsys, "depth", views, "--serial", "0123", *WORDS)
    assert status == 2 and "add --overwrite" in err and (cameras / "0123_depth.yaml").read_text() == content
    status, out, _ = _run(capsys, "depth", views, "--serial", "0123", "--overwrite", "--model", "none", *WORDS)
    assert status == 0 and "corrected_mm" in out and calibration_files.load("0123").geometry.bias == 0


def test_depth_unusable_folder_is_refused(views, tmp_path, capsys):
    for words, message in (
        ([], "name a folder of views or a camera"),
        ([views, "--driver", "simulated"], "one of them"),
        (["--driver", "simulated"], "the extrinsics are unknown: calibrate with a FOLDER of raw depth first"),
        ([views, "--registered"], "are unknown"),
        ([tmp_path / "none"], "is no folder"),
        ([tmp_path], "no images in color/"),
        ([views, "--columns", "9"], "shows the board"),
    ):
        status, _, err = _run(capsys, "depth", "--serial", "0123", *WORDS, *words)
        assert status in (1, 2) and message in err
    status, _, err = _run(capsys, "depth", views, "--serial", "77", *WORDS)
    assert status == 1 and "run actrec calibrate intrinsics first" in err
    (tmp_path / "color").mkdir()
    (tmp_path / "depth").mkdir()
    _write(tmp_path / "color/1.png", cv2.imread(str(views / "color/1.png")))
    _write(tmp_path / "depth/1.png", np.zeros((424, 512), np.uint8))
    status, _, err = _run(capsys, "depth", tmp_path, "--serial", "0123", *WORDS)
    assert status == 1 and "no 16-bit depth image" in err
    _write(tmp_path / "color/1.png", np.zeros((10, 10, 3), np.uint8))
    status, _, err = _run(capsys, "depth", tmp_path, "--serial", "0123", *WORDS)
    assert status == 1 and "10×10 and its intrinsics are of 960×540" in err
    for number in (1, 2):
        _write(tmp_path / f"depth/{number}_512x424.png", np.zeros((424, 512), np.uint16))
    status, _, err = _run(capsys, "depth", tmp_path, "--serial", "0123", *WORDS)
    assert status == 1 and "1_512x424.png' and '2_512x424.png' have the same number, 424" in err
    assert calibration_files.load("0123").geometry is None


def test_depth_corrected_twice_is_refused(views, capsys):
    path = calibration_files.path_of("0123", "depth")
    calibration_files.write_intrinsics(path, RIG.depth, "0123_depth", DepthGeometry(RIG.to_color, 1.01, 0.0))
    status, _, err = _run(capsys, "depth", views, "--registered", "--overwrite", "--serial", "0123", *WORDS)
    assert status == 1 and "corrected already" in err


def test_depth_damaged_file_is_replaced_with_overwrite_only(cameras, tmp_path, capsys):
    path = cameras / "0123_depth.yaml"
    path.write_text(f"depth_to_color: {{data: [1]}}\n{path.read_text()}")
    command = ["calibrate", "depth", str(tmp_path), "--serial", "0123"]
    assert cli.main(command) == 1
    assert "with --overwrite and without --registered" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 1
    damaged, last = capsys.readouterr().err.splitlines()
    assert damaged.startswith("not kept: ") and "0123_depth.yaml': depth_to_color is not a transform" in damaged
    assert "no images in color/" in last, "the views are read"


def test_depth_of_replayed_views_are_saved_and_calibrate_alike(cameras, tmp_path, monkeypatch, capsys):
    """Registered depth of a recording, whose readings are 12 mm too small; each pose of the board lasts 0.5 s."""
    monkeypatch.chdir(tmp_path)
    lens, number = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1), 0
    for name in ("rgb", "depth"):
        (tmp_path / "stream" / name).mkdir(parents=True)
    for seed, pose in enumerate(sample_poses(BOARD, lens, 5, seed=5)):
        image, depth = render(BOARD, lens, pose, blur=0.6, noise=2, seed=seed)
        for _ in range(5):
            _write(tmp_path / f"stream/rgb/{number:03d}.png", image[..., ::-1])
            _write_depth(tmp_path / f"stream/depth/{number:03d}.png", depth - 0.012)
            number += 1
    path = cameras / "0123_depth.yaml"
    calibration_files.write_intrinsics(path, RIG.depth, "0123_depth", DepthGeometry(RIG.to_color))
    command = ["calibrate", "depth", "--registered", "--overwrite", "--serial", "0123", "--model", "bias", *WORDS]
    source = ["--driver", "replay"]
    for option in ("path=stream", "rate=0", "fps=10", "depth_scale=0.001", "intrinsics='525,523,322.3,237.1'"):
        source += ["--driver-option", option]
    assert cli.main([*command, *source, "--views", "2"]) == 1
    error = capsys.readouterr().err
    assert "2 views, saved in 'depth_0123'" in error and "actrec: " in error
    assert cli.main([*command, *source, "--views", "5"]) == 0
    assert "5 views, saved in 'depth_0123_2'" in capsys.readouterr().err
    found = calibration_files.load("0123").geometry
    assert found.bias == pytest.approx(0.012, abs=0.001) and (found.to_color == RIG.to_color).all()
    capsys.readouterr()
    assert cli.main([*command, "depth_0123_2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "sigma_mm" not in report["depth_to_color"], "registered depth does not determine it"
    assert calibration_files.load("0123").geometry.bias == pytest.approx(found.bias, abs=2e-4)
    assert len(list((tmp_path / "depth_0123/color").iterdir())) == 2, "an earlier run keeps its views"


def test_collect_rgbd_camera_that_stops_leaves_saved_views(tmp_path):
    lens = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1)
    color, depth = render(BOARD, lens, sample_poses(BOARD, lens, 1, seed=5)[0], noise=2)

    class Stopping:
        stamps = iter(range(0, 500_000_000, 100_000_000))

        def read(self, timeout_s):
            if (stamp := next(self.stamps, None)) is None:
                raise DeviceError("unplugged")
            return RgbdFrame(stamp, color, depth.astype(np.float32), lens)

    found = []
    with pytest.raises(DeviceError, match=f"unplugged; the views so far are in '{tmp_path}': calibrate from that"):
        with name_saved_views(found, tmp_path):
            for view in views_module.collect_rgbd(Stopping(), "", BOARD, 5, threading.Event(), tmp_path, str):
                found.append(view)
    (saved,) = views_module.read_rgbd_folder(tmp_path, BOARD, (lens, lens))
    np.testing.assert_allclose(saved.depth, found[0].depth, atol=6e-4)
    np.testing.assert_array_equal(saved.color.pixels, found[0].color.pixels)


def _write_arm_views(folder, mount):
    board, random, arm = Board.of(), np.random.default_rng(0), simulated.Arm.random(mount, 0)
    lines = ["image,x,y,z,qx,qy,qz,qw"]
    for number in range(12):
        pose = simulated.sample_pose(board, RIG.color, random, 0.4, 0.6, 35)
        _write(folder / f"{number}.png", render(board, RIG.color, pose, blur=0.6, noise=3, seed=number)[0])
        gripper = simulated.add_pose_noise(arm.gripper(pose), random, 1e-4, 0.02)
        lines.append(",".join(map(str, [f"{number}.png", *gripper[:3, 3], *quaternion(gripper[:3, :3])])))
    (folder / "poses.csv").write_text("\n".join(lines))
    return arm


def test_hand_eye_from_folder_writes_mount(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    arm = _write_arm_views(images, "hand")
    words = ["hand-eye", images, "--poses", images / "poses.csv", "--serial", "0123", "--parent", "tool0"]
    status, report, printed = _run(capsys, *words, "--mount", "hand", "--json")
    mount = calibration_files.load("0123").mount
    meters, degrees = pose_difference(mount.pose, arm.camera)
    assert status == 0 and meters < 0.002 and degrees < 0.1
    assert (mount.parent, mount.child) == ("tool0", "camera_color_optical_frame")
    assert report["views"] == 12 and report["camera_to_gripper"]["matrix"][3] == [0, 0, 0, 1]
    options = dict(word.split() for word in printed.split("static_transform_publisher --")[1].split("--"))
    assert (options.pop("frame-id"), options.pop("child-frame-id")) == ("tool0", "camera_color_optical_frame")
    values = [float(options[name]) for name in ("x", "y", "z", "qx", "qy", "qz", "qw")]
    np.testing.assert_allclose(values, [*mount.pose[:3, 3], *quaternion(mount.pose[:3, :3])], atol=1e-6)
    status, _, err = _run(capsys, *words, "--mount", "hand")
    assert status == 2 and "add --overwrite" in err
    status, _, err = _run(capsys, *words, "--mount", "base", "--overwrite")
    assert status == 1 and "add --inverted" in err and "--mount hand" in err
    status, _, err = _run(capsys, *words, "--mount", "hand", "--overwrite", "--kind", "chessboard", "--columns", "8")
    assert status == 1 and "half a turn" in err
    (images / "poses.csv").write_text("image,x,y,z,qx,qy,qz,qw\nother.png,0,0,0,0,0,0,1\n")
    status, _, err = _run(capsys, *words, "--mount", "hand", "--overwrite")
    assert status == 1 and "no pose of" in err


def test_floor_from_folder_writes_mount(tmp_path, capsys):
    board, folder = Board.of(columns=7, rows=5, square=0.08, marker=0.06), tmp_path / "views"
    rig, room = simulated.kinect(scale=1.004, bias=-0.012), simulated.Room.random(board, 3)
    for name in ("color", "depth"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        image = render(board, rig.color, room.board(), blur=0.6, noise=3, seed=number)[0]
        _write(folder / f"color/{number}.png", image)
        _write_depth(folder / f"depth/{number}.png", room.depth(rig, 3, number))
    board_pose = f"--board-pose={room.placed.x},{room.placed.y},{room.placed.yaw}"
    words = [
        "floor",
        folder,
        "--serial",
        "0123",
        "--parent",
        "base_footprint",
        "--json",
        "--columns",
        "7",
        "--rows",
        "5",
    ]
    words += ["--square", "0.08", "--marker", "0.06"]
    status, _, err = _run(capsys, *words, board_pose)
    assert status == 1 and "run actrec calibrate depth first" in err
    path = calibration_files.path_of("0123", "depth")
    calibration_files.write_intrinsics(path, rig.depth, "0123_depth", DepthGeometry(rig.to_color, rig.scale, rig.bias))
    status, report, _ = _run(capsys, *words, board_pose)
    mount = calibration_files.load("0123").mount
    meters, degrees = pose_difference(mount.pose, room.camera)
    assert status == 0 and meters < 0.002 and degrees < 0.1 and mount.parent == "base_footprint"
    assert report["height_m"] == pytest.approx(mount.pose[2, 3], abs=1e-4)
    roll, pitch = angles_from_up(mount.pose[2, :3])
    assert (report["roll_deg"], report["pitch_down_deg"]) == pytest.approx((roll, pitch), abs=1e-3)


def test_points_from_skeletons_writes_camera_file(data_root, capsys):
    files = sorted((data_root / "ntu/skeleton").glob("S001C001*.skeleton"))[:2]
    status, data, _ = _run(capsys, "points", *files, "--part", "depth", "--pose", "fixed", "--serial", "ntu", "--json")
    assert (
        status == 0
        and abs(data["fx"] - 366.3) < 0.5
        and calibration_files.load("ntu").depth.fx == pytest.approx(data["fx"], abs=1e-3)
    )
    status, _, err = _run(capsys, "points", *files, "--part", "depth", "--serial", "ntu")
    assert status == 2 and "add --overwrite" in err
    path, geometry = calibration_files.path_of("ntu", "depth"), DepthGeometry(RIG.to_color, 1.01, 0.002)
    calibration_files.write_intrinsics(path, RIG.depth, "ntu_depth", geometry)
    words = ["--part", "depth", "--pose", "fixed", "--serial", "ntu", "--overwrite"]
    status, _, err = _run(capsys, "points", *files, *words)
    kept = calibration_files.load("ntu")
    assert status == 0 and "run actrec calibrate depth again" in err and kept.depth.fx == pytest.approx(data["fx"])
    assert (kept.geometry.scale, kept.geometry.bias) == (1.01, 0.002)
    np.testing.assert_allclose(kept.geometry.to_color, RIG.to_color)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("floor --driver simulated --frames -1", "--frames: '-1' is not an integer of at least 1"),
        ("depth --driver realsense --views 0", "--views: '0' is not an integer of at least 1"),
        ("depth views --unit 0", "--unit: '0' is not a number above 0"),
        ("floor views --up 0,0,0", "--up is 0,0,0, which is no direction"),
        ("floor views --board-pose=1,2", "argument --board-pose: '1,2' is not 3 numbers with commas"),
        ("floor views --board-pose=nan,0,0", "argument --board-pose: 'nan' is not a finite number"),
        ("floor views --thickness nan", "--thickness: 'nan' is not a finite number"),
        ("floor views --base-height inf", "--base-height: 'inf' is not a finite number"),
        ("hand-eye views --mount hand --parent tool0 --robot-mm nan", "--robot-mm: 'nan' is not a number above 0"),
        ("points points.csv --size 640,-480", "argument --size: '-480' is not an integer of at least 1"),
        ("points points.csv --size 0,0", "argument --size: '0' is not an integer of at least 1"),
        ("points points.csv --size big", "argument --size: 'big' is not 2 numbers with commas"),
    ],
)
def test_calibrate_impossible_number_exits_with_two(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.csv").write_text("x,y,z,u,v\n")
    extra = "--parent base_link --board-pose=1,0,0" if words.startswith("floor") else ""
    with pytest.raises(SystemExit) as stopped:  # argparse exits by this exception
        raise SystemExit(cli.main(f"calibrate {words.split()[0]} --serial 9 {extra} {words.partition(' ')[2]}".split()))
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("depth --driver realsense --unit 0.0001", "--unit cannot be used with --driver"),
        ("depth --driver realsense --color-intrinsics a.yaml --depth-intrinsics b.yaml",
         "--color-intrinsics, --depth-intrinsics cannot be used with --driver"),
        ("depth --driver realsense --registered --driver-option register=false",
         "--registered is for registered depth: omit the driver option 'register'"),
        ("depth views --views 20 --keep kept", "--views, --keep cannot be used with a FOLDER"),
        ("floor --driver realsense --color-intrinsics a.yaml", "--color-intrinsics cannot be used with --driver"),
        ("floor views --frames 5", "--frames cannot be used with a FOLDER"),
        ("hand-eye --driver webcam --base base_link --poses poses.csv --unit mm --inverted",
         "--poses, --unit, --inverted cannot be used live"),
        ("hand-eye views --poses poses.csv --base base_link", "--base cannot be used with a FOLDER"),
    ],
)  # fmt: skip
def test_calibrate_option_of_another_source_is_refused(words, message, capsys):
    command, _, rest = words.partition(" ")
    extra = {"floor": "--parent base_link --board-pose=1,0,0", "hand-eye": "--parent tool0 --mount hand"}
    assert cli.main(f"calibrate {command} --serial 9 {extra.get(command, '')} {rest}".split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["depth", "hand-eye", "floor", "points"])
def test_calibrate_help_has_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["calibrate", command, "--help"])
    assert stopped.value.code == 0 and f"actrec calibrate {command}" in capsys.readouterr().out.split("Example")[1]


def test_depth_interrupted_before_the_first_view_does_not_blame_the_board(cameras, tmp_path, monkeypatch, capsys):
    opened = SimulatedCamera.open

    def interrupted(camera):
        opened(camera)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SimulatedCamera, "open", interrupted)
    monkeypatch.chdir(tmp_path)
    path = cameras / "0123_depth.yaml"
    calibration_files.write_intrinsics(path, RIG.depth, "0123_depth", DepthGeometry(RIG.to_color))
    command = ["calibrate", "depth", "--driver", "simulated", "--registered", "--overwrite", "--serial", "0123"]
    for option in ("width=160", "height=120", "realtime=false"):
        command += ["--driver-option", option]
    assert cli.main(command) == 130
    assert "0 of 0 views" not in capsys.readouterr().err
