"""Views of a board, from folders of images, and live whenever the board rests in a new pose; points from files."""

import contextlib
import csv
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.datasets.ntu.skeletons import COLOR_SIZE, DEPTH_SIZE, read_ntu_file
from actrec.recordings import image_folder
from actrec.recordings.image_decoding import depth_in_millimeters, infrared
from actrec.recordings.image_folder import IMAGE_SUFFIXES, image_files
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils import folders
from actrec.utils.calibration_files import DEPTH, CameraFiles
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError
from actrec.utils.geometry import KINECT_TO_OPTICAL
from actrec_calibration.board import Board
from actrec_calibration.detection import BoardCorners, BoardView, RgbdView, detect, placement
from actrec_calibration.quality import Coverage, CoverageConfig, coverage, save_image

READ_TIMEOUT_S = 5.0

STILL = 0.002  # motion of the corners between two images of a board at rest, in image widths
REST_S = 0.2  # at rest before a view is taken
MIN_NEW = 0.12  # distance of a view from every earlier one: share of the image, or of a tilt of 60°
MAX_VIEWS = 60


@dataclass(frozen=True)
class ColorImage:
    """Image [H, W, 3] uint8 RGB with its file's name or its number; its stamp is 0 for a file."""

    name: str
    stamp_ns: int
    color: np.ndarray
    intrinsics: Intrinsics | None = None


ReadImage = Callable[[float], ColorImage]
"""Returns the next image within a timeout in s; raises EndOfStream or DeviceError."""

ReadNewest = Callable[[float], tuple[int, np.ndarray, Intrinsics | None]]
"""Returns stamp, [H, W, 3] uint8 RGB and intrinsics (if known) of the newest image within a timeout in s."""

Log = Callable[[str], None]


# -- folders -----------------------------------------------------------------------------------------------------------


