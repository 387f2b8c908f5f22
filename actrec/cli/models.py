"""`actrec models`: list, describe and fetch model packages; list networks, recipes and licenses."""

import argparse
import importlib.util
import json
import os
from typing import Any

import yaml

from actrec import inference
from actrec.inference import manifest, zoo
from actrec.inference.package import PRECISIONS, Provenance, Rejection
from actrec.scene_flow import identity
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec.utils.folders import user_folder

SOURCE = "ACTREC_MODELS_URL"

EPILOG = """\
Example:
  actrec models
  actrec models deepacts_graph_nucla
  actrec models ~/my_package --json
  actrec models --licenses
  actrec models --fetch sem_net_shrec17 --from https://example.org/actrec/zoo
  actrec models --fetch all --from /media/usb/zoo

--fetch writes to ~/.local/share/actrec/models, and accepts only files with the hashes of the published packages.
Nothing is fetched without this option.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec models`."""
    parser.epilog = EPILOG
    parser.add_argument("package", nargs="?", help="check and describe this one: a name from the list, or a folder")
    parser.add_argument("--licenses", action="store_true", help="list the license of each model package and network")
    parser.add_argument(
        "--fetch", nargs="+", metavar="NAME", default=[], help="install published packages; all: all of them"
    )
    parser.add_argument("--from", dest="source", metavar="SOURCE", default=os.environ.get(SOURCE, ""),
        help=f"folder or URL that holds the folders of the packages (default: {SOURCE})")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list or the licenses, fetch packages, or describe one package after a test run of its network."""
    if sum((args.package is not None, args.licenses, bool(args.fetch))) > 1:
        raise ConfigError("a package, --licenses and --fetch exclude each other: give one of them")
    if args.fetch:
        return _fetch(args.fetch, args.source, args.json)
    if args.licenses:
        rows = _licenses()
        print(json.dumps(rows, indent=2) if args.json else _license_table(rows))
        return 0
    if args.package is not None:
        figures = _describe(args.package)
        print(json.dumps(figures, indent=2) if args.json else _description(figures))
        return 0
    packages = [_entry(entry) for entry in zoo.list_packages()]
    absent = sorted(manifest.read().keys() - {package["name"] for package in packages})
    networks = _networks()
    recipes = [] if networks is None else list(importlib.import_module("actrec_models.training.recipe").shipped())
    if args.json:
        print(
            json.dumps(
                {"packages": packages, "not_installed": absent, "networks": networks, "recipes": recipes}, indent=2
            )
        )
    else:
        print(_listing(packages, absent, networks, recipes))
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


def _listing(packages: list[dict[str, Any]], absent: list[str], networks: list[str] | None, recipes: list[str]) -> str:
    lines = ["Model packages:"]
    width = max((len(package["name"]) for package in packages), default=0)
    lines += [f"  {package['name']:<{width}}  {package.get('problem') or _summary(package)}" for package in packages]
    if not packages:
        lines.append(f"  none; searched in {', '.join(str(folder) for folder in zoo.folders())}")
    if absent:
        lines += ["", "Published, not installed (actrec models --fetch NAME --from SOURCE):"]
        lines += [f"  {name}  {manifest.read()[name].size / 1e6:.0f} MB" for name in absent]
    lines += ["", "Networks:"]
    if networks is None:
        lines.append("  PyTorch is not installed: pip install 'actrec[train]'")
    else:
        lines += [*(f"  {name}" for name in networks), "", "Recipes (actrec train):", *(f"  {r}" for r in recipes)]
        lines.append(
            "  papers/PAPER:TABLE:ROW  (actrec eval --table deepacts lists them; scene_flow, p_i3d, sem_spa, vpn)"
        )
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


# -- fetching and licenses ---------------------------------------------------------------------------------------------


def _fetch(names: list[str], source: str, as_json: bool) -> int:
    """Install published packages, with a progress bar for each."""
    from tqdm import tqdm

    if not source:
        raise ConfigError(f"--fetch needs the folder or URL of the packages: give --from SOURCE, or set {SOURCE}")
    published, installed = manifest.read(), []
    own = user_folder("", "XDG_DATA_HOME", "~/.local/share", "actrec/models")
    for name in sorted(published) if names == ["all"] else names:
        size = published[name].size if name in published else 0
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            package = manifest.fetch(name, source, own, bar.update)
        row = {"name": name, "path": str(package.path), "license": package.provenance.license}
        installed.append(row)
        if not as_json:
            print("{name}: {path}, license: {license}".format(**row))
    if as_json:
        print(json.dumps(installed, indent=2))
    return 0


def _licenses() -> list[dict[str, str]]:
    """Return name, license and training data of each model package, published or installed, and each network."""
    rows = {
        listed.name: {"name": listed.name, "license": listed.license, "source": f"trained on {listed.dataset}"}
        for listed in manifest.read().values()
    }
    for entry in zoo.list_packages():
        if entry.package is not None:
            made = entry.package.provenance
            source = "not trained" if made.untrained else f"trained on {made.dataset}"
            rows[entry.name] = {"name": entry.name, "license": made.license, "source": source}
    networks = importlib.import_module("actrec.perception.networks")
    folder = next(iter(networks.files().values())).path.parent
    described = yaml.safe_load((folder / networks.MANIFEST).read_text(encoding="utf-8"))
    perception = [
        {"name": f"perception/{name}", "license": described["license"], "source": network["source"].split(": ")[0]}
        for name, network in described["networks"].items()
    ]
    return [*(rows[name] for name in sorted(rows)), *perception]


def _license_table(rows: list[dict[str, str]]) -> str:
    lines = ["| weights | license | from |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {row['name']} | {row['license']} | {row['source']} |" for row in rows])


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
        *([f"  flow       {identity.text(flow)}"] if (flow := figures["provenance"]["scene_flow"]) else []),
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
