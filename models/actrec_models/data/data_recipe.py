"""The part of a recipe that selects and varies data; `actrec_models.training.recipe.Recipe` adds the training."""

from dataclasses import dataclass

from actrec import datasets
from actrec.scene_flow import identity
from actrec.skeleton.layouts import CANONICAL
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samplers import Validation


@dataclass(frozen=True)
class DataRecipe:
    """Dataset of a training, the clips of it that the network sees, and the clips of no class."""

    model: str = setting("deepacts_graph", "network, a name of actrec_models.list_models()")
    dataset: str = setting("nucla", "dataset, a name of actrec.datasets.DATASETS")
    split: str = setting("view", "the dataset's protocol")
    dataset_options: dict = setting({}, "options of the dataset, e.g. SYSU's fold")
    rendered: str = setting(
        "", "files of actrec prepare --render-every, separated by commas, added to the training part"
    )
    scene_flow: dict = setting(
        {}, "scene flow that the clips must have, if the network takes any: method, height (px), rate (Hz)"
    )
    unknown_dataset: str = setting(
        "utd_mhad",
        "actions outside the classes, for the rejection threshold; empty: none. Own recordings labeled unknown "
        "replace it",
    )
    unknown_options: dict = setting({}, "options of that dataset")
    unknown_exclude: list = setting(
        [], "labels of that dataset that mean one of the classes; equal names are excluded without it"
    )
    clips: str = setting(
        "live",
        "clips of a recording in evaluation: the window at its end (live); clips all over it, also in training, as in "
        "papers on videos (whole); all of it in one window, as in papers on gestures (stretched); or, as P-I3D, "
        "sub-sequences of its frames with the poses of all of it (subsequences)",
        choices=("live", "whole", "stretched", "subsequences"),
    )
    augment: bool = setting(True, "augment each clip at each draw; false: as recorded, a random clip of each window")
    augmentation: dict = setting({}, "fields of actrec_models.data.augmentation.Augmentation")
    sampling: dict = setting({}, "fields of actrec_models.data.samplers.Sampling: how often an epoch draws a clip")
    validation: dict = setting({}, "fields of actrec_models.data.samplers.Validation: clips held out of training")
    outliers: float = setting(0.0, "share of samples that show generated actions of no class", range=(0.0, 0.9))
    background: float = setting(
        0.0,
        "share of samples that show a clip of the unknown class: own recordings labeled unknown, else clips of "
        "unknown_dataset; the network learns when none of the classes is shown",
        range=(0.0, 0.9),
    )
    between: float = setting(
        0.0,
        "share of samples that end a while after an action or as one begins, which are background as well; for "
        "networks of bodies alone",
        range=(0.0, 0.9),
    )
    seed: int = setting(1, "of all random numbers", range=(0, 2**31 - 1))

    def check(self) -> Augmentation:
        """Validate all fields and return the augmentation."""
        config.validate(self)
        config.check_names(self.dataset_options, datasets.RESERVED, "dataset_options")
        config.check_names(self.unknown_options, datasets.RESERVED, "unknown_options")
        if self.unknown_dataset and self.unknown_dataset not in datasets.DATASETS.names():
            known = ", ".join(datasets.DATASETS.names())
            raise ConfigError(f"unknown_dataset is '{self.unknown_dataset}', expected '' or one of {known}")
        if self.unknown_dataset and (held := datasets.DATASETS.get(self.unknown_dataset).layout) != CANONICAL:
            raise ConfigError(
                f"unknown_dataset {self.unknown_dataset} has the layout {held}: choose a dataset of {CANONICAL} bodies"
            )
        identity.check(self.scene_flow)
        if not all(isinstance(label, str) for label in self.unknown_exclude):
            raise ConfigError(f"unknown_exclude is {self.unknown_exclude}, expected labels")
        return config.build(Augmentation, self.augmentation)

    def held_out(self) -> Validation:
        """Return the settings of the clips that are held out; raise ConfigError if fields contradict each other."""
        validation = config.build(Validation, self.validation)
        validation.check()
        return validation

    def dataset_part(self, data_root: str, part: str, root: str = "") -> datasets.ClipDataset:
        """Open the "train" or "test" part of the dataset; arguments and errors as for `unknown_clips`."""
        folder = root or datasets.folder(data_root, self.dataset)
        return datasets.create(self.dataset, folder, split=self.split, part=part, **self.dataset_options)

    def unknown_clips(
        self, data_root: str, part: str, root: str = ""
    ) -> datasets.SourceDataset | datasets.PreparedDataset:
        """Return the user's own recordings in `part` with the label `unknown`; most often none.

        `root` is the dataset's folder if it is not in `data_root`. Errors are as in `actrec.datasets.create`.
        """
        folder = root or datasets.folder(data_root, self.dataset)
        return datasets.create_unknown(self.dataset, folder, split=self.split, part=part, **self.dataset_options)
