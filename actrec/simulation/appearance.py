"""Appearance of actors: proportions and colors, a cast of people, textures, and the shapes of a body.

The factor on a primitive's albedo is twice the texel (0.5 is neutral).
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np

from actrec.simulation.actor import (
    ANKLE_HEIGHT,
    FINGERS,
    FRAME,
    FRAME_NAMES,
    PALM_BONES,
    PHALANX,
    SIDES,
    TOE_HEIGHT,
    palm_bone_length,
)
from actrec.simulation.posture import Physique
from actrec.simulation.renderer import Atlas, ShapeBuilder, Shapes, Triple

FACE, CLOTH, DENIM, SKIN, HAIR = range(5)
TEXTURE_SIZE = 256

HEAD_DENSITY = 3.6
"""Texture units per m on the head: the face texture is 1 / 3.6 = 0.28 m high and spans the full circumference."""

_LEVELS = 6

_DENSITY = {CLOTH: 2.5, DENIM: 2.5, SKIN: 4.0, HAIR: 4.0}
"""Texture units per m elsewhere."""

_SKINS = ((0.87, 0.68, 0.57), (0.80, 0.60, 0.48), (0.71, 0.51, 0.39), (0.58, 0.40, 0.30), (0.43, 0.29, 0.21))
_HAIRS = ((0.08, 0.06, 0.05), (0.16, 0.11, 0.08), (0.32, 0.21, 0.12), (0.55, 0.42, 0.24), (0.45, 0.44, 0.43))


@dataclass(frozen=True)
class FaceColors:
    """Colors of a face."""

    skin: Triple = (0.80, 0.60, 0.48)
    hair: Triple = (0.16, 0.11, 0.08)
    lips: Triple = (0.66, 0.36, 0.33)
    iris: Triple = (0.24, 0.16, 0.10)


@dataclass(frozen=True)
class Appearance(Physique):
    """Appearance of an actor; the bone lengths of a scripted one come from its skeleton."""

    girth: float = 1.0  # factor on the thickness of trunk and limbs
    face: FaceColors = field(default_factory=FaceColors)
    shirt: Triple = (0.20, 0.42, 0.62)
    sleeves: Triple = (0.16, 0.33, 0.50)
    trousers: Triple = (0.25, 0.26, 0.32)
    shoes: Triple = (0.12, 0.11, 0.11)


DEFAULT_APPEARANCES = (
    Appearance(),
    Appearance(
        1.66, girth=0.95,
        face=FaceColors((0.62, 0.44, 0.33), (0.08, 0.06, 0.05), (0.52, 0.28, 0.26), (0.13, 0.09, 0.06)),
        shirt=(0.66, 0.25, 0.22), sleeves=(0.54, 0.19, 0.18), trousers=(0.50, 0.45, 0.36), shoes=(0.38, 0.30, 0.24),
    ),
)  # fmt: skip
"""Appearance of the first and second actor."""


@dataclass(frozen=True)
class Person:
    """Person of the cast."""

    appearance: Appearance
    tempo: float = 1.0  # factor on the speed of all movements


def cast_member(number: int) -> Person:
    """Return person `number` of the cast; a number always gives the same person.

    Statures are between 1.52 and 1.92 m, spread evenly over successive numbers.
    """
    random = np.random.default_rng([number, 17])
    share = (number * 0.618034) % 1.0  # the golden ratio: successive numbers lie far apart
    skin = _SKINS[random.integers(len(_SKINS))]
    lips = (0.80 * skin[0], 0.58 * skin[1], 0.62 * skin[2])

    def color(saturation: tuple[float, float], value: tuple[float, float]) -> Triple:
        r, g, b = colorsys.hsv_to_rgb(random.random(), random.uniform(*saturation), random.uniform(*value))
        return round(r, 3), round(g, 3), round(b, 3)

    shirt, trousers = color((0.25, 0.75), (0.25, 0.75)), color((0.05, 0.45), (0.15, 0.55))
    sleeves = shirt if random.random() < 0.5 else color((0.25, 0.75), (0.25, 0.75))
    appearance = Appearance(
        stature=round(1.52 + 0.40 * share, 3),
        girth=round(float(random.uniform(0.86, 1.22)), 3),
        face=FaceColors(skin, _HAIRS[random.integers(len(_HAIRS))], lips),
        shirt=shirt,
        sleeves=sleeves,
        trousers=trousers,
        shoes=color((0.0, 0.4), (0.08, 0.5)),
    )
    limbs, tempo = float(random.uniform(0.94, 1.06)), float(random.uniform(0.82, 1.22))
    return Person(replace(appearance, limbs=round(limbs, 3)), round(tempo, 3))


@lru_cache(maxsize=8)
def atlas(faces: tuple[FaceColors, ...]) -> Atlas:
    """Build the textures: a face for each person, then cloth, denim, skin and hair."""
    random = np.random.default_rng(7)
    images = [
        *(_paint_face(face) for face in faces),
        _gray(0.5 + 0.05 * _waves(random, 9, 9) + 0.03 * _waves(random, 2, 2)),
        _gray(0.5 + 0.04 * _waves(random, 1, 6) + 0.05 * _waves(random, 12, 12)),
        _gray(0.5 + 0.01 * _waves(random, 4.0, 4.0)),
        _gray(0.5 + 0.1 * _waves(random, 1.2, 14)),
    ]
    sides = [TEXTURE_SIZE >> level for level in range(_LEVELS)]
    texels = []
    for image in images:
        levels = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).reshape(-1, 3) for side in sides]
        texels.append(np.clip(np.concatenate(levels) * 255 + 0.5, 0, 255).astype(np.uint8))
    starts = np.cumsum([0, *(side * side for side in sides[:-1])])
    return Atlas(np.stack(texels), np.stack([starts, sides], axis=1).astype(np.int64))


def _waves(random: np.random.Generator, size_u: float, size_v: float) -> np.ndarray:
    """Return tileable smooth noise of unit variance."""
    pad = 48
    white = np.pad(random.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE)), pad, mode="wrap")
    smooth = cv2.GaussianBlur(white, (0, 0), sigmaX=size_u, sigmaY=size_v)[pad:-pad, pad:-pad]
    return smooth / smooth.std()


def _gray(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2).astype(np.float32)


def _paint_face(colors: FaceColors) -> np.ndarray:
    """Draw a face as a texture [256, 256, 3] float32 (half the albedo), unrolled around the head, front in the middle.

    It is drawn at twice the size, in mm: x from the middle of the face along the surface to the person's left, y up
    from the head's center, at the height of ears and eyes.
    """
    brush = _Brush(colors)
    brush.head()
    for side in (-1, 1):
        brush.eye(side)
    brush.nose_and_mouth()
    image = cv2.resize(brush.image, (TEXTURE_SIZE, TEXTURE_SIZE), interpolation=cv2.INTER_AREA)
    return np.clip(image * 0.5, 0, 1).astype(np.float32)


class _Brush:
    """Brush that draws in mm on the unrolled head."""

    side = 512
    radius = 84.0  # of the head where the face is drawn, mm

    def __init__(self, colors: FaceColors):
        self.colors = colors
        self.image = np.empty((self.side, self.side, 3), np.float32)
        self.image[:] = colors.skin

    def area(
        self, points: Sequence[tuple[float, float]], color: tuple[float, ...], soft: float = 0.8, strength: float = 1.0
    ) -> None:
        """Fill a polygon with `color`, its edge blurred by `soft` mm."""
        sigma = max(soft * HEAD_DENSITY / 1000 * self.side, 0.5)
        x, y = np.array(points).T
        corners = np.stack([0.5 + x / (2 * np.pi * self.radius), 0.5 - y * HEAD_DENSITY / 1000], axis=1) * self.side
        corners = corners.astype(np.float32)
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
        self, x: float, y: float, rx: float, ry: float, color: tuple[float, ...], soft: float = 0.5, strength: float = 1
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.area([(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles], color, soft, strength)

    def shade(self, factor: float) -> tuple[float, ...]:
        red = np.array([1.0, 0.90, 0.86])  # skin turns red in the shade
        return tuple(float(c) for c in np.array(self.colors.skin) * factor * red ** (1 - factor))

    def head(self) -> None:
        """Draw hair, and shade temples, jaw and cheeks."""
        hair = self.colors.hair
        around = np.pi * self.radius
        line = [(-around, -70), (-95, -55), (-92, 12), (-70, 30), (-58, 62), (-30, 73), (0, 75), (30, 73), (58, 62),
                (70, 30), (92, 12), (95, -55), (around, -70), (around, 140), (-around, 140)]  # fmt: skip
        for side in (-1, 1):
            self.ellipse(side * 62, -15, 22, 60, self.shade(0.78), 10, 0.55)
            self.ellipse(side * 40, -28, 15, 11, (0.84, 0.53, 0.44), 7, 0.30)
        self.ellipse(0, -98, 60, 16, self.shade(0.7), 7, 0.6)
        self.ellipse(0, 42, 34, 16, tuple(min(1.0, c * 1.06) for c in self.colors.skin), 9, 0.6)
        self.area(line, hair, 2.5)

    def eye(self, side: int) -> None:
        """Draw socket, white, iris, pupil, lids and brow; `side` 1 is the person's left."""
        x, y = side * 32.0, 3.0
        self.ellipse(x, y + 3, 21, 13, self.shade(0.70), 5, 0.75)
        self.ellipse(side * 15, y + 2, 7, 12, self.shade(0.66), 4, 0.6)
        almond = ((-15, -1), (-9, 5), (0, 7), (9, 5), (15, 0), (8, -5), (0, -6), (-8, -5))
        self.area([(x + dx, y + dy) for dx, dy in almond], (0.90, 0.88, 0.86), 0.5)
        self.ellipse(x, y + 0.5, 6.3, 6.3, self.colors.iris, 0.5)
        self.ellipse(x, y + 0.5, 3.0, 3.0, (0.03, 0.03, 0.03), 0.4)
        self.ellipse(x - 2, y + 3, 1.3, 1.3, (0.95, 0.95, 0.95), 0.3)
        lid = ((-16, -1), (-9, 6), (0, 8.5), (9, 6), (16, 1), (9, 3.6), (0, 5.6), (-9, 3.6))
        self.area([(x + dx, y + dy) for dx, dy in lid], (0.13, 0.09, 0.07), 0.6, 0.95)
        crease = ((-15, 4), (0, 13), (15, 5), (0, 10.5))
        self.area([(x + dx, y + dy) for dx, dy in crease], self.shade(0.6), 1.0, 0.7)
        brow = [(x - side * 17, y + 17), (x - side * 8, y + 22), (x + side * 8, y + 24), (x + side * 20, y + 17),
                (x + side * 8, y + 18.5), (x - side * 16, y + 12)]  # fmt: skip
        self.area(brow, tuple(0.75 * h + 0.05 for h in self.colors.hair), 1.2, 0.95)

    def nose_and_mouth(self) -> None:
        """Draw nostrils, lips and the shadows of nose and lips."""
        for side in (-1, 1):
            self.ellipse(side * 12, -18, 5, 22, self.shade(0.82), 3.5, 0.5)
            self.ellipse(side * 8, -38, 4.4, 2.8, self.shade(0.38), 1.0, 0.9)
            self.ellipse(side * 18, -36, 4, 7, self.shade(0.74), 2.5, 0.7)
            self.area(
                [(side * 20, -36), (side * 30, -58), (side * 32, -58), (side * 23, -35)], self.shade(0.75), 2.5, 0.6
            )
        self.ellipse(0, -18, 4, 24, tuple(min(1.0, c * 1.1) for c in self.colors.skin), 3, 0.6)
        self.ellipse(0, -43, 13, 4, self.shade(0.72), 3, 0.7)
        lips, inner = self.colors.lips, tuple(0.45 * c for c in self.colors.lips)
        upper = [(-25, -63), (-12, -57.5), (-4, -55), (0, -57), (4, -55), (12, -57.5), (25, -63), (0, -63.5)]
        lower = [(-25, -63), (0, -63), (25, -63), (13, -71.5), (0, -74), (-13, -71.5)]
        self.area(upper, tuple(0.86 * c for c in lips), 0.8)
        self.area(lower, lips, 0.9)
        self.area([(-26, -62.5), (0, -61.8), (26, -62.5), (0, -64.6)], inner, 0.6)
        self.ellipse(0, -80, 17, 4, self.shade(0.72), 3, 0.7)


