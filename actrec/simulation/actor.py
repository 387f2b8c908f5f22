"""What an actor looks like: its proportions, clothes and the shapes that make up its body."""

from dataclasses import dataclass, field

import numpy as np

from actrec.simulation.primitives import ShapeBuilder, Shapes
from actrec.simulation.rig import FINGERS, FRAME, NAMES, PHALANX, SIDES
from actrec.simulation.textures import CLOTH, DENIM, FACE, HAIR, HEAD_DENSITY, SKIN, Looks, index

REFERENCE_STATURE = 1.75
"""Stature in metres for which the shapes below are written."""

ANKLE_HEIGHT = 0.085
"""Of the ankle joint above the sole, metres at the reference stature."""

TOE_HEIGHT = 0.030
"""Of the foot joint (ball of the foot) above the sole, metres at the reference stature."""

_Color = tuple[float, float, float]

_Point = tuple[float, float, float]


@dataclass(frozen=True)
class Appearance:
    """One actor's looks.

    Attributes:
        stature: Height in metres; scales girth, head and hands (bone lengths come from the skeleton).
        girth: Factor on the thickness of trunk and limbs.
        face: What the face is painted with.
        shirt, sleeves, trousers, shoes: Albedo as displayed, 0..1.
    """

    stature: float = 1.75
    girth: float = 1.0
    face: Looks = field(default_factory=Looks)
    shirt: _Color = (0.20, 0.42, 0.62)
    sleeves: _Color = (0.16, 0.33, 0.50)
    trousers: _Color = (0.25, 0.26, 0.32)
    shoes: _Color = (0.12, 0.11, 0.11)

    @property
    def scale(self) -> float:
        """Size relative to the reference."""
        return self.stature / REFERENCE_STATURE

    @property
    def hand_length(self) -> float:
        """Wrist to tip of the middle finger, metres (0.108 of stature: Drillis and Contini, 1966)."""
        return 0.108 * self.stature


WARDROBE = (
    Appearance(),
    Appearance(
        1.66, 0.95, Looks((0.62, 0.44, 0.33), (0.08, 0.06, 0.05), (0.52, 0.28, 0.26), (0.13, 0.09, 0.06)),
        shirt=(0.66, 0.25, 0.22), sleeves=(0.54, 0.19, 0.18), trousers=(0.50, 0.45, 0.36), shoes=(0.38, 0.30, 0.24),
    ),
)  # fmt: skip
"""The looks of the first, second, … actor."""


def body_shapes(appearance: Appearance, rest: np.ndarray, person: int, people: int) -> Shapes:
    """Every primitive of a body.

    Args:
        appearance: Its looks.
        rest: [bones] lengths from `rig.bone_lengths`, metres.
        person: Index of the actor's face in the texture atlas.
        people: Number of faces in the atlas.
    """
    tailor = _Tailor(appearance, dict(zip(NAMES, rest, strict=False)), person, people)
    tailor.trunk()
    tailor.head()
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        tailor.arm(side)
        tailor.leg(side, sign)
        tailor.hand(side)
    return tailor.builder.build()


