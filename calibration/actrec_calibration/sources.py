"""Sources of calibration data: image folders, camera drivers, topics, RGB-D folders, and files of poses and points."""

import contextlib
import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from actrec import cameras
from actrec.datasets.ntu.skeletons import COLOR_SIZE, DEPTH_SIZE, read_ntu_file
from actrec.recordings.image_folder import IMAGE_SUFFIXES, image_files
from actrec.types import Intrinsics
from actrec.utils import files
from actrec.utils.calibration_files import DEPTH, rigid, rotation_matrix, unit_quaternion
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.geometry import KINECT_TO_OPTICAL
from actrec_calibration.board import Board
from actrec_calibration.depth import RgbdView
from actrec_calibration.detection import View, detect
from actrec_calibration.hand_eye import HandEyeView
from actrec_calibration.poses import invert, pose_from_vector


@dataclass(frozen=True)
class ColorImage:
    """One image.

    Attributes:
        name: Name of its file, or its number.
        stamp_ns: Time of capture; 0 for a file.
        color: [H, W, 3] uint8 RGB.
        intrinsics: Intrinsics, if the camera provides them.
    """

    name: str
    stamp_ns: int
    color: np.ndarray
    intrinsics: Intrinsics | None = None


ReadImage = Callable[[float], ColorImage]
"""Returns the next image within a timeout in s; raises EndOfStream or DeviceError."""

ReadNewest = Callable[[float], tuple[int, np.ndarray, Intrinsics | None]]
"""Returns stamp, [H, W, 3] uint8 RGB and intrinsics (if known) of the newest image within a timeout in s."""

OpenTopic = Callable[[str], contextlib.AbstractContextManager[ReadNewest]]
"""Subscribes to a topic."""


# -- images ------------------------------------------------------------------------------------------------------------


