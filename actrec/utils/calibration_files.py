"""Calibration files of cameras, and intrinsics from YAML files.

`actrec calibrate` writes the files, the drivers load them by serial number. `SERIAL_color.yaml` and `SERIAL_depth.yaml`
are ROS camera_info files (see camera_calibration_parsers); the depth file adds its pose, scale and bias.
`SERIAL_mount.yaml` is the static transform from the robot to the camera.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from actrec.types import Intrinsics
from actrec.utils import config, folders, gravity
from actrec.utils.camera_model import UNDISTORTED, make_intrinsics, ros_lens
from actrec.utils.errors import DeviceError, InputError

COLOR, DEPTH, MOUNT = "color", "depth", "mount"

_ASPECT_TOLERANCE = 0.005

TYPICAL_FOV_DEG = 65.0
"""Field of view along the longer edge, of which most webcams and telephones have 60 to 75°."""


def _checkout_folder(module: Path) -> Path:
    """Return `calibration/cameras` of the checkout around a module, also of the copy that colcon installs in `ros2_ws`.

    So the command line and a launched graph find the same files. Without a checkout there is no such folder.
    """
    places = [place / "calibration" for place in module.parents]
    return next((place for place in places if os.path.isdir(place / "actrec_calibration")), places[2]) / "cameras"


_CHECKOUT_FOLDER = _checkout_folder(Path(__file__).resolve())


@dataclass(frozen=True)
class DepthGeometry:
    """Pose and depth correction of a depth camera.

    Attributes:
        to_color: [4, 4] float64 transform of points, m, from the depth camera's to the color camera's optical frame.
        scale, bias: True depth in m = scale · reading in m + bias.
    """

    to_color: np.ndarray
    scale: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True)
class Mount:
    """Pose of a camera on a robot.

    Attributes:
        parent: Frame of the robot, e.g. base_link.
        child: Optical frame of the camera.
        pose: [4, 4] float64 transform of points, m, from the camera to the parent frame.
        moving: Whether the parent moves, as a gripper or a head does, so that its z axis does not always point up.
    """

    parent: str
    child: str
    pose: np.ndarray
    moving: bool = False

    @property
    def up(self) -> np.ndarray | None:
        """Unit vector [3] against gravity in the optical frame, the parent's z axis (REP-103); None if it moves."""
        return None if self.moving else gravity.check_up(self.pose[2, :3])


@dataclass(frozen=True)
class CameraFiles:
    """Content of one camera's files; None for a missing file."""

    serial: str
    color: Intrinsics | None = None
    depth: Intrinsics | None = None
    geometry: DepthGeometry | None = None
    mount: Mount | None = None


def from_hfov(width: int, height: int, hfov_deg: float) -> Intrinsics:
    """Return intrinsics with square pixels and a centered principal point for a horizontal field of view in degrees."""
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    return Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def from_fov(width: int, height: int, fov_deg: float) -> Intrinsics:
    """Return intrinsics as `from_hfov`, for a field of view along the longer edge, also of an upright image."""
    long = max(width, height)
    focal = long / 2 / math.tan(math.radians(fov_deg) / 2)
    return Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def rectified(topic: str) -> bool:
    """Return whether ROS's naming marks a topic as rectified: image_rect, image_rect_color, image_rect_raw.

    P of the camera_info describes rectified images, which have no distortion; K and D describe the raw images.
    """
    return any(part.startswith("image_rect") for part in topic.split("/"))


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raise DeviceError if it cannot be read, InputError if it is not a mapping."""
    try:
        content = config.parse_yaml(folders.read_file(path))
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}; check the path") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' is not a mapping; expected width, height, fx, fy, cx, cy")
    return content


def from_yaml(path: Path) -> Intrinsics:
    """Read `width, height, fx, fy, cx, cy[, distortion]`, or YAML of ROS's camera_calibration.

    Raise DeviceError if there is no such file, InputError if its content is not valid or the lens not supported.
    """
    content = load_yaml(path)
    try:
        if "camera_matrix" in content:
            size = int(content["image_width"]), int(content["image_height"])
            k = content["camera_matrix"]["data"]
            d = content.get("distortion_coefficients", {}).get("data", [])
        else:
            size = int(content["width"]), int(content["height"])
            fx, fy, cx, cy = (content[key] for key in ("fx", "fy", "cx", "cy"))
            k, d = [fx, 0, cx, 0, fy, cy, 0, 0, 1], content.get("distortion", [])
        models = [str(content.get(key) or "") for key in ("distortion_model", "camera_model")]
    except KeyError as error:
        raise InputError(f"'{path}' lacks {error}; expected width, height, fx, fy, cx, cy") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"'{path}' is not intrinsics of a camera: {error}") from error
    # OpenCV's fisheye calibration names the lens in camera_model; elsewhere that is "pinhole".
    model = models[1] if models[1].lower() not in UNDISTORTED else models[0]
    return make_intrinsics(f"'{path}'", *size, k, model, d)


def positive_number(path: Path, content: dict[str, Any], key: str) -> float:
    """Return the positive number at `key` of a YAML file's content, 0 if absent; raise InputError for other values."""
    try:
        value = float(content.get(key, 0.0))
    except (TypeError, ValueError):
        value = math.nan
    if key in content and not 0 < value < math.inf:
        raise InputError(f"'{path}': {key} is '{content[key]}', expected a positive number")
    return value


