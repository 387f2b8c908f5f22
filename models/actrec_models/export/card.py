"""Model cards: the README.md of a model package."""

import html
from typing import Any

from actrec import features
from actrec.inference.package import PRECISIONS, ModelPackage, Provenance

_COMBINED = {"mean": "probabilities averaged", "logits": "logits averaged", "max": "probabilities maximized"}


def card(model: ModelPackage, name: str) -> str:
    """Return the README.md of the package called `name`, from its description."""
    if model.provenance.untrained:
        return _untrained(model, name)
    provenance, figures, rejection = model.provenance, model.provenance.figures, model.rejection
    training = f"{provenance.dataset}, split {provenance.split}, {provenance.epochs} epochs, {_seeds(provenance)}"
    lower = _lower(model)
    accuracy = f"{provenance.accuracy:.1%} of {figures.get('test_clips', '?')} test clips (top-1, before rejection)"
    if figures.get("test_clips") == 0:
        accuracy = "not measured: the split has no test part"
    if "copies" in figures:
        left = figures["test_clips"] - figures["copies"]
        accuracy += (
            f"; {figures['accuracy_without_copies']:.1%} of the {left} that are not in the training part as well"
        )
    if "judged_by" in figures:
        accuracy += f", by {figures['judged_by']}, of the head on the frozen backbone"
    rows = [
        *_network(model),
        ("Trained on", training),
        ("Accuracy", accuracy),
        *([("Live", provenance.live_note)] if provenance.live_note else []),
        *lower,
        ("Rejection", rejection.note),
        ("Chosen on", plain(rejection.calibrated_on)),
        ("Trained again by", f"`{provenance.recipe or provenance.command or '?'}`"),
        *_last_command(provenance),
        *_run(provenance),
        *_streams(provenance),
        ("Source", _source(provenance)),
        ("Licence", provenance.licence),
    ]  # fmt: skip
    if "test_rejected" in figures:
        kept = f"{figures['test_right_and_accepted']:.1%} right and accepted, {figures['test_rejected']:.1%} rejected"
        others = "no clip of another action was held out"
        if "unknown_rejected" in figures:
            clips = f"{figures['unknown_clips']} held-out clips of other actions"
            others = f"{figures['unknown_rejected']:.1%} of {clips} are rejected"
        place = [name for name, _ in rows].index("Rejection") + 1
        rows.insert(place, ("With rejection", f"test part: {kept}; {others}"))
    if "test_ece" in figures:
        confidence = (
            f"{figures['test_confidence']:.2f} on average, expected calibration error {figures['test_ece']:.3f}"
        )
        rows.insert([name for name, _ in rows].index("Rejection"), ("Confidence", f"test part: {confidence}"))
    caveat = f"**{figures['caveat']}**\n\n" if "caveat" in figures else ""
    return f"# {name}\n\n{caveat}{_table(rows)}"


def _seeds(provenance: Provenance) -> str:
    """Return the seed of the network, or of each fused network."""
    seeds = [part["seed"] for part in _parts(provenance)] or [provenance.seed]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _last_command(provenance: Provenance) -> list[tuple[str, str]]:
    """Return the command that was run, which differs from the recipe's if recipe fields were overridden."""
    given = [("Last command", provenance.command)] if "fused" not in provenance.figures else []
    given += [(f"Last command of {part['name']}", part.get("command", "")) for part in _parts(provenance)]
    return [(name, f"`{command}`") for name, command in given if command and command != provenance.recipe]


def _parts(provenance: Provenance) -> list[dict[str, Any]]:
    """Return the networks of a fused package."""
    return list(provenance.figures.get("fused", []))


def _lower(model: ModelPackage) -> list[tuple[str, str]]:
    """Return a row for each network in lower precision."""
    rows = []
    for name in PRECISIONS[1:]:
        lower = model.lower(name)
        if lower is None:
            continue
        accuracy = "" if lower.accuracy is None else f"{lower.accuracy:.1%} of the same clips; "
        text = f"{accuracy}logits within {lower.difference:.2%} of their spread of the float32 network's"
        text += f"; ranges of {lower.calibrated_on}" if lower.calibrated_on else ""
        rows.append((f"In {name}", text + (f"; in float32: {', '.join(lower.kept)}" if lower.kept else "")))
    return rows


def _run(provenance: Provenance) -> list[tuple[str, str]]:
    """Return the stored facts on the training run."""
    rows = []
    if provenance.trained_on:
        rows.append(("Trained in", f"{provenance.hours:.2f} h on {provenance.trained_on}"))
    if provenance.packages:
        rows.append(("Trained with", ", ".join(f"{name} {version}" for name, version in provenance.packages.items())))
    if provenance.data_sha256:
        rows.append(("Training data", f"fingerprint {provenance.data_sha256[:16]}…"))
    if provenance.init:
        rows.append(("Began from", ", ".join(provenance.init)))
    return rows


def _streams(provenance: Provenance) -> list[tuple[str, str]]:
    """Return a row for each fused network: its weight and training."""
    rows = []
    for part in _parts(provenance):
        run = f"seed {part['seed']}, {part['epochs']} epochs, commit {part['commit'] or 'unknown'}"
        rows.append((f"Of it {part['share']:.3g}", f"{part['name']}: {part['network']}, {run}"))
    return rows


def _source(provenance: Provenance) -> str:
    commit = f"commit {provenance.commit}" if provenance.commit else "no commit (not run from a checkout)"
    return f"{commit}, {provenance.created}"


def _untrained(model: ModelPackage, name: str) -> str:
    warning = (
        f"**This model is not trained** ({model.provenance.split}). It shows whether a network fits a robot's time "
        "and memory budget. Its labels mean nothing, and it never publishes `unknown`."
    )
    rows = [
        *_network(model),
        *_lower(model),
        ("Made again by", f"`{model.provenance.recipe}`"),
        ("Source", _source(model.provenance)),
        ("Licence", model.provenance.licence),
    ]
    return f"# {name}\n\n{warning}\n\n{_table(rows)}"


def _network(model: ModelPackage) -> list[tuple[str, str]]:
    figures, window = model.provenance.figures, model.window
    people = "1 body" if model.bodies == 1 else f"up to {model.bodies} bodies"
    clips, modalities = len(window.starts), features.modalities(model.inputs)
    within = "" if clips == 1 else f", {clips} clips of {window.clip_frames}, {_COMBINED[window.combine]}"
    return [
        ("Network", f"`{model.family}` ({model.variant}), {figures.get('parameters', 0):,} parameters"),
        ("Streams", f"{len(modalities)}: {', '.join(modalities)}"),
        ("Window", f"{window.seconds:g} s resampled to {window.frames} frames{within}, {people}"),
        ("Labels", plain(", ".join(model.labels))),
    ]


def _table(rows: list[tuple[str, str]]) -> str:
    # An unescaped bar would start another cell.
    cells = [(name, value.replace("|", "\\|")) for name, value in rows]
    lines = "\n".join(f"| {name} | {value} |" for name, value in cells)
    return f"| | |\n| --- | --- |\n{lines}\n"


def plain(text: str) -> str:
    """Escape text for Markdown: a user's labels may contain any character."""
    return html.escape(text, quote=False).replace("`", "\\`")
