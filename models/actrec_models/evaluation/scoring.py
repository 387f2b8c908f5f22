"""Logits of a dataset's clips, through the very session that runs live; one clip is held at a time.

Further looks at a clip, varied as the model's training varied them, for scores that are averaged.
"""

import dataclasses
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from actrec import features
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import each_clip
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference import session as windowed
from actrec.inference.package import ModelPackage
from actrec.inference.session import Session
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data.samples import Samples, parts
from actrec_models.evaluation.figures import Report
from actrec_models.evaluation.fusion import merge
from actrec_models.training.recipe import Recipe


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


MODES = ("live", "whole", "stretched")

BATCH = 64
"""Clips of T frames that go through the network together, where their inputs are small."""

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scores:
    """What a session makes of a dataset.

    Attributes:
        logits: [N, classes]; zeros where the clip could not be read.
        unread: Index of a clip that could not be read to why.
    """

    logits: np.ndarray
    unread: dict[int, str]


def score(
    session: Session,
    clips: ClipDataset,
    mode: str = "live",
    *,
    draws: int = 0,
    skip_unreadable: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Scores every clip.

    Args:
        session: The model.
        clips: The dataset; each clip is read when it is its turn.
        mode: "live": the window that the recognizer has when the recording ends. "whole": clips all over it
            (`positions.parts`), their scores combined as the package combines those of a window's clips. "stretched":
            one window that holds all of it, from its first frame to its last, however long that is.
        draws: Score each clip so many times more, varied as in training, and combine all its scores.
        skip_unreadable: Go on where a clip cannot be read, and note why.
        workers: Processes that read and prepare; 0 for this one.
        progress: Show a bar.

    Raises:
        ConfigError: Unknown mode, or nobody knows how the model's training varied clips.
        InputError: There is no clip, model and dataset do not fit, or a clip cannot be read; the clip is named.
    """
    if mode not in MODES:
        raise ConfigError(f"clips of a recording are taken {', '.join(MODES)}; got '{mode}'")
    if not len(clips):
        raise InputError(f"{session.package.name}: the dataset's part is empty, there is no clip to score")
    check_fit(session.package, clips)
    varied = Draws(session.package, clips, draws, mode) if draws else None
    loader = DataLoader(
        _Made(clips, session.package.inputs, session.package.window, mode, varied),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context=_processes() if workers else None,
    )
    rows: list[list[np.ndarray]] = [[] for _ in range(len(clips))]
    unread: dict[int, str] = {}
    with tqdm(total=len(clips), unit="clip", desc=session.package.name, disable=None if progress else True) as bar:
        for index, logits in _run(session, _readable(iter(loader), unread, skip_unreadable, bar)):
            rows[index].append(logits)
    combine = session.package.window.combine
    known = {i: windowed.combined(np.stack(row)[None], combine)[0] for i, row in enumerate(rows) if i not in unread}
    if not known:
        raise InputError(f"none of {len(clips)} clips can be read; first: {unread[0]}")
    nothing = np.zeros(len(session.package.labels), np.float32)
    return Scores(np.stack([known.get(i, nothing) for i in range(len(clips))]), unread)


def evaluate(
    session: Session,
    clips: ClipDataset,
    mode: str = "live",
    *,
    name: str = "",
    merged: Sequence[int] | None = None,
    scores: Scores | None = None,
) -> Report:
    """The report of a session on a dataset, with the package's temperature, background and threshold.

    Args:
        session: The model.
        clips: The dataset.
        mode: As `score` takes it.
        name: For the report; empty for the package's.
        merged: The dataset's class of each of the model's, where the model's are finer; their probabilities are summed.
        scores: What `score` made of them, where that is known already.

    Raises:
        InputError: The model's classes are not the dataset's, or as `score`.
    """
    package = session.package
    name = name or package.name
    if merged is None and tuple(package.labels) != tuple(clips.classes):
        raise InputError(
            f"{name} knows {', '.join(package.labels)} but the dataset's classes are {', '.join(clips.classes)}: "
            "evaluate it on the dataset it was trained for"
        )
    scores = score(session, clips, mode) if scores is None else scores
    probabilities = session.softmax(scores.logits)
    return report_of(name, clips, probabilities, scores.unread, merged, package.rejection.threshold)


def report_of(
    name: str,
    clips: ClipDataset,
    probabilities: np.ndarray,
    unread: Mapping[int, str],
    merged: Sequence[int] | None = None,
    threshold: float | None = None,
) -> Report:
    """The report of probabilities [N, the model's classes], those of clips that could not be read left aside."""
    own = None
    if merged is not None:
        own, probabilities = probabilities.max(axis=1), merge(probabilities, merged, len(clips.classes))
    probabilities = probabilities.copy()
    probabilities[list(unread)] = 0.0
    names = clips.names
    told = {names[index]: why for index, why in sorted(unread.items())}
    return Report(name, tuple(clips.classes), tuple(names), clips.labels, probabilities, threshold, told, own)


def logits(session: Session, clips: ClipDataset) -> np.ndarray:
    """[N, classes] of the window that the live recognizer has when each clip ends."""
    return score(session, clips).logits


def logits_of(session: Session, bodies: Iterable[np.ndarray], batch: int = 16) -> np.ndarray:
    """[N, classes] of windows [M, T, V, 3] in metres."""
    samples, rows = ({"bodies": window} for window in bodies), []
    while together := list(islice(samples, batch)):
        rows.append(session.logits(together))
    return np.concatenate(rows)


def check_fit(package: ModelPackage, clips: ClipDataset) -> None:
    """Refuses a dataset whose joints are not those that the package takes.

    Raises:
        InputError: Names both layouts.
    """
    wanted = windowed.body_layout(package)
    if wanted != clips.layout:
        raise InputError(
            f"package {package.name} takes joints of {wanted} but the dataset's are {clips.layout}: evaluate it on a "
            "dataset of its kind"
        )


def _readable(
    made: Iterable[tuple[int, Inputs | str]], unread: dict[int, str], skip: bool, bar: Any
) -> Iterator[tuple[int, Inputs]]:
    """What could be read; of the rest, the first is refused, or all are noted."""
    seen: set[int] = set()
    for index, inputs in made:
        bar.update(index not in seen)
        seen.add(index)
        if not isinstance(inputs, str):
            yield index, inputs
        elif skip:
            unread[index] = inputs
        else:
            # Export and quantizing score too, and have no such option.
            raise InputError(
                f"{inputs}; repair it, leave it out of a store (`actrec prepare`), or have `actrec eval` count it as "
                "wrong with --skip-unreadable"
            )


def _run(session: Session, made: Iterator[tuple[int, Inputs]]) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the clip, logits [classes]) of each."""
    while together := list(islice(made, session.at_once(BATCH))):
        scores = session.run(inputs for _, inputs in together)
        yield from zip((index for index, _ in together), scores, strict=True)


def _processes() -> Any:
    """Has workers forked from a process that holds nothing but this module: one with a session's threads may crash."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Made(IterableDataset[tuple[int, Inputs | str]]):
    """(index of a clip, a network's inputs) for each clip of T frames in it, or why it cannot be read."""

    def __init__(
        self,
        clips: ClipDataset,
        inputs: tuple[InputSpec, ...],
        window: WindowSpec,
        mode: str,
        varied: Draws | None = None,
    ):
        self.clips, self.inputs, self.window, self.mode, self.varied = clips, inputs, window, mode, varied

    def __iter__(self) -> Iterator[tuple[int, Inputs | str]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        names = self.clips.names
        for index in range(first, len(self.clips), step):
            try:
                yield from ((index, made) for made in _made(self.clips[index], self.inputs, self.window, self.mode))
                if self.varied is not None:
                    yield from ((index, made) for made in self.varied.of(index))
            except (InputError, DeviceError) as error:
                # Not raised: from another process it would arrive with that one's traceback in it.
                yield index, str(error) if names[index] in str(error) else f"clip '{names[index]}': {error}"


def inputs_of(clip: Clip, package: ModelPackage, mode: str) -> Iterator[Inputs]:
    """The inputs of a package's network for each clip of T frames in a recording, as `score` takes them."""
    yield from _made(clip, package.inputs, package.window, mode)


def _made(clip: Clip, inputs: tuple[InputSpec, ...], window: WindowSpec, mode: str) -> Iterator[Inputs]:
    for part in parts(clip, inputs, window, mode):
        yield from each_clip(clip.sampled(part.stamps_ns), inputs, part.window, part.starts)


def _as_it_is(value: Any) -> Any:
    return value
