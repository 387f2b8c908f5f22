"""Folders of color and depth images: playback, reading as a video without depth, and writing.

Layouts for playback, detected by file names; depth is optional:

- `N.jpg` beside `N_depth.png`, or `colorN.png` beside `depthN.png`
- sub-folders `rgb` (or `color`) and `depth`; a file's name is a number, or its stamp (seconds as in TUM RGB-D, or
  milli-, micro- or nanoseconds since 1970)
- a sub-folder of color beside `depth_mm.npz` with an array `depth` [T, H, W] in millimeters
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml

from actrec.recordings import INTRINSICS_FILE, Recording, RecordingConfig, existing_path, log, resolve_intrinsics
from actrec.recordings.image_decoding import (
    MILLIMETER,
    DamagedImageError,
    decode,
    depth_in_meters,
    depth_in_millimeters,
)
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import MAX_FILE_BYTES, load_npz, stamps_at
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files, gravity
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.folders import read_file

FPS = 30.0  # Hz, of a folder with numbered files and no `fps` in its intrinsics.yaml
NPZ_NAME = "depth_mm.npz"
SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_SUFFIXES = frozenset({*SUFFIXES, ".bmp"})
COLOR_FOLDERS = ("rgb", "color", "colour")

_MAX_PIXEL_BYTES = 8  # of depth: other types than uint16 are refused later, with their name

_File = tuple[float, Path]
"""Number (or stamp in s) and path of an image."""

_COLOR_NAME = re.compile(
    r"^(?:colou?r|rgb|frame|image|img)?[_-]?(\d+(?:\.\d+)?)(?:[_-](?:colou?r|rgb))?$", re.IGNORECASE
)
_DEPTH_NAME = re.compile(r"^(?:depth[_-]?)?(?:frame[_-]?|image[_-]?)?(\d+(?:\.\d+)?)(?:[_-]depth)?$", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)")
_WRITTEN_FILES = re.compile(r"\d{6}(_depth)?\.png|joints\.npz")


class FolderRecording(Recording):
    """Playback of a folder of images; integer depth needs `depth_scale`, from the options or intrinsics.yaml.

    That file may state `fps`, and the mounting of the camera as `mount`, in the form of the option.

    Raises:
        DeviceError: The folder does not exist.
        InputError: It holds no images, or its intrinsics or depth scale are unknown.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing_path(path), config)
        color, depth = _list_images(self.path)
        has_npz = (self.path / NPZ_NAME).is_file()
        if config.depth_topic == "none":
            depth, has_npz = [], False
        if not color:
            raise InputError(f"'{self.path}' holds no color images (N.jpg, colorN.png or rgb/N.png); check the path")
        height, width = _read_color(color[0][1]).shape[:2]
        file = self.path / INTRINSICS_FILE
        content = calibration_files.load_yaml(file) if file.is_file() else {}
        scale, fps = (calibration_files.positive_number(file, content, key) for key in ("depth_scale", "fps"))
        try:
            self._up = gravity.parse_mount(str(content["mount"])) if "mount" in content else None
        except ConfigError as error:
            raise InputError(f"'{file}': {error}") from error
        self.intrinsics = resolve_intrinsics(self.path, config, width, height, self.path)
        limit = _MAX_PIXEL_BYTES * len(color) * height * width + (1 << 20)
        self._npz = load_npz(self.path / NPZ_NAME, ("depth",), limit)["depth"] if has_npz and not depth else None
        self._pairs = self._pair_images(color, depth)
        played = {file for file, _ in self._pairs}
        stamps = _stamps(self.path, [number for number, _ in color], config.fps or fps or FPS)
        # Images skipped for missing depth count in the stamps.
        self._stamps = stamps[[file in played for _, file in color]]
        self.duration_s = float(self._stamps[-1] - self._stamps[0]) / NANOSECONDS
        self._scale = config.depth_scale or scale or (0.0 if self._npz is None else MILLIMETER)
        if depth and not self._scale:
            raise InputError(
                f"'{self.path}' has no depth scale: give option depth_scale (0.001 for millimeters, 0.0002 for "
                "5000 units per meter), or depth_scale in its intrinsics.yaml"
            )

    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        first = self._stamps[0] + round(start_s * NANOSECONDS)
        for stamp, (file, depth) in zip(self._stamps, self._pairs, strict=True):
            if stamp >= first:
                color = _read_color(file)
                meters = None if depth is None else self._depth(depth)
                scale = self._scale or 1.0
                frame = RgbdFrame(int(stamp), color, meters, self.intrinsics, up=self._up, depth_scale=scale)
                try:
                    frame.check()
                except InputError as error:
                    raise InputError(f"'{file}': {error}") from error
                yield frame

    def _pair_images(self, color: list[_File], depth: list[_File]) -> list[tuple[Path, Path | int | None]]:
        """Return each frame's color file and its depth file, index in the npz, or None without depth."""
        if self._npz is not None:
            if len(self._npz) != len(color):
                raise InputError(f"'{self.path}' has {len(color)} color images but {NPZ_NAME} has {len(self._npz)}")
            return [(file, index) for index, (_, file) in enumerate(color)]
        if not depth:
            log.warning("'%s' has no depth: frames come without it", self.path)
            return [(file, None) for _, file in color]
        # Pair by equal numbers, or nearest in time within half a frame.
        numbers, others = (np.array([number for number, _ in files]) for files in (color, depth))
        integers = (numbers % 1 == 0).all() and (others % 1 == 0).all()
        tolerance = 0.0 if integers or len(color) < 2 else float(np.median(np.diff(numbers))) / 2
        nearest = [int(np.abs(others - number).argmin()) for number in numbers]
        pairs: list[tuple[Path, Path | int | None]] = [
            (file, depth[index][1])
            for (number, file), index in zip(color, nearest, strict=True)
            if abs(others[index] - number) <= tolerance
        ]
        if not pairs:
            raise InputError(f"'{self.path}': no depth image has the number of a color image; rename the depth images")
        if unpaired := len(color) - len(pairs):
            log.warning("'%s': skipping %d of %d color images without depth", self.path, unpaired, len(color))
        return pairs

    def _depth(self, source: Path | int) -> np.ndarray:
        if isinstance(source, int):
            assert self._npz is not None
            units = self._npz[source]
        else:
            units = read_image(source, cv2.IMREAD_UNCHANGED)
        if units.ndim != 2 or units.dtype != np.uint16:
            found = f"{units.dtype}{list(units.shape)}"
            raise InputError(f"'{source}' is {found}, expected 16-bit depth [H, W]; 8 bits are for display")
        return depth_in_meters(units, self._scale)


