"""Procedural textures: faces, cloth, hair. Twice a texel is the factor on the primitive's albedo (0.5 is neutral)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

FACE, CLOTH, DENIM, SKIN, HAIR = range(5)

SIZE = 256

HEAD_DENSITY = 3.6
"""Texture units per m on the head: the face texture is 1 / 3.6 = 0.28 m high and spans the full circumference."""

_LEVELS = 6


@dataclass(frozen=True)
class Atlas:
    """All textures at all levels of detail.

    Attributes:
        texels: [K, sum of sizes², 3] uint8, levels one after another.
        levels: [L, 2] int64, first texel and side length of each level.
    """

    texels: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True)
class FaceColors:
    """Colors of a face: albedo as displayed, 0..1."""

    skin: tuple[float, float, float] = (0.80, 0.60, 0.48)
    hair: tuple[float, float, float] = (0.16, 0.11, 0.08)
    lips: tuple[float, float, float] = (0.66, 0.36, 0.33)
    iris: tuple[float, float, float] = (0.24, 0.16, 0.10)


@lru_cache(maxsize=8)
def atlas(faces: tuple[FaceColors, ...]) -> Atlas:
    """Build the textures: a face for each person, then cloth, denim, skin and hair (see `texture_index`)."""
    random = np.random.default_rng(7)
    images = [paint_face(face) for face in faces]
    images += [_cloth(random), _denim(random), _grain(random, 0.02, 4.0), _strands(random)]
    levels: list[tuple[int, int]] = []
    texels: list[list[np.ndarray]] = [[] for _ in images]
    start = 0
    for level in range(_LEVELS):
        side = SIZE >> level
        levels.append((start, side))
        start += side * side
        for k, image in enumerate(images):
            small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            texels[k].append(np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8).reshape(-1, 3))
    return Atlas(np.stack([np.concatenate(t) for t in texels]), np.array(levels, np.int64))


def texture_index(kind: int, person: int, people: int) -> int:
    """Return the index of a texture in the atlas of `people` faces."""
    return person if kind == FACE else people + kind - 1


def _cloth(random: np.random.Generator) -> np.ndarray:
    return _gray(0.5 + 0.05 * _waves(random, 9, 9) + 0.03 * _waves(random, 2, 2))


def _denim(random: np.random.Generator) -> np.ndarray:
    return _gray(0.5 + 0.04 * _waves(random, 1, 6) + 0.05 * _waves(random, 12, 12))


def _grain(random: np.random.Generator, strength: float, size: float) -> np.ndarray:
    return _gray(0.5 + 0.5 * strength * _waves(random, size, size))


def _strands(random: np.random.Generator) -> np.ndarray:
    return _gray(0.5 + 0.1 * _waves(random, 1.2, 14))


def _waves(random: np.random.Generator, size_u: float, size_v: float) -> np.ndarray:
    """Return tileable smooth noise of unit variance."""
    pad = 48
    white = np.pad(random.standard_normal((SIZE, SIZE)), pad, mode="wrap")
    smooth = cv2.GaussianBlur(white, (0, 0), sigmaX=size_u, sigmaY=size_v)[pad:-pad, pad:-pad]
    return smooth / smooth.std()


def _gray(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2).astype(np.float32)


def paint_face(looks: FaceColors) -> np.ndarray:
    """Draw a face as a texture [256, 256, 3] float32 (half the albedo), unrolled around the head, front in the middle.

    Drawn at twice the size in mm: x along the surface from the middle of the face to the person's left, y up from the
    head's center, which is at the height of ears and eyes.
    """
    brush = _Brush(looks)
    brush.head()
    for side in (-1, 1):
        brush.eye(side)
    brush.nose_and_mouth()
    image = cv2.resize(brush.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.clip(image * 0.5, 0, 1).astype(np.float32)


class _Brush:
    """Brush that draws in mm on the unrolled head."""

    side = 512
    radius = 84.0  # of the head where the face is drawn, mm

    def __init__(self, looks: FaceColors):
        self.looks = looks
        self.image = np.empty((self.side, self.side, 3), np.float32)
        self.image[:] = looks.skin

    def _x(self, mm: float) -> float:
        return (0.5 + mm / (2 * np.pi * self.radius)) * self.side

    def _y(self, mm: float) -> float:
        return (0.5 - mm * HEAD_DENSITY / 1000) * self.side

    def _points(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        return np.array([[self._x(x), self._y(y)] for x, y in points], np.float32)

    def area(
        self,
        points: Sequence[tuple[float, float]],
        color: tuple[float, ...],
        soft: float = 0.8,
        strength: float = 1.0,
    ) -> None:
        """Fill a polygon with `color`, its edge blurred by `soft` mm."""
        sigma = max(soft * HEAD_DENSITY / 1000 * self.side, 0.5)
        corners = self._points(points)
        margin = int(3 * sigma) + 2
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - margin, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + margin, self.side)
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.float32)
        # Sixteenths of a pixel, for smooth thin lids and brows.
        cv2.fillPoly(mask, [np.round((corners - low) * 16).astype(np.int32)], 1.0, shift=4)
        alpha = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[..., None] * strength
        window = self.image[low[1] : high[1], low[0] : high[0]]
        window[:] = window * (1 - alpha) + np.array(color, np.float32) * alpha

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        color: tuple[float, ...],
        soft: float = 0.5,
        strength: float = 1.0,
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.area([(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles], color, soft, strength)

    def shade(self, factor: float) -> tuple[float, ...]:
        red = np.array([1.0, 0.90, 0.86])  # skin turns red in the shade
        return tuple(float(c) for c in np.array(self.looks.skin) * factor * red ** (1 - factor))

    def head(self) -> None:
        """Draw hair, and shade temples, jaw and cheeks."""
        hair = self.looks.hair
        around = np.pi * self.radius
        line = [(-around, -70), (-95, -55), (-92, 12), (-70, 30), (-58, 62), (-30, 73), (0, 75), (30, 73), (58, 62),
                (70, 30), (92, 12), (95, -55), (around, -70), (around, 140), (-around, 140)]  # fmt: skip
        for side in (-1, 1):
            self.ellipse(side * 62, -15, 22, 60, self.shade(0.78), 10, 0.55)
            self.ellipse(side * 40, -28, 15, 11, (0.84, 0.53, 0.44), 7, 0.30)
        self.ellipse(0, -98, 60, 16, self.shade(0.7), 7, 0.6)
        self.ellipse(0, 42, 34, 16, tuple(min(1.0, c * 1.06) for c in self.looks.skin), 9, 0.6)
        self.area(line, hair, 2.5)

    def eye(self, side: int) -> None:
        """Draw socket, white, iris, pupil, lids and brow; `side` 1 is the person's left."""
        x, y = side * 32.0, 3.0
        self.ellipse(x, y + 3, 21, 13, self.shade(0.70), 5, 0.75)
        self.ellipse(side * 15, y + 2, 7, 12, self.shade(0.66), 4, 0.6)
        almond = [
            (x + dx, y + dy) for dx, dy in ((-15, -1), (-9, 5), (0, 7), (9, 5), (15, 0), (8, -5), (0, -6), (-8, -5))
        ]
        self.area(almond, (0.90, 0.88, 0.86), 0.5)
        self.ellipse(x, y + 0.5, 6.3, 6.3, self.looks.iris, 0.5)
        self.ellipse(x, y + 0.5, 3.0, 3.0, (0.03, 0.03, 0.03), 0.4)
        self.ellipse(x - 2, y + 3, 1.3, 1.3, (0.95, 0.95, 0.95), 0.3)
        lid = [
            (x + dx, y + dy)
            for dx, dy in ((-16, -1), (-9, 6), (0, 8.5), (9, 6), (16, 1), (9, 3.6), (0, 5.6), (-9, 3.6))
        ]
        self.area(lid, (0.13, 0.09, 0.07), 0.6, 0.95)
        crease = [(x + dx, y + dy) for dx, dy in ((-15, 4), (0, 13), (15, 5), (0, 10.5))]
        self.area(crease, self.shade(0.6), 1.0, 0.7)
        brow = [(x - side * 17, y + 17), (x - side * 8, y + 22), (x + side * 8, y + 24), (x + side * 20, y + 17),
                (x + side * 8, y + 18.5), (x - side * 16, y + 12)]  # fmt: skip
        self.area(brow, tuple(0.75 * h + 0.05 for h in self.looks.hair), 1.2, 0.95)

    def nose_and_mouth(self) -> None:
        """Draw nostrils, lips and the shadows of nose and lips."""
        for side in (-1, 1):
            self.ellipse(side * 12, -18, 5, 22, self.shade(0.82), 3.5, 0.5)
            self.ellipse(side * 8, -38, 4.4, 2.8, self.shade(0.38), 1.0, 0.9)
            self.ellipse(side * 18, -36, 4, 7, self.shade(0.74), 2.5, 0.7)
            self.area(
                [(side * 20, -36), (side * 30, -58), (side * 32, -58), (side * 23, -35)], self.shade(0.75), 2.5, 0.6
            )
        self.ellipse(0, -18, 4, 24, tuple(min(1.0, c * 1.1) for c in self.looks.skin), 3, 0.6)
        self.ellipse(0, -43, 13, 4, self.shade(0.72), 3, 0.7)
        lips, inner = self.looks.lips, tuple(0.45 * c for c in self.looks.lips)
        upper = [(-25, -63), (-12, -57.5), (-4, -55), (0, -57), (4, -55), (12, -57.5), (25, -63), (0, -63.5)]
        lower = [(-25, -63), (0, -63), (25, -63), (13, -71.5), (0, -74), (-13, -71.5)]
        self.area(upper, tuple(0.86 * c for c in lips), 0.8)
        self.area(lower, lips, 0.9)
        self.area([(-26, -62.5), (0, -61.8), (26, -62.5), (0, -64.6)], inner, 0.6)
        self.ellipse(0, -80, 17, 4, self.shade(0.72), 3, 0.7)
