"""A study as tables: what the text, the Markdown and the HTML report all show, in the same words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actrec import features
from actrec_models.evaluation.opening import Model
from actrec_models.evaluation.report import Report
from actrec_models.evaluation.study import Study

NAMES = {
    "accuracy": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_class_accuracy": "mean per-class accuracy",
    "mean_f1": "mean F1 of the classes",
    "mean_average_precision": "mean average precision",
    "ece": "expected calibration error (15 bins)",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score (0 to 2)",
    "aurc": "area under risk–coverage",
}
"""Figure of `Report.summary` to what it is called."""

SHARES = ("accuracy", "top5", "mean_class_accuracy", "mean_f1", "mean_average_precision")


@dataclass(frozen=True)
class Table:
    """Rows under a heading; a column of numbers is a string already."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def facts(study: Study) -> list[str]:
    """What was scored on what, a sentence each."""
    target, options = study.target, _options(study)
    told = ", ".join(f"{name} {value}" for name, value in options.items())
    part = f"{target.part} part{f' ({told})' if told else ''}"
    protocol = f"the official protocol reports {NAMES[target.source.measure]}"
    lines = [f"Dataset {target.dataset}, split {target.split}, {part}; {protocol}."]
    for mode in dict.fromkeys(study.clips):
        ours = [model.name for model, clips in zip(study.models, study.clips, strict=True) if clips == mode]
        who = f"{', '.join(ours)}: " if len(set(study.clips)) > 1 else ""
        lines.append(who + TAKEN[mode])
    for model, looks in zip(study.models, study.draws, strict=True):
        if looks:
            lines.append(
                f"{model.name}: {looks} looks more at each recording, varied as in its training, all scores combined; "
                "the live recognizer has one, for which confidence and rejection were fitted."
            )
    if study.fused:
        summed = "softmaxes" if study.how == "softmax" else "logits"
        lines.append(
            f"Fusion of {len(study.weights)} models, {_streams_fused(study)} input streams in all, by the weighted sum "
            f"of their {summed}: {', '.join(f'{w:.3g}' for w in study.weights)}."
        )
    if study.repetitions:
        lines.append(f"{len(study.repetitions)} {study.kind}; ± is the sample standard deviation.")
    return [*lines, *study.notes]


TAKEN = {
    "live": "Of each recording, the window that the live recognizer has when it ends (live).",
    "whole": "Of each recording, windows over all of it, their scores combined as the package says (whole).",
    "stretched": "Of each recording, one window into which all of it is stretched, however long it is (stretched).",
}


def streams_of(model: Model) -> int:
    """How many input streams a model has, as its card counts them."""
    return len(features.modalities(model.package.inputs))


def _streams_fused(study: Study) -> int:
    """Input streams of all models that are fused with one another."""
    return sum(map(streams_of, study.models)) // len(study.fused)


def overview(study: Study) -> Table:
    """A row a model, and one for what they are together."""
    columns = ("", "streams", "seed", *(["fold"] if study.folds else []), "epochs", "clips", "top-1", "95 % interval")
    columns += ("top-5", "per class", "ECE")
    rows = []
    for number, (model, report) in enumerate(zip(study.models, study.reports, strict=True)):
        of, fold = model.package.provenance, [str(study.folds[number])] if study.folds else []
        inputs = f"{streams_of(model)}: {', '.join(features.modalities(model.package.inputs))}"
        rows.append((model.name, inputs, str(of.seed), *fold, str(of.epochs), *_headline(report)))
    for report in study.fused:
        name = "fusion" if len(study.fused) == 1 else f"fusion of {report.name}"
        rows.append((name, str(_streams_fused(study)), "", "", *_headline(report)))
    if study.spread:
        rows.append(_spread_row(study))
    return Table("Models", columns, rows)


def _headline(report: Report) -> tuple[str, ...]:
    s = report.summary()
    return (
        str(s["clips"]),
        percent(s["accuracy"]),
        f"{percent(s['accuracy_low'])} to {percent(s['accuracy_high'])}",
        percent(s["top5"]),
        percent(s["mean_class_accuracy"]),
        number(s["ece"]),
    )


def _spread_row(study: Study) -> tuple[str, ...]:
    def cell(figure: str) -> str:
        mean, std = study.spread[figure]["mean"], study.spread[figure]["std"]
        return f"{percent(mean)} ± {100 * std:.2f}" if figure in SHARES else f"{mean:.3f} ± {std:.3f}"

    blank = [""] * (4 if study.folds else 3)
    cells = [cell("accuracy"), "", cell("top5"), cell("mean_class_accuracy"), cell("ece")]
    return (f"mean of {len(study.repetitions)} {study.kind}", *blank, "", *cells)


