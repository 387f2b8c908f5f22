"""The card of a model package: what a person should know before trusting it."""

from actrec.package import ModelPackage


def card(model: ModelPackage, name: str) -> str:
    """README.md of the package called `name`, from its description alone."""
    provenance, figures, rejection = model.provenance, model.provenance.figures, model.rejection
    training = f"{provenance.dataset}, split {provenance.split}, {provenance.epochs} epochs, seed {provenance.seed}"
    background = "" if rejection.background is None else f", beside a background logit of {rejection.background:g}"
    accuracy = f"{provenance.accuracy:.1%} of {figures.get('test_clips', '?')} test clips"
    rows = [
        ("Network", f"`{model.family}` ({model.variant}), {figures.get('parameters', 0):,} parameters"),
        ("Streams", f"{figures.get('streams', len(model.inputs))}: {', '.join(i.modality for i in model.inputs)}"),
        ("Window", f"{model.window.seconds:g} s resampled to {model.window.frames} frames, {model.bodies} body"),
        ("Labels", ", ".join(model.labels)),
        ("Trained on", training),
        ("Accuracy", f"{accuracy} (top-1, before rejection)"),
        ("Rejection", f"confidence below {rejection.threshold:g}{background} is `unknown`"),
        ("Chosen on", rejection.calibrated_on),
        ("Trained again by", f"`{provenance.recipe}`"),
        ("Source", f"commit {provenance.commit}, {provenance.created}"),
        ("Licence", provenance.licence),
    ]  # fmt: skip
    if "unknown_rejected" in figures:
        kept = f"{figures['test_right_and_accepted']:.1%} right and accepted, {figures['test_rejected']:.1%} rejected"
        rows.insert(7, ("With rejection", f"test part: {kept}; {figures['unknown_rejected']:.1%} of "
                        f"{figures['unknown_clips']} held-out clips of other actions are rejected"))  # fmt: skip
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {name}\n\n| | |\n| --- | --- |\n{table}\n"
