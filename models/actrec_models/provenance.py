"""What a training run was made of: data, source, versions, machine."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from actrec_models import lineage
from actrec_models.recipe import Recipe

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
"""Between what a run was made by first and what it went on by."""
_UNKNOWN = "unknown"


def commit() -> str:
    """The source's commit, with "+" where it has uncommitted changes; empty outside a checkout of it, or without git.

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
    began_with: Sequence[Mapping[str, Any]] = (),
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
        recordings: `ClipDataset.identities` of the training part, and of what the initial weights have learnt.
        began_with: `lineage.training` of all that the initial weights went through.
    """
    return {
        **_learnt(recordings),
        **lineage.kept(began_with),
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


def going_on(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What a run that goes on was made by: all commits, versions and machines in turn, e.g. "c0ffee, then decade".

    Args:
        before: `of_checkpoint` of what it goes on from; empty where there is nothing.
        now: `describe` of what goes on.
    """
    texts = {name: _in_turn(before.get(name), now[name]) for name in ("commit", "host", "device")}
    versions = dict(before.get("packages", {}))
    versions |= {name: _in_turn(versions.get(name), version) for name, version in now["packages"].items()}
    learnt = _learnt([*before.get("recordings", ()), *now.get("recordings", ())])
    learnt |= lineage.kept([*before.get(lineage.KEY, ()), *now.get(lineage.KEY, ())])
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
    """Version of Python, of actrec and of what it computes with."""
    found = {"python": platform.python_version()}
    for name in ("actrec", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # one of the two OpenCVs, or an optional one
            continue
    return found


def device_name(device: torch.device, world: int = 1) -> str:
    """What computes, e.g. "2 × NVIDIA H200", "cpu (2 threads)"."""
    name = f"{device.type} ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{world} × {name}" if world > 1 else name


def of_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its run; of one from before this was kept, what can be told from the rest."""
    kept = content.get("actrec")
    if isinstance(kept, dict) and isinstance(kept.get("provenance"), dict):
        return {**kept["provenance"], "epochs": kept["epochs"], "hours": kept["seconds"] / 3600}
    return {"epochs": int(content.get("epoch", -1)) + 1}


def _program() -> str:
    """What was started: `python -m actrec` is actrec too."""
    name = Path(sys.argv[0]).name
    return "actrec" if name == "__main__.py" else name


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # not installed, as on a robot
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
