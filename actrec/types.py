"""The data contract: RGB-D frames, and the people found in them.

SI units, right-handed, the camera's optical frame (x right, y down, z forward), float32, NaN for missing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from actrec.utils.errors import InputError

NANOSECONDS = 1_000_000_000

EQUIDISTANT = "equidistant"
"""ROS's name of the lens model of fisheye cameras (OpenCV's cv::fisheye)."""

MAX_DEPTH_M = 100.0
"""Limit of plausible depth; larger values are in millimeters."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics of a registered color/depth image.

    Attributes:
        width, height: Image size in pixels.
        fx, fy, cx, cy: Focal lengths and principal point in pixels.
        distortion: OpenCV's coefficients, five (k1, k2, p1, p2, k3) or eight (and k4, k5, k6 of the rational model);
            four (k1 to k4) of an equidistant lens; empty for a rectified image.
        lens: `EQUIDISTANT` for a fisheye lens, else empty.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    lens: str = ""

    @property
    def is_distorted(self) -> bool:
        """Whether straight lines are bent in the image."""
        return bool(self.lens) or any(self.distortion)

    @property
    def matrix(self) -> np.ndarray:
        """The 3×3 camera matrix K, float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    @property
    def square_size(self) -> tuple[int, int]:
        """Return width and height of the same image at square pixels, the aspect of the scene in it."""
        return self.width, max(round(self.height * self.fx / self.fy), 1)

    def resized(self, width: int, height: int) -> "Intrinsics":
        """Return the intrinsics of the same image resized to width×height (pixel centers at integers)."""
        sx, sy = width / self.width, height / self.height
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return Intrinsics(width, height, self.fx * sx, self.fy * sy, cx, cy, self.distortion, self.lens)

    def mirrored(self) -> "Intrinsics":
        """Return the intrinsics of the same image flipped from left to right."""
        d = self.distortion
        if d and not self.lens:  # of Brown's model p2 is odd in x
            d = (*d[:3], -d[3], *d[4:])
        return replace(self, cx=self.width - 1 - self.cx, distortion=d)


@dataclass
class RgbdFrame:
    """One color image with the depth registered to it.

    Attributes:
        stamp_ns: Capture time in nanoseconds of the camera's clock.
        color: [H, W, 3] uint8 RGB; None if the source has joints only (a skeleton recording).
        depth: [H, W] float32 m, NaN if missing; None if the source has no depth.
        intrinsics: Intrinsics of both images.
        frame_id: Name of the optical frame.
        skeletons: Joints that the source knows (simulated camera, recordings), else empty.
        up: [3] unit vector against gravity in the optical frame, (0, −1, 0) for a level camera; None if unknown.
        up_source: Where `up` comes from, a name in `actrec.utils.gravity.SOURCES`.
        depth_scale: Length of one unit of the depth image as it came, m; 1 for meters.
    """

    stamp_ns: int
    color: np.ndarray | None
    depth: np.ndarray | None
    intrinsics: Intrinsics
    frame_id: str = "camera_color_optical_frame"
    skeletons: list["Body"] = field(default_factory=list)
    up: np.ndarray | None = None
    up_source: str = "camera"
    depth_scale: float = 1.0

    @property
    def stamp(self) -> float:
        """Capture time in seconds."""
        return self.stamp_ns / NANOSECONDS

    def check(self) -> None:
        """Raise InputError if shapes, types or sizes contradict the contract."""
        if self.color is None:
            return
        height, width = self.intrinsics.height, self.intrinsics.width
        if self.color.shape != (height, width, 3) or self.color.dtype != np.uint8:
            raise InputError(
                f"color is {self.color.dtype}{list(self.color.shape)}, expected uint8[{height}, {width}, 3] by its "
                "intrinsics"
            )
        if self.depth is None:
            return
        if self.depth.shape != self.color.shape[:2]:
            raise InputError(
                f"depth is {list(self.depth.shape)} but color is {list(self.color.shape[:2])}: "
                "register depth to color first (align_depth in the camera driver)"
            )
        refuse_integers(self.depth)


def refuse_integers(depth: np.ndarray) -> None:
    """Raise InputError if depth is of an integer type, in the units of a sensor instead of metres."""
    if depth.dtype.kind != "f":
        raise InputError(f"depth is {depth.dtype}, expected float32 metres: multiply it by the metres of one step")


@dataclass
class Body:
    """One person's joints at one instant.

    Attributes:
        body_id: Starts with a letter (REP-155); empty before tracking.
        layout: Name of a layout in `actrec.skeleton.layouts`.
        positions: [V, 3] float32 m in the optical frame, NaN if missing.
        pixels: [V, 2] float32 (u, v), NaN if missing.
        scores: [V] float32 in 0..1; 0 for a joint beyond the left or right edge of the upright image, if not all are 0.
    """

    body_id: str
    layout: str
    positions: np.ndarray
    pixels: np.ndarray
    scores: np.ndarray


UNASSIGNED_HAND = "hand_"
"""Start of the `body_id` of a hand without a known body: hand_1, hand_2, …"""


@dataclass
class Hand(Body):
    """One hand, layout `hand_21`; `side` is the person's own "left" or "right"."""

    side: str = "right"


