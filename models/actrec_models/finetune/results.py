"""What a lesson leaves: a model package, and a report in figures and in words."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from actrec import features
from actrec.inference import package
from actrec.inference.package import ModelPackage, Provenance
from actrec_models.export.card import card, plain
from actrec_models.export.onnx_graph import to_onnx
from actrec_models.finetune.lesson import Lesson
from actrec_models.networks.base import Network
from actrec_models.training import provenance

_CONFUSED = 0.1
"""Share of a class's clips taken for another one from which on it is worth saying."""

_WEAK = 0.8

_NAMED = 10
"""Recordings that are named one by one."""

_LICENCE = "that of your recordings, and of the base: "


def write(lesson: Lesson, folder: Path, command: str, seed: int, overwrite: bool = False) -> ModelPackage:
    """Exports what was learnt, checked against PyTorch.

    Args:
        lesson: What was learnt.
        folder: Where to; its name becomes the package's.
        command: That taught it.
        seed: Of the lesson.
        overwrite: Replace a package that is there.

    Raises:
        PackageError: The folder exists, or the graph disagrees with PyTorch.
    """
    base, figures = lesson.base, report(lesson)
    content = to_onnx(lesson.network)
    made = Provenance(
        dataset="folder",
        split="all",
        seed=seed,
        epochs=lesson.epochs,
        accuracy=figures["accuracy"],
        licence=_LICENCE + base.provenance.licence.removeprefix(_LICENCE),
        recipe=command,
        commit=provenance.commit(),
        data_sha256=lesson.material.fingerprint,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        figures={
            "parameters": sum(p.numel() for p in lesson.network.parameters()),
            "streams": len(features.modalities(base.inputs)),
            "test_clips": figures["clips"],
            "taught_from": base.name,
            "taught_from_onnx_sha256": base.provenance.onnx_sha256,
            "judged_by": lesson.folds.words,
            **_recordings(lesson),
            "clips_per_class": figures["clips_per_class"],
            "rehearsed_accuracy": figures["rehearsed"],
            "rehearsed_known_kept": lesson.known_kept,
            "rehearsed_others_rejected": figures["others_rejected"],
            "steps": lesson.steps,
            "minutes": figures["minutes"],
            "mirrored": lesson.mirror,
        },
    )
    described = dataclasses.replace(
        base,
        labels=lesson.material.classes,
        rejection=lesson.rejection,
        provenance=made,
        path=Path(),
        float16=None,
        int8=None,
    )
    about = (
        card(described, folder.name)
        + "\n## How it was taught\n\n"
        + "\n".join(f"- {plain(line)}" for line in words(lesson))
    )
    return package.write(folder, described, content, _weights(lesson.network), about + "\n", overwrite)


def _recordings(lesson: Lesson) -> dict[str, list[str]]:
    """What the body and the head have learnt, by which `actrec eval` knows it; nothing where nobody knows it all."""
    told = lesson.base.provenance.figures.get("recordings")
    if told is None and lesson.base.provenance.dataset == "folder":
        return {}
    return {"recordings": list(dict.fromkeys([*(told or ()), *lesson.material.recordings]))}


def _known_before(lesson: Lesson) -> int:
    """How many of the clips are of recordings that the base has learnt."""
    known = set(lesson.base.provenance.figures.get("recordings", ()))
    return sum(recording in known for recording in lesson.material.recordings)


def _weights(network: Network) -> bytes:
    """As safetensors, each value in a memory of its own."""
    return bytes(safetensors.torch.save({name: value.clone() for name, value in network.state_dict().items()}))