def has_depth(path: Path) -> bool:
    """Return whether a folder of images has depth images."""
    return bool(_list_images(path)[1]) or (path / NPZ_NAME).is_file()


def _list_images(path: Path) -> tuple[list[_File], list[_File]]:
    """Return color and depth images, sorted by their number or stamp."""
    if not path.is_dir():
        return [], []
    folders = {file.name.lower(): file for file in path.iterdir() if file.is_dir()}
    sub = next((folders[name] for name in COLOR_FOLDERS if name in folders), None)
    if sub is None:
        return _numbered_images(path, _COLOR_NAME, False), _numbered_images(path, _DEPTH_NAME, True)
    depth = folders.get("depth")
    return _numbered_images(sub, _COLOR_NAME), _numbered_images(depth, _DEPTH_NAME) if depth else []


def _numbered_images(folder: Path, pattern: re.Pattern[str], depth: bool | None = None) -> list[_File]:
    """Return (number, file) of the images in `folder`; `depth` filters by name if both kinds share the folder."""
    found = []
    for file in folder.iterdir():
        if file.suffix.lower() not in SUFFIXES or (depth is not None and ("depth" in file.stem.lower()) != depth):
            continue
        if match := pattern.match(file.stem):
            number = float(match.group(1))  # a time in ms, µs or ns of the years 2001 to 2286 becomes s
            seconds = (number / unit for unit in (1e3, 1e6, 1e9) if 1e9 * unit <= number < 1e10 * unit)
            found.append((next(seconds, number), file))
    return sorted(found)