@dataclass
class Face(Body):
    """One face, layout `face_68`."""


UNKNOWN = "unknown"
"""The label of a rejected window; no package may have a class of that name."""


@dataclass(frozen=True)
class Prediction:
    """A network's prediction for one clip.

    Attributes:
        label: Name of the best class; `unknown` if rejected by the package's threshold or if the network returned NaN.
        class_id: Index of the label; −1 for `unknown`.
        confidence: Probability of the best class, even if rejected; 0 if the network returned NaN.
        probabilities: [classes] float32, possibly NaN. Their sum is below 1 if the package has a background class.
        labels: Names of the classes.
    """

    label: str
    class_id: int
    confidence: float
    probabilities: np.ndarray
    labels: tuple[str, ...]

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable (label, probability), best first, even if rejected; empty for NaN."""
        if np.isnan(self.probabilities).any():
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


Clip = Mapping[str, np.ndarray]

KEYS: dict[str, tuple[int | None, str, str]] = {
    "bodies": (1, "[M, T, V, 3]", "joints, metres in the optical frame"),
    "pixels": (1, "[M, T, V, 2]", "the joints in the color image, px (u, v)"),
    "hands": (1, "[M, T, 2, 21, 3]", "left and right hand, metres"),
    "hand_pixels": (1, "[M, T, 2, 21, 2]", "the hands in the color image, px"),
    "face": (1, "[M, T, 68, 3]", "metres"),
    "face_pixels": (1, "[M, T, 68, 2]", "the face in the color image, px"),
    "motion": (1, "[M, T, V, 2]", "optical flow at the joints, px/s of the color image"),
    "size": (None, "[2]", "width and height of the color image, px"),
    "color": (0, "[T, H, W, 3]", "uint8 RGB"),
    "flow": (0, "[T, H, W, 3]", "scene flow, m/s, of the color image's field of view at any size"),
    "up": (None, "[3]", "unit vector against gravity in the optical frame; absent for a level camera"),
}
"""Key of a clip to (time axis, shape, meaning); add keys at the end, since prepared stores number them. Body 0 is the
subject of the clip. Instead of "color" or "flow", a clip may hold, under the name of an input with a `FrameFeature`,
that input's `observe`d frames [T, …] of body 0: the live recognizer keeps crops, not images."""

STREAMS = {
    "bodies": ("bodies", "pixels"),
    "hands": ("hands", "hand_pixels"),
    "face": ("face", "face_pixels"),
    "flow": ("flow", "motion"),
    "color": ("color",),
}
"""Stream of the live recognizer to the keys of a clip that come from it."""


class LazyClip(Mapping[str, np.ndarray]):
    """A clip whose values are made on first access, and kept: unused images cost nothing.

    Attributes:
        shown: The clip with body 0's joints at the stamp of each image, if the clip itself has joints between images
            too; None if there is no difference.

    Args:
        make: Key to a function that returns its array.
        span: Key of images to a function that returns some of them, given the first index and their number.
    """

    def __init__(
        self,
        make: Mapping[str, Callable[[], np.ndarray]],
        span: Mapping[str, Callable[[int, int], np.ndarray | None]] | None = None,
        shown: Clip | None = None,
    ):
        self._make, self._span, self._made = dict(make), dict(span or {}), dict[str, np.ndarray]()
        self.shown = shown

    def part(self, key: str, start: int, frames: int) -> np.ndarray | None:
        """Return `frames` images from `start` on without making others; None if the whole array must be made."""
        return self._span[key](start, frames) if key in self._span and key not in self._made else None

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._made:
            self._made[key] = self._make[key]()
        return self._made[key]

    def __contains__(self, key: object) -> bool:
        return key in self._make

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)