def new_folder(default: Path, given: Path | None = None) -> Path:
    """Return a folder for the views of this run alone: `given`, else `default`, or default_2, … if that has files.

    Raise ConfigError if `given` has files.
    """

    def is_used(folder: Path) -> bool:
        return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))

    if given is not None:
        if is_used(given.expanduser()):
            raise ConfigError(f"'{given}' exists and is not an empty folder: name another one for the views")
        return given.expanduser()
    numbered = (default.with_name(f"{default.name}_{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([default], numbered) if not is_used(folder))


def list_images(folder: str | Path) -> list[Path]:
    """List a folder's images in the order of their numbers; raise DeviceError or InputError if there are none."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DeviceError(f"'{folder}' is no folder: give a folder with images of the board")
    found = image_files(path)
    if not found:
        raise InputError(f"'{folder}' contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def read_image(path: Path) -> ColorImage:
    """Read an image; stretch the contrast of a 16-bit one (infrared). Raise InputError if it is damaged."""
    # Ignore the orientation: the coefficients of the lens belong to the sensor's image.
    image = image_folder.read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if image.dtype == np.uint8:
        return ColorImage(path.name, 0, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return ColorImage(path.name, 0, infrared(image.mean(axis=2)))


def view_of(board: Board, image: ColorImage) -> BoardView | None:
    """Detect the board in an image; None if it is not there. Raise InputError with its name if it is mirrored."""
    try:
        detection = detect(board, image.color)
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from error
    height, width = image.color.shape[:2]
    return None if detection is None else BoardView(image.name, (width, height), detection)


def check_size(name: str, image: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Return the image; raise InputError if the intrinsics are of another size."""
    if image.shape[:2] != (camera.height, camera.width):
        raise InputError(
            f"{name} is {image.shape[1]}×{image.shape[0]} and its intrinsics are of {camera.width}×{camera.height}: "
            "give intrinsics of this size"
        )
    return image


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
        intrinsics: Of color and depth.
        unit: m per step of the depth images.

    Raises:
        DeviceError: There is no such folder.
        InputError: A part is missing, two files have one number, an image is unusable, or no view shows the board.
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
            image = check_size(f"'{infrared[number]}'", read_image(infrared[number]).color, intrinsics[1])
            in_infrared = detect(board, image)
        views.append(RgbdView(color[number].name, corners, readings, in_infrared))
    if not views:
        raise InputError(
            f"none of the {len(numbers)} images in '{folder}' shows the board: check --kind, --columns and --rows"
        )
    return views


def read_depth(path: Path, unit: float) -> np.ndarray:
    """Read a 16-bit depth image as [H, W] float32 m, NaN for 0; raise InputError for another format."""
    image = image_folder.read_image(path, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.ndim != 2:
        raise InputError(f"'{path}' is no 16-bit depth image: save depth as 16-bit PNG (mm)")
    return np.where(image > 0, image * np.float32(unit), np.float32(np.nan)).astype(np.float32)


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


# -- points with pixels ------------------------------------------------------------------------------------------------


def read_points(
    paths: list[Path], part: str, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Read all points of CSV files (x, y, z, u, v), or of NTU RGB+D's `.skeleton` files (whose mirroring is undone).

    Args:
        paths: Files of one kind and one camera.
        part: Camera of a `.skeleton` file's pixels: "color" or "depth".
        size: Width and height of the image, for CSV.

    Returns:
        Points [N, 3] in m and their pixels [N, 2], NaN if missing, and the image's width and height.

    Raises:
        ConfigError: The size is missing.
        DeviceError: A file does not exist.
        InputError: A file is damaged.
    """
    if not all(path.suffix == ".skeleton" for path in paths):
        if size is None:
            raise ConfigError("give the image's size with --size W,H")
        rows = np.concatenate([_read_points_csv(path) for path in paths])
        return rows[:, :3], rows[:, 3:], size
    size = DEPTH_SIZE if part == DEPTH else COLOR_SIZE
    points, pixels = [], []
    for path in paths:
        recording = read_ntu_file(path)
        mirrored = recording.depth_pixels if part == DEPTH else recording.color_pixels
        points.append((recording.positions * KINECT_TO_OPTICAL).reshape(-1, 3))
        # In float64: the float32 of the dataset's own function is coarser than the fit.
        pixels.append(np.stack([size[0] - 1 - mirrored[..., 0], mirrored[..., 1]], axis=-1).reshape(-1, 2))
    return np.concatenate(points), np.concatenate(pixels), size


def _read_points_csv(path: Path) -> np.ndarray:
    try:
        return np.array([[float(row[column]) for column in "xyzuv"] for row in read_csv(path)]).reshape(-1, 5)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{path}' is no table of points ({error}); expected a header x,y,z,u,v and numbers"
        ) from error


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file with a header; ignore empty lines, comments, and a byte order mark (Excel's).

    Raises:
        DeviceError: There is no such file.
        InputError: It is no CSV.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines(keepends=True)
        wanted = [line for line in lines if line.strip() and not line.startswith("#")]
        rows = list(csv.DictReader(wanted, skipinitialspace=True, strict=True))
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text: give a CSV file") from error
    except csv.Error as error:
        raise InputError(f"'{path}' is no CSV: {error}; is a quotation mark left open?") from error
    for number, row in enumerate(rows, 1):
        if None in row:  # DictReader's key for surplus values
            raise InputError(f"'{path}' row {number} has more values than the header: write decimals with a point")
    return rows


# -- live --------------------------------------------------------------------------------------------------------------


def check_serial(own: str, given: str) -> None:
    """Raise ConfigError if a camera has another serial number than the one that names its files."""
    if own and given and own != given:
        raise ConfigError(f"the camera's serial number is {own}, not {given}: give it with --serial")


@contextlib.contextmanager
def open_driver(driver: str, options: dict[str, Any], serial: str = "") -> Iterator[ReadImage]:
    """Open a driver of `actrec.cameras.DRIVERS`, without ROS; yield a function that returns the next image.

    Images have the camera's calibration, None if it is assumed. Raises ConfigError if the camera has another serial
    number than `serial`.
    """
    numbers = itertools.count(1)
    with cameras.create(driver, **options) as camera:
        calibration = camera.calibration()
        check_serial(calibration.serial, serial)

        def read(timeout_s: float) -> ColorImage:
            frame = camera.read(timeout_s)
            if frame.color is None:
                raise InputError(f"driver {driver} has no images here, only joints: choose a camera or a recording")
            return ColorImage(f"frame_{next(numbers):06d}", frame.stamp_ns, frame.color, calibration.color)

        yield read


@contextlib.contextmanager
def open_topic(subscription: contextlib.AbstractContextManager[ReadNewest]) -> Iterator[ReadImage]:
    """Open a subscription, `actrec_nodes.calibration_node.images`; yield a function that returns the newest image."""
    numbers = itertools.count(1)
    with subscription as newest:
        yield lambda timeout_s: ColorImage(f"image_{next(numbers):06d}", *newest(timeout_s))


class RestDetector:
    """Detects whether the board is in live images and at rest; `detection` is of the last image, None without board."""

    def __init__(self, board: Board):
        self.detection: BoardCorners | None = None
        self._board = board
        self._since: int | None = None

    def update(self, image: ColorImage) -> bool:
        """Process an image; return whether the board has been at rest for long enough."""
        previous, self.detection = self.detection, detect(self._board, image.color)
        if self.detection is None or _motion(previous, self.detection) > STILL * image.color.shape[1]:
            self._since = None
            return False
        if self._since is None or image.stamp_ns < self._since:  # the stamps of a looped recording jump back
            self._since = image.stamp_ns
        return image.stamp_ns - self._since >= REST_S * NANOSECONDS


def _motion(previous: BoardCorners | None, current: BoardCorners) -> float:
    """Return the median motion in px of the corners in both images; infinite if there are none."""
    if previous is None:
        return float("inf")
    _, now, before = np.intersect1d(current.ids, previous.ids, return_indices=True)
    moved = np.hypot(*(current.pixels[now] - previous.pixels[before]).T)
    return float(np.median(moved)) if len(moved) else float("inf")


class ViewCollector:
    """Collects views that differ from one another, until their coverage suffices.

    Attributes:
        views: Collected views.
        coverage: Coverage of the views.
        rest: Detector of the last image's board.
    """

    def __init__(self, board: Board, required: CoverageConfig | None = None):
        self.views: list[BoardView] = []
        self._board, self._required = board, required or CoverageConfig()
        self.coverage: Coverage = coverage(board, [], self._required)
        self.rest = RestDetector(board)

    @property
    def done(self) -> bool:
        """Whether the views suffice, or their maximum number is reached."""
        return not self.coverage.missing or len(self.views) >= MAX_VIEWS

    def update(self, image: ColorImage) -> bool:
        """Process an image; return whether it became a view."""
        if not self.rest.update(image) or self.rest.detection is None:
            return False
        height, width = image.color.shape[:2]
        view = BoardView(image.name, (width, height), self.rest.detection)
        vector = placement(self._board, view).vector
        others = [placement(self._board, other).vector for other in self.views]
        if any(np.linalg.norm(vector - other) <= MIN_NEW for other in others):
            return False
        self.views.append(view)
        self.coverage = coverage(self._board, self.views, self._required)
        return True


def images_until(read: ReadImage, stopped: threading.Event) -> Iterator[ColorImage]:
    """Yield images until the stream ends, or `stopped` is set.

    Raises:
        DeviceError: None arrives.
        KeyboardInterrupt: `stopped` is set before the first.
    """
    came = False
    with contextlib.suppress(EndOfStream):
        while not stopped.is_set():
            image, came = read(READ_TIMEOUT_S), True
            yield image
    if stopped.is_set() and not came:
        raise KeyboardInterrupt


def collect_views(
    read: ReadImage, collector: ViewCollector, stopped: threading.Event, on_image: Callable[[ColorImage, bool], None]
) -> list[BoardView]:
    """Collect views until they suffice, the stream ends, or `stopped` is set; pass on each image, and if it is one."""
    for image in images_until(read, stopped):
        on_image(image, collector.update(image))
        if collector.done:
            break
    return collector.views


def collect_rgbd(
    camera: Camera, driver: str, board: Board, count: int, stopped: threading.Event, folder: Path, log: Log
) -> Iterator[RgbdView]:
    """Yield views by color and depth of an open camera, whenever the board rests in a new pose.

    Their images are saved in a folder that `read_rgbd_folder` reads. It ends after `count` views, or if `stopped` is
    set.
    """
    collector = ViewCollector(board)
    log("hold the board still for a moment, then in another way: near and far, tilted to all sides; Ctrl-C ends it")
    for frame in _rgbd_frames(camera, driver):
        name = f"view_{len(collector.views) + 1:03d}.png"
        if collector.update(ColorImage(name, frame.stamp_ns, frame.color)):
            save_image(folder / COLOR_FOLDERS[0] / name, frame.color)
            depth = cv2.imencode(".png", depth_in_millimeters(frame.depth))[1].tobytes()
            folders.write_file(folder / DEPTH_FOLDERS[0] / name, depth)
            log(f"{len(collector.views)} of {count} views")
            yield RgbdView(name, collector.views[-1].detection, frame.depth)
        if len(collector.views) == count or stopped.is_set():
            return


def capture_static_scene(
    driver: str, options: dict[str, Any], board: Board, count: int
) -> tuple[CameraFiles, list[RgbdView]]:
    """Capture the next `count` frames of a running camera; camera and board stand still.

    Returns the camera's own calibration, and the frames that show the board; raises InputError if there are none.
    """
    views: list[RgbdView] = []
    with cameras.create(driver, **options) as camera:
        for number, frame in enumerate(itertools.islice(_rgbd_frames(camera, driver), count), 1):
            corners = detect(board, frame.color)
            if corners is not None:
                views.append(RgbdView(f"frame {number}", corners, frame.depth))
        calibration = camera.calibration()
    if not views:
        raise InputError(
            f"no frame of {count} shows the board: check --kind, --columns and --rows, and the camera's view"
        )
    return calibration, views


def _rgbd_frames(camera: Camera, driver: str) -> Iterator[Any]:
    while True:
        try:
            frame = camera.read(READ_TIMEOUT_S)
        except EndOfStream:
            return
        if frame.color is None or frame.depth is None:
            raise InputError(f"driver {driver} has no color and depth here: choose a camera that has both")
        yield frame