def body_shapes(appearance: Appearance, rest: np.ndarray, person: int, people: int) -> Shapes:
    """Build all primitives of a body with bone lengths `rest` [bones], m, and face `person` of `people` faces."""
    builder = _BodyBuilder(appearance, dict(zip(FRAME_NAMES, rest, strict=False)), person, people)
    builder.trunk()
    builder.head()
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        builder.arm(side)
        builder.leg(side, sign)
        builder.hand(side)
    return builder.shapes.build()


def hand_shapes(appearance: Appearance, forearm_m: float) -> Shapes:
    """Build the primitives of a recorded right hand and its forearm alone (`recorded_hand_frames`)."""
    builder = _BodyBuilder(appearance, {"forearm_right": forearm_m}, 0, 1)
    builder.forearm("right")
    builder.hand("right")
    builder.palm()
    return builder.shapes.build()


class _BodyBuilder:
    """Builder of a body's shapes; a material is a color and a kind of texture."""

    def __init__(self, appearance: Appearance, rest: dict[str, float], person: int, people: int):
        self.shapes = ShapeBuilder()
        self.appearance, self.rest = appearance, rest
        self.s, self.g = appearance.scale, appearance.scale * appearance.girth
        self.texture = {FACE: person, **{kind: people + kind - 1 for kind in (CLOTH, DENIM, SKIN, HAIR)}}
        a = appearance
        self.shirt, self.sleeves, self.shoes = ((c, CLOTH) for c in (a.shirt, a.sleeves, a.shoes))
        self.trousers, self.skin = (a.trousers, DENIM), (a.face.skin, SKIN)

    def _add(
        self, frame: str, start: Triple, end: Triple | None, radii: tuple[float, float], material: tuple[Triple, int],
        stretch: Triple = (1.0, 1.0, 1.0),
    ) -> None:  # fmt: skip
        color, kind = material
        self.shapes.add(
            FRAME[frame], start, end, radii, color, stretch=stretch, texture=self.texture[kind],
            texture_scale=_DENSITY[kind], gloss=0.10 if kind == SKIN else 0.0,
        )  # fmt: skip

    def trunk(self) -> None:
        """Add pelvis, belly, rib cage, shoulders and neck."""
        g, shirt, trousers = self.g, self.shirt, self.trousers
        belly, ribs, neck = self.rest["abdomen"], self.rest["chest"], self.rest["neck"]
        wide = (1.40, 1, 1)
        self._add("pelvis", (0, -0.01, -0.005), (0, 0.055, -0.005), (0.098 * g, 0.104 * g), trousers, (1.5, 1.0, 1.1))
        for x in (-0.07, 0.07):
            self._add("pelvis", (x * g, -0.05, -0.045 * g), None, (0.082 * g, 0), trousers)
        self._add("abdomen", (0, 0.06, 0), (0, belly, 0), (0.104 * g, 0.104 * g), shirt, wide)
        self._add("chest", (0, -0.02, 0), (0, 0.55 * ribs, 0.008), (0.106 * g, 0.116 * g), shirt, wide)
        self._add("chest", (0, 0.66 * ribs, 0), None, (0.104 * g, 0), shirt, (1.62, 0.82, 1.02))
        for name in ("trapezius_left", "trapezius_right"):
            slope = self.rest[name]
            self._add(name, (0, 0.30 * slope, 0), (0, 0.80 * slope, 0), (0.052 * g, 0.044 * g), shirt)
        self._add("neck", (0, 0.0, 0.0), (0, 0.8 * neck, 0.006), (0.054 * g, 0.050 * g), self.skin)

    def head(self) -> None:
        """Add skull, jaw and nose with one face texture, ears and hair."""
        k, ones, colors = 0.93 * self.s, (1.0, 1.0, 1.0), self.appearance.face

        def add(
            start: Triple, end: Triple | None, radii: tuple[float, float], stretch: Triple = ones,
            color: Triple = ones, kind: int = FACE, gloss: float = 0.06,
        ) -> None:  # fmt: skip
            first = (k * start[0], k * start[1], k * start[2])
            last = None if end is None else (k * end[0], k * end[1], k * end[2])
            self.shapes.add(
                FRAME["head"], first, last, (radii[0] * k, radii[1] * k), color, stretch=stretch,
                texture=self.texture[kind], texture_scale=HEAD_DENSITY / k, gloss=gloss,
            )  # fmt: skip

        add((0, 0.025, -0.012), None, (0.092, 0), (0.83, 1.0, 1.03))
        add((0, -0.022, 0.012), None, (0.096, 0), (0.72, 1.0, 0.83))
        add((0, -0.050, 0.026), (0, -0.088, 0.046), (0.050, 0.028))
        add((0, 0.004, 0.083), (0, -0.034, 0.101), (0.009, 0.0135), gloss=0.12)
        for x in (-1.0, 1.0):
            add((x * 0.030, -0.030, 0.046), None, (0.033, 0))
            add((x * 0.077, -0.010, -0.008), None, (0.032, 0), (0.35, 1.0, 0.6), colors.skin, SKIN)
        add((0, 0.036, -0.024), None, (0.094, 0), (0.89, 1.0, 1.0), colors.hair, HAIR, 0.05)

    def arm(self, side: str) -> None:
        """Add shoulder, short sleeve and bare lower arm."""
        g, skin = self.g, self.skin
        clavicle, upper = (f"{bone}_{side}" for bone in ("clavicle", "upper_arm"))
        a, b = self.rest[clavicle], self.rest[upper]
        self._add(clavicle, (0, 0.35 * a, 0), (0, a, 0), (0.066 * g, 0.060 * g), self.shirt)
        self._add(upper, (0, 0, 0), (0, 0.62 * b, 0), (0.062 * g, 0.053 * g), self.sleeves)
        self._add(upper, (0, 0.55 * b, 0), (0, b, 0), (0.045 * g, 0.039 * g), skin)
        self.forearm(side)

    def forearm(self, side: str) -> None:
        """Add a bare forearm."""
        name, g = f"forearm_{side}", self.g
        c = self.rest[name]
        self._add(name, (0, 0, 0), (0, 0.32 * c, 0), (0.039 * g, 0.043 * g), self.skin)
        self._add(name, (0, 0.32 * c, 0), (0, c, 0), (0.043 * g, 0.027 * g), self.skin)

    def leg(self, side: str, sign: float) -> None:
        """Add trousers and shoe."""
        g, s, shoes, trousers, name = self.g, self.s, self.shoes, self.trousers, f"foot_{side}"
        thigh, shank, foot = (self.rest[f"{bone}_{side}"] for bone in ("thigh", "shank", "foot"))
        calf = (0, 0.35 * shank, -0.01)
        self._add(f"thigh_{side}", (0, -0.01, 0), (0, thigh, 0), (0.091 * g, 0.060 * g), trousers)
        self._add(f"shank_{side}", (0, 0, 0), calf, (0.058 * g, 0.059 * g), trousers)
        self._add(f"shank_{side}", calf, (0, 0.97 * shank, 0), (0.059 * g, 0.046 * g), trousers)
        # The foot's frame: y from ankle to toes, z up; y slopes down, the sole is flat.
        dip = min(max((ANKLE_HEIGHT - TOE_HEIGHT) * s / foot, -0.9), 0.9)
        level = float(np.sqrt(1 - dip * dip))

        def at(forward: float, height: float) -> Triple:
            up = (height - ANKLE_HEIGHT) * s
            return (0.0, forward * level - up * dip, forward * dip + up * level)

        ball, toes = (0.0, foot, 0.0), at(foot * level + 0.05 * s, 0.024)
        self._add(name, at(-0.045 * s, 0.036), ball, (0.036 * s, TOE_HEIGHT * s), shoes, (1.15, 1, 1))
        self._add(name, ball, toes, (TOE_HEIGHT * s, 0.024 * s), shoes, (1.4, 1, 1))
        self._add(name, (0, 0.01, -0.01), at(0.075 * s, 0.042), (0.042 * s, 0.034 * s), shoes)

    def hand(self, side: str) -> None:
        """Add palm, ball of the thumb and fifteen phalanges."""
        k, palm, (color, _) = self.appearance.hand_length, f"palm_{side}", self.skin
        ball = (0.10 * k, 0.14 * k, 0.05 * k), (0.17 * k, 0.30 * k, 0.07 * k)
        self._add(palm, (0, 0.02 * k, 0), (0, 0.43 * k, 0), (0.105 * k, 0.118 * k), self.skin, (1.75, 1, 0.72))
        self._add(palm, *ball, (0.085 * k, 0.06 * k), self.skin)
        for finger, width, lengths in zip(FINGERS, (0.058, 0.047, 0.048, 0.045, 0.039), PHALANX, strict=True):
            # Slightly different tints separate neighboring fingers.
            tint = 1.0 if finger in ("index", "ring") else 0.95
            skin = (color[0] * tint, color[1] * tint, color[2] * tint), SKIN
            for n, length in enumerate(lengths):
                radii = (width * (1 - 0.07 * n) * k, width * (1 - 0.07 * (n + 1)) * k)
                self._add(f"{finger}{n}_{side}", (0, 0, 0), (0, float(length) * k, 0), radii, skin)

    def palm(self) -> None:
        """Join the fingers to a palm that has other proportions than the rig's, which they would not touch."""
        k = self.appearance.hand_length
        for first, last in PALM_BONES:
            radii, length = ((0.075 if first == "wrist" else 0.055) * k, 0.055 * k), palm_bone_length(first, last) * k
            self._add(f"{first}_{last}", (0, 0, 0), (0, length, 0), radii, self.skin)
