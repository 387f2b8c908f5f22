"""Choice of the confidence below which a label is published as `unknown`."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from actrec import features
from actrec.datasets import find_copies, find_duplicates
from actrec.datasets.base import ClipDataset
from actrec.features.specs import InputSpec
from actrec.inference import package
from actrec.inference.session import Session, body_layout
from actrec.skeleton.layouts import CANONICAL, LAYOUTS
from actrec.types import STREAMS
from actrec.utils.errors import ActrecError, ConfigError
from actrec_models import evaluation
from actrec_models.data import unknown_clips
from actrec_models.data.samples import Samples
from actrec_models.data.unknown_clips import hands_from_bodies
from actrec_models.evaluation import elsewhere
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import training_clips

LEAST_KEPT = 0.9  # smallest share of the known actions' clips that must be accepted
LEAST_HELD = 30  # smallest number of held-out background clips; with fewer, the trained ones are taken
SEPARATION = 0.03  # how far the separation may lie below the best one in favor of a better calibrated confidence
HIGHEST = 0.9
"""Highest threshold. On overfitted training clips, higher ones separate as well but leave no range of confidences."""

_TEMPERATURES = np.geomspace(0.2, 3.0, 25).round(3)
_BACKGROUNDS = 41


@dataclass(frozen=True)
class CalibratedRejection:
    """A threshold, and the parameters of the confidence that it applies to.

    Attributes:
        threshold: Confidence, 0..1; 0 for labels that are more probable than the background.
        background: Logit of "none of these".
        temperature: Divisor of logits and background.
        known_kept: Share of the known actions' clips that are accepted.
        unknown_rejected: Share of other actions' clips that are rejected.
    """

    threshold: float
    background: float
    temperature: float
    known_kept: float
    unknown_rejected: float

    @property
    def separation(self) -> float:
        """Sum of both shares (Youden's J plus 1)."""
        return self.known_kept + self.unknown_rejected

    def confidence(self, logits: np.ndarray) -> np.ndarray:
        """Return [N] the probability of the best class of logits [N, classes], with the background as another class."""
        return _ScaledLogits(logits, self.temperature).confidence(self.background)

    def accepts(self, logits: np.ndarray) -> np.ndarray:
        """Return [N] whether logits [N, classes] give a label, as `actrec.inference.session.Session` decides it."""
        scaled = _ScaledLogits(logits, self.temperature)
        return scaled.confidence(self.background) >= self.threshold if self.threshold else scaled.above(self.background)

    def for_package(self, calibrated_on: str) -> package.Rejection:
        """Return the rejection as a package stores it."""
        return package.Rejection(self.threshold, self.temperature, calibrated_on, self.background)


class _ScaledLogits:
    """Logits [N, classes] divided by a temperature."""

    def __init__(self, logits: np.ndarray, temperature: float):
        self.temperature, self.logits = temperature, logits.astype(np.float64) / temperature
        self._best, self._total = self.logits.max(axis=1), np.logaddexp.reduce(self.logits, axis=1)

    def confidence(self, background: float) -> np.ndarray:
        """Return [N] the probability of the best class beside a background logit, divided by the temperature too."""
        return np.exp(self._best - np.logaddexp(self._total, background / self.temperature))

    def above(self, background: float) -> np.ndarray:
        """Return [N] whether the best class is as probable as the background."""
        above: np.ndarray = self._best >= background / self.temperature
        return above

    def loss(self, labels: np.ndarray, background: float) -> float:
        """Return the mean negative log likelihood of the labels.

        Platt's (1999) target in place of 1 keeps a few correct clips from driving all confidences to 1.
        """
        target = (len(labels) + 1) / (len(labels) + 2)
        logged = self.logits[np.arange(len(labels)), labels] - np.logaddexp(self._total, background / self.temperature)
        wrong = np.log(np.maximum(-np.expm1(logged), np.finfo(np.float64).tiny))
        return float(-(target * logged + (1 - target) * wrong).mean())


def choose(
    known: np.ndarray,
    labels: np.ndarray,
    unknown: np.ndarray,
    least_kept: float = LEAST_KEPT,
    wrong_rejected: bool = False,
) -> CalibratedRejection:
    """Choose the rejection that separates known from other actions with a calibrated confidence.

    Candidates are the backgrounds, temperatures and thresholds that accept at least `least_kept` of the known clips and
    separate within `SEPARATION` of the best. Of these, the one with the highest likelihood of the labels is chosen
    (temperature scaling, Guo et al. 2017). Separation alone would leave many candidates with meaningless confidences.

    Args:
        known: [N, classes] logits of known actions.
        labels: [N] their classes.
        unknown: [K, classes] logits of other actions; K may be 0.
        least_kept: Smallest share of accepted known clips.
        wrong_rejected: Whether only known clips whose best class is theirs are to be accepted, and others to be
            rejected like `unknown`.
    """
    is_kept = known.argmax(axis=1) == labels if wrong_rejected else np.full(len(labels), True)
    kept, rejected = known[is_kept], np.concatenate([unknown, known[~is_kept]])
    span = np.quantile(np.concatenate([known.max(axis=1), unknown.max(axis=1)]), [0.01, 0.99])
    backgrounds = np.linspace(span[0] - 6, span[1] + 2, _BACKGROUNDS).round(2)
    found = []
    for temperature in _TEMPERATURES:
        judged, ours, others = (_ScaledLogits(each, temperature) for each in (known, kept, rejected))
        found += [(_best_threshold(ours, others, float(b), least_kept), judged.loss(labels, b)) for b in backgrounds]
    most = max(rejection.separation for rejection, _ in found)
    near = [(rejection, loss) for rejection, loss in found if rejection.separation >= most - SEPARATION]
    return min(near, key=lambda each: each[1])[0]


def _best_threshold(
    known: _ScaledLogits, unknown: _ScaledLogits, background: float, least_kept: float
) -> CalibratedRejection:
    """Return the threshold that separates best for a background and accepts enough known clips."""
    ours, others = np.sort(known.confidence(background)), np.sort(unknown.confidence(background))
    # Rounded down for a readable model.yaml.
    candidates = np.unique(np.floor(np.quantile(ours, np.linspace(0, 1 - least_kept, 50)) * 1000) / 1000)
    candidates = np.concatenate([candidates[candidates <= HIGHEST], [0.0]])
    kept = 1 - np.searchsorted(ours, candidates) / len(ours)
    rejected = np.searchsorted(others, candidates) / max(1, len(others))
    kept[-1] = known.above(background).mean()  # without a threshold, the background decides
    rejected[-1] = (~unknown.above(background)).sum() / max(1, len(others))
    # Between two of few values, a quantile rejects too many.
    allowed = kept >= least_kept
    best = int(np.argmax(np.where(allowed, kept + rejected, -1.0)))
    if not rejected[best] and allowed[-1]:  # a threshold that rejects nothing else would reject unsure actions
        best = len(candidates) - 1
    return CalibratedRejection(
        float(candidates[best]), background, float(known.temperature), float(kept[best]), float(rejected[best])
    )


def calibration_obstacle(recipe: Recipe, specs: Iterable[InputSpec], data_root: str, root: str = "") -> str:
    """Return why no threshold can be chosen for a network with these inputs; empty if it can."""
    specs = list(specs)
    own = recipe.unknown_clips(data_root, "train", root)
    known = recipe.dataset_part(data_root, "train", root)
    obstacle = "" if len(own) else _unknown_dataset_obstacle(recipe, specs, known.classes, data_root)
    others = _streams_beside_bodies(specs)
    if obstacle or not others:
        return obstacle
    also = f"the network also takes {', '.join(others)}"
    chosen = own if len(own) else unknown_clips.load(recipe, known.classes, data_root, "train").clips[0][0]
    used = features.streams(specs)
    required = {stream for stream, needed in used.items() if needed}
    # Clips without a stream would be rejected for its zeros instead of their action.
    if not (required <= chosen.streams and _filled_streams(known) & set(used) <= _filled_streams(chosen)):
        source = "its recordings labeled unknown do" if len(own) else f"{recipe.unknown_dataset} does"
        return f"{also}, which {source} not contain"
    if not recipe.components().validation.holds:
        return f"{also}, but augmentation changes only joints: train with held-out clips (validation: {{share: 0.1}})"
    return ""


def _filled_streams(clips: ClipDataset) -> set[str]:
    """Return the streams, besides bodies, that the first clip contains; it stands for all."""
    others = clips[0].streams
    return {stream for stream, keys in STREAMS.items() if stream != "bodies" and any(key in others for key in keys)}


def _unknown_dataset_obstacle(recipe: Recipe, specs: list[InputSpec], classes: Sequence[str], data_root: str) -> str:
    """Return why the clips of the unknown dataset cannot be used; empty if they can."""
    if not recipe.unknown_dataset:
        return "the recipe has no unknown_dataset"
    if missing := unknown_clips.missing_dataset(recipe, data_root):
        return missing
    bodies = [spec for spec in specs if "bodies" in features.feature(spec.modality).streams]
    if foreign := sorted({spec.layout for spec in bodies if spec.layout in LAYOUTS} - {CANONICAL, "hand_22"}):
        return f"the network takes {foreign[0]}, {recipe.unknown_dataset} contains {CANONICAL}"
    try:
        held = unknown_clips.load(recipe, classes, data_root, "train").clips[0][0].layout
        taken = next((spec.layout for spec in bodies if spec.layout in LAYOUTS), CANONICAL)
        if held not in (CANONICAL, taken):
            return f"the network takes {taken}, {recipe.unknown_dataset} contains {held}"
    except ActrecError as error:  # trained by an older version, or with other files
        return str(error)
    return ""


def calibrate(recipe: Recipe, session: Session, data_root: str, root: str = "") -> tuple[CalibratedRejection, str]:
    """Choose the rejection on clips of the training part and of other actions; also return a description of the clips.

    For a network of bodies, the training part's clips are newly augmented, which approximates unseen clips without the
    test part. Their windows are live or stretched as in the evaluation. For other networks, the clips that training
    held out are used.
    """
    if _streams_beside_bodies(session.package.inputs):
        held = recipe.components().validation.split(training_clips(recipe, data_root, root), recipe.seed)[1]
        assert held is not None
        clips, which = held, f"{len(held)} clips held out"
        known = evaluation.score(session, clips, clip_mode(recipe)).logits
    else:
        clips = recipe.dataset_part(data_root, "train", root)
        known, which = _augmented_logits(recipe, session, clips), "augmented"
    chosen = choose(known, clips.labels, unknown_logits(recipe, session, data_root, "train", root))
    own = len(recipe.unknown_clips(data_root, "train", root))
    against = f"{own} of its recordings labeled unknown"
    excluded: Sequence[str] = ()
    if not own:
        against = f"{recipe.unknown_dataset} train part"
        against += ", its right hands with poses of the gestures" if clips.layout == "hand_22" else ""
        excluded = unknown_clips.load(recipe, clips.classes, data_root, "train").excluded
    if recipe.background:
        held_out = len(held_background(recipe, data_root, root))
        against = f"{held_out} held-out clips of the background" if held_out else f"{against}, trained as background"
    without = f"; without: {', '.join(excluded)}" if excluded else ""
    return chosen, (
        f"{recipe.dataset} train part, {which} ({chosen.known_kept:.1%} kept), against {against} "
        f"({chosen.unknown_rejected:.1%} rejected){without}"
    )


def calibrate_left_out(
    sessions: Sequence[Session], base: package.ModelPackage, data_root: str
) -> tuple[CalibratedRejection, str]:
    """Choose the rejection of `base` on the training people of sets that networks of its recipe were trained without.

    Clips of people, sensors and rooms that are new to a network get lower and less certain scores than its own training
    clips. Labels that are wrong are to be rejected too. Each set counts the same. Also return a description.

    Raises:
        ConfigError: A network was trained on every set.
    """
    parts, names = [], []
    for session in sessions:
        labels, learned = session.package.labels, elsewhere.learned_classes(session.package)
        for share in elsewhere.left_out(session.package, data_root, base):
            clips, truth = elsewhere.shared_clips(data_root, share, {})
            logits = np.asarray(evaluation.score(session, clips, "live").logits)
            parts.append((logits, np.array([labels.index(name) if name in learned else -1 for name in truth])))
            names.append(share.name)
    most, rng = max(len(classes) for _, classes in parts), np.random.default_rng(0)
    drawn = [np.resize(rng.permutation(len(classes)), most) for _, classes in parts]
    logits, classes = (
        np.concatenate([part[which][chosen] for part, chosen in zip(parts, drawn, strict=True)]) for which in (0, 1)
    )
    known, epochs = classes >= 0, elsewhere.other_epochs([session.package for session in sessions], base)
    chosen = choose(logits[known], classes[known], logits[~known], LEAST_KEPT, wrong_rejected=True)
    return chosen, (
        f"training people of {' and '.join(names)} by networks{epochs} trained without the set "
        f"({chosen.known_kept:.1%} of right labels kept, {chosen.unknown_rejected:.1%} of wrong ones and other "
        "actions rejected)"
    )


def check_held_out(
    recipe: Recipe,
    trained: Recipe,
    specs: Iterable[InputSpec],
    message: str = "the recipe holds out other clips than the training: use the training's validation and seed",
) -> None:
    """Raise a ConfigError if the rejection is chosen on held-out clips and the recipe holds out other ones."""
    ours, theirs = (each.components().validation for each in (recipe, trained))
    if not (_streams_beside_bodies(specs) or (recipe.background and ours.by)):
        return
    if ours != theirs or (not ours.only and recipe.seed != trained.seed):
        raise ConfigError(message)


def _streams_beside_bodies(specs: Iterable[InputSpec]) -> list[str]:
    return sorted(set(features.streams(specs)) - {"bodies"})


def _augmented_logits(recipe: Recipe, session: Session, clips: ClipDataset) -> np.ndarray:
    """Return the logits [N, classes] of one augmented version of each clip."""
    # Without augmentation labels of sides may not change, and the training saw no mirrored clip.
    mirror = {} if recipe.augment else {"mirror": False}
    augmentation = dataclasses.replace(recipe.check(), stretched=float(recipe.clips == "stretched"), **mirror)
    samples = Samples(clips, list(session.package.inputs), session.package.window, recipe, augmentation)
    rngs = [np.random.default_rng([recipe.seed, recipe.epochs, index]) for index in range(len(samples))]
    bodies = [samples.varied_bodies(samples.clips[i], rng) for i, rng in enumerate(rngs)]
    return evaluation.window_logits(session, bodies)


def clip_mode(recipe: Recipe) -> str:
    """Return the clip mode of the clips that the rejection is chosen on."""
    return "stretched" if recipe.clips == "stretched" else "live"


def unknown_logits(recipe: Recipe, session: Session, data_root: str, part: str, root: str = "") -> np.ndarray:
    """Return the logits [K, classes] of other actions: the dataset's recordings labeled unknown, or another dataset.

    Clips of the unknown dataset whose action is among the classes are excluded, and from the test part copies of the
    training part's clips, on which the threshold is chosen, and of one another. A network of hands gets the bodies'
    right hands, with poses from the recipe's own dataset (`hands_from_bodies`).

    Raises:
        ConfigError: The recipe excludes an action that the unknown dataset does not have, or all of them.
    """
    if part == "train" and len(held := held_background(recipe, data_root, root)):
        return np.asarray(evaluation.score(session, held, clip_mode(recipe)).logits)
    has_own = len(recipe.unknown_clips(data_root, "train", root)) > 0

    def load(part: str) -> ClipDataset:
        if has_own:
            return recipe.unknown_clips(data_root, part, root)
        return unknown_clips.load(recipe, session.package.labels, data_root, part).read()

    clips = load(part)
    if part == "test" and len(clips):
        copies = find_duplicates(clips, lambda: load("train")).keys() | find_copies(clips).keys()
        clips = clips.subset([index for index, name in enumerate(clips.names) if name not in copies])
    if not has_own and body_layout(session.package) == "hand_22" and clips.layout != "hand_22":
        clips = hands_from_bodies(clips, recipe.dataset_part(data_root, part, root))
    if not len(clips):
        return np.zeros((0, len(session.package.labels)), np.float32)
    logits: np.ndarray = evaluation.score(session, clips, clip_mode(recipe)).logits
    return logits


def held_background(recipe: Recipe, data_root: str, root: str = "") -> ClipDataset:
    """Return the clips of the background class that training held out; none if they are too few for a threshold."""
    if not recipe.background:
        return ClipDataset([], ())
    held = unknown_clips.background(recipe, training_clips(recipe, data_root, root), data_root, root)[1]
    return held if len(held) >= LEAST_HELD else held.subset([])


def calibration_recordings(recipe: Recipe, classes: Sequence[str], data_root: str, root: str = "") -> tuple[str, ...]:
    """Return the identities of the user's recordings that a threshold is chosen on (`ClipDataset.identities`)."""
    own = recipe.unknown_clips(data_root, "train", root)
    return own.identities() if len(own) else unknown_clips.load(recipe, classes, data_root, "train").identities()
