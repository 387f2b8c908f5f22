"""What a package says of itself once its network is there: rejection threshold, accuracy on the test part, card."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from actrec import features, inference, package
from actrec.package import PRECISIONS, LowerPrecision, ModelPackage, Rejection
from actrec_models import data, evaluation, half_precision, rejection
from actrec_models.card import card
from actrec_models.data.copies import copies
from actrec_models.evaluation import metrics
from actrec_models.recipe import Recipe


def write(
    draft: ModelPackage,
    content: bytes,
    folder: Path,
    recipe: Recipe,
    roots: tuple[str, str],
    weights: bytes | None = None,
    *,
    overwrite: bool = False,
    float16: bool = False,
) -> ModelPackage:
    """Writes a package with its rejection threshold and its accuracy on the test part.

    Args:
        draft: Its description without these.
        content: The network.
        folder: Where to; its name becomes the package's.
        recipe: Says what it is judged on, and how.
        roots: Folder that holds a folder a dataset, and that of the recipe's dataset itself, empty for its own.
        weights: PyTorch's, as `package.write` takes them.
        overwrite: Replace a package that is there.
        float16: Write the network in half precision beside it.

    Raises:
        PackageError: It cannot be written in float16.
    """
    draft, half = with_half(draft, content) if float16 else (draft, {})
    with tempfile.TemporaryDirectory() as scratch:
        drafted = package.write(Path(scratch) / folder.name, draft, content, lower=half)
        test = rejection.dataset_part(recipe, roots[0], "test", roots[1])
        draft = judged(draft, recipe, inference.load(drafted), test, roots)
        draft = rescored(draft, recipe, drafted, test)
    return package.write(folder, draft, content, weights, card(draft, folder.name), overwrite, half)


def judged(
    draft: ModelPackage, recipe: Recipe, session: inference.Session, test: data.ClipDataset, roots: tuple[str, str]
) -> ModelPackage:
    """The description with rejection, accuracy on the test part and the figures of the card.

    Args:
        draft: Its description; figures that are not of this kind stay.
        recipe: Says what it is judged on, and how.
        session: The network.
        test: The test part.
        roots: As `write` takes them.
    """
    chosen, figures = _judge(recipe, session, test, roots)
    chosen_on = figures.pop("chosen_on", ())
    streams = len(features.modalities(session.package.inputs))
    figures = {"streams": streams, **draft.provenance.figures, **figures}
    if chosen_on and "recordings" in figures:  # else nobody knows what was learnt, and this would seem to be all of it
        figures["recordings"] = list(dict.fromkeys([*figures["recordings"], *chosen_on]))
    provenance = dataclasses.replace(draft.provenance, accuracy=figures["accuracy"], figures=figures)
    return dataclasses.replace(draft, rejection=chosen, provenance=provenance)


def rescored(draft: ModelPackage, recipe: Recipe, written: ModelPackage, test: data.ClipDataset) -> ModelPackage:
    """The description with the accuracy of its networks in lower precision on the same clips.

    Args:
        draft: Its description.
        recipe: Says how windows are taken.
        written: The package whose networks these are.
        test: The test part; where it is empty nothing changes.
    """
    for name in PRECISIONS[1:]:
        told = draft.lower(name)
        if told is not None and len(test):
            found = _scores(recipe, inference.load(written, "onnxruntime", precision=name), test)
            accuracy = float((found.argmax(axis=1) == test.labels).mean())
            changed: dict[str, LowerPrecision] = {name: dataclasses.replace(told, accuracy=accuracy)}
            draft = dataclasses.replace(draft, **changed)  # type: ignore[arg-type]
    return draft


def with_half(draft: ModelPackage, content: bytes) -> tuple[ModelPackage, dict[str, bytes]]:
    """The description with that of its network in float16, and this, as `package.write` takes it."""
    half, told = half_precision.of_package(draft, content)
    return dataclasses.replace(draft, float16=told), {"float16": half}


def of_dataset(name: str, attribute: str) -> str:
    """What the dataset called `name`, or else any, says of itself."""
    kind = data.DATASETS.get(name) if name in data.DATASETS.names() else data.Source
    return str(getattr(kind, attribute))


def _scores(recipe: Recipe, session: inference.Session, clips: data.ClipDataset) -> np.ndarray:
    """Logits [N, classes]."""
    logits: np.ndarray = evaluation.score(session, clips, recipe.clips).logits
    return logits


def _judge(
    recipe: Recipe, session: inference.Session, test: data.ClipDataset, roots: tuple[str, str]
) -> tuple[Rejection, dict[str, Any]]:
    """The rejection, and the figures of the card; `roots` are of all datasets and of the recipe's."""
    scores = _scores(recipe, session, test) if len(test) else np.zeros((0, len(test.classes)), np.float32)
    right = scores.argmax(axis=1) == test.labels
    specs = session.package.inputs
    figures: dict[str, Any] = {
        "accuracy": float(right.mean()) if len(test) else 0.0,
        "test_clips": len(test),
    }
    figures |= without_copies(recipe, test, right, roots)
    if recipe.clips != "live" and len(test):
        live = evaluation.score(session, test, "live").logits
        figures.update(clips=recipe.clips, live_accuracy=float((live.argmax(axis=1) == test.labels).mean()))
    if caveat := of_dataset(recipe.dataset, "caveat"):
        figures["caveat"] = caveat
    missing = rejection.hindrance(recipe, specs, *roots)
    if missing:
        return Rejection(calibrated_on=f"not calibrated: {missing}"), figures
    chosen, described = rejection.calibrate(recipe, session, *roots)
    found = chosen.described(described)
    # The threshold has seen a person's own recordings: no later evaluation may count them as new.
    figures["chosen_on"] = rejection.chosen_on(recipe, session.package.labels, *roots)
    if not len(test):
        return found, figures
    confidence = chosen.confidence(scores)
    accepted = confidence >= chosen.threshold
    figures.update(test_confidence=float(confidence.mean()), test_ece=metrics.binned(confidence, right).ece)
    unknown = chosen.confidence(rejection.unknown_logits(recipe, session, roots[0], "test", roots[1]))
    figures.update(test_rejected=float((~accepted).mean()), test_right_and_accepted=float((accepted & right).mean()))
    if len(unknown):
        figures.update(unknown_rejected=float((unknown < chosen.threshold).mean()), unknown_clips=len(unknown))
    return found, figures


def without_copies(
    recipe: Recipe, test: data.ClipDataset, right: np.ndarray, roots: tuple[str, str]
) -> dict[str, float | int]:
    """What a card tells of test clips that the training part holds too, where there are any.

    Args:
        recipe: Names dataset and split.
        test: The test part.
        right: [N] whether each of its clips was recognised.
        roots: As `write` takes them.

    Returns:
        Figures "copies" and "accuracy_without_copies", or none.
    """
    if recipe.dataset == "folder":  # a person's own recordings are told apart by what they are
        return {}
    same = copies(test, lambda: rejection.dataset_part(recipe, roots[0], "train", roots[1]))
    own = np.array([name not in same for name in test.names])
    return {"copies": len(same), "accuracy_without_copies": float(right[own].mean())} if same and own.any() else {}
