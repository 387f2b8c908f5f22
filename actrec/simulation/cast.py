"""Simulated people who differ in size, proportions, clothes and tempo, as many as are wanted."""

import colorsys
from dataclasses import dataclass

import numpy as np

from actrec.simulation.appearance import Appearance
from actrec.simulation.posture import Physique
from actrec.simulation.textures import Looks

_SKINS = (
    (0.87, 0.68, 0.57),
    (0.80, 0.60, 0.48),
    (0.71, 0.51, 0.39),
    (0.58, 0.40, 0.30),
    (0.43, 0.29, 0.21),
)
_HAIRS = ((0.08, 0.06, 0.05), (0.16, 0.11, 0.08), (0.32, 0.21, 0.12), (0.55, 0.42, 0.24), (0.45, 0.44, 0.43))


@dataclass(frozen=True)
class Person:
    """Somebody who may perform.

    Attributes:
        appearance: Looks, stature and girth.
        limbs: Factor on the bones of arms and legs.
        tempo: Factor on the speed of all that the person does.
    """

    appearance: Appearance
    limbs: float
    tempo: float

    @property
    def physique(self) -> Physique:
        """The bones."""
        return Physique(self.appearance.stature, self.limbs)


def person(number: int) -> Person:
    """The person of that number, always the same one.

    Statures lie between 1.52 and 1.92 m, spread evenly over any few successive numbers.
    """
    random = np.random.default_rng([number, 17])
    share = (number * 0.618034) % 1.0  # the golden ratio: successive numbers lie far apart
    skin = _SKINS[random.integers(len(_SKINS))]
    lips = (0.80 * skin[0], 0.58 * skin[1], 0.62 * skin[2])
    shirt, trousers = _cloth(random, (0.25, 0.75), (0.25, 0.75)), _cloth(random, (0.05, 0.45), (0.15, 0.55))
    sleeves = shirt if random.random() < 0.5 else _cloth(random, (0.25, 0.75), (0.25, 0.75))
    appearance = Appearance(
        stature=round(1.52 + 0.40 * share, 3),
        girth=round(float(random.uniform(0.86, 1.22)), 3),
        face=Looks(skin, _HAIRS[random.integers(len(_HAIRS))], lips),
        shirt=shirt,
        sleeves=sleeves,
        trousers=trousers,
        shoes=_cloth(random, (0.0, 0.4), (0.08, 0.5)),
    )
    limbs, tempo = float(random.uniform(0.94, 1.06)), float(random.uniform(0.82, 1.22))
    return Person(appearance, round(limbs, 3), round(tempo, 3))


def _cloth(
    random: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> tuple[float, float, float]:
    """A colour of any hue."""
    r, g, b = colorsys.hsv_to_rgb(random.random(), random.uniform(*saturation), random.uniform(*value))
    return round(r, 3), round(g, 3), round(b, 3)