def report(lesson: Lesson) -> dict[str, Any]:
    """The figures of a lesson, for `--json`."""
    classes = lesson.material.classes
    counts = confusion(lesson)
    per_class = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    return {
        "base": lesson.base.name,
        "classes": list(classes),
        "clips_per_class": lesson.material.counts,
        "unknown_clips": int((lesson.material.labels < 0).sum()),
        "skipped": list(lesson.material.skipped),
        "known_to_base": _known_before(lesson),
        "judged_by": lesson.folds.words,
        "left_out": list(lesson.folds.names),
        "clips": int(counts.sum()),
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "per_class": {name: float(share) for name, share in zip(classes, per_class, strict=True)},
        "confusion": counts.tolist(),
        "rehearsed": lesson.rehearsed,
        "rehearsed_clips": lesson.rehearsed_clips,
        "known_kept": lesson.known_kept,
        "others_rejected": None if np.isnan(lesson.others_rejected) else lesson.others_rejected,
        "threshold": lesson.rejection.threshold,
        "background": lesson.rejection.background,
        "calibrated_on": lesson.rejection.calibrated_on,
        "mirrored": lesson.mirror,
        "steps": lesson.steps,
        "minutes": round(lesson.seconds / 60, 2),
        "processor_minutes": round(lesson.processor_seconds / 60, 2),
    }


def confusion(lesson: Lesson) -> np.ndarray:
    """[classes, classes] counts of clips left out, true class by row."""
    labels = lesson.material.labels[lesson.material.labels >= 0]
    counts = np.zeros((len(lesson.material.classes),) * 2, dtype=int)
    np.add.at(counts, (labels, lesson.logits.argmax(axis=1)), 1)
    return counts


def words(lesson: Lesson) -> list[str]:
    """The report in words: how good, what is confused, what to record more of."""
    figures = report(lesson)
    lines = [
        f"{figures['judged_by']}, head on the frozen body: {figures['accuracy']:.1%} of {figures['clips']} clips right",
        f"the whole way, rehearsed: {lesson.rehearsed:.1%} of {lesson.rehearsed_clips} clips right that it left out"
        + (" (of one class less)" if len(figures["classes"]) > 2 else ""),
        f"rejection below {lesson.rejection.threshold:g}, chosen on {lesson.rejection.calibrated_on}",
        *(f"'{name}': {share:.1%} of {figures['clips_per_class'][name]} clips"
          for name, share in figures["per_class"].items()),
    ]  # fmt: skip
    return [*lines, *advice(lesson, figures)]


def advice(lesson: Lesson, figures: dict[str, Any]) -> list[str]:
    """What would make it better, in the order of what matters most."""
    names, counts, lines = figures["classes"], np.array(figures["confusion"]), []
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    for true, taken in sorted(zip(*np.nonzero(shares >= _CONFUSED), strict=True), key=lambda pair: -shares[pair]):
        lines.append(
            f"'{names[true]}' is taken for '{names[taken]}' in {counts[true, taken]} of {counts[true].sum()} clips"
        )
    weak = [name for name, share in figures["per_class"].items() if share < _WEAK]
    if weak:
        lines.append(f"record more of {', '.join(f'{name!r}' for name in weak)}: other people, places and speeds")
    few = [f"{name!r} ({count})" for name, count in figures["clips_per_class"].items() if count < 10]
    if few:
        lines.append(f"fewer than 10 clips of {', '.join(few)}: record more before you rely on these figures")
    if lesson.folds.by == "clip":
        lines.append(
            "all clips of an action are cut from one recording, so that it is judged on what it knows: record more"
        )
    if lesson.folds.by != "person":
        lines.append(
            "nobody is named, or one person alone did an action, so that it is judged on people it knows: "
            "name two or more with --person"
        )
    if figures["known_to_base"]:
        lines.append(
            f"{lesson.base.name} has learnt {figures['known_to_base']} of these clips before, so that all is judged on "
            "what its body knows: take a --from that has not"
        )
    rejected = figures["others_rejected"]
    if not lesson.rejection.threshold:
        lines.append("no threshold tells these actions from others: the package never says unknown")
    if not figures["unknown_clips"]:
        lines.append("nothing is labeled unknown: record what else people do there with --label unknown")
    elif rejected is not None and rejected < _WEAK:
        lines.append(f"of other actions {rejected:.0%} are told to be unknown: record more with --label unknown")
    if figures["skipped"]:
        lines.append(_skipped(figures["skipped"]))
    return lines


def _skipped(reasons: list[str]) -> str:
    """Which recordings were left out and why, the first ten of them."""
    some, more = reasons[:_NAMED], len(reasons) - _NAMED
    count = "1 recording" if len(reasons) == 1 else f"{len(reasons)} recordings"
    return f"{count} could not be used: {'; '.join(some)}{f'; and {more} more' if more > 0 else ''}"
