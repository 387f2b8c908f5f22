"""Calibration files of cameras: ROS format, scaling, errors, search by serial number."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH, MOUNT, DepthGeometry, Mount, from_yaml
from actrec.utils.errors import DeviceError, InputError

LENS = Intrinsics(1280, 720, 910.5, 911.25, 640.125, 360.75, (0.1, -0.2, 0.001, -0.002, 0.05))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    return tmp_path / "cameras"


def test_load_returns_written_files(folder: Path) -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_euler("xyz", [0.3, -0.2, 2.9]).as_matrix(), [0.1, -0.2, 1.3]
    assert calibration_files.load("A1") == calibration_files.CameraFiles("A1")
    calibration_files.write_intrinsics(calibration_files.path_of("A1", COLOR), LENS, "A1", note="12 views\nRMS 0.2 px")
    geometry = DepthGeometry(pose, 1.01, -0.004)
    calibration_files.write_intrinsics(calibration_files.path_of("A1", DEPTH), LENS, "A1_depth", geometry)
    calibration_files.write_mount(calibration_files.path_of("A1", MOUNT), Mount("base_link", "camera", pose))
    found = calibration_files.load("A1")
    assert found.color == LENS == found.depth
    np.testing.assert_allclose(found.geometry.to_color, pose, atol=1e-15)
    assert (found.geometry.scale, found.geometry.bias) == (1.01, -0.004)
    assert (found.mount.parent, found.mount.child) == ("base_link", "camera")
    np.testing.assert_allclose(found.mount.pose, pose, atol=1e-12)
    assert (folder / "A1_color.yaml").read_text().startswith("# 12 views\n# RMS 0.2 px\n")
    assert sorted(path.name for path in folder.iterdir()) == ["A1_color.yaml", "A1_depth.yaml", "A1_mount.yaml"]


@pytest.mark.slow
def test_load_half_copied_file_refused(folder: Path) -> None:
    """Wherever the copy stops: the first part of a YAML file is YAML, too, and may lack only what may be missing."""
    pose = np.eye(4)
    pose[:3, 3] = [0.1, -0.2, 1.3]
    color, depth, mount = (calibration_files.path_of("A1", part) for part in (COLOR, DEPTH, MOUNT))
    calibration_files.write_intrinsics(color, LENS, "A1", note="12 views")
    calibration_files.write_intrinsics(depth, LENS, "A1_depth", DepthGeometry(pose, 1.01, -0.004))
    calibration_files.write_mount(mount, Mount("base_link", "camera", pose, moving=True))
    calibration_files.load("A1")
    for path in (color, depth, mount):
        content = path.read_bytes()
        for size in range(len(content.rstrip())):
            path.write_bytes(content[:size])
            with pytest.raises(InputError, match=path.name):
                calibration_files.load("A1")
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("distortion", "model", "count"),
    [((), "plumb_bob", 5), (LENS.distortion, "plumb_bob", 5), (tuple(np.arange(1, 9) / 10), "rational_polynomial", 8)],
)
def test_write_intrinsics_writes_ros_camera_info(distortion: tuple[float, ...], model: str, count: int) -> None:
    path = calibration_files.path_of("B", COLOR)
    lens = Intrinsics(640, 480, 600.0, 601.0, 320.0, 240.0, distortion)
    calibration_files.write_intrinsics(path, lens, "B")
    content = yaml.safe_load(path.read_text())
    assert (content["image_width"], content["image_height"], content["camera_name"]) == (640, 480, "B")
    assert content["distortion_model"] == model and content["distortion_coefficients"]["cols"] == count
    for name, rows, columns in (("camera_matrix", 3, 3), ("rectification_matrix", 3, 3), ("projection_matrix", 3, 4)):
        block = content[name]
        assert (block["rows"], block["cols"], len(block["data"])) == (rows, columns, rows * columns)
    assert content["projection_matrix"]["data"][:4] == [600.0, 0.0, 320.0, 0.0]
    assert calibration_files.load("B").color == lens


def test_quaternion_matches_scipy_at_every_angle() -> None:
    rng = np.random.default_rng(0)
    turns = [*Rotation.random(200, random_state=0), Rotation.identity()]
    turns += [Rotation.from_rotvec(np.pi * axis / np.linalg.norm(axis)) for axis in rng.normal(size=(50, 3))]
    for turn in turns:
        x, y, z, w = calibration_files.quaternion(turn.as_matrix())
        assert w >= 0
        np.testing.assert_allclose(calibration_files.rotation_matrix(x, y, z, w), turn.as_matrix(), atol=1e-9)
        assert abs(np.dot([x, y, z, w], turn.as_quat())) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(
        calibration_files.rotation_matrix(0, 0, 2, 2), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15
    )


def test_scale_to_size_same_aspect_scales_and_other_refused() -> None:
    assert calibration_files.scale_to_size(LENS, 640, 360) == LENS.resized(640, 360)
    assert calibration_files.scale_to_size(LENS, 960, 540).fx == pytest.approx(910.5 * 0.75)
    with pytest.raises(InputError, match="is for 1280×720 images and these are 640×480, of another aspect ratio"):
        calibration_files.scale_to_size(LENS, 640, 480)


def test_path_of_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTREC_CAMERAS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    checkout, home = calibration_files.search_folders()
    assert checkout.parts[-2:] == ("calibration", "cameras") and home == tmp_path / "actrec/cameras"
    home.mkdir(parents=True)
    assert calibration_files.path_of("C", COLOR).parent == checkout, "written to the first"
    (home / "C_color.yaml").touch()
    assert calibration_files.path_of("C", COLOR).parent == home, "found in the second"
    monkeypatch.setattr(calibration_files, "_CHECKOUT_FOLDER", tmp_path / "none")
    assert calibration_files.search_folders() == [home]


def test_search_folders_of_a_copy_in_the_workspace_are_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line runs from the checkout, a launched graph from colcon's copy in `ros2_ws/install`."""
    monkeypatch.delenv("ACTREC_CAMERAS")
    for folder in ("calibration/actrec_calibration", "calibration/cameras"):
        (tmp_path / "checkout" / folder).mkdir(parents=True)
    packages = "install/actrec/lib/python3.12/site-packages/actrec/utils"
    for place, expected in (("checkout/actrec/utils", 2), (f"checkout/ros2_ws/{packages}", 2), (packages, 1)):
        file = tmp_path / place / "calibration_files.py"
        file.parent.mkdir(parents=True)
        shutil.copy(calibration_files.__file__, file)
        spec = importlib.util.spec_from_file_location("copied_calibration_files", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        found = module.search_folders()
        assert len(found) == expected
        assert (found[0] == tmp_path / "checkout/calibration/cameras") == (expected == 2)


def test_load_of_some_parts_does_not_read_the_others(folder: Path) -> None:
    calibration_files.write_intrinsics(calibration_files.path_of("F", COLOR), LENS, "F")
    (folder / "F_mount.yaml").write_text("parent_frame: base\n")
    assert calibration_files.load("F", parts=(COLOR, DEPTH)).color == LENS
    with pytest.raises(InputError, match="F_mount.yaml.*by hand-eye or floor with --overwrite"):
        calibration_files.load("F", parts=(MOUNT,))


@pytest.mark.parametrize("serial", ["", "../x", "a/b", "a b"])
def test_path_of_invalid_serial_number_raises(serial: str) -> None:
    with pytest.raises(InputError, match="cannot be part of a file name"):
        calibration_files.path_of(serial, COLOR)


def test_load_damaged_file_raises_with_its_name(folder: Path) -> None:
    folder.mkdir()
    for part, text in (
        ("color", "image_width: 3\ncamera_matrix: {data: [1]}\n"),
        ("depth", "[1, 2"),
        ("mount", "parent_frame: base\n"),
    ):
        (folder / f"D_{part}.yaml").write_text(text)
        with pytest.raises(InputError, match=f"D_{part}.yaml"):
            calibration_files.load("D")
        (folder / f"D_{part}.yaml").unlink()
    calibration_files.write_intrinsics(calibration_files.path_of("D", DEPTH), LENS, "D", DepthGeometry(np.eye(4)))
    path = calibration_files.path_of("D", DEPTH)
    content = yaml.safe_load(path.read_text())
    content["depth_to_color"]["data"].pop()
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="depth_to_color is not a transform"):
        calibration_files.load("D")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotation": dict.fromkeys("xyzw", 0.0)}, "quaternion of length 0"),
        ({"translation": {"x": 0.1, "y": float("nan"), "z": 0.0}}, "not all numbers are finite"),
    ],
)
def test_read_mount_invalid_pose_raises(folder: Path, change: dict[str, dict[str, float]], message: str) -> None:
    path = calibration_files.path_of("E", MOUNT)
    calibration_files.write_mount(path, Mount("base", "camera", np.eye(4)))
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(InputError, match=f"E_mount.yaml.*{message}"):
        calibration_files.load("E")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_to_color": {"data": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0.05, 0, 0, 1]}}, "row by row"),
        ({"depth_to_color": {"data": [2, 0, 0, 0.05, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}}, "not a rotation"),
        ({"depth_scale": 0.0}, "depth_scale 0"),
        ({"depth_bias": float("inf")}, "depth_bias inf"),
    ],
)
def test_load_invalid_depth_geometry_raises(folder: Path, change: dict[str, object], message: str) -> None:
    path = calibration_files.path_of("E", DEPTH)
    calibration_files.write_intrinsics(path, LENS, "E", DepthGeometry(np.eye(4)))
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(InputError, match=f"E_depth.yaml.*{message}"):
        calibration_files.load("E")


