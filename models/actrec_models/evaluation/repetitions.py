"""Repeated trainings of one recipe: over the folds of a dataset, or over seeds, each scored, with mean and deviation.

Each repetition has a folder of its own in the run's, `fold_07` or `seed_2`, with its checkpoints and `figures.json`.
One that has its figures is not trained again, so the same command continues a run that was stopped. The summary is of
all repetitions in the folder.
"""

import contextlib
import dataclasses
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from actrec import datasets
from actrec.utils import config
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.folders import write_file
from actrec_models.evaluation.evaluator import EvalOptions, evaluate_models
from actrec_models.evaluation.protocol import open_model
from actrec_models.training import checkpoints, initial_weights, trainer
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

FIGURES, SUMMARY = "figures.json", "summary.json"
TESTED = "test_sha256"
"""Key of the fingerprint of the test part in `FIGURES`."""


@dataclass(frozen=True)
class Repetition:
    """A scored repetition: its fold or seed, top-1 and mean per-class accuracy (shares of 1), clips, checkpoint.

    `accuracy_of_learned` is top-1 of the clips whose class has training clips; None if unknown or if there are none.
    """

    number: int
    accuracy: float
    mean_class_accuracy: float | None
    clips: int
    checkpoint: str
    accuracy_of_learned: float | None = None