def list_images(folder: str | Path) -> list[Path]:
    """List a folder's images in the order of their numbers.

    Raises:
        DeviceError: There is no such folder.
        InputError: It contains no images.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DeviceError(f"'{folder}' is no folder: give a folder with images of the board")
    found = image_files(path)
    if not found:
        raise InputError(f"'{folder}' contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def read_image(path: Path) -> ColorImage:
    """Read an image; stretch the contrast of a 16-bit one (infrared).

    Raises:
        InputError: It is damaged.
    """
    # Ignore the orientation: the coefficients of the lens belong to the sensor's image.
    image = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if image.dtype != np.uint8:
        return ColorImage(path.name, 0, np.repeat(stretch_contrast(image.mean(axis=2))[..., None], 3, axis=2))
    return ColorImage(path.name, 0, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def stretch_contrast(gray: np.ndarray) -> np.ndarray:
    """Return [H, W] uint8 of brightness on any scale; infrared decreases with the square of the distance."""
    low, high = np.percentile(gray, [1, 99])
    return np.round(255 * np.sqrt(np.clip((gray - low) / max(high - low, 1), 0, 1))).astype(np.uint8)


def view_of(board: Board, image: ColorImage) -> View | None:
    """Detect the board in an image; None if it is not in the image.

    Raises:
        InputError: The image is mirrored; names it.
    """
    try:
        detection = detect(board, image.color)
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from error
    height, width = image.color.shape[:2]
    return None if detection is None else View(image.name, (width, height), detection)


@contextlib.contextmanager
def open_driver(driver: str, options: dict[str, Any]) -> Iterator[ReadImage]:
    """Open a camera, without ROS.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`.
        options: Its settings.

    Yields:
        Function that returns the next image.

    Raises:
        ConfigError: Unknown driver or option.
        DeviceError: There is no such camera.
    """
    with cameras.create(driver, **options) as camera:
        number = 0

        def read(timeout_s: float) -> ColorImage:
            nonlocal number
            frame = camera.read(timeout_s)
            if frame.color is None:
                raise InputError(f"driver {driver} has no images here, only joints: choose a camera or a recording")
            number += 1
            return ColorImage(f"frame_{number:06d}", frame.stamp_ns, frame.color, frame.intrinsics)

        yield read


@contextlib.contextmanager
def open_topic(subscribe: OpenTopic, topic: str) -> Iterator[ReadImage]:
    """Subscribe to a topic of images.

    Args:
        subscribe: `actrec_nodes.calibration_node.images`; passed in, because this package does not depend on ROS.
        topic: Topic of the images.

    Yields:
        Function that returns the newest image, or raises DeviceError if there is no publisher.
    """
    with subscribe(topic) as newest:
        number = 0

        def read(timeout_s: float) -> ColorImage:
            nonlocal number
            stamp_ns, color, intrinsics = newest(timeout_s)
            number += 1
            return ColorImage(f"image_{number:06d}", stamp_ns, color, intrinsics)

        yield read


def check_size(name: str, image: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Return the image, if the intrinsics are of its size.

    Raises:
        InputError: They are not; names both sizes.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise InputError(
            f"{name} is {image.shape[1]}×{image.shape[0]} and its intrinsics are of {camera.width}×{camera.height}: "
            "give intrinsics of this size"
        )
    return image


def _read(path: Path, flags: int) -> np.ndarray:
    image = files.read_image(path, flags)
    if image is None:
        raise InputError(f"'{path}' is no readable image: remove it from the folder or copy it again")
    return image


# -- RGB-D folders -----------------------------------------------------------------------------------------------------

COLOR_FOLDERS, DEPTH_FOLDERS, INFRARED_FOLDERS = ("color", "colour", "rgb"), ("depth",), ("ir", "infrared")
_LAST_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\D*$")


def read_rgbd_folder(
    folder: str | Path, board: Board, intrinsics: tuple[Intrinsics, Intrinsics], unit: float = 0.001
) -> list[RgbdView]:
    """Read the views of a folder that show the board in color.

    The folder contains `color/` (or `rgb/`) with images, `depth/` with 16-bit PNG in mm (or another unit) and 0 for
    missing readings, and optionally `ir/` (or `infrared/`) with the depth camera's infrared or amplitude images of 8 or
    16 bit. Files that belong together have the same number in their names, the last one there.

    Args:
        folder: Folder.
        board: Board.
        intrinsics: Of color and depth; images must be of their sizes.
        unit: m per step of the depth images.

    Raises:
        DeviceError: There is no such folder.
        InputError: A part is missing, two of its files have one number, an image is damaged, of another size, or
            mirrored, or no view shows the board.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DeviceError(f"'{folder}' is no folder: give a folder with color/ and depth/")
    color, depth, infrared = (_files_by_number(folder, n) for n in (COLOR_FOLDERS, DEPTH_FOLDERS, INFRARED_FOLDERS))
    for names, found in ((COLOR_FOLDERS, color), (DEPTH_FOLDERS, depth)):
        if not found:
            raise InputError(f"'{folder}' has no images in {names[0]}/: expected color/, depth/ and optionally ir/")
    numbers = sorted(set(color) & set(depth))
    if not numbers:
        raise InputError(f"'{folder}': no image in color/ has the number of one in depth/: give them the same names")
    views: list[RgbdView] = []
    for number in numbers:
        corners = detect(board, check_size(f"'{color[number]}'", read_image(color[number]).color, intrinsics[0]))
        if corners is None:
            continue
        readings = check_size(f"'{depth[number]}'", read_depth(depth[number], unit), intrinsics[1])
        in_infrared = None
        if number in infrared:
            gray = check_size(f"'{infrared[number]}'", read_infrared(infrared[number]), intrinsics[1])
            in_infrared = detect(board, gray)
        views.append(RgbdView(color[number].name, corners, readings, in_infrared))
    if not views:
        raise InputError(
            f"none of the {len(numbers)} images in '{folder}' shows the board: check --kind, --columns and --rows"
        )
    return views


def read_depth(path: Path, unit: float) -> np.ndarray:
    """Read a 16-bit depth image as [H, W] float32 m, NaN for 0.

    Raises:
        InputError: It is damaged, or has another format.
    """
    image = files.read_image(path, cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        raise InputError(f"'{path}' is no 16-bit depth image: save depth as 16-bit PNG (mm)")
    return np.where(image > 0, image * np.float32(unit), np.float32(np.nan)).astype(np.float32)


def read_infrared(path: Path) -> np.ndarray:
    """Read an infrared image as [H, W] uint8; stretch the contrast of 16 bit.

    Raises:
        InputError: It is damaged.
    """
    image = _read(path, cv2.IMREAD_UNCHANGED)
    gray = image.mean(axis=2) if image.ndim == 3 else image.astype(np.float64)
    return np.round(gray).astype(np.uint8) if image.dtype == np.uint8 else stretch_contrast(gray)


def _files_by_number(folder: Path, names: tuple[str, ...]) -> dict[float, Path]:
    place = next((folder / name for name in names if (folder / name).is_dir()), None)
    found: dict[float, Path] = {}
    for path in image_files(place) if place else []:
        match = _LAST_NUMBER.search(path.stem)
        if match and (other := found.setdefault(float(match.group(1)), path)) is not path:
            raise InputError(
                f"'{other}' and '{path.name}' have the same number, {match.group(1)}, the last one in a name: name the "
                "files by the views' numbers"
            )
    return found


# -- robot poses -------------------------------------------------------------------------------------------------------

UNITS = {"m": 1.0, "mm": 0.001}


def read_hand_eye_folder(
    folder: str | Path,
    poses_file: str | Path,
    board: Board,
    camera: Intrinsics,
    unit: str = "m",
    inverted: bool = False,
) -> tuple[list[HandEyeView], list[str]]:
    """Read the images of a folder that show the board and have a robot pose.

    Args:
        folder: Folder of images of the camera's size.
        poses_file, unit, inverted: See `read_robot_poses`.
        board: Board.
        camera: Intrinsics of the images.

    Returns:
        The views, and the names of images without a pose.

    Raises:
        DeviceError: There is no such folder or file.
        InputError: An image is damaged or of another size, or no pose belongs to an image.
    """
    poses = read_robot_poses(poses_file, unit, inverted)
    views: list[HandEyeView] = []
    without_pose: list[str] = []
    for file in list_images(folder):
        pose = poses.get(file.name, poses.get(file.stem))
        if pose is None:
            without_pose.append(file.name)
            continue
        corners = detect(board, check_size(f"'{file}'", read_image(file).color, camera))
        if corners is not None:
            views.append(HandEyeView(file.name, board.points[corners.ids], corners.pixels, pose))
    if not views and without_pose:
        raise InputError(
            f"no pose of '{poses_file}' belongs to an image in '{folder}' (e.g. {without_pose[0]}): use the same names"
        )
    return views, without_pose


def read_robot_poses(path: str | Path, unit: str = "m", inverted: bool = False) -> dict[str, np.ndarray]:
    """Read robot poses, [4, 4] gripper → base by the image's name.

    CSV with a header: `image,x,y,z,qx,qy,qz,qw`, or `image,x,y,z,rx,ry,rz` with a rotation vector in radians (as a UR
    prints it). YAML: a list of `{image, translation: {x, y, z}, rotation: {x, y, z, w}}` (as tf2_echo and geometry_msgs
    have it), or of `{image, pose: [16 numbers, row by row]}`.

    Args:
        path: CSV or YAML.
        unit: Unit of the translations, one of `UNITS`.
        inverted: Whether the file contains base → gripper.

    Raises:
        DeviceError: There is no such file.
        InputError: A row is no pose, or an image has two.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")  # tables saved by Excel begin with a byte order mark
    except OSError as error:
        raise DeviceError(f"cannot read poses '{path}': {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text: give poses as CSV or YAML") from error
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _yaml_rows(path, text)
    poses: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows, 1):
        try:
            name, pose = _parse_pose(row)
        except (KeyError, TypeError, ValueError) as error:
            cause = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"'{path}' pose {number}: {cause}; expected image, x, y, z and qx, qy, qz, qw") from error
        if name in poses:
            raise InputError(f"'{path}' pose {number}: '{name}' has a pose already; give one pose per image")
        pose[:3, 3] *= UNITS[unit]
        poses[name] = invert(pose) if inverted else pose
    if not poses:
        raise InputError(f"'{path}' contains no poses; expected a header image,x,y,z,qx,qy,qz,qw and a row per image")
    return poses


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    lines = [line for line in text.splitlines(keepends=True) if line.strip() and not line.startswith("#")]
    try:
        rows = list(csv.DictReader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"'{path}' is no CSV: {error}; is a quotation mark left open?") from error
    for number, row in enumerate(rows, 1):
        if None in row:  # DictReader's key for surplus values
            raise InputError(f"'{path}' row {number} has more values than the header: write decimals with a point")
    return rows


def _yaml_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise InputError(f"'{path}' is no list of poses; expected - {{image, translation, rotation}} for each image")
    return content


def _parse_pose(row: dict[str, Any]) -> tuple[str, np.ndarray]:
    name = str(row["image"]).strip()
    if "pose" in row:
        return name, rigid(np.array(row["pose"], np.float64).reshape(4, 4))
    if "translation" in row:
        row = {**row["translation"], **{f"q{axis}": row["rotation"][axis] for axis in "xyzw"}}
    pose = np.eye(4)
    if "qw" in row:
        pose[:3, :3] = rotation_matrix(*unit_quaternion([row[f"q{axis}"] for axis in "xyzw"]))
    else:
        vector = np.array([float(row[f"r{axis}"]) for axis in "xyz"])
        if not np.linalg.norm(vector) < 2 * np.pi + 0.01:
            raise ValueError("a rotation vector longer than a full turn: give radians")
        pose = pose_from_vector(np.concatenate([vector, np.zeros(3)]))
    pose[:3, 3] = [float(row[axis]) for axis in "xyz"]
    return name, rigid(pose)


# -- points with pixels ------------------------------------------------------------------------------------------------

_POINT_COLUMNS = ("x", "y", "z", "u", "v")


@dataclass(frozen=True)
class PointsAndPixels:
    """Points [N, 3] in m and their pixels [N, 2], NaN if missing, and the image's width and height."""

    points: np.ndarray
    pixels: np.ndarray
    size: tuple[int, int]


def read_points(paths: list[Path], part: str, size: tuple[int, int] | None = None) -> PointsAndPixels:
    """Read all points of files of one kind and one camera.

    Args:
        paths: CSV files, or NTU RGB+D's `.skeleton` files (whose mirroring is undone).
        part: Camera of a `.skeleton` file's pixels: "color" or "depth".
        size: Width and height of the image, for CSV.

    Raises:
        ConfigError: The size is missing.
        DeviceError: A file does not exist.
        InputError: A file is damaged.
    """
    if all(path.suffix == ".skeleton" for path in paths):
        return _read_skeletons(paths, part)
    if size is None:
        raise ConfigError("give the image's size with --size W,H")
    rows = np.concatenate([_read_points_csv(path) for path in paths])
    return PointsAndPixels(rows[:, :3], rows[:, 3:], size)


def _read_skeletons(paths: list[Path], part: str) -> PointsAndPixels:
    size = DEPTH_SIZE if part == DEPTH else COLOR_SIZE
    points, pixels = [], []
    for path in paths:
        recording = read_ntu_file(path)
        mirrored = recording.depth_pixels if part == DEPTH else recording.color_pixels
        points.append((recording.positions * KINECT_TO_OPTICAL).reshape(-1, 3))
        # In float64: the float32 of the dataset's own function is coarser than the fit.
        pixels.append(np.stack([size[0] - 1 - mirrored[..., 0], mirrored[..., 1]], axis=-1).reshape(-1, 2))
    return PointsAndPixels(np.concatenate(points), np.concatenate(pixels), size)


def _read_points_csv(path: Path) -> np.ndarray:
    try:
        rows = _csv_rows(path, path.read_text(encoding="utf-8-sig"))  # see `read_robot_poses`
        return np.array([[float(row[column]) for column in _POINT_COLUMNS] for row in rows]).reshape(-1, 5)
    except OSError as error:
        raise DeviceError(f"cannot read points '{path}': {error.strerror}; check the path") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{path}' is no table of points ({error}); expected a header x,y,z,u,v and numbers"
        ) from error
