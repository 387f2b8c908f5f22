"""Provenance of a network: data, source, versions, machine, and the trainings of its initial weights."""

import datetime
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
from actrec.features import rates
from actrec.features.specs import WindowSpec
from actrec.inference import package
from actrec.inference.package import ModelPackage, Provenance
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.networks.base import Network
from actrec_models.training.recipe import Recipe

FIRST_FOLD = 1  # the default fold of a dataset with folds
ABSENT = "absent_classes"
"""Key of the classes without a training clip in a checkpoint's provenance and a package's figures."""
INITIAL_TRAININGS = "initial_trainings"
"""Key of the `training`s of the initial weights in a checkpoint's provenance and a package's figures."""

PACKAGES = (
    "torch", "lightning", "numpy", "opencv-python-headless", "opencv-python", "opencv-contrib-python", "scipy", "numba",
    "av",
)  # fmt: skip

_THEN = ", then "  # separates the provenances of a run and its resumptions


# -- trainings on overlapping data -------------------------------------------------------------------------------------


def training(dataset: str, split: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training as provenance stores it."""
    return {"dataset": dataset, "split": split, "options": dict(options)}


def trainings(trained: Provenance) -> list[dict[str, Any]]:
    """Return each training of a package's network: of its initial weights, and its own."""
    own = training(trained.dataset, trained.split, trained.settings.get("dataset_options", {}))
    return [*trained.figures.get(INITIAL_TRAININGS, ()), own]


def as_figures(trainings: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the distinct trainings as a figure of a package; empty if there are none."""
    found: list[dict[str, Any]] = []
    for each in trainings:
        if each not in found:
            found.append(dict(each))
    return {INITIAL_TRAININGS: found} if found else {}


def same_recordings(trained: str, dataset: str) -> bool:
    """Return whether two datasets are of the same recordings."""
    merges = datasets.DATASETS.get(trained).merges if trained in datasets.DATASETS.names() else {}
    return trained == dataset or dataset in merges


def divisions(training: Mapping[str, Any], part: str) -> dict[str, str]:
    """Return the published datasets in a part of a training's split, with their divisions (`Source.divisions`)."""
    name = training["dataset"]
    return _dataset(name).divisions(name, training["split"], part, training["options"])


def same_split(trainings: Iterable[Mapping[str, Any]], split: str, options: Mapping[str, Any]) -> bool:
    """Return whether all trainings on the user's recordings had this split, with the same people in its test part."""
    own = [each for each in trainings if each["dataset"] == "folder"]
    return all((each["split"], _held_out(each["options"])) == (split, _held_out(options)) for each in own)


def _held_out(options: Mapping[str, Any]) -> list[str]:
    """Return the people of the test part; a single one may be given without a list."""
    people = options.get("held_out", [])
    return sorted(map(str, people)) if isinstance(people, (list, tuple)) else [str(people)]


def check(
    who: str, trainings: Iterable[Mapping[str, Any]], dataset: str, split: str, options: Mapping[str, Any]
) -> None:
    """Refuse a test on clips that a network, or its initial weights, was trained on.

    The user's own recordings are compared one by one instead (`ClipDataset.identities`). `who` is the network or
    weights in the message, `dataset`, `split` and `options` are the data to test on.

    Raises:
        ConfigError: A training was by another split or fold of the same recordings.
    """
    tested = divisions(training(dataset, split, options), "test")
    tested_fold = options.get("fold", FIRST_FOLD)
    for each in trainings if dataset != "folder" else ():
        trained = divisions(each, "train")
        if all(tested[name] and trained[name] == tested[name] for name in tested.keys() & trained.keys()):
            continue
        if each["split"] != split or each["dataset"] != dataset:
            trained_on, tested_on = f"split '{each['split']}' of {each['dataset']}", f"'{split}'"
            tested_on += "" if each["dataset"] == dataset else f" of {dataset}"
        else:
            trained_fold = each["options"].get("fold", FIRST_FOLD)
            trained_on, tested_on = f"fold {trained_fold} of {each['dataset']}", f"'{split}', fold {tested_fold}"
        raise ConfigError(
            f"{who} was trained on {trained_on}, not {tested_on}: parts of different splits and folds overlap, so "
            "it has trained on clips that would be tested on"
        )


# -- a run -------------------------------------------------------------------------------------------------------------


def commit() -> str:
    """Return the source's commit, with "+" for uncommitted changes; empty outside its checkout, or without git.

    Git does not track a source that is installed into an environment within another project's checkout.
    """
    source = Path(__file__).resolve()
    git = ["git", "-C", str(source.parent)]
    if not _output([*git, "ls-files", "--error-unmatch", source.name]):
        return ""
    head = _output([*git, "rev-parse", "--short=12", "HEAD"])
    return head + ("+" if head and _output([*git, "status", "--porcelain", "-uno"]) else "")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # not installed, as on a robot
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def describe_machine(device: torch.device, world: int) -> dict[str, Any]:
    """Return commit, versions, command, host and the `world` devices of this run."""
    program = Path(sys.argv[0]).name
    return {
        "commit": commit(),
        "packages": packages(),
        "command": shlex.join(["actrec" if program == "__main__.py" else program, *sys.argv[1:]]),
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": device_name(device, world),
    }


def merge(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of a resumed run, e.g. "c0ffee, then decade"; `before` is of the earlier run, or empty."""
    versions = dict(before.get("packages", {}))
    recordings = list(dict.fromkeys([*before.get("recordings", ()), *now.get("recordings", ())]))
    return {
        **now,
        **{name: _sequence(before.get(name), now[name]) for name in ("commit", "host", "device")},
        **({"recordings": recordings} if recordings else {}),
        **as_figures([*before.get(INITIAL_TRAININGS, ()), *now.get(INITIAL_TRAININGS, ())]),
        "packages": versions | {name: _sequence(versions.get(name), new) for name, new in now["packages"].items()},
    }


def _sequence(before: str | None, now: str) -> str:
    """Return "before, then now", or one of them if they are equal."""
    if before is None:
        return now
    known = before or "unknown"
    return before if known.split(_THEN)[-1] == (now or "unknown") else f"{known}{_THEN}{now or 'unknown'}"


def packages() -> dict[str, str]:
    """Return the versions of Python, actrec and the numeric libraries."""
    found = {"python": platform.python_version()}
    for name in ("actrec", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # one of the OpenCV packages, or an optional one
            continue
    return found


def device_name(device: torch.device, world: int = 1) -> str:
    """Return the name of the devices, e.g. "2 × NVIDIA H200", "cpu (2 threads)"."""
    name = f"{device.type} ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{world} × {name}" if world > 1 else name


def from_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of a checkpoint's run so far."""
    run = content["actrec"]
    return {**run["provenance"], "epochs": run["epochs"], "hours": run["seconds"] / 3600}


# -- a package ---------------------------------------------------------------------------------------------------------


def package_provenance(recipe: Recipe, run: dict[str, Any]) -> Provenance:
    """Return the package provenance of a training run; its accuracy is not measured yet."""
    return Provenance(
        dataset=recipe.dataset,
        split=recipe.split,
        seed=recipe.seed,
        epochs=run["epochs"],
        accuracy=0.0,
        license=_license(recipe, run),
        recipe=tuple(recipe.commands),
        commit=run.get("commit", commit()),
        created=now(),
        settings=config.to_plain(recipe.as_dict()),
        data_sha256=run.get("data_sha256", ""),
        init=tuple(run.get("init") or ()),
        figures={name: run[name] for name in ("recordings", ABSENT, INITIAL_TRAININGS) if name in run},
        command=run.get("command", ""),
        packages=run.get("packages", {}),
        trained_on=", ".join(filter(None, [run.get("device", ""), run.get("host", "")])),
        hours=round(run.get("hours", 0.0), 4),
        frame_rates=tuple(run.get("frame_rates", ())),
        scene_flow=run.get("scene_flow", {}),
    )


def _license(recipe: Recipe, run: Mapping[str, Any]) -> str:
    """Return the licenses of all data that trained a network, and its initial weights."""
    initial = [(each["dataset"], each["options"]) for each in run.get(INITIAL_TRAININGS, ())]
    found = [
        _dataset(name).license_of(options) for name, options in ((recipe.dataset, recipe.dataset_options), *initial)
    ]
    if run.get("init") and not initial:
        found.append("the license of the initial weights")
    return "; ".join(dict.fromkeys(found))


def describe_package(
    name: str, options: dict[str, Any], classes: Sequence[str], network: Network, trained: Provenance,
    window: WindowSpec | None = None,
) -> ModelPackage:  # fmt: skip
    """Return the description of a network's package, without rejection; `window` None for the network's own."""
    window = window or network.window
    return ModelPackage(
        schema_version=package.SCHEMA_VERSION,
        family=name,
        variant=", ".join(f"{k} {v}" for k, v in sorted(options.items())) or "as published",
        labels=tuple(classes),
        window=window,
        bodies=getattr(network.config, "bodies", 1),
        inputs=rates.with_rates(network.input_specs, window),
        rejection=package.Rejection(),
        provenance=trained,
    )


def dataset_attribute(name: str, attribute: str) -> str:
    """Return an attribute of the dataset called `name`, or its default for an unknown dataset."""
    return str(getattr(_dataset(name), attribute))


def _dataset(name: str) -> type[datasets.Source]:
    return datasets.DATASETS.get(name) if name in datasets.DATASETS.names() else datasets.Source


def parameter_count(network: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def now() -> str:
    """Return the time in UTC, in the format of a package."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