@dataclass(frozen=True)
class Repetitions:
    """All repetitions of a recipe.

    Attributes:
        kind: "fold" or "seed".
        dataset: The dataset.
        split: Its split.
        measure: Field of `Repetition` that the dataset's protocol reports.
        results: One for each repetition.
        model: The network; empty if an earlier version wrote the summary.
        dataset_options: Options of the dataset, but the fold.
    """

    kind: str
    dataset: str
    split: str
    measure: str
    results: tuple[Repetition, ...]
    model: str = ""
    dataset_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """The measure of each repetition, a share of 1."""
        return [getattr(result, self.measure) for result in self.results]

    @property
    def mean(self) -> float:
        """Mean of the measure."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the measure; 0 for one repetition."""
        return statistics.stdev(self.values) if len(self.results) > 1 else 0.0

    @property
    def mean_of_learned(self) -> float | None:
        """Mean of `accuracy_of_learned`; None if a repetition has none."""
        values = [result.accuracy_of_learned for result in self.results]
        return statistics.fmean(known) if len(known := [v for v in values if v is not None]) == len(values) else None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for JSON."""
        more = {"mean": self.mean, "std": self.deviation, "mean_of_learned": self.mean_of_learned}
        return {**dataclasses.asdict(self), **more}

    def text(self) -> str:
        """Return a line for each repetition, and the mean ± standard deviation."""
        lines = [
            f"{self.kind} {result.number}: {100 * value:.2f} % of {result.clips} clips  {result.checkpoint}"
            for result, value in zip(self.results, self.values, strict=True)
        ]
        name = self.measure.replace("_", " ")
        mean = f"{100 * self.mean:.2f} ± {100 * self.deviation:.2f} % {name}"
        lines.append(f"mean of {len(self.results)} {self.kind}s: {mean} (± sample standard deviation)")
        if any(result.accuracy_of_learned not in (None, result.accuracy) for result in self.results):
            of_learned = "–" if self.mean_of_learned is None else f"{100 * self.mean_of_learned:.2f} %"
            lines.append(f"mean accuracy of the clips whose class has training clips: {of_learned}")
        return "\n".join(lines)


def numbers(recipe: Recipe, kind: str, asked: Sequence[int], data_root: str = "", root: str = "") -> list[int]:
    """Return the numbers of the repetitions; no `asked` folds are all that the dataset has in its folder.

    Raises:
        ConfigError: The dataset has no folds, or not these; a number appears twice.
        ActrecError: As `datasets.folds`.
    """
    found, folds = list(asked), datasets.DATASETS.get(recipe.dataset).folds
    if kind == "fold" and not folds:
        raise ConfigError(f"dataset {recipe.dataset} is not divided into folds: omit --folds, or repeat with --seeds")
    if len(set(found)) < len(found):
        raise ConfigError(f"--{kind}s {', '.join(map(str, found))}: one appears twice")
    if kind == "seed":
        return found
    folder = root or datasets.folder(data_root, recipe.dataset)
    there = datasets.folds(recipe.dataset, folder, split=recipe.split, **recipe.dataset_options)
    if not there or not set(found) <= set(there):
        known = ", ".join(map(str, there)) or "no folds"
        what = f"split {recipe.split} of {recipe.dataset} has test clips in folds {known} of '{folder}'"
        raise ConfigError(f"{what}; got {', '.join(map(str, found)) or 'all'} (--folds)")
    return found or there


def train(
    recipe: Recipe, kind: str, asked: Sequence[int], data_root: str, out: Path, *, root: str = "", resume: bool = True,
    progress: bool = True, **options: Any,
) -> Repetitions:  # fmt: skip
    """Train and score each repetition of a recipe that has no figures yet, and write their summary.

    Args:
        recipe: Its fold or seed is replaced.
        kind: "fold" or "seed".
        asked: Folds or seeds; no folds are all that the dataset has in its folder.
        data_root: Folder with a subfolder per dataset; `root`: folder of the recipe's dataset itself.
        out: Folder of the run.
        resume: Keep the repetitions that are trained already, and count others in `out` too.
        progress: Show progress bars.
        options: Further ones of `trainer.train`.

    Raises:
        ConfigError: The dataset has no such folds, or `out` holds repetitions of another recipe, of other data or from
            other initial weights.
        ActrecError: As `trainer.train` and `evaluate_models`.
        TrainingInterrupted: SIGTERM or Ctrl-C; the same command continues.
    """
    wanted = numbers(recipe, kind, asked, data_root, root)
    width = (
        len(str(datasets.DATASETS.get(recipe.dataset).folds)) if kind == "fold" else 1
    )  # sorted by name, all at once
    if resume:
        wanted += _finished(out, kind, width, wanted)
    folders = {number: out / f"{kind}_{number:0{width}d}" for number in wanted}
    runs = {number: _with(recipe, kind, number) for number in wanted}
    distinct = wanted if kind == "fold" else wanted[:1]  # seeds share the test part, whose digest takes long
    tested = {number: runs[number].dataset_part(data_root, "test", root).fingerprint() for number in distinct}
    tested |= dict.fromkeys(set(wanted) - set(distinct), tested[wanted[0]])
    done = {number: _read(folders[number], runs[number], tested[number]) if resume else None for number in wanted}
    results: dict[int, Repetition] = {number: result for number, result in done.items() if result is not None}
    for number in results:
        _check_data(folders[number], runs[number], data_root, root, options.get("init", ()))
    if results:
        logger.info("%d of %d %ss have figures already", len(results), len(wanted), kind)
    first = not getattr(rank_zero_only, "rank", None)  # of several processes, it scores
    world = (options.get("machine") or trainer.Machine()).trainer_options()
    alone = world["devices"] * world["num_nodes"] == 1

    def score(number: int, checkpoint: Path) -> None:
        results[number] = _score(number, checkpoint, runs[number], data_root, root, progress)
        content = {"recipe": runs[number].as_dict(), TESTED: tested[number], **dataclasses.asdict(results[number])}
        write_file(folders[number] / FIGURES, (json.dumps(content, indent=2) + "\n").encode())
        logger.info("%s %d: %.2f %%", kind, number, 100 * results[number].accuracy)

    if not resume:  # a stopped new run must not resume from an earlier one's checkpoints
        of_runs = [folder for number in wanted for folder in runs[number].folders(folders[number])]
        with contextlib.ExitStack() as locks:  # a training in progress must not lose its checkpoints
            for folder in [each for each in folders.values() if each.is_dir()]:
                locks.enter_context(checkpoints.locked(folder))
            trainer.delete_checkpoints(of_runs, options.get("init", ()))
            for file in [out / SUMMARY, *(folder / FIGURES for folder in folders.values())] if first else ():
                file.unlink(missing_ok=True)
    trained: dict[int, Path] = {}
    for number in wanted:
        if number in results:
            continue
        own, folder = runs[number], folders[number]
        trained[number] = trainer.train(own, data_root, folder, root=root, resume=resume, progress=progress, **options)
        if alone:
            score(number, trained[number])
    if first and not alone:  # now, because the other processes would wait for it in the next training, until a timeout
        for number, checkpoint in trained.items():
            score(number, checkpoint)
    for number in _finished(out, kind, width, wanted) if resume and first else ():  # by another command meanwhile
        own, folder = _with(recipe, kind, number), out / f"{kind}_{number:0{width}d}"
        part = own.dataset_part(data_root, "test", root).fingerprint() if kind == "fold" else tested[wanted[0]]
        if (result := _read(folder, own, part)) is not None:
            results[number] = result
            wanted.append(number)
    measure = datasets.DATASETS.get(recipe.dataset).measure
    ordered = tuple(results[number] for number in wanted if number in results)
    known = {name: value for name, value in recipe.dataset_options.items() if name != "fold"}
    summary = Repetitions(kind, recipe.dataset, recipe.split, measure, ordered, recipe.model, known)
    if first:
        write_file(out / SUMMARY, (json.dumps(summary.as_dict(), indent=2) + "\n").encode())
    return summary


def read_summary(folder: Path) -> Repetitions | None:
    """Return the summary in the folder of a run; None if it has none.

    Raises:
        InputError: It is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = tuple(Repetition(**each) for each in content["results"])
        first = {key: content[key] for key in ("kind", "dataset", "split", "measure")}
        more = {key: content[key] for key in ("model", "dataset_options") if key in content}
        summary = Repetitions(**first, results=results, **more)
        if not results or summary.mean != summary.mean:
            raise ValueError("it has no results")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is damaged ({error}): give the command of the training again") from error
    return summary


