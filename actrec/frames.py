"""What travels through the core: RGB-D frames and what is seen in them.

SI units, right-handed, the camera's optical frame (x right, y down, z forward), float32, NaN for missing.
"""

from dataclasses import dataclass, field

import numpy as np

from actrec.errors import InputError

NANOSECONDS = 1_000_000_000
MAX_DEPTH_M = 100.0
"""No camera here looks farther; depth in millimetres does."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics of a registered colour/depth image.

    Attributes:
        width, height: Image size in pixels.
        fx, fy, cx, cy: Focal lengths and principal point in pixels.
        distortion: OpenCV's coefficients, five (k1, k2, p1, p2, k3) or eight (and k4, k5, k6 of the rational model);
            empty for a rectified image.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    @property
    def matrix(self) -> np.ndarray:
        """The 3×3 camera matrix K, float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    def resized(self, width: int, height: int) -> "Intrinsics":
        """The intrinsics of the same image resized to width×height (pixel centres at integers)."""
        sx, sy = width / self.width, height / self.height
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return Intrinsics(width, height, self.fx * sx, self.fy * sy, cx, cy, self.distortion)


@dataclass
class RgbdFrame:
    """One colour image with the depth registered to it.

    Attributes:
        stamp_ns: Capture time in nanoseconds of the camera's clock.
        colour: [H, W, 3] uint8 RGB; None where the source has joints alone (a skeleton recording).
        depth: [H, W] float32 metres, NaN where missing; None where the source has no depth.
        intrinsics: Of both images.
        frame_id: Name of the optical frame.
        skeletons: Known joints where the source has them (simulated camera, recordings), else empty.
    """

    stamp_ns: int
    colour: np.ndarray | None
    depth: np.ndarray | None
    intrinsics: Intrinsics
    frame_id: str = "camera_color_optical_frame"
    skeletons: list["Body"] = field(default_factory=list)

    @property
    def stamp(self) -> float:
        """Capture time in seconds."""
        return self.stamp_ns / NANOSECONDS

    def check(self) -> None:
        """Raises InputError where shapes, types or sizes contradict the contract."""
        if self.colour is None:
            return
        height, width = self.intrinsics.height, self.intrinsics.width
        if self.colour.shape != (height, width, 3) or self.colour.dtype != np.uint8:
            raise InputError(
                f"colour is {self.colour.dtype}{list(self.colour.shape)}, expected uint8[{height}, {width}, 3] "
                "as its intrinsics say"
            )
        if self.depth is None:
            return
        if self.depth.shape != self.colour.shape[:2]:
            raise InputError(
                f"depth is {list(self.depth.shape)} but colour is {list(self.colour.shape[:2])}: "
                "register depth to colour first (align_depth in the camera driver)"
            )
        refuse_integers(self.depth)


def refuse_integers(depth: np.ndarray) -> None:
    """Refuses depth as sensors count it.

    Raises:
        InputError: It is of an integer type, which is no metres.
    """
    if depth.dtype.kind != "f":
        raise InputError(f"depth is {depth.dtype}, expected float32 metres: multiply it by the metres of one step")


@dataclass
class Body:
    """One person's joints at one instant.

    Attributes:
        body_id: Starts with a letter (REP-155); empty before tracking.
        layout: Name of a layout in `actrec.skeleton.layouts`.
        positions: [V, 3] float32 metres in the optical frame, NaN where missing.
        pixels: [V, 2] float32 (u, v), NaN where missing.
        scores: [V] float32 in 0..1.
    """

    body_id: str
    layout: str
    positions: np.ndarray
    pixels: np.ndarray
    scores: np.ndarray


LOOSE = "hand_"
"""What the `body_id` of a hand begins with where no body is known: hand_1, hand_2, …"""


@dataclass
class Hand(Body):
    """One hand, layout `hand_21`; `side` is the person's own "left" or "right"."""

    side: str = "right"


@dataclass
class Face(Body):
    """One face, layout `face_68`."""