def test_write_intrinsics_unwritable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="cannot write .*set ACTREC_CAMERAS to another folder"):
        calibration_files.write_intrinsics(tmp_path / "file/E_color.yaml", LENS, "E")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ((0.1, 0.02, 0.001, 0.002), (0.1, 0.02, 0.001, 0.002, 0.0)),
        ((0.1, 0.02, 0, 0, 0.3, 0.1, 0.2, 0.4, *[0] * 6), (0.1, 0.02, 0, 0, 0.3, 0.1, 0.2, 0.4)),
        ((0.1, 0.02, 0, 0, 0.3, 0.1, 0.2, 0.4, *[1e-3] * 6), None),
        ((0.1, 0.02, 0, 0, 0.3, 0.1), None),
    ],
)
def test_from_yaml_reads_opencv_distortions(
    tmp_path: Path, written: tuple[float, ...], read: tuple[float, ...] | None
) -> None:
    path = tmp_path / "lens.yaml"
    path.write_text(f"width: 64\nheight: 48\nfx: 50\nfy: 50\ncx: 32\ncy: 24\ndistortion: {list(written)}\n")
    if read is None:
        with pytest.raises(InputError, match=f"{len(written)} distortion coefficients, expected 4, 5"):
            from_yaml(path)
    else:
        assert from_yaml(path).distortion == read


def test_from_yaml_of_a_pipe_or_a_huge_file_raises(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(DeviceError, match="cannot read '.*pipe.yaml': a pipe or a device"):
        from_yaml(tmp_path / "pipe.yaml")
    (tmp_path / "huge.yaml").write_text("# " + "x" * (1 << 20))
    with pytest.raises(DeviceError, match="cannot read '.*huge.yaml': larger than 1 MiB"):
        from_yaml(tmp_path / "huge.yaml")


def test_from_yaml_of_aliases_that_expand_endlessly_raises(tmp_path: Path) -> None:
    lines = [f"a{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}'])}]" for k in range(1, 12)]
    (tmp_path / "lens.yaml").write_text("\n".join(["width: 64", "a0: &a0 [1]", *lines]))
    with pytest.raises(InputError, match=r"'.*lens.yaml' is not YAML: its aliases add more than 100,000 values"):
        from_yaml(tmp_path / "lens.yaml")