def scale_to_size(camera: Intrinsics, width: int, height: int) -> Intrinsics:
    """Scale a calibration to images of another size; raise InputError if they were cropped to another aspect ratio."""
    if abs(camera.width * height / (camera.height * width) - 1) > _ASPECT_TOLERANCE:
        raise InputError(
            f"the calibration is for {camera.width}×{camera.height} images and these are {width}×{height}, of another "
            "aspect ratio: calibrate at this size, or choose a profile of the calibrated aspect ratio"
        )
    return camera.resized(width, height)


def search_folders() -> list[Path]:
    """Return the folders to search in order; new files are written to the first.

    These are `$ACTREC_CAMERAS` if it is set, else `calibration/cameras` of a source checkout, then
    `~/.config/actrec/cameras`, which without a home folder is a path that starts with `~`.
    """
    if given := os.environ.get("ACTREC_CAMERAS"):
        return [folders.expanded(given)]
    home = Path(os.path.expanduser(os.environ.get("XDG_CONFIG_HOME") or "~/.config")) / "actrec/cameras"
    return [_CHECKOUT_FOLDER, home] if _CHECKOUT_FOLDER.is_dir() else [home]


def path_of(serial: str, part: str, folder: Path | None = None) -> Path:
    """Return the path of a camera's `part` (COLOR, DEPTH, MOUNT): the existing file, or the file to write.

    Raise InputError if the serial number is empty or has a character other than letters, digits, - and _.
    """
    if not serial or not serial.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"serial number {serial!r} cannot be part of a file name: use letters, digits, - and _")
    places = [folder] if folder else search_folders()
    files = [place / f"{serial}_{part}.yaml" for place in places]
    return next((file for file in files if file.is_file()), files[0])


def check_writable(path: Path) -> None:
    """Raise DeviceError if a camera's file cannot be written."""
    cause = "there is no home folder" if path.parts[0] == "~" else folders.problem(path.parent)
    if cause:
        raise DeviceError(
            f"cannot write '{path}' ({cause}): name a folder with --cameras, or set ACTREC_CAMERAS or XDG_CONFIG_HOME"
        )


def load(serial: str, folder: Path | None = None, parts: Sequence[str] = (COLOR, DEPTH, MOUNT)) -> CameraFiles:
    """Return the content of a camera's files of `parts`; raise InputError, which names the file, if one is damaged."""
    files = {part: path for part in parts if (path := path_of(serial, part, folder)).is_file()}
    return CameraFiles(
        serial,
        from_yaml(files[COLOR]) if COLOR in files else None,
        from_yaml(files[DEPTH]) if DEPTH in files else None,
        read_geometry(files[DEPTH]) if DEPTH in files else None,
        _read_mount(files[MOUNT]) if MOUNT in files else None,
    )


def write_intrinsics(
    path: Path, camera: Intrinsics, name: str, geometry: DepthGeometry | None = None, note: str = ""
) -> None:
    """Write a camera_info YAML of ROS atomically, with the geometry of a depth camera.

    `name` becomes the `camera_name`, `note` a comment at the top: how and when the camera was calibrated.
    """
    k, (model, d) = camera.matrix, ros_lens(camera)
    content: dict[str, Any] = {}  # what may be missing comes first, so that a file that was copied by half is refused
    if geometry is not None:
        content["depth_scale"], content["depth_bias"] = float(geometry.scale), float(geometry.bias)
        content["depth_to_color"] = _matrix(geometry.to_color)
    content |= {
        "distortion_model": model,
        "distortion_coefficients": _matrix(np.array([d])),
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_name": name,
        "rectification_matrix": _matrix(np.eye(3)),
        "projection_matrix": _matrix(np.hstack([k, np.zeros((3, 1))])),
        "camera_matrix": _matrix(k),
    }
    _write(path, content, note)