def _stamps(path: Path, numbers: list[float], fps: float) -> np.ndarray:
    """Return stamps [T] in ns: the file names if they are stamps (as in TUM RGB-D), else by frame rate.

    A gap between the numbers is of missing images. The most frequent step, of milliseconds too (33, 67, 100), is of the
    next image.
    """
    if any(number != int(number) or 1e9 <= number < 1e10 for number in numbers):
        return np.array([round(number * NANOSECONDS) for number in numbers], dtype=np.int64)
    steps = np.diff(np.array(numbers, dtype=np.int64))
    if not len(steps) or not (steps > 0).all():
        return stamps_at(fps, len(numbers))
    values, counts = np.unique(steps, return_counts=True)
    usual = values[counts.argmax()]
    if 2 * steps.min() <= usual:  # most frames are missing, in a pattern
        usual = np.gcd.reduce(steps)
    places = np.concatenate([[0], np.cumsum(np.maximum(np.round(steps / usual), 1).astype(np.int64))])
    if missing := int(places[-1]) + 1 - len(numbers):
        log.warning("'%s': %d numbers between the images are missing, which count in the stamps", path, missing)
    return np.round(places * (NANOSECONDS / fps)).astype(np.int64)


def read_image(file: Path, flags: int) -> np.ndarray:
    """Return an image, as `cv2.imread`, which ends the process at file names that are not UTF-8.

    Raises:
        InputError: There is no such file, or it is not an image, or truncated.
    """
    with contextlib.suppress(OSError, DamagedImageError):
        return decode(read_file(file, MAX_FILE_BYTES), flags)
    raise InputError(f"'{file}' cannot be decoded: truncated or not an image; copy it again")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image, as `cv2.imwrite`; raise OSError, or InputError for an unknown suffix."""
    if not (path.suffix.isascii() and cv2.haveImageWriter(f"image{path.suffix}")):
        raise InputError(f"'{path}' has no suffix of a writable image format: use .png")
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def _read_color(file: Path) -> np.ndarray:
    return cv2.cvtColor(read_image(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


class VideoInfo(NamedTuple):
    """Length, frame rate and size of a video or a folder of images."""

    frames: int
    fps: float  # in Hz; 0 if unknown
    size: tuple[int, int]  # width and height as displayed, px


def image_files(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES, ending: str = "") -> list[Path]:
    """Return the images in a folder in natural order (10 after 9), without hidden files such as macOS's `._1.png`.

    Names without suffix end with `ending`.
    """
    shown = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    found = [path for path in shown if path.stem.endswith(ending)]
    return sorted(found, key=lambda path: [int(t) if t.isdecimal() else t for t in _NUMBER.split(path.name)])


def read_folder_info(folder: Path, ending: str = "") -> VideoInfo:
    """Return number and size of the images in a folder (`image_files`); the frame rate is unknown.

    Raises:
        InputError: There are none, or the first is corrupt.
    """
    found = image_files(folder, ending=ending)
    if not found:
        raise InputError(f"'{folder}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); copy it again")
    height, width = _read_color(found[0]).shape[:2]
    return VideoInfo(len(found), 0.0, (width, height))


def check_numbering(folder: Path) -> None:
    """Refuse a gap in the numbers of a folder's images: later images would get wrong stamps.

    Raises:
        InputError: There is a gap; the message names the images on both sides.
    """
    found = image_files(folder)
    numbers = [_NUMBER.findall(path.stem) for path in found]
    if len(found) < 3 or any(len(each) != 1 for each in numbers):  # another numbering
        return
    steps = np.diff([int(each[0]) for each in numbers])
    gaps = np.flatnonzero(steps != np.bincount(steps).argmax())
    if len(gaps):
        before, after = (found[gaps[0] + k].name for k in (0, 1))
        raise InputError(f"'{folder}' lacks images between '{before}' and '{after}'; copy it again")


def read_folder_images(
    folder: Path,
    indices: np.ndarray,
    info: VideoInfo,
    mirror: bool = False,
    size: tuple[int, int] | None = None,
    ending: str = "",
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, [H, W, 3] uint8 RGB) of the images at `indices`, from 0 in natural order of the file names.

    `info` is the result of `read_folder_info`, `size` the width and height to scale to; None keeps their size.

    Raises:
        InputError: An image is corrupt, or of another size than the first.
    """
    found = image_files(folder, ending=ending)
    for number in indices:
        image = _read_color(found[number])
        if (image.shape[1], image.shape[0]) != info.size:
            sizes = f"{image.shape[1]}×{image.shape[0]}, the first {info.size[0]}×{info.size[1]}"
            raise InputError(f"'{found[number]}' is {sizes}; move each video to its own folder")
        image = image if size is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        yield int(number), np.ascontiguousarray(image[:, ::-1] if mirror else image)


