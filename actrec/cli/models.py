"""`actrec models`: list model packages, networks and recipes; check and describe one package."""

import argparse
import importlib.util
import json
from typing import Any

from actrec import inference
from actrec.inference import zoo
from actrec.inference.package import PRECISIONS, Provenance, Rejection
from actrec.utils import config

EPILOG = """\
Example:
  actrec models
  actrec models deepacts_graph_nucla
  actrec models ~/my_package --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec models`."""
    parser.epilog = EPILOG
    parser.add_argument("package", nargs="?", help="check and describe this one: a name from the list, or a folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list, or describe one package after a test run of its network."""
    if args.package is not None:
        figures = _describe(args.package)
        print(json.dumps(figures, indent=2) if args.json else _description(figures))
        return 0
    packages = [_entry(entry) for entry in zoo.list_packages()]
    networks = _networks()
    recipes = [] if networks is None else list(importlib.import_module("actrec_models.training.recipe").shipped())
    if args.json:
        print(json.dumps({"packages": packages, "networks": networks, "recipes": recipes}, indent=2))
    else:
        print(_listing(packages, networks, recipes))
    return 0


def _networks() -> list[str] | None:
    """Return the names of the networks; None without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return None
    names: list[str] = importlib.import_module("actrec_models").list_models()
    return names


# -- list --------------------------------------------------------------------------------------------------------------


def _entry(entry: zoo.InstalledPackage) -> dict[str, Any]:
    package, place = entry.package, {"name": entry.name, "path": str(entry.path)}
    if package is None:
        return {**place, "problem": entry.problem}
    return {
        **place,
        "family": package.family,
        "dataset": package.provenance.dataset,
        "labels": list(package.labels),
        "accuracy": package.provenance.accuracy if package.provenance.figures.get("test_clips", 1) else None,
        "trained": not package.provenance.untrained,
        "window_s": package.window.seconds,
        "precisions": list(package.precisions),
        "bytes": sum(file.stat().st_size for file in package.path.iterdir() if file.is_file()),
    }


def _listing(packages: list[dict[str, Any]], networks: list[str] | None, recipes: list[str]) -> str:
    lines = ["Model packages:"]
    width = max((len(package["name"]) for package in packages), default=0)
    lines += [f"  {package['name']:<{width}}  {package.get('problem') or _summary(package)}" for package in packages]
    if not packages:
        lines.append(f"  none; searched in {', '.join(str(folder) for folder in zoo.folders())}")
    lines += ["", "Networks:"]
    if networks is None:
        lines.append("  PyTorch is not installed: pip install 'actrec[train]'")
    else:
        lines += [*(f"  {name}" for name in networks), "", "Recipes (actrec train):", *(f"  {r}" for r in recipes)]
    return "\n".join(lines)


def _summary(package: dict[str, Any]) -> str:
    top_1 = "not measured" if package["accuracy"] is None else f"{package['accuracy']:.1%} top-1"
    actions = f"{len(package['labels'])} actions of {package['dataset']}, {top_1}"
    if not package["trained"]:
        actions = f"{len(package['labels'])} labels, not trained"
    size = f"{package['bytes'] / 1e6:.1f} MB"
    if lower := [name for name in package["precisions"] if name != "float32"]:
        size += f", also {' and '.join(lower)}"
    return f"{package['family']}, {actions}, {package['window_s']:g} s window, {size}"


# -- one package -------------------------------------------------------------------------------------------------------


def _describe(name: str) -> dict[str, Any]:
    session = inference.load(name)
    package = session.package
    described: dict[str, Any] = config.to_plain(package)
    more = {"live_note": package.provenance.live_note, "runs_on": session.backend.device}
    return {"name": package.name, "path": str(package.path), **more, **described}


def _description(figures: dict[str, Any]) -> str:
    window, rejection = figures["window"], figures["rejection"]
    clips = f", clips of {window['clip']} ({window['combine']})" if window["clip"] else ""
    precisions = ["float32"]
    for name in PRECISIONS[1:]:
        if (lower := figures[name]) is not None:
            accuracy = "" if lower["accuracy"] is None else f", {lower['accuracy']:.1%} top-1"
            precisions.append(f"{name} (logits within {lower['difference']:.2%} of their spread{accuracy})")
    lines = [
        f"{figures['name']}: {figures['family']} ({figures['variant']}), {figures['path']}",
        f"  actions    {', '.join(figures['labels'])}",
        f"  window     {window['seconds']:g} s as {window['frames']} frames{clips}, {figures['bodies']} body/bodies "
        "together",
        *(
            f"  input      {s['name']} {s['shape']}: {s['modality']} of {s['layout']}"
            + (f" at {s['rate']:g} Hz" if s["rate"] else "")
            for s in figures["inputs"]
        ),
        f"  rejection  {Rejection(**rejection).note} ({rejection['calibrated_on'] or 'not calibrated'})",
        f"  trained on {_training(figures['provenance'])}",
        *([f"  live       {figures['live_note']}"] if figures["live_note"] else []),
        f"  license    {figures['provenance']['license']}",
        f"  computes   in {' and '.join(precisions)}",
        f"  runs on    {figures['runs_on']}",
    ]
    return "\n".join(lines)


def _training(provenance: dict[str, Any]) -> str:
    trained = Provenance(**provenance)
    if trained.untrained:
        return f"nothing ({provenance['split']}): its labels mean nothing"
    figures, data = provenance["figures"], f"{provenance['dataset']} ({provenance['split']})"
    if not figures.get("test_clips", 1):
        return f"{data}, not measured: the split has no test part"
    how = f"by {figures['evaluated_by']}" if "evaluated_by" in figures else "on its test"
    rate = f" at {trained.rates_text}" if trained.frame_rates else ""
    return f"{data}{rate}, {provenance['accuracy']:.1%} top-1 {how}"
