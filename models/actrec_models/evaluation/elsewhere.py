"""Accuracy of a model on the datasets of `everyday`, above all on the ones that it was not trained on.

Labels of a model are compared as classes of `everyday`: "pick up with one hand" of N-UCLA is a "pick up". A clip whose
class no label of the model has, or none that a training clip showed, is another action, which the model should reject.
Copies of a clip count once, and not at all if the clip is in the part that trained the model or on which its thresholds
were chosen.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from actrec import datasets, features
from actrec.datasets.base import Entry, Source, SourceDataset
from actrec.datasets.everyday import FINAL_SETS, SETS, Everyday, class_of
from actrec.inference.package import ModelPackage
from actrec.inference.session import Session, body_layout
from actrec.skeleton.layouts import CANONICAL
from actrec.types import UNKNOWN
from actrec.utils.errors import ConfigError, DeviceError
from actrec_models.data.continuous import ActionStream, join_clips, person_streams
from actrec_models.evaluation import scoring, streams
from actrec_models.evaluation.protocol import Model
from actrec_models.evaluation.streams import StreamScore
from actrec_models.training import provenance

PEOPLE, CLIPS, MINUTES = 4, 24, 1.0
"""People of each set whose clips are joined to recordings, clips of each person, and minutes, at most."""


THRESHOLDS = "thresholds"
"""Key of the thresholds in what `measure` returns; cards do not repeat them."""


@dataclass(frozen=True)
class Share:
    """The clips of one dataset that a model is tested on.

    Attributes:
        name: One of `everyday.SETS` or `everyday.FINAL_SETS`.
        key: Metadata of an item with its part ("own" or "person"); only one part is scored. Empty for all clips.
        part: That part.
        is_trained: Whether the other part of the dataset trained the model.
    """

    name: str
    key: str = ""
    part: str = "test"
    is_trained: bool = False

    def has(self, entry: Entry) -> bool:
        """Return whether an item is scored."""
        return not self.key or entry.meta[self.key] == self.part


def measure(model: Model, data_root: str, options: Mapping[str, Any], progress: bool = False) -> dict[str, Any]:
    """Return the figures of a model on each set, for `--json`; for a model of hands, why there are none.

    Args:
        data_root: Folder of the datasets.
        options: Fields of `EverydayConfig`; `sets` are all training sets that are there by default.

    Raises:
        ConfigError: An option is unknown.
        DeviceError: No set is in the folder.
    """
    package = model.package
    figures: dict[str, Any] = {"model": model.name, "package": package.provenance.onnx_sha256, "sets": []}
    settings = getattr(model.session.backend, "config", None)  # a checkpoint has none
    figures |= {"precision": getattr(settings, "precision", "float32"), THRESHOLDS: thresholds(package)}
    if (layout := body_layout(package)) != CANONICAL:
        return {**figures, "note": f"not measured: no other dataset of {layout} is available"}
    needed = [stream for stream, required in features.streams(package.inputs).items() if required]
    if others := [stream for stream in needed if stream != "bodies"]:
        return {**figures, "note": f"not measured: it takes {', '.join(others)}, and these sets have joints alone"}
    if not (found := shares(package, data_root, options.get("sets") or [])):
        return {**figures, "note": "not measured: all clips of these sets may have trained the model"}
    rows = [_measure(model.session, share, data_root, {**options, "sets": [share.name]}, progress) for share in found]
    if not any(rows):
        return {**figures, "note": "not measured: these sets have no clips of the parts that test"}
    return {**figures, "sets": [row for row in rows if row]}


def thresholds(package: ModelPackage) -> str:
    """Return the thresholds of a package, on which its figures depend, as text."""
    rejection, events = package.rejection, package.events
    return f"{rejection.threshold:g} {rejection.background} {events.begin:g} {sorted(events.classes.items())}"


def shares(package: ModelPackage, data_root: str, sets: Sequence[str]) -> list[Share]:
    """Return the clips that a model is tested on: all people of sets that did not train it, else the test part.

    Of a set against which the threshold was chosen, only the other part is taken. A model of one set is not tested on
    it again.
    """
    if unknown := sorted(set(sets) - {*SETS, *FINAL_SETS}):
        raise ConfigError(f"everyday has no set {unknown[0]}; known: {', '.join((*SETS, *FINAL_SETS))}")
    present = [name for name in sets or SETS if Path(datasets.folder(data_root, name)).is_dir()]
    if missing := sorted(set(sets) - set(present)) or ([] if present else list(SETS)):
        raise DeviceError(f"'{data_root}' holds no folder of {', '.join(missing)}; check --data")
    trained = trained_sets(package)
    found = []
    for name in present:
        if name not in trained:
            is_used = f" {name} " in package.rejection.calibrated_on
            found.append(Share(name, "own" if is_used else ""))
        elif trained[name]:
            found.append(Share(name, trained[name], is_trained=True))
    return found


def trained_sets(package: ModelPackage) -> dict[str, str]:
    """Return the sets that a model or its initial network was trained on, with the split of `everyday` that tests.

    The split is "" if no clip of the set is surely new to the model.
    """
    found: dict[str, str] = {}
    for training in provenance.trainings(package.provenance):
        split = _split_of_sets(training["dataset"], training["split"])
        names = provenance.divisions(training, "train")
        found |= {name: split if found.get(name, split) == split else "" for name in names}
    return found


def _split_of_sets(dataset: str, split: str) -> str:
    """Return the split of `everyday`, or of a dataset made of it, if it divides each set; else an empty text."""
    merges = dataset in datasets.DATASETS.names() and issubclass(datasets.DATASETS.get(dataset), Everyday)
    return split if merges and split != "leave_one_set_out" else ""


def left_out(package: ModelPackage, data_root: str, base: ModelPackage) -> list[Share]:
    """Return the training people of the sets that a network with split leave_one_set_out was trained without.

    The split of `base`, of the same recipe, decides who these people are.

    Raises:
        ConfigError: There are none.
    """
    known = trained_sets(base).keys() & {*SETS, *FINAL_SETS}  # others are new to all networks of the recipe
    found = [share for share in shares(package, data_root, ()) if not share.is_trained]
    shares_ = [share for share in found if not known or share.name in known]
    if not shares_:
        raise ConfigError(
            f"{package.name} was trained on every set in '{data_root}': it has no set to choose thresholds on"
        )
    key = _split_of_sets(base.provenance.dataset, base.provenance.split) or "own"
    return [Share(share.name, key, "train") for share in shares_]


def other_epochs(packages: Sequence[ModelPackage], base: ModelPackage) -> str:
    """Return " of 12 epochs" if packages were trained for other epochs than `base`; else an empty text."""
    epochs = sorted({package.provenance.epochs for package in packages})
    return "" if epochs == [base.provenance.epochs] else f" of {' and '.join(map(str, epochs))} epochs"


def shared_clips(data_root: str, share: Share, options: Mapping[str, Any]) -> tuple[SourceDataset, np.ndarray]:
    """Return the clips of a share without copies, and their classes [N] of `everyday`, or `unknown`."""
    source = Everyday(data_root, **{**options, "sets": [share.name]})
    known, unknown = _distinct(source, share)
    entries = [*known, *unknown]
    truth = [source.classes[entry.label] if entry.label >= 0 else UNKNOWN for entry in entries]
    return SourceDataset(source, entries), np.array(truth)


def _distinct(source: Everyday, share: Share) -> tuple[list[Entry], list[Entry]]:
    """Return the items of a share in a class, and the unknown ones; of clips with the same joints only the first's.

    A test part has no copy of a clip of the other part.
    """
    merged = source.source(share.name)
    copies = datasets.find_copies(SourceDataset(merged, merged.entries()))
    first = {f"{share.name}/{name}": f"{share.name}/{original}" for name, original in copies.items()}
    parts = source.entries(), source.unknown_entries()
    kept: dict[str, str] = {}  # the clip that counts, by the first with its joints; "" for one of the other part
    for entry in (entry for part in parts for entry in part):
        name = entry.name.split("#")[0]  # all items of a clip
        if share.has(entry):
            kept.setdefault(first.get(name, name), name)
        elif share.part == "test":
            kept[first.get(name, name)] = ""

    def counts(entry: Entry) -> bool:
        name = entry.name.split("#")[0]
        return share.has(entry) and kept[first.get(name, name)] == name

    known, unknown = ([entry for entry in part if counts(entry)] for part in parts)
    return known, unknown


def learned_classes(package: ModelPackage) -> list[str]:
    """Return a model's labels that its training clips showed, as classes of `everyday`."""
    absent = package.provenance.figures.get(provenance.ABSENT, ())
    return [class_of(package.provenance.dataset, label) for label in package.labels if label not in absent]