def figures(report: Report) -> Table:
    """The figures that are one number each."""
    summary = report.summary()
    rows = [("clips", f"{summary['clips']}, {summary['right']} right")]
    if summary["unreadable"]:
        rows.append(("clips that could not be read", f"{summary['unreadable']}, counted as wrong"))
    low, high = summary["accuracy_low"], summary["accuracy_high"]
    rows.append(("95 % interval of top-1 (bootstrap)", f"{percent(low)} to {percent(high)}"))
    rows += [
        (name, percent(summary[figure]) if figure in SHARES else number(summary[figure]))
        for figure, name in NAMES.items()
    ]
    if "copies" in summary:
        value = f"{percent(summary['accuracy_without_copies'])} of {summary['clips'] - summary['copies']}"
        rows.insert(3 + bool(summary["unreadable"]), ("… of clips that the training part does not hold too", value))
    if "threshold" in summary:
        accepted = summary["accuracy_of_accepted"]
        rows += [
            ("rejection threshold", f"{summary['threshold']:g}"),
            ("rejected as unknown", percent(summary["rejected"])),
            ("right and accepted", percent(summary["right_and_accepted"])),
            ("right of those accepted", percent(accepted)),
        ]
    return Table("Figures", ("figure", "value"), rows)


def classes(report: Report) -> Table:
    """Recall, precision, F1 and average precision of each class."""
    columns = ("class", "clips", "predicted", "recall", "precision", "F1", "average precision")
    keys = ("recall", "precision", "f1", "average_precision")
    rows = [
        (name, str(row["clips"]), str(row["predicted"]), *(percent(row[key]) for key in keys))
        for name, row in report.per_class.items()
    ]
    return Table("Classes", columns, rows)


def pairs(report: Report) -> Table:
    """The most confused pairs."""
    rows = [(p["true"], p["predicted"], str(p["clips"]), percent(p["share"])) for p in report.pairs]
    return Table("Most confused", ("true", "recognised as", "clips", "of the true class"), rows)


def coverage(report: Report) -> Table:
    """Errors among the most confident clips."""
    risks = report.as_dict()["risk_at_coverage"]
    return Table(
        "Errors when only the most confident are answered",
        ("share answered", "share of answers wrong"),
        [(percent(float(share)), percent(risk)) for share, risk in risks.items()],
    )


def unread(report: Report) -> Table:
    """What could not be read, and why."""
    return Table("Clips that could not be read", ("clip", "why"), list(report.unread.items()))


def of_report(report: Report) -> list[Table]:
    """Every table about one report that has rows."""
    tables = [figures(report), classes(report), pairs(report), coverage(report), unread(report)]
    return [table for table in tables if table.rows]


def as_dict(study: Study) -> dict[str, Any]:
    """Every figure, for `--json`: flat for one model; else the models in a list, and what they are together."""
    target = study.target
    options = _options(study)
    head: dict[str, Any] = {"dataset": target.dataset, "split": target.split, "part": target.part}
    head |= {"dataset_options": options} if options else {}
    models = [
        {"package": model.name, "clips_of_recording": mode, **_origin(study, number), **report.as_dict()}
        for number, (model, mode, report) in enumerate(zip(study.models, study.clips, study.reports, strict=True))
    ]
    head |= {"measure": target.source.measure, "notes": list(study.notes)}
    head |= {"copies_of_training_clips": dict(study.copies)} if study.copies else {}
    if study.kind == "single":
        return {**head, **models[0]}
    made: dict[str, Any] = {**head, "kind": study.kind, "models": models}
    if study.fused:
        fused = [{"package": report.name, **report.as_dict()} for report in study.fused]
        made |= {"fuse": study.how, "weights": list(study.weights), "streams": _streams_fused(study)}
        made |= {"fusion": fused[0]} if len(fused) == 1 else {"fusions": fused}
    return {**made, "spread": study.spread} if study.spread else made


def _options(study: Study) -> dict[str, Any]:
    """Of the dataset; without the fold where each model has its own."""
    return {name: value for name, value in study.target.options.items() if not (study.folds and name == "fold")}


def _origin(study: Study, index: int) -> dict[str, Any]:
    package = study.models[index].package
    fold = {"fold": study.folds[index]} if study.folds else {}
    draws = {"draws": study.draws[index]} if study.draws[index] else {}
    unknown = study.unknown[index] if study.unknown else None
    others = {"unknown_clips": unknown.clips, "unknown_rejected": unknown.rejected} if unknown else {}
    return {
        "family": package.family,
        "variant": package.variant,
        "streams": streams_of(study.models[index]),
        "inputs": [spec.modality for spec in package.inputs],
        "seed": package.provenance.seed,
        "epochs": package.provenance.epochs,
        **fold,
        **draws,
        **others,
    }


def percent(share: float | None) -> str:
    """A share to a hundredth of a per cent, which tells one clip of ten thousand; "–" for none."""
    return "–" if share is None else f"{100 * share:.2f} %"


def number(value: float | None) -> str:
    """Four decimals; "–" for none."""
    return "–" if value is None else f"{value:.4f}"