def _finished(out: Path, kind: str, width: int, but: Sequence[int]) -> list[int]:
    """Return the numbers of further repetitions in a folder that have figures."""
    names = [path.parent.name.removeprefix(f"{kind}_") for path in out.glob(f"{kind}_*/{FIGURES}")]
    numbers = [int(name) for name in names if name.isdecimal() and name == f"{int(name):0{width}d}"]
    return sorted(set(numbers) - set(but))


def _check_data(folder: Path, recipe: Recipe, data_root: str, root: str, init: Sequence[Path]) -> None:
    """Raise ConfigError if a finished repetition was trained on other data or from other initial weights.

    Without its checkpoint, this is unknown.
    """
    if (found := checkpoints.newest(folder)) is None:
        return
    own = config.build(Recipe, found[1]["hyper_parameters"]["recipe"])  # compared by `_read`
    data = trainer.fingerprint(*trainer.training_data(recipe, data_root, root))
    checkpoints.check_same_run(found, own, data, [initial_weights.identity(file) for file in init])


def _with(recipe: Recipe, kind: str, number: int) -> Recipe:
    if kind == "seed":
        return dataclasses.replace(recipe, seed=number)
    return dataclasses.replace(recipe, dataset_options={**recipe.dataset_options, "fold": number})


def _read(folder: Path, recipe: Recipe, tested: str) -> Repetition | None:
    """Return the figures of a repetition that was trained by `recipe`; None if it has none, or of another test part."""
    path = folder / FIGURES
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before, scored = content.pop("recipe"), content.pop(TESTED, tested)
        result = Repetition(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s is damaged: scoring again", path)
        return None
    own = json.loads(json.dumps(recipe.as_dict()))
    if changed := [name for name, value in own.items() if before.get(name) != value and name != "commands"]:
        raise ConfigError(f"{folder} holds a run with another {', '.join(changed)}: choose another --out, or --fresh")
    if scored != tested:
        logger.warning("%s is of another test part: scoring again", path)
    return result if scored == tested else None


def _score(number: int, checkpoint: Path, recipe: Recipe, data_root: str, root: str, progress: bool) -> Repetition:
    model = open_model(checkpoint)
    options = EvalOptions(dataset=recipe.dataset, split=recipe.split, root=root)
    (found,) = evaluate_models([model], data_root, options, progress).results
    figures = found.summary()
    learned = figures.get("accuracy_of_learned", figures["accuracy"])
    per_class, clips = figures["mean_class_accuracy"], figures["clips"]
    return Repetition(number, figures["accuracy"], per_class, clips, str(checkpoint), learned)