def _own_names(source: Source, share: Share) -> dict[str, str]:
    """Return the set's own label of each clip, by its name in `everyday`, for models that know other actions."""
    assert isinstance(source, Everyday)
    merged = source.source(share.name)
    return {f"{share.name}/{entry.name}": merged.classes[entry.label] for entry in merged.entries()}


def known_truth(clips: SourceDataset, truth: np.ndarray, share: Share, published: Sequence[str]) -> np.ndarray:
    """Return `truth` of `shared_clips` for a model of these classes: also of actions outside `everyday`."""
    own = _own_names(clips.source, share)
    named = [own.get(name, "") for name in clips.names]
    return np.array([n if t == UNKNOWN and n in published else t for n, t in zip(named, truth, strict=True)])


def _measure(
    session: Session, share: Share, data_root: str, options: Mapping[str, Any], progress: bool
) -> dict[str, Any]:
    clips, truth = shared_clips(data_root, share, options)
    if not len(clips):  # only a part of the set is in the folder
        return {}
    probabilities = session.softmax(scoring.score(session, clips, "live", progress=progress).logits)
    published = [class_of(session.package.provenance.dataset, label) for label in session.package.labels]
    learned = learned_classes(session.package)
    truth = known_truth(clips, truth, share, learned)
    found = np.array(published)[probabilities.argmax(axis=1)]
    is_accepted = ~session.is_rejected(probabilities)
    is_known, is_right = np.isin(truth, learned), found == truth
    played = play_all(session, recordings(data_root, share, options), progress).figures()

    def part(which: np.ndarray) -> float | None:
        return round(float(which[is_known].mean()), 4) if is_known.any() else None

    others = is_accepted[~is_known]
    classes = {}
    order = {name: place for place, name in enumerate(Everyday.classes)}  # others have the set's own names
    for name in sorted(set(truth[is_known]), key=lambda name: (order.get(name, len(order)), name)):
        own = truth == name
        classes[str(name)] = [int(own.sum()), int((own & is_right).sum()), int((own & is_right & is_accepted).sum())]
    return {
        "set": share.name,
        "trained": share.is_trained,
        "split": share.key,
        "clips": int(is_known.sum()),
        "top1": part(is_right),
        "right": part(is_right & is_accepted),
        "unknown": part(~is_accepted),
        "wrong": part(~is_right & is_accepted),
        "other_clips": len(others),
        "others_labeled": round(float(others.mean()), 4) if len(others) else None,
        "minutes": played["minutes"],
        "actions": played["actions"],
        "found_share": played["found_share"],
        "false_events_per_minute": played["false_events_per_minute"],
        "classes": classes,
    }


