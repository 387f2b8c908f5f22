"""Playback of folders of color and depth images.

Layouts, detected by file names:

- `N.jpg` beside `N_depth.png`
- `colorN.png` beside `depthN.png`
- sub-folders `rgb` (or `color`) and `depth`; a file's name is a number, or its stamp (seconds as in TUM RGB-D, or
  milli-, micro- or nanoseconds since 1970)
- a sub-folder of color beside `depth_mm.npz` with an array `depth` [T, H, W] in millimeters

Depth is optional.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from actrec.recordings import base, image_decoding
from actrec.recordings.base import Recording, RecordingConfig, existing, log
from actrec.skeleton.sequence import load_npz, stamps_at
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import calibration_files, files
from actrec.utils.errors import InputError

FPS = 30.0
"""Frame rate of a folder with numbered files and no `fps` in its intrinsics.yaml."""

NPZ_NAME = "depth_mm.npz"

SUFFIXES = (".png", ".jpg", ".jpeg")

COLOR_FOLDERS = ("rgb", "color", "colour")

_COLOR_NAME = re.compile(
    r"^(?:colou?r|rgb|frame|image|img)?[_-]?(\d+(?:\.\d+)?)(?:[_-](?:colou?r|rgb))?$", re.IGNORECASE
)

_DEPTH_NAME = re.compile(r"^(?:depth[_-]?)?(?:frame[_-]?|image[_-]?)?(\d+(?:\.\d+)?)(?:[_-]depth)?$", re.IGNORECASE)


@dataclass(frozen=True)
class _Listing:
    """Files sorted by their number (or stamp in s)."""

    color: list[tuple[float, Path]]
    depth: list[tuple[float, Path]]
    npz: Path | None


def _numbered(folder: Path, pattern: re.Pattern[str], depth: bool | None) -> list[tuple[float, Path]]:
    """Return (number, file) of the images in `folder`; `depth` filters by name if both kinds share the folder."""
    found = []
    for file in folder.iterdir():
        if file.suffix.lower() not in SUFFIXES or (depth is not None and ("depth" in file.stem.lower()) != depth):
            continue
        if match := pattern.match(file.stem):
            found.append((_in_seconds(float(match.group(1))), file))
    return sorted(found)


def _in_seconds(number: float) -> float:
    """Convert a time of the years 2001 to 2286 in ms, µs or ns to seconds; return any other number unchanged."""
    return next((number / unit for unit in (1e3, 1e6, 1e9) if 1e9 * unit <= number < 1e10 * unit), number)


def _list(path: Path) -> _Listing:
    folders = {file.name.lower(): file for file in path.iterdir() if file.is_dir()}
    sub = next((folders[name] for name in COLOR_FOLDERS if name in folders), None)
    npz = path / NPZ_NAME if (path / NPZ_NAME).is_file() else None
    if sub is None:
        return _Listing(_numbered(path, _COLOR_NAME, False), _numbered(path, _DEPTH_NAME, True), npz)
    depth = folders.get("depth")
    return _Listing(
        _numbered(sub, _COLOR_NAME, None), [] if depth is None else _numbered(depth, _DEPTH_NAME, None), npz
    )


class FolderRecording(Recording):
    """Playback of a folder of images.

    Args:
        path: The folder.
        config: Options; integer depth needs `depth_scale`, here or in intrinsics.yaml.

    Raises:
        DeviceError: The folder does not exist.
        InputError: It holds no images, or its intrinsics or depth scale are unknown.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        listing = _list(self.path) if self.path.is_dir() else _Listing([], [], None)
        if not listing.color:
            raise InputError(f"'{self.path}' holds no color images (N.jpg, colorN.png or rgb/N.png); check the path")
        first = _read(listing.color[0][1], cv2.IMREAD_COLOR)
        self._yaml = self._load_yaml()
        self.intrinsics = base.resolve_intrinsics(self.path, config, first.shape[1], first.shape[0], self.path)
        self._npz = load_npz(listing.npz, ("depth",))["depth"] if listing.npz and not listing.depth else None
        self._pairs = self._pair(listing)
        played = {file for _, file, _ in self._pairs}
        stamps = self._stamp([number for number, _ in listing.color])
        # Images skipped for missing depth still count in the numbering of stamps.
        self._stamps = stamps[[file in played for _, file in listing.color]]
        self._scale = self._depth_scale(listing)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last."""
        return float(self._stamps[-1] - self._stamps[0]) / NANOSECONDS

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Yield every frame from `start_s` after the first."""
        first = self._stamps[0] + round(start_s * NANOSECONDS)
        for index, (_, color_file, depth_source) in enumerate(self._pairs):
            if self._stamps[index] < first:
                continue
            frame = RgbdFrame(
                int(self._stamps[index]),
                cv2.cvtColor(_read(color_file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
                None if depth_source is None else self._depth(depth_source),
                self.intrinsics,
            )
            _check(frame, color_file)
            yield frame

    def _load_yaml(self) -> dict[str, float]:
        file = self.path / base.INTRINSICS_FILE
        content = calibration_files.load_yaml(file) if file.is_file() else {}
        return {key: calibration_files.number(file, content, key) for key in ("depth_scale", "fps")}

    def _pair(self, listing: _Listing) -> list[tuple[float, Path, Path | int | None]]:
        """Return (number, color file, depth file or index in the npz) of each frame; depth None for color alone."""
        if self._npz is not None:
            if len(self._npz) != len(listing.color):
                raise InputError(
                    f"'{self.path}' has {len(listing.color)} color images but {NPZ_NAME} has {len(self._npz)}"
                )
            return [(number, file, index) for index, (number, file) in enumerate(listing.color)]
        if not listing.depth:
            log.warning("'%s' has no depth: frames come without it", self.path)
            return [(number, file, None) for number, file in listing.color]
        pairs = _nearest(listing.color, listing.depth)
        if not pairs:
            raise InputError(f"'{self.path}': no depth image has a color image's number; rename them")
        if lost := len(listing.color) - len(pairs):
            log.warning("'%s': skipping %d of %d color images without depth", self.path, lost, len(listing.color))
        return list(pairs)

    def _stamp(self, numbers: list[float]) -> np.ndarray:
        # The names are stamps, as in TUM RGB-D; at one image a second they may be integers.
        if any(number != int(number) or 1e9 <= number < 1e10 for number in numbers):
            return np.array([round(number * NANOSECONDS) for number in numbers], dtype=np.int64)
        return stamps_at(self.config.fps or self._yaml["fps"] or FPS, len(numbers))

    def _depth_scale(self, listing: _Listing) -> float:
        given = self.config.depth_scale or self._yaml["depth_scale"]
        if given:
            return given
        if self._npz is not None:
            return image_decoding.MILLIMETER  # by the file's name
        if listing.depth:
            raise InputError(
                f"'{self.path}' has no depth scale: give option depth_scale (0.001 for millimeters, 0.0002 for "
                "5000 units per meter), or depth_scale in its intrinsics.yaml"
            )
        return 0.0

    def _depth(self, source: Path | int) -> np.ndarray:
        if isinstance(source, int):
            assert self._npz is not None
            units = self._npz[source]
        else:
            units = _read(source, cv2.IMREAD_UNCHANGED)
        if units.ndim != 2 or units.dtype != np.uint16:
            raise InputError(f"'{source}' is {units.dtype}{list(units.shape)}, expected 16-bit depth [H, W]")
        return image_decoding.depth_in_meters(units, self._scale)


def _nearest(color: list[tuple[float, Path]], depth: list[tuple[float, Path]]) -> list[tuple[float, Path, Path]]:
    """Pair each color file with the depth file of its number, or nearest in time within half a frame."""
    numbers = np.array([number for number, _ in depth])
    whole = all(number == int(number) for number, _ in [*color, *depth])
    steps = np.diff([number for number, _ in color])
    tolerance = 0.0 if whole or not len(steps) else float(np.median(steps)) / 2
    pairs = []
    for number, file in color:
        index = int(np.abs(numbers - number).argmin())
        if abs(numbers[index] - number) <= tolerance:
            pairs.append((number, file, depth[index][1]))
    return pairs


def _read(file: Path, flags: int) -> np.ndarray:
    image = files.read_image(file, flags)
    if image is None:
        raise InputError(f"'{file}' cannot be decoded: truncated or not an image; copy it again")
    return image


def _check(frame: RgbdFrame, file: Path) -> None:
    try:
        frame.check()
    except InputError as error:
        raise InputError(f"'{file}': {error}") from error