def write_mount(path: Path, mount: Mount, note: str = "") -> None:
    """Write a static transform: frames, translation in m, rotation as a quaternion x, y, z, w."""
    translation, rotation = mount.pose[:3, 3].tolist(), quaternion(mount.pose[:3, :3])
    content: dict[str, Any] = {"moving": True} if mount.moving else {}  # first, see write_intrinsics
    content |= {
        "parent_frame": mount.parent,
        "child_frame": mount.child,
        "translation": dict(zip("xyz", translation, strict=True)),
        "rotation": dict(zip("xyzw", rotation, strict=True)),
    }
    _write(path, content, note)


def _read_mount(path: Path) -> Mount:
    content = load_yaml(path)
    try:
        rotation = rotation_matrix(*unit_quaternion([content["rotation"][axis] for axis in "xyzw"]))
        pose = rigid(transform(rotation, [float(content["translation"][axis]) for axis in "xyz"]))
        return Mount(str(content["parent_frame"]), str(content["child_frame"]), pose, bool(content.get("moving")))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{path}' is not a camera mount ({error}): calibrate it again, by hand-eye or floor with --overwrite"
        ) from error


def read_geometry(path: Path) -> DepthGeometry | None:
    """Return the geometry in a depth camera's file, None if it has none; raise InputError if it is damaged."""
    content = load_yaml(path)
    if "depth_to_color" not in content:
        return None
    try:
        pose = rigid(np.array(content["depth_to_color"]["data"], np.float64).reshape(4, 4))
        scale, bias = float(content.get("depth_scale", 1.0)), float(content.get("depth_bias", 0.0))
        if not (np.isfinite([scale, bias]).all() and scale > 0):
            raise ValueError(f"depth_scale {scale:g} and depth_bias {bias:g} are not valid")
        return DepthGeometry(pose, scale, bias)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{path}': depth_to_color is not a transform ({error}): calibrate the depth again, with --overwrite and "
            "without --registered"
        ) from error


def _matrix(values: np.ndarray) -> dict[str, Any]:
    rows, columns = values.shape
    return {"rows": rows, "cols": columns, "data": [float(value) for value in values.ravel()]}


def _write(path: Path, content: dict[str, Any], note: str) -> None:
    text = "".join(f"# {line}\n" for line in note.splitlines())
    text += yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    folders.write_file(path, text.encode(), "set ACTREC_CAMERAS to another folder")


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Return x, y, z, w (w ≥ 0) of a rotation matrix [3, 3]."""
    from scipy.spatial.transform import Rotation  # takes 0.2 s

    q = Rotation.from_matrix(rotation).as_quat()
    x, y, z, w = (q if q[3] >= 0 else -q).tolist()
    return x, y, z, w


def rotation_matrix(x: float, y: float, z: float, w: float) -> np.ndarray:
    """Return the rotation matrix [3, 3] of a quaternion of any norm except 0."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_quat([x, y, z, w]).as_matrix())


def unit_quaternion(values: Sequence[Any]) -> list[float]:
    """Return x, y, z, w as floats; raise TypeError or ValueError if they are not numbers of norm 1."""
    numbers = [float(value) for value in values]
    if not abs(np.linalg.norm(numbers) - 1) < 0.01:
        raise ValueError(f"a quaternion of length {np.linalg.norm(numbers):.3f}, not 1")
    return numbers


def transform(rotation: ArrayLike, translation: ArrayLike) -> np.ndarray:
    """Return the [4, 4] float64 transform of a rotation [3, 3] and a translation [3]."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def rigid(pose: np.ndarray) -> np.ndarray:
    """Return `pose` [4, 4] if it is a rigid transform; raise ValueError if not."""
    r = pose[:3, :3]
    if not np.isfinite(pose).all():
        raise ValueError("not all numbers are finite")
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
        raise ValueError("a matrix whose last row is not 0, 0, 0, 1: give it row by row")
    if not np.allclose(r @ r.T, np.eye(3), atol=1e-3) or not np.linalg.det(r) > 0:
        raise ValueError("a matrix whose upper left 3×3 is not a rotation")
    return pose
