"""Further looks at a clip, varied as the model's training varied them, for scores that are averaged."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from actrec import config, features
from actrec.errors import ConfigError
from actrec.package import ModelPackage
from actrec_models.data import ClipDataset
from actrec_models.recipe import Recipe
from actrec_models.samples import Samples


class Draws:
    """The inputs of a package's network for varied clips of a dataset; the same ones each time.

    What a recipe puts before a clip, and clips of no class, are left out: they would be of another recording.

    Args:
        package: Of the model.
        clips: The dataset.
        count: How many looks at each clip.
        mode: As `scoring.score` takes it: all looks are at stretched clips, or none; "whole": each at one of the
            recording's places.

    Raises:
        ConfigError: The package does not tell how clips were varied in its training, or they were not; or they are to
            be stretched and the network takes more than bodies.
    """

    def __init__(self, package: ModelPackage, clips: ClipDataset, count: int, mode: str = "live"):
        recipe, stretched = _recipe(package), mode == "stretched"
        if stretched and set(features.streams(package.inputs)) != {"bodies"}:
            raise ConfigError(f"only bodies are varied in stretched clips, but {package.name} takes more: no --draws")
        augmentation = dataclasses.replace(recipe.check(), before=0.0, stretched=float(stretched))
        recipe = dataclasses.replace(recipe, outliers=0.0, clips=mode)
        self._samples = Samples(clips, list(package.inputs), package.window, recipe, augmentation)
        self._count = count

    def of(self, index: int) -> Iterator[dict[str, np.ndarray]]:
        """The inputs of the clip of this index, look by look."""
        for number in range(1, self._count + 1):
            sample = self._samples[number, index, 0]
            del sample["label"]
            yield sample


def _recipe(package: ModelPackage) -> Recipe:
    known = {field.name for field in dataclasses.fields(Recipe)}
    settings = {name: value for name, value in package.provenance.settings.items() if name in known}
    if "augmentation" not in settings:
        raise ConfigError(f"{package.name} does not tell how clips were varied in its training: leave out --draws")
    whole = config.build(Recipe, settings)
    recipe = whole.of(whole.plan()[-1])  # of several stages, the last
    if not recipe.augment:
        raise ConfigError(f"clips were not varied in the training of {package.name}: leave out --draws")
    return recipe
