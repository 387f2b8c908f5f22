"""Chooses when a label is published as `unknown`."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actrec import datasets, features
from actrec.datasets.base import ClipDataset
from actrec.features.specs import InputSpec
from actrec.inference import package
from actrec.inference.session import Session, body_layout
from actrec.skeleton.conversions import CANONICAL
from actrec.skeleton.layouts import LAYOUTS
from actrec.types import STREAMS
from actrec.utils.errors import ActrecError, ConfigError
from actrec_models import evaluation
from actrec_models.data import unknown_clips
from actrec_models.data.samples import Samples
from actrec_models.data.synthetic_unknown import hands_from_bodies
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import training_clips

LEAST_KEPT = 0.9
"""Share of the known actions that rejection must leave alone."""

SEPARATION = 0.03
"""How much of the sum of both shares, known clips kept and others rejected, a confidence that tells more may cost."""

HIGHEST = 0.9
"""Highest threshold: where training clips are all known by heart, those above separate as well, and leave no room for
confidences to differ."""

_TEMPERATURES = np.geomspace(0.2, 3.0, 25).round(3)

_BACKGROUNDS = 41


@dataclass(frozen=True)
class Rejection:
    """A threshold on the confidence, and what makes the confidence.

    Attributes:
        threshold: Confidence, 0..1.
        background: Logit of "none of these".
        temperature: Logits and background are divided by this.
        known_kept: Share of the known actions' clips that reach the threshold.
        unknown_rejected: Share of other actions' clips that do not.
    """

    threshold: float
    background: float
    temperature: float
    known_kept: float
    unknown_rejected: float

    @property
    def separation(self) -> float:
        """The sum of both shares (Youden's J, and 1)."""
        return self.known_kept + self.unknown_rejected

    def confidence(self, logits: np.ndarray) -> np.ndarray:
        """[N] of logits [N, classes]: the best class's probability, the background's share taken off."""
        return _Cooled(logits, self.temperature).confidence(self.background)

    def described(self, words: str) -> package.Rejection:
        """As a package has it, with `words` of what it was chosen on."""
        return package.Rejection(self.threshold, self.temperature, words, self.background)


class _Cooled:
    """Logits [N, classes] divided by a temperature."""

    def __init__(self, logits: np.ndarray, temperature: float):
        self.temperature, self.logits = temperature, logits.astype(np.float64) / temperature
        self._best, self._total = self.logits.max(axis=1), np.logaddexp.reduce(self.logits, axis=1)

    def confidence(self, background: float) -> np.ndarray:
        """[N] probability of the best class beside a background logit, which is divided likewise."""
        return np.exp(self._best - np.logaddexp(self._total, background / self.temperature))

    def loss(self, labels: np.ndarray, background: float) -> float:
        """Mean negative log likelihood of the labels, with Platt's (1999) target in place of 1.

        So that few clips that are all right do not make it sure of everything.
        """
        target = (len(labels) + 1) / (len(labels) + 2)
        logged = self.logits[np.arange(len(labels)), labels] - np.logaddexp(self._total, background / self.temperature)
        wrong = np.log(np.maximum(-np.expm1(logged), np.finfo(np.float64).tiny))
        return float(-(target * logged + (1 - target) * wrong).mean())


def choose(known: np.ndarray, labels: np.ndarray, unknown: np.ndarray, least_kept: float = LEAST_KEPT) -> Rejection:
    """The rejection that separates clips of known actions from those of others, with a confidence that can be read.

    Of the backgrounds, temperatures and thresholds that keep at least `least_kept` of the known, those are looked at
    whose separation is within `SEPARATION` of the best; of these it is the one by which the known clips' labels are
    likeliest (temperature scaling, Guo et al. 2017): the confidence is then as nearly as may be how often a label is
    right. Separation alone is as good with confidences that say nothing, and leaves many to choose from.

    Args:
        known: [N, classes] logits.
        labels: [N] of these clips.
        unknown: [K, classes] logits of other actions; K may be 0.
        least_kept: Share of the known.
    """
    span = np.quantile(np.concatenate([known.max(axis=1), unknown.max(axis=1)]), [0.01, 0.99])
    backgrounds = np.linspace(span[0] - 6, span[1] + 2, _BACKGROUNDS).round(2)
    found = []
    for temperature in _TEMPERATURES:
        ours, others = _Cooled(known, temperature), _Cooled(unknown, temperature)
        found += [(_at(ours, others, float(b), least_kept), ours.loss(labels, b)) for b in backgrounds]
    most = max(rejection.separation for rejection, _ in found)
    near = [(rejection, loss) for rejection, loss in found if rejection.separation >= most - SEPARATION]
    return min(near, key=lambda each: each[1])[0]


def _at(known: _Cooled, unknown: _Cooled, background: float, least_kept: float) -> Rejection:
    """The threshold that separates best beside a background, among those that keep so many of the known."""
    ours, others = np.sort(known.confidence(background)), np.sort(unknown.confidence(background))
    # Rounded down, so that model.yaml reads well.
    candidates = np.unique(np.floor(np.quantile(ours, np.linspace(0, 1 - least_kept, 50)) * 1000) / 1000)
    candidates = np.concatenate([[0.0], candidates[candidates <= HIGHEST]])
    kept = 1 - np.searchsorted(ours, candidates) / len(ours)
    rejected = np.searchsorted(others, candidates) / max(1, len(others))
    # Between two of few values a quantile rejects more than it is meant to.
    allowed = kept >= least_kept
    best = int(np.argmax(np.where(allowed, kept + rejected, -1.0)))
    return Rejection(
        float(candidates[best]), background, float(known.temperature), float(kept[best]), float(rejected[best])
    )


def hindrance(recipe: Recipe, specs: Iterable[InputSpec], data_root: str, root: str = "") -> str:
    """Why no threshold can be chosen for a network with these inputs; empty where it can."""
    specs = list(specs)
    own = recipe.own_unknown(data_root, "train", root)
    known = dataset_part(recipe, data_root, "train", root)
    without = "" if len(own) else _without_foreign(recipe, specs, known.classes, data_root)
    others = _more(specs)
    if without or not others:
        return without
    also = f"the network also takes {', '.join(others)}"
    chosen = own if len(own) else unknown_clips.load(recipe, known.classes, data_root, "train").clips[0][0]
    if _lacks(chosen, known, features.streams(specs)):
        lacking = "its recordings labeled unknown do" if len(own) else f"{recipe.unknown_dataset} does"
        return f"{also}, which {lacking} not hold"
    if not recipe.parts()[3].holds:
        return f"{also}, and clips are varied by their joints: train with clips held out (validation: {{share: 0.1}})"
    return ""


def _lacks(chosen: ClipDataset, known: ClipDataset, taken: Mapping[str, bool]) -> bool:
    """Whether clips of other actions lack a stream that must be there, or that the known ones have.

    Those would be told apart by what is zero for want of it, not by what is done.

    Args:
        chosen: Of other actions.
        known: Of the training part.
        taken: The network's streams, and whether each must be there.
    """
    needed = {stream for stream, required in taken.items() if required}
    return not (needed <= chosen.streams and _held(known) & set(taken) <= _held(chosen))


def _held(clips: ClipDataset) -> set[str]:
    """The streams, beside bodies, of which the clips have something; the first speaks for all."""
    others = clips[0].streams
    return {stream for stream, keys in STREAMS.items() if stream != "bodies" and any(key in others for key in keys)}


def _without_foreign(recipe: Recipe, specs: list[InputSpec], classes: Sequence[str], data_root: str) -> str:
    """Why the clips of an unknown dataset cannot be taken; empty where they can."""
    if not recipe.unknown_dataset:
        return "the recipe names no unknown_dataset"
    bodies = [spec for spec in specs if "bodies" in features.feature(spec.modality).streams]
    foreign = sorted({spec.layout for spec in bodies if spec.layout in LAYOUTS} - {CANONICAL, "hand_22"})
    if not_there := unknown_clips.missing_dataset(recipe, data_root):
        return not_there
    if foreign:
        return f"the network takes {foreign[0]}, {recipe.unknown_dataset} holds {CANONICAL}"
    try:
        unknown_clips.load(recipe, classes, data_root, "train")
    except ActrecError as error:  # training would have refused it: one from before it did, or by other files
        return str(error)
    return ""


def calibrate(recipe: Recipe, session: Session, data_root: str, root: str = "") -> tuple[Rejection, str]:
    """Chooses on clips of the training part and those of other actions (`unknown_logits`); also says so in words.

    Of a network of bodies they are augmented: draws that training did not see are the nearest to unseen clips that does
    not touch the test part. Their windows are taken as evaluation takes them, so that the threshold suits what is
    judged: all live or all stretched. Of a network that takes more they are those that training held out.
    """
    if _more(session.package.inputs):
        held = recipe.parts()[3].split(training_clips(recipe, data_root, root), recipe.seed)[1]
        assert held is not None
        clips, which = held, f"{len(held)} clips held out"
        known = evaluation.score(session, clips, _mode(recipe)).logits
    else:
        clips = dataset_part(recipe, data_root, "train", root)
        known, which = _varied_logits(recipe, session, clips), "augmented"
    chosen = choose(known, clips.labels, unknown_logits(recipe, session, data_root, "train", root))
    own = len(recipe.own_unknown(data_root, "train", root))
    share = f"({chosen.unknown_rejected:.1%} rejected)"
    against = (
        f"{own} of its recordings labeled unknown {share}" if own else _foreign_words(recipe, clips, data_root, share)
    )
    return chosen, f"{recipe.dataset} train part, {which} ({chosen.known_kept:.1%} kept), against {against}"


def check_held_out(recipe: Recipe, trained: Recipe, specs: Iterable[InputSpec]) -> None:
    """Refuses to choose on clips that training did not hold out, where it is they that are chosen on.

    Raises:
        ConfigError: The recipe holds out others than that of the training did.
    """
    if _more(specs) and (recipe.validation, recipe.seed) != (trained.validation, trained.seed):
        raise ConfigError("the recipe holds other clips out than the training did: give it that validation and seed")


def _more(specs: Iterable[InputSpec]) -> list[str]:
    """What these inputs are made of beside bodies."""
    return sorted(set(features.streams(specs)) - {"bodies"})


def _varied_logits(recipe: Recipe, session: Session, clips: ClipDataset) -> np.ndarray:
    """[N, classes] of a draw of each clip."""
    varied = dataclasses.replace(recipe.check(), stretched=float(recipe.clips == "stretched"))
    samples = Samples(clips, list(session.package.inputs), session.package.window, recipe, varied)
    draws = [np.random.default_rng([recipe.seed, recipe.epochs, index]) for index in range(len(samples))]
    return evaluation.logits_of(session, [samples.varied_bodies(samples.clips[i], rng) for i, rng in enumerate(draws)])


def _mode(recipe: Recipe) -> str:
    """How windows are taken of what rejection is chosen on."""
    return "stretched" if recipe.clips == "stretched" else "live"


def _foreign_words(recipe: Recipe, known: ClipDataset, data_root: str, share: str) -> str:
    """What of the unknown dataset was taken, and the share of it that is rejected."""
    hands = ", its right hands with poses of the gestures" if known.layout == "hand_22" else ""
    without = unknown_clips.load(recipe, known.classes, data_root, "train").excluded
    left_out = f"; without: {', '.join(without)}" if without else ""
    return f"{recipe.unknown_dataset} train part{hands} {share}{left_out}"


def unknown_logits(recipe: Recipe, session: Session, data_root: str, part: str, root: str = "") -> np.ndarray:
    """[K, classes] of clips of other actions: the dataset's own of which the training part has some, or another's.

    Of the unknown dataset those are left out whose action is among the classes. For a network of hands they are the
    bodies' right hands, with poses of the recipe's own dataset's part (`hands_from_bodies`).

    Raises:
        ConfigError: The recipe leaves out an action that the unknown dataset does not have, or all of them.
    """
    own = len(recipe.own_unknown(data_root, "train", root))
    chosen = recipe.own_unknown(data_root, part, root) if own else _foreign(recipe, session, data_root, part, root)
    if not len(chosen):
        return np.zeros((0, len(session.package.labels)), np.float32)
    logits: np.ndarray = evaluation.score(session, chosen, _mode(recipe)).logits
    return logits


def _foreign(recipe: Recipe, session: Session, data_root: str, part: str, root: str) -> ClipDataset:
    """The unknown dataset's clips."""
    others = unknown_clips.load(recipe, session.package.labels, data_root, part)
    if body_layout(session.package) != "hand_22":
        return others.read()
    return hands_from_bodies(others.read(), dataset_part(recipe, data_root, part, root))


def chosen_on(recipe: Recipe, classes: Sequence[str], data_root: str, root: str = "") -> tuple[str, ...]:
    """What tells the recordings of a person's own that a threshold was chosen on (`ClipDataset.identities`)."""
    own = recipe.own_unknown(data_root, "train", root)
    return own.identities() if len(own) else unknown_clips.load(recipe, classes, data_root, "train").identities()


def dataset_part(recipe: Recipe, data_root: str, part: str, root: str = "") -> ClipDataset:
    """The "train" or "test" part of the dataset that a recipe names; `root` is its folder, if not in `data_root`."""
    folder = root or datasets.folder(data_root, recipe.dataset)
    return datasets.create(recipe.dataset, folder, split=recipe.split, part=part, **recipe.dataset_options)
