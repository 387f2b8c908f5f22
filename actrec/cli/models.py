"""`actrec models`: list model packages, networks and recipes; check and describe one package."""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from actrec import inference
from actrec.inference import zoo
from actrec.inference.package import PRECISIONS, ModelPackage, Provenance, Rejection
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
    recipes = [] if networks is None else _recipes()
    if args.json:
        print(json.dumps({"packages": packages, "networks": networks, "recipes": recipes}, indent=2))
    else:
        print(_listing(packages, networks, recipes))
    return 0


def _entry(entry: zoo.InstalledPackage) -> dict[str, Any]:
    if entry.package is None:
        return {"name": entry.name, "path": str(entry.path), "problem": entry.problem}
    return {"name": entry.name, "path": str(entry.path), **_figures(entry.package)}


def _figures(package: ModelPackage) -> dict[str, Any]:
    return {
        "family": package.family,
        "dataset": package.provenance.dataset,
        "labels": list(package.labels),
        "accuracy": package.provenance.accuracy if package.provenance.figures.get("test_clips", 1) else None,
        "trained": not package.provenance.untrained,
        "window_s": package.window.seconds,
        "precisions": list(package.precisions),
        "bytes": sum(file.stat().st_size for file in package.path.iterdir() if file.is_file()),
    }


def _networks() -> list[str] | None:
    """Return the names of the networks; None without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return None
    names: list[str] = importlib.import_module("actrec_models").list_models()
    return names


def _recipes() -> list[str]:
    names: list[str] = importlib.import_module("actrec_models.training.recipe").names()
    return names


def _describe(name: str) -> dict[str, Any]:
    session = inference.load(name)
    package = session.package
    described: dict[str, Any] = config.plain(package)
    more = {"live_note": package.provenance.live_note, "runs_on": session.backend.device}
    return {"name": package.name, "path": str(package.path), **more, **described}


def _listing(packages: list[dict[str, Any]], networks: list[str] | None, recipes: list[str]) -> str:
    lines = ["Model packages:"]
    width = max((len(package["name"]) for package in packages), default=0)
    for package in packages:
        lines.append(f"  {package['name']:<{width}}  {package.get('problem') or _summary(package)}")
    if not packages:
        lines.append(f"  none; searched in {', '.join(str(folder) for folder in zoo.folders())}")
    lines += ["", "Networks:"]
    if networks is None:
        lines.append("  PyTorch is not installed: pip install 'actrec[train]'")
    else:
        lines += [f"  {name}" for name in networks]
        lines += ["", "Recipes (actrec train):", *(f"  {name}" for name in recipes)]
    return "\n".join(lines)


def _summary(package: dict[str, Any]) -> str:
    top_1 = "not measured" if package["accuracy"] is None else f"{package['accuracy']:.1%} top-1"
    actions = f"{len(package['labels'])} actions of {package['dataset']}, {top_1}"
    if not package["trained"]:
        actions = f"{len(package['labels'])} labels, not trained"
    return f"{package['family']}, {actions}, {package['window_s']:g} s window, {_megabytes(package)}"


def _megabytes(package: dict[str, Any]) -> str:
    lower = [name for name in package["precisions"] if name != "float32"]
    return f"{package['bytes'] / 1e6:.1f} MB{', also ' + ' and '.join(lower) if lower else ''}"


def _precisions(figures: dict[str, Any]) -> str:
    lower = [(name, figures[name]) for name in PRECISIONS[1:] if figures[name] is not None]
    return " and ".join(["float32", *(f"{name} ({_lower_text(values)})" for name, values in lower)])


def _lower_text(lower: dict[str, Any]) -> str:
    accuracy = "" if lower["accuracy"] is None else f", {lower['accuracy']:.1%} top-1"
    return f"logits within {lower['difference']:.2%} of their spread{accuracy}"


def _description(figures: dict[str, Any]) -> str:
    window, rejection, provenance = figures["window"], figures["rejection"], figures["provenance"]
    clips = f", clips of {window['clip']} ({window['combine']})" if window["clip"] else ""
    lines = [
        f"{figures['name']}: {figures['family']} ({figures['variant']}), {Path(figures['path'])}",
        f"  actions    {', '.join(figures['labels'])}",
        f"  window     {window['seconds']:g} s as {window['frames']} frames{clips}, {figures['bodies']} body/bodies "
        "together",
    ]
    for spec in figures["inputs"]:
        lines.append(f"  input      {spec['name']} {spec['shape']}: {spec['modality']} of {spec['layout']}")
    lines += [
        f"  rejection  {Rejection(**rejection).note} ({rejection['calibrated_on'] or 'not calibrated'})",
        f"  trained on {_training(provenance)}",
        *([f"  live       {figures['live_note']}"] if figures["live_note"] else []),
        f"  license    {provenance['license']}",
        f"  computes   in {_precisions(figures)}",
        f"  runs on    {figures['runs_on']}",
    ]
    return "\n".join(lines)


def _training(provenance: dict[str, Any]) -> str:
    if Provenance(**provenance).untrained:
        return f"nothing ({provenance['split']}): its labels mean nothing"
    figures, data = provenance["figures"], f"{provenance['dataset']} ({provenance['split']})"
    if not figures.get("test_clips", 1):
        return f"{data}, not measured: the split has no test part"
    how = f"by {figures['evaluated_by']}" if "evaluated_by" in figures else "on its test"
    return f"{data}, {provenance['accuracy']:.1%} top-1 {how}"
