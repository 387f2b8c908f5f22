"""Streams of a clip with a video: color, joints in pixels and their motion, decoded on access.

A video is a file or a folder of images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np

from actrec.datasets.base import LazyStreams
from actrec.recordings import image_folder, video
from actrec.skeleton import windows
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.geometry import motion_between_images


@dataclass(frozen=True)
class VideoConfig:
    """How a dataset's videos are read."""

    max_side: int = setting(
        960, "longest side of decoded images, larger ones are scaled down; 0: no limit", unit="px", range=(0, 8192)
    )
    tolerance: float = setting(
        0.05, "largest difference of the video's length, relative to the skeleton's", range=(0.0, 1.0)
    )


FRAME_TOLERANCE = 2
"""Frames by which a video and its skeleton may always differ."""

MOST_FRAMES = 4
"""Largest ratio of the frames of a video and its skeleton, if the one is spread over the other."""

MARGIN = 0.25
"""Margin of the region around the joints in which motion is computed, relative to its larger side."""

MIN_REGION_PX = 16
"""Smallest side in px of a region in which motion is computed."""


@dataclass(frozen=True, eq=False)
class ColorVideo:
    """A video aligned with the skeleton of the same recording, opened on first access.

    Attributes:
        path: The file, or a folder of images in the order of the numbers in their names.
        stamps_ns: [T] stamps, ns, of the skeleton, which starts with the video.
        mirror: Exchange left and right of the images.
        spread: Without stamps that can be compared, a video of another length spans the same time as the skeleton.
        ending: Ending of the names, without suffix, of a folder's images; others are ignored.
        image_stamps_ns: Stamps of the images, from the same zero, if known: the nearest in time is shown.
    """

    path: Path
    stamps_ns: np.ndarray
    config: VideoConfig = VideoConfig()
    mirror: bool = False
    spread: bool = False
    ending: str = ""
    image_stamps_ns: np.ndarray | None = None

    @cached_property
    def _info(self) -> image_folder.VideoInfo:
        if not self.path.exists():
            raise DeviceError(f"there is no file '{self.path}'; check the path")
        if self.path.is_dir():
            return image_folder.read_folder_info(self.path, self.ending)
        return video.read_video_info(self.path)

    @cached_property
    def _source(self) -> np.ndarray:
        """Return the image index of each stamp [T]."""
        if self.image_stamps_ns is not None:
            return windows.nearest(self.image_stamps_ns, self.stamps_ns)
        return align_frames(self.path, self._info, self.stamps_ns, self.config.tolerance, self.spread)

    def size(self) -> np.ndarray:
        """Return width and height [2] of the decoded images, px."""
        width, height = self._info.size
        scale = min(1.0, self.config.max_side / max(width, height)) if self.config.max_side else 1.0
        return np.array([max(round(width * scale), 1), max(round(height * scale), 1)], np.float32)

    def color(self) -> np.ndarray:
        """Return all images [T, H, W, 3] uint8 RGB."""
        return self.at(np.arange(len(self.stamps_ns)))

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Return the images [N, H, W, 3] uint8 RGB of the stamps with these indices [N], in any order.

        Raises:
            DeviceError: There is no such file.
            InputError: It is corrupt, or its length differs from the skeleton's.
        """
        indices = np.asarray(indices, np.int64)
        width, height = self.size().astype(int)
        images = np.empty((len(indices), height, width, 3), np.uint8)
        for number, image in self._images(np.unique(self._source[indices])):
            images[self._source[indices] == number] = image
        return images

    def shown(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index of the stamp, image [H, W, 3]), each image at its first stamp; raises like `at`."""
        first = {int(number): t for t, number in reversed(list(enumerate(self._source)))}
        for number, image in self._images(np.array(sorted(first))):
            yield first[number], image

    def motion(self, pixels: np.ndarray) -> np.ndarray:
        """Return the optical flow [M, T, V, 2] px/s at joints, pixels of the decoded images, to the next image.

        The last image repeats the flow before it; NaN if a joint is missing or outside of the image.
        """
        moved = np.full(pixels.shape, np.nan, np.float32)
        before, seconds = None, (self.stamps_ns - self.stamps_ns[0]) / NANOSECONDS
        for now, image in self.shown():
            if before is not None:
                then, last = before
                found = _flow_at_joints(last, image, pixels[:, then], max(seconds[now] - seconds[then], 1e-3))
                moved[:, then:now] = found[:, None]
            before = now, image
        if before is not None and before[0]:
            moved[:, before[0] :] = moved[:, before[0] - 1 : before[0]]
        return moved

    def frames(self, intrinsics: Intrinsics) -> Iterator[RgbdFrame]:
        """Yield one frame without depth per stamp, as `Source.frames`; `intrinsics` of the images at any size."""
        width, height = (int(side) for side in self.size())
        resized = intrinsics.resized(width, height)
        shown = chain(self.shown(), [(len(self.stamps_ns), None)])
        for (first, image), (end, _) in pairwise(shown):  # an image is shown until the next one
            yield from (RgbdFrame(int(stamp), image, None, resized) for stamp in self.stamps_ns[first:end])

    def streams(
        self,
        pixels: np.ndarray | None = None,
        pixels_size: tuple[int, int] | None = None,
        others: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> LazyStreams:
        """Return the streams of the video: color and size, with joints also pixels and motion, and `others`.

        `pixels` [M, T, V, 2], NaN for missing, are in the unmirrored image of `pixels_size`; None is the video's.
        """
        decode: dict[str, Callable[[], np.ndarray]] = {"color": self.color, "size": self.size}
        decode |= {key: partial(others.__getitem__, key) for key in others}
        if pixels is not None:
            decode["pixels"] = partial(self.pixels, pixels, pixels_size)
            decode["motion"] = partial(self._motion, pixels, pixels_size)
        return LazyStreams(decode, {"color": self.at})

    def pixels(self, pixels: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Scale pixels [..., 2] (centers at integers) from images of `size` (the video's) to decoded ones."""
        ratio = self.size() / np.asarray(size or self._info.size, np.float32)
        return ((np.asarray(pixels, np.float32) + 0.5) * ratio - 0.5).astype(np.float32)

    def _motion(self, pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
        return self.motion(self.pixels(pixels, size))

    def _images(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, image) of the images `numbers`, in increasing order; decodes up to the last of them."""
        if not len(numbers):
            return
        width, height = (int(side) for side in self.size())
        size = None if (width, height) == self._info.size else (width, height)
        if self.path.is_dir():
            yield from image_folder.read_folder_images(self.path, numbers, self._info, self.mirror, size, self.ending)
            return
        pending, last, number = list(numbers), None, -1
        with video.open_video(self.path) as container:
            for number, image in enumerate(video.decode_frames(self.path, container)):
                last = image
                if number == pending[0]:
                    yield number, video.to_rgb(image, self.mirror, size)
                    pending.pop(0)
                    if not pending:
                        return
        # Some containers hold a packet or two without an image; if more are missing, the stamps would be wrong.
        if last is None or self._info.frames - 1 - number > FRAME_TOLERANCE:
            count = f"{number + 1} of {self._info.frames} frames decoded"
            raise InputError(f"'{self.path}' is corrupt or truncated: {count}; copy it again")
        repeated = video.to_rgb(last, self.mirror, size)
        yield from ((int(number), repeated) for number in pending)


def joint_streams(video: ColorVideo | None, pixels: np.ndarray, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
    """Return the streams of a clip with joints [M, T, V, 2] in pixels of images of `size`, and of its video if any."""
    if video is None:
        return {"pixels": pixels, "size": np.array(size, np.float32)}
    return video.streams(pixels, size)


def _flow_at_joints(before: np.ndarray, after: np.ndarray, pixels: np.ndarray, seconds: float) -> np.ndarray:
    """Return the optical flow [M, V, 2] px/s at joints [M, V, 2], computed near them only."""
    found = np.full(pixels.shape, np.nan, np.float32)
    for m, joints in enumerate(pixels):
        known = joints[np.isfinite(joints).all(axis=-1)]
        if not len(known):
            continue
        margin = max(MARGIN * float(np.ptp(known, axis=0).max()), 32.0)
        left, top = np.maximum(known.min(axis=0) - margin, 0).astype(int)
        right, bottom = np.maximum(known.max(axis=0) + margin, 0).astype(int)
        shown = (slice(top, bottom), slice(left, right))
        if min(before[shown].shape[:2]) >= MIN_REGION_PX:
            corner = np.array([left, top], np.float32)
            found[m] = motion_between_images(before[shown], after[shown], joints - corner, seconds)
    return found


def align_frames(
    path: Path, info: image_folder.VideoInfo, stamps_ns: np.ndarray, tolerance: float, spread: bool = False
) -> np.ndarray:
    """Return the image index of each stamp [T]: frame for frame, or the nearest in time if the rates differ.

    With `spread`, a video of another duration is spread evenly over the stamps.

    Raises:
        InputError: The video has another length, or an image of a folder is missing.
    """
    count = len(stamps_ns)
    if info.frames != count and path.is_dir():
        image_folder.check_numbering(path)
    if abs(info.frames - count) <= max(FRAME_TOLERANCE, tolerance * count):
        return np.minimum(np.arange(count), info.frames - 1)
    if info.fps > 0 and count > 1:
        seconds = (stamps_ns - stamps_ns[0]) / NANOSECONDS
        spacing = seconds[-1] / (count - 1)
        duration, expected = info.frames / info.fps, seconds[-1] + spacing
        if abs(duration - expected) <= max(FRAME_TOLERANCE * spacing, tolerance * expected):
            shown = np.round(np.arange(info.frames) / info.fps * NANOSECONDS).astype(np.int64)
            return windows.nearest(shown, stamps_ns - stamps_ns[0])
    if spread and count / MOST_FRAMES <= info.frames <= count * MOST_FRAMES:
        return ((np.arange(count) + 0.5) * info.frames / count).astype(np.int64)
    rate = f" at {info.fps:g} Hz" if info.fps > 0 else ""
    raise InputError(
        f"'{path}' has {info.frames} frames{rate} but its skeleton {count}: one of them is truncated or "
        "of another recording; copy both again, or remove the clip"
    )
