"""What a training run was made of: data, source, versions, machine.

Training data of initial weights: a network must not be tested on that data either.
"""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from actrec import datasets
from actrec.utils.errors import ConfigError
from actrec_models.training.recipe import Recipe

FIRST_FOLD = 1
"""The default fold of a dataset with folds."""

INITIAL_TRAININGS = "initial_trainings"
"""Of a checkpoint's provenance and a package's figures: the trainings (`training`) that the initial weights are of."""


def training(dataset: str, split: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training as it is kept: dataset, split and options of the dataset."""
    return {"dataset": dataset, "split": split, "options": dict(options)}


def unique(trainings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """In their order."""
    found: list[dict[str, Any]] = []
    for one in trainings:
        if one not in found:
            found.append(dict(one))
    return found


def as_figures(trainings: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """As figures have it; nothing for none."""
    found = unique(trainings)
    return {INITIAL_TRAININGS: found} if found else {}


def same_recordings(trained: str, dataset: str) -> bool:
    """Whether two datasets are the same recordings."""
    if trained == dataset:
        return True
    return trained in datasets.DATASETS.names() and dataset in datasets.DATASETS.get(trained).merges


def overlap(one: Mapping[str, Any], dataset: str, split: str, options: Mapping[str, Any]) -> str:
    """By which other split or fold of the same recordings a network was trained; empty for none.

    A person's own recordings are not included: they are compared one by one (`ClipDataset.identities`).
    """
    if dataset == "folder" or not same_recordings(one["dataset"], dataset):
        return ""
    if one["split"] != split:
        return f"split '{one['split']}' of {one['dataset']}"
    divided = dataset in datasets.DATASETS.names() and datasets.DATASETS.get(dataset).folds
    folds = [each.get("fold", FIRST_FOLD) for each in (one["options"], options)]
    return f"fold {folds[0]} of {one['dataset']}" if divided and folds[0] != folds[1] else ""


def check(
    who: str, trainings: Iterable[Mapping[str, Any]], dataset: str, split: str, options: Mapping[str, Any]
) -> None:
    """Refuses what would be tested on clips that it, or the weights that it began with, was trained on.

    Args:
        who: Whose trainings they are.
        trainings: Before the one that is to be tested.
        dataset, split, options: What is to be tested on.

    Raises:
        ConfigError: One was by another split or fold.
    """
    for one in trainings:
        if other := overlap(one, dataset, split, options):
            fold = f", fold {options.get('fold', FIRST_FOLD)}" if other.startswith("fold") else ""
            raise ConfigError(
                f"{who} was trained on {other}, not '{split}'{fold}: parts of different splits and folds overlap, so "
                "it has trained on clips that would be tested on"
            )


PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "scipy",
    "numba",
    "av",
)

_THEN = ", then "
"""Separates the provenances of a run and its resumptions."""

_UNKNOWN = "unknown"


def commit() -> str:
    """Return the source's commit, with "+" for uncommitted changes; empty outside a checkout, or without git.

    Installed into an environment that lies in another project's checkout, or in its own, git does not track it: that
    checkout's commit says nothing of what runs.
    """
    source = Path(__file__).resolve()
    git = ["git", "-C", str(source.parent)]
    if not _output([*git, "ls-files", "--error-unmatch", source.name]):
        return ""
    head = _output([*git, "rev-parse", "--short=12", "HEAD"])
    return head + ("+" if head and _output([*git, "status", "--porcelain", "-uno"]) else "")


def describe(
    recipe: Recipe,
    fingerprint: str,
    clips: int,
    held_out: int,
    device: torch.device,
    world: int,
    init: Sequence[str] = (),
    recordings: Sequence[str] = (),
    initial_trainings: Sequence[Mapping[str, Any]] = (),
) -> dict:
    """Plain values for the checkpoint; the recipe itself stands beside them.

    Args:
        recipe: What is followed.
        fingerprint: `ClipDataset.fingerprint` of the training part.
        clips: That are trained on.
        held_out: That are validated on.
        device: That trains.
        world: How many of these.
        init: `weight_files.identity` of each file of initial weights.
        recordings: `ClipDataset.identities` of the training part, and of the initial weights' training clips.
        initial_trainings: `lineage.training` of all that the initial weights went through.
    """
    return {
        **_learnt(recordings),
        **as_figures(initial_trainings),
        "dataset": recipe.dataset,
        "split": recipe.split,
        "seed": recipe.seed,
        "data_sha256": fingerprint,
        "init": list(init),
        "clips": clips,
        "held_out": held_out,
        "commit": commit(),
        "packages": packages(),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": device_name(device, world),
    }


def merge(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of a resumed run: all commits, versions and machines, e.g. "c0ffee, then decade".

    Args:
        before: `from_checkpoint` of the resumed run; empty for a new one.
        now: `describe` of this run.
    """
    texts = {name: _in_turn(before.get(name), now[name]) for name in ("commit", "host", "device")}
    versions = dict(before.get("packages", {}))
    versions |= {name: _in_turn(versions.get(name), version) for name, version in now["packages"].items()}
    learnt = _learnt([*before.get("recordings", ()), *now.get("recordings", ())])
    learnt |= as_figures([*before.get(INITIAL_TRAININGS, ()), *now.get(INITIAL_TRAININGS, ())])
    return {**now, **texts, **learnt, "packages": versions}


def _learnt(recordings: Sequence[str]) -> dict[str, list[Any]]:
    """Each once; nothing for none."""
    return {"recordings": list(dict.fromkeys(recordings))} if recordings else {}


def _in_turn(before: str | None, now: str) -> str:
    """One after the other; the same once."""
    if before is None:
        return now
    if (before.split(_THEN)[-1] or _UNKNOWN) == (now or _UNKNOWN):
        return before
    return f"{before or _UNKNOWN}{_THEN}{now or _UNKNOWN}"


def packages() -> dict[str, str]:
    """Return the versions of Python, actrec and the numeric libraries."""
    found = {"python": platform.python_version()}
    for name in ("actrec", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # one of the two OpenCVs, or an optional one
            continue
    return found


def device_name(device: torch.device, world: int = 1) -> str:
    """Return what computes, e.g. "2 × NVIDIA H200", "cpu (2 threads)"."""
    name = f"{device.type} ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{world} × {name}" if world > 1 else name


def from_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's provenance; for an older checkpoint, as far as its other fields tell."""
    kept = content.get("actrec")
    if isinstance(kept, dict) and isinstance(kept.get("provenance"), dict):
        return {**kept["provenance"], "epochs": kept["epochs"], "hours": kept["seconds"] / 3600}
    return {"epochs": int(content.get("epoch", -1)) + 1}


def _program() -> str:
    """Return the name of the started program: `python -m actrec` is actrec too."""
    name = Path(sys.argv[0]).name
    return "actrec" if name == "__main__.py" else name


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # not installed, as on a robot
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