class _Tailor:
    """Adds the shapes part by part."""

    def __init__(self, appearance: Appearance, rest: dict[str, float], person: int, people: int):
        self.builder = ShapeBuilder()
        self.looks = appearance
        self.rest = rest
        self.s = appearance.scale
        self.g = appearance.scale * appearance.girth
        self.texture = {kind: index(kind, person, people) for kind in (FACE, CLOTH, DENIM, SKIN, HAIR)}

    def _add(
        self,
        frame: str,
        start: tuple[float, float, float],
        end: tuple[float, float, float] | None,
        radii: tuple[float, float],
        color: _Color,
        kind: int,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        density = {CLOTH: 2.5, DENIM: 2.5, SKIN: 4.0, HAIR: 4.0}[kind]
        gloss = 0.10 if kind == SKIN else 0.0
        self.builder.add(
            FRAME[frame],
            start,
            end,
            radii,
            color,
            stretch=stretch,
            texture=self.texture[kind],
            texture_scale=density,
            gloss=gloss,
        )

    def trunk(self) -> None:
        """Pelvis, belly, rib cage, shoulders, neck."""
        g, looks = self.g, self.looks
        belly, ribs, neck = self.rest["abdomen"], self.rest["chest"], self.rest["neck"]
        self._add(
            "pelvis",
            (0, -0.01, -0.005),
            (0, 0.055, -0.005),
            (0.098 * g, 0.104 * g),
            looks.trousers,
            DENIM,
            (1.50, 1.0, 1.10),
        )
        for x in (-0.07, 0.07):
            self._add("pelvis", (x * g, -0.05, -0.045 * g), None, (0.082 * g, 0), looks.trousers, DENIM)
        self._add("abdomen", (0, 0.06, 0), (0, belly, 0), (0.104 * g, 0.104 * g), looks.shirt, CLOTH, (1.40, 1, 1))
        self._add(
            "chest", (0, -0.02, 0), (0, 0.55 * ribs, 0.008), (0.106 * g, 0.116 * g), looks.shirt, CLOTH, (1.40, 1, 1)
        )
        self._add("chest", (0, 0.66 * ribs, 0), None, (0.104 * g, 0), looks.shirt, CLOTH, (1.62, 0.82, 1.02))
        for side in SIDES:
            name = f"trapezius_{side}"
            slope = self.rest[name]
            self._add(name, (0, 0.30 * slope, 0), (0, 0.80 * slope, 0), (0.052 * g, 0.044 * g), looks.shirt, CLOTH)
        self._add("neck", (0, 0.0, 0.0), (0, 0.8 * neck, 0.006), (0.054 * g, 0.050 * g), looks.face.skin, SKIN)

    def head(self) -> None:
        """Skull, jaw and nose under one painted texture, ears, hair."""
        k = 0.93 * self.s
        face, hair = self.texture[FACE], self.texture[HAIR]

        def add(
            start: _Point,
            end: _Point | None,
            radii: tuple[float, float],
            stretch: _Point = (1.0, 1.0, 1.0),
            color: _Color = (1.0, 1.0, 1.0),
            texture: int = face,
            gloss: float = 0.06,
        ) -> None:
            first = (k * start[0], k * start[1], k * start[2])
            last = None if end is None else (k * end[0], k * end[1], k * end[2])
            self.builder.add(
                FRAME["head"], first, last, (radii[0] * k, radii[1] * k), color, stretch=stretch,
                texture=texture,
                texture_scale=HEAD_DENSITY / k, gloss=gloss,
            )  # fmt: skip

        add((0, 0.025, -0.012), None, (0.092, 0), (0.83, 1.0, 1.03))
        add((0, -0.022, 0.012), None, (0.096, 0), (0.72, 1.0, 0.83))
        add((0, -0.050, 0.026), (0, -0.088, 0.046), (0.050, 0.028))
        add((0, 0.004, 0.083), (0, -0.034, 0.101), (0.009, 0.0135), gloss=0.12)
        for x in (-1.0, 1.0):
            add((x * 0.030, -0.030, 0.046), None, (0.033, 0))
            add(
                (x * 0.077, -0.010, -0.008),
                None,
                (0.032, 0),
                (0.35, 1.0, 0.6),
                self.looks.face.skin,
                self.texture[SKIN],
            )
        add((0, 0.036, -0.024), None, (0.094, 0), (0.89, 1.0, 1.0), self.looks.face.hair, hair, 0.05)

    def arm(self, side: str) -> None:
        """Shoulder, short sleeve, bare lower arm."""
        g, looks = self.g, self.looks
        clavicle, upper, fore = (self.rest[f"{bone}_{side}"] for bone in ("clavicle", "upper_arm", "forearm"))
        self._add(
            f"clavicle_{side}", (0, 0.35 * clavicle, 0), (0, clavicle, 0), (0.066 * g, 0.060 * g), looks.shirt, CLOTH
        )
        name = f"upper_arm_{side}"
        self._add(name, (0, 0, 0), (0, 0.62 * upper, 0), (0.062 * g, 0.053 * g), looks.sleeves, CLOTH)
        self._add(name, (0, 0.55 * upper, 0), (0, upper, 0), (0.045 * g, 0.039 * g), looks.face.skin, SKIN)
        name = f"forearm_{side}"
        self._add(name, (0, 0, 0), (0, 0.32 * fore, 0), (0.039 * g, 0.043 * g), looks.face.skin, SKIN)
        self._add(name, (0, 0.32 * fore, 0), (0, fore, 0), (0.043 * g, 0.027 * g), looks.face.skin, SKIN)

    def leg(self, side: str, sign: float) -> None:
        """Trousers and shoe."""
        g, s, looks = self.g, self.s, self.looks
        thigh, shank, foot = (self.rest[f"{bone}_{side}"] for bone in ("thigh", "shank", "foot"))
        self._add(f"thigh_{side}", (0, -0.01, 0), (0, thigh, 0), (0.091 * g, 0.060 * g), looks.trousers, DENIM)
        self._add(f"shank_{side}", (0, 0, 0), (0, 0.35 * shank, -0.01), (0.058 * g, 0.059 * g), looks.trousers, DENIM)
        self._add(
            f"shank_{side}",
            (0, 0.35 * shank, -0.01),
            (0, 0.97 * shank, 0),
            (0.059 * g, 0.046 * g),
            looks.trousers,
            DENIM,
        )
        # The foot's frame: y from ankle to toes, z up; the sole is flat though y dips.
        dip = min(max((ANKLE_HEIGHT - TOE_HEIGHT) * s / foot, -0.9), 0.9)
        level = float(np.sqrt(1 - dip * dip))
        shoe, name = looks.shoes, f"foot_{side}"

        def at(forward: float, up: float) -> tuple[float, float, float]:
            return (0.0, forward * level - up * dip, forward * dip + up * level)

        heel, ball = at(-0.045 * s, (0.036 - ANKLE_HEIGHT) * s), (0.0, foot, 0.0)
        self._add(name, heel, ball, (0.036 * s, TOE_HEIGHT * s), shoe, CLOTH, (1.15, 1, 1))
        self._add(
            name,
            ball,
            at(foot * level + 0.05 * s, (0.024 - ANKLE_HEIGHT) * s),
            (TOE_HEIGHT * s, 0.024 * s),
            shoe,
            CLOTH,
            (1.4, 1, 1),
        )
        self._add(
            name, (0, 0.01, -0.01), at(0.075 * s, (0.042 - ANKLE_HEIGHT) * s), (0.042 * s, 0.034 * s), shoe, CLOTH
        )

    def hand(self, side: str) -> None:
        """Palm, ball of the thumb and fifteen phalanges."""
        size, skin = self.looks.hand_length, self.looks.face.skin
        palm = f"palm_{side}"
        self._add(
            palm, (0, 0.02 * size, 0), (0, 0.43 * size, 0), (0.105 * size, 0.118 * size), skin, SKIN, (1.75, 1, 0.72)
        )
        self._add(palm, (0.10 * size, 0.14 * size, 0.05 * size), (0.17 * size, 0.30 * size, 0.07 * size),
                  (0.085 * size, 0.06 * size), skin, SKIN)  # fmt: skip
        widths = {"thumb": 0.058, "index": 0.047, "middle": 0.048, "ring": 0.045, "pinky": 0.039}
        # Shaded a little differently, as the gaps between real fingers do.
        for finger in FINGERS:
            for k in range(3):
                length = float(PHALANX[FINGERS.index(finger), k]) * size
                radii = (widths[finger] * (1 - 0.07 * k) * size, widths[finger] * (1 - 0.07 * (k + 1)) * size)
                tint = 1.0 if finger in ("index", "ring") else 0.95
                color = (skin[0] * tint, skin[1] * tint, skin[2] * tint)
                self._add(f"{finger}{k}_{side}", (0, 0, 0), (0, length, 0), radii, color, SKIN)