# -- joined recordings -------------------------------------------------------------------------------------------------


def recordings(
    data_root: str, share: Share, options: Mapping[str, Any], *, people: int = PEOPLE, clips: int = CLIPS,
    minutes: float = MINUTES, seed: int = 0,
) -> list[ActionStream]:  # fmt: skip
    """Return one recording for each of some people of a set, with actions in classes of `everyday` or by own names.

    No clip is in them twice (`shared_clips`). CAD-60's clips, a long activity each, are recordings of their own.

    Args:
        options: Fields of `EverydayConfig`.
        people, clips, minutes, seed: As for `person_streams`.
    """
    source = Everyday(data_root, **{**options, "sets": [share.name], "trim": False})
    names = _own_names(source, share)
    known, unknown = (SourceDataset(source, entries) for entries in _distinct(source, share))
    if share.name == "cad60":
        labels = [*(known.classes[label] for label in known.labels), *[UNKNOWN] * len(unknown)]
        found = [part[index] for part in (known, unknown) for index in range(len(part))]
        return [join_clips(clip.name, [clip], [label]) for clip, label in zip(found, labels, strict=True)]
    return person_streams(known, unknown, people, clips, minutes, seed, names)


def play_all(session: Session, recordings: Sequence[ActionStream], progress: bool = False) -> StreamScore:
    """Return the sum of the scores of recordings, with labels compared as classes of `everyday`."""
    dataset, known, total = session.package.provenance.dataset, learned_classes(session.package), StreamScore()
    classes = {label: class_of(dataset, label) for label in session.package.labels}
    for recording in tqdm(recordings, "recordings", disable=not progress):
        events, labels = streams.play(session, recording.sequence)
        total.add(
            streams.score(
                recording,
                [dataclasses.replace(event, label=classes[event.label]) for event in events],
                [dataclasses.replace(label, label=classes.get(label.label, label.label)) for label in labels],
                known,
            )
        )
    return total