def check_new(folder: Path, overwrite: bool = False) -> None:
    """Raise DeviceError if a folder is not empty, unless it may be overwritten."""
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise DeviceError(f"folder '{folder}' is not empty: choose another folder or use --overwrite")


class FolderWriter:
    """Writer of an image folder with ground truth.

    Files are color `N.png`, depth `N_depth.png` (16 bit, mm, 0 for missing), `intrinsics.yaml` and `joints.npz` with
    stamps_ns [T], positions [M, T, 25, 3] m in the optical frame, pixels [M, T, 25, 2], scores [M, T, 25], body_ids [M]
    and actions [M, T]; an absent body has NaN and "".

    `overwrite` allows a folder that is not empty, and deletes frames and joints of an earlier recording. `up` [3] is
    the direction against gravity in all frames, None if unknown.

    Raises:
        DeviceError: The folder is not empty, or cannot be created or written.
    """

    def __init__(
        self, folder: Path, intrinsics: Intrinsics, fps: float, overwrite: bool = False, up: np.ndarray | None = None
    ):
        check_new(folder, overwrite)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Remaining files of a longer earlier recording would be played after the new ones.
            for file in [*folder.glob("*.png"), folder / "joints.npz"]:
                if _WRITTEN_FILES.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise DeviceError(f"cannot create or clear folder '{folder}': {error.strerror}") from error
        self._folder = folder
        self._frames: list[tuple[RgbdFrame, dict[str, str]]] = []
        lens = {name: float(getattr(intrinsics, name)) for name in ("fx", "fy", "cx", "cy")}
        # What may be missing comes first, so that a file that was copied by half is refused.
        mount = {} if up is None else {"mount": ",".join(f"{angle + 0:.3f}" for angle in gravity.angles_from_up(up))}
        size = {"width": intrinsics.width, "height": intrinsics.height}
        settings = {"depth_scale": 0.001, "fps": fps, **mount, **size, **lens}
        with write_errors(folder / INTRINSICS_FILE):
            (folder / INTRINSICS_FILE).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")

    def add(self, frame: RgbdFrame, actions: dict[str, str]) -> None:
        """Write the images of a frame; `actions` are the labels of its bodies, by id.

        Raises:
            DeviceError: An image cannot be written.
        """
        assert frame.color is not None and frame.depth is not None
        name = self._folder / f"{len(self._frames):06d}"
        for file, image in (
            (Path(f"{name}.png"), cv2.cvtColor(frame.color, cv2.COLOR_RGB2BGR)),
            (Path(f"{name}_depth.png"), depth_in_millimeters(frame.depth)),
        ):
            with write_errors(file):
                write_image(file, image)
        self._frames.append((replace(frame, color=None, depth=None), actions))

    def close(self) -> None:
        """Write the joints.

        Raises:
            DeviceError: The file cannot be written.
        """
        ids = sorted({body.body_id for frame, _ in self._frames for body in frame.skeletons})
        shape = (len(ids), len(self._frames), len(KINECT_V2_25))
        positions, pixels = np.full((*shape, 3), np.nan, np.float32), np.full((*shape, 2), np.nan, np.float32)
        scores, names = np.zeros(shape, np.float32), np.full(shape[:2], "", object)
        for t, (frame, actions) in enumerate(self._frames):
            for body in frame.skeletons:
                m = ids.index(body.body_id)
                positions[m, t], pixels[m, t], scores[m, t] = body.positions, body.pixels, body.scores
                names[m, t] = actions.get(body.body_id, "")
        stamps = np.array([frame.stamp_ns for frame, _ in self._frames], np.int64)
        file = self._folder / "joints.npz"
        with write_errors(file):
            np.savez_compressed(
                file, stamps_ns=stamps, positions=positions, pixels=pixels, scores=scores,
                body_ids=np.array(ids, str), actions=names.astype(str),
            )  # fmt: skip


@contextlib.contextmanager
def write_errors(
    file: Path, *others: type[Exception], remedy: str = "choose another folder or free disk space"
) -> Iterator[None]:
    """Convert an OSError or one of `others` to a `DeviceError` that names the file."""
    failures: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except failures as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"cannot write '{file}': {reason}; {remedy}") from error