# -- text --------------------------------------------------------------------------------------------------------------

KEY, HEADING = "elsewhere", "On other datasets"
"""Key in a package's figures, and heading of the card."""

_SAME_PEOPLE = {"nucla": "another view", "bandai_namco": "other styles"}
"""Test parts by split "own" that show the people of the training."""


def section(figures: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return a section in Markdown on what `measure` returned for a package called `name`, and others of its recipe.

    A set that the package was trained on has the row of a model that was trained without it.
    """
    rows = [{**row, "by": each["model"]} for each in figures for row in each["sets"]]
    lines = [f"## {HEADING}", ""]
    if not rows:
        return "\n".join([*lines, "; ".join(dict.fromkeys(each["note"] for each in figures)), ""])
    lines += [
        "Labels are compared as classes of `everyday`. Before rejection, and as published: right, `unknown` and wrong",
        "labels of clips of the model's actions; labeled ones of others; events of clips joined.",
        "",
        "| set | clips | before, % | right / unknown / wrong, % | other clips | labeled, % | events found, % | "
        "false events a minute |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        notes = [row["by"]] if row["by"] != name else []
        if row["trained"]:
            is_own = row.get("split", "own") == "own"  # older figures are all of it
            notes.append(_SAME_PEOPLE.get(row["set"] if is_own else "", "test people"))
        shown = f"{row['set']} ({', '.join(notes)})" if notes else row["set"]
        published = " / ".join(_percent(row[key]) for key in ("right", "unknown", "wrong"))
        false = row["false_events_per_minute"]
        cells = [shown, row["clips"], _percent(row["top1"]), published, row["other_clips"],
                 _percent(row["others_labeled"]), _percent(row["found_share"]),
                 "-" if false is None else f"{false:.1f}"]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Right clips of each class, before rejection and as published, of sets that did not train the model:",
        "",
    ]
    classes: dict[str, list[str]] = {}
    for row in rows:
        for label, (count, before, after) in row["classes"].items() if not row["trained"] else ():
            classes.setdefault(label, []).append(f"{row['set']} {before} and {after} of {count}")
    lines += [f"- {label}: {'; '.join(found)}" for label, found in classes.items()]
    return "\n".join([*lines, ""])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def text(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of several models for the terminal."""
    return "\n".join(f"# {each['model']}\n\n{section([each], each['model'])}" for each in figures)
