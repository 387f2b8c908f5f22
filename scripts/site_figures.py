"""Tables and plots of the documentation site, made from benchmarks/results and models/zoo when `make docs` builds it.

A line `<!-- table NAME -->` or `<!-- plot NAME -->` of a page becomes the table or plot of that name.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"^<!-- (table|plot) ([a-z_]+) -->$", re.MULTILINE)
RUN_NAMES = {"p50": "frame to label, p50", "p95": "frame to label, p95"}


@dataclass(frozen=True)
class Figure:
    """A row of a CSV file in benchmarks/results."""

    value: str
    unit: str
    command: str


@cache
def results(file: str) -> Mapping[str, Figure]:
    """Return the figures of a CSV file of benchmarks/results by name."""
    with (ROOT / f"benchmarks/results/{file}.csv").open(encoding="utf-8", newline="") as rows:
        return {row["figure"]: Figure(row["value"], row["unit"], row["command"]) for row in csv.DictReader(rows)}


@cache
def packages() -> Mapping[str, Mapping[str, Any]]:
    """Return the model.yaml of each shipped package, by name; the default first."""
    files = sorted((ROOT / "models/zoo").glob("*/model.yaml"), key=lambda file: file.parent.name)
    read = {file.parent.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    return dict(sorted(read.items(), key=lambda item: "everyday" not in item[0]))


def markdown(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def select(file: str, subjects: Mapping[str, str], columns: Mapping[str, str], first: str) -> str:
    """Return a table of one line for each subject, and the commands that measure it.

    Args:
        file: CSV file.
        subjects: Title of a line by the part of a figure's name before the colon.
        columns: Title of a column by the part after it.
        first: Title of the first column.

    Raises:
        KeyError: None of a subject's figures is in the file.
    """
    found, rows, commands = results(file), [], dict[str, None]()
    for subject, title in subjects.items():
        figures = [found.get(f"{subject}: {quantity}") for quantity in columns]
        if not any(figures):
            raise KeyError(f"benchmarks/results/{file}.csv has no figure of '{subject}'")
        rows.append([title, *(cell(figure) for figure in figures)])
        commands.update(dict.fromkeys(figure.command for figure in figures if figure and figure.command))
    table = markdown([first, *columns.values()], rows)
    return f"{table}\n\n{'<br>'.join(f'`{command}`' for command in commands)}" if commands else table


def cell(figure: Figure | None) -> str:
    """Return a figure as text; counts with their total."""
    if figure is None:
        return "–"
    value = figure.value.replace("-", "−")
    return f"{value} {figure.unit}" if figure.unit.startswith("of ") else value


def elsewhere(package: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the figures of a package on sets that did not train it, or its leave-one-set-out trainings."""
    measured = package["provenance"]["figures"].get("elsewhere", [])
    return [each for model in measured for each in model["sets"] if not each["trained"] and each["right"] is not None]


SETS = {"nucla": "N-UCLA", "utd_mhad": "UTD-MHAD", "kard": "KARD", "kinder_gator": "Kinder-Gator", "cad60": "CAD-60",
        "bandai_namco": "Bandai-Namco", "hdm05": "HDM05"}  # fmt: skip


def package_table() -> str:
    """Return accuracy and rejection of each shipped package, at home and away."""
    rows = []
    for name, package in packages().items():
        figures = package["provenance"]["figures"]
        away = [
            f"{SETS.get(each['set'], each['set'])} {100 * each['right']:.0f} / {100 * each['unknown']:.0f} / "
            f"{100 * each['wrong']:.0f}"
            for each in elsewhere(package)
        ]
        rejected = figures.get("unknown_rejected")
        rows.append([
            f"`{name}`", len(package["labels"]), f"{100 * package['provenance']['accuracy']:.1f}",
            "–" if rejected is None else f"{100 * rejected:.1f}", "<br>".join(away) or "–",
        ])  # fmt: skip
    head = (
        "package",
        "labels",
        "own test part, %",
        "other actions rejected, %",
        "elsewhere: right / unknown / wrong, %",
    )
    return markdown(head, rows)


def everyday_table() -> str:
    """Return the labels of the two packages of everyday actions on sets that did not train them."""
    names = ("joint_tcn_open", "joint_tcn_everyday")
    found = [{each["set"]: each for each in elsewhere(packages()[name])} for name in names]

    def shown(each: Mapping[str, Any] | None) -> str:
        if each is None:
            return "–"
        shares = " / ".join(f"{100 * each[key]:.0f}" for key in ("right", "unknown", "wrong"))
        return f"{shares}; {each['false_events_per_minute']:.1f} ({each['clips']} clips)"

    rows = [[SETS[name], *(shown(of.get(name)) for of in found)] for name in found[0]]
    return markdown(("set", *(f"`{name}`" for name in names)), rows)


LIVE = {
    "30 Hz, skeletons and recognizer, 1 person": "1 person",
    "30 Hz, skeletons and recognizer, 2 people": "2 people",
    "30 Hz, skeletons and recognizer, 3 people": "3 people",
    "30 Hz, skeletons and recognizer, 5 people": "5 people",
    "30 Hz, all nodes, 1 person, one process": "1 person, with hands, face and scene flow",
    "30 Hz, all nodes, 1 person, one process per node": "the same, one process per node",
}
LIVE_COLUMNS = {
    "skeletons": "skeletons, Hz", "hands": "hands, Hz", "face": "face, Hz", "frame to label, p50": "latency p50, ms",
    "frame to label, p95": "p95, ms", "cores used": "cores", "memory (PSS)": "memory, MB",
}  # fmt: skip
EVENTS = {
    f"events, joint_tcn_everyday, test part of {name}": name
    for name in ("six sets, joined", "UTD-MHAD", "KARD", "HDM05", "Bandai-Namco", "Kinder-Gator", "N-UCLA", "CAD-60")
}
EVENT_COLUMNS = {
    "actions found": "actions found", "false events a minute": "false events a minute",
    "delay from the action's end": "delay from the end, s", "wrong label, share of time": "wrong label, % of time",
}  # fmt: skip
NODES = ("camera_node", "skeleton_node", "hand_node", "face_node", "scene_flow_node", "recognizer_node")
FAULTS = {
    **{f"kill, {name}": f"SIGKILL of {name}" for name in NODES},
    **{f"kill_launched, {name}": f"the same under ros2 launch, {name}" for name in NODES},
    "kill_graph, all nodes": "SIGKILL of all processes",
    "replug, realsense": "RealSense unplugged", "replug, azure_kinect": "Azure Kinect unplugged",
    **{f"stop, {name}": f"SIGSTOP of {name}, 10 s" for name in NODES},
    **{f"stop_unwatched, {name}": f"the same, {name} not replaced" for name in NODES},
}  # fmt: skip
FAULT_COLUMNS = {
    "labels back, p50": "back p50, s", "labels back, p95": "p95, s", "labels back, maximum": "maximum, s",
    "labels lost": "never back", "stale labels": "stale labels",
}  # fmt: skip
STRANGERS = {
    "fault 1, up, camera on its side (roll 90°), deepacts_graph_nucla from joints of N-UCLA, right clips":
        "1 camera on its side: right clips of N-UCLA, `deepacts_graph_nucla`",
    "fault 2, aspect, 1280×720, c3d_flow_at1 and flow_skeleton, distance of the joint from the moving flow":
        "2 images of 16:9: distance of a joint from its flow, px of 112",
    "fault 3, rate, P-I3D's 64 images at 20 Hz, warnings":
        "3 camera of 20 Hz, network of 30 Hz (43 of 64 images differ): warnings",
    "fault 4, unit, depth ×10, head to ankles": "4 depth ×10: head to ankles of a person (1.51 m), m",
    "fault 5, lens files, file with camera_model fisheye, error of the corner's ray":
        "5 calibration file of a fisheye: error of the corner's ray, °",
    "fault 6, late depth, 0.45 s, 1920×1080 at 30 Hz between processes, frames with depth":
        "6 depth 0.45 s late: frames with depth",
    "fault 7, camera_info latched and sent once before the start, frames in 3 s":
        "7 camera_info latched and sent once: frames in 3 s",
    "fault 8, foreign recordings, images beside a protobuf channel, frames read":
        "8 recording with a protobuf channel: frames read",
    "fault 9, parameter file for another namespace, messages": "9 parameter file for another namespace: messages",
    "fault 10, home folder, starts without a writable one": "10 no writable home folder: starts",
    "fault 11, skeletons published best effort after a reliable publisher, messages received by the recognizer":
        "11 best-effort publisher after a reliable one: messages received",
    "fault 11, SIGKILL of actrec run --processes, its processes 10 s later":
        "11 SIGKILL of `actrec run --processes`: processes 10 s later",
}  # fmt: skip
CAMERAS = (
    "upright", "roll 45°", "roll 90°", "roll −90°", "roll 180°",
    "fewest of 23 rolls every 15°", "pitch −30°", "pitch 30°",
)  # fmt: skip
TURNED = re.compile(
    r"turned camera, from (?P<source>.+), (?P<package>\w+), (?P<camera>[^,:]+): right, direction (?P<direction>\w+)"
)
TEACH = ("joint_tcn_everyday, 3 clips", "joint_tcn_everyday, 10 clips")
RECOVERY = ("accuracy of the report", "right and accepted", "wrong and accepted", "other clips rejected")


def network_table() -> str:
    """Return size and time of every network as published."""
    columns = {
        "parameters": "parameters, M", "multiply-adds of a clip": "multiply-adds a clip, G",
        "time of a window": "ms a window", "peak memory": "peak memory, MB",
    }  # fmt: skip
    names = [key.split(",")[0] for key in results("inference") if key.endswith("published size: time of a window")]
    return select("inference", {f"{name}, published size": f"`{name}`" for name in names}, columns, "network")


def mounting_table() -> str:
    """Return the right clips of packages before a turned camera, from joints and from pixels."""
    found: dict[tuple[str, ...], dict[str, Figure]] = {}
    for key, figure in results("cameras").items():
        if match := TURNED.fullmatch(key):
            found.setdefault((match["package"], match["source"], match["direction"]), {})[match["camera"]] = figure
    rows = [
        [f"`{package}`", source, direction, *(cell(cameras.get(camera)) for camera in CAMERAS)]
        for (package, source, direction), cameras in found.items()
    ]
    return markdown(("package", "from", "direction", *CAMERAS), rows) + "\n\n`actrec bench mounting`"


PAPERS = ("deepacts", "scene_flow", "p_i3d", "sem_spa", "vpn")


@cache
def papers() -> Mapping[str, Mapping[str, Any]]:
    """Return the papers' tables, models/recipes/papers/tables.yaml."""
    content = (ROOT / "models/recipes/papers/tables.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(content)
    return found


def paper_table(paper: str) -> str:
    """Return each table of a paper: its rows by name, the paper's figures and ours."""
    parts = []
    for number, table in papers()[paper]["tables"].items():
        columns = table["columns"]
        rows = [
            [
                f"`{key}`",
                row["title"],
                settings(row, columns),
                *(row.get("paper", {}).get(column, "–") for column in columns),
                ours(row, columns),
            ]
            for key, row in table["rows"].items()
        ]
        head = [
            "row",
            "in the paper",
            "recipe and changes",
            *(f"{c['title']}, {c.get('unit', '%')}" for c in columns.values()),
            "ours",
        ]
        note = f"\n\nNote: {table['note']}." if "note" in table else ""
        parts.append(f"### `{paper}:{number}` {table['title']}\n\n{markdown(head, rows)}{note}")
    return "\n\n".join(parts)


def settings(row: Mapping[str, Any], columns: Mapping[Any, Mapping[str, Any]]) -> str:
    """Return the recipes of a row and the fields that it changes; stages by name."""
    recipes = dict.fromkeys(
        [row["recipe"]] if "recipe" in row else [c["recipe"] for c in columns.values() if "recipe" in c]
    )
    changes = dict(row.get("set", {}))
    if "stages" in changes:
        stages = [each.get("model", each.get("name", "together")) for each in changes.pop("stages")]
        changes |= {"stages": stages or "none"}
    text = [f"{key}={yaml.safe_dump(value, default_flow_style=True, width=1000)}" for key, value in changes.items()]
    shown = [each.removesuffix("\n").removesuffix("\n...") for each in text]
    start = f" from {row['init']}" if "init" in row else ""
    return ", ".join(f"`{each}`" for each in [*recipes, *shown]) + start


def ours(row: Mapping[str, Any], columns: Mapping[Any, Mapping[str, Any]]) -> str:
    """Return our figures of a row, each with its data, recipe and note."""
    found: dict[str, list[str]] = {}
    for each in row.get("measured", ()):
        how = "; ".join(filter(None, (f"`{each['recipe']}`" if "recipe" in each else "", each.get("note", ""))))
        where = each.get("data") or columns[each["column"]]["title"]
        value = f"{each['value']}" + (f" ± {each['deviation']}" if "deviation" in each else "")
        found.setdefault(how, []).append(f"{where} {value}")
    counted = [f"{columns[column]['title']} {value}" for column, value in row.get("counted", {}).items()]
    lines = [f"{', '.join(values)}{f' ({how})' if how else ''}" for how, values in found.items()]
    return "<br>".join([*lines, *([", ".join(counted)] if counted else [])]) or "–"


def tables_table() -> str:
    """Return a line for each table of each paper: rows, data that they need, and the number of measured ones."""
    needs, lines = papers()["datasets"], []
    for paper in PAPERS:
        for number, table in papers()[paper]["tables"].items():
            rows, columns = table["rows"].values(), table["columns"]
            data = dict.fromkeys(needs[c["data"]] or "public data" for c in columns.values() if "data" in c)
            measured = [row["measured"] for row in rows if "measured" in row]
            used = {(each.get("data") or "the paper's data").split(",")[0] for row in measured for each in row}
            blocked = [f"{row['title']}: {row['blocked']}" for row in rows if "blocked" in row]
            page = PAGES.get(paper, paper)
            needed = "<br>".join([*data, *blocked])
            done = f"{len(measured)}: {', '.join(sorted(used))}" if measured else "–"
            lines.append([f"[`{paper}:{number}`]({page}.md)", table["title"], len(rows), needed, done])
    return markdown(("table", "subject", "rows", "needs", "rows measured here, with"), lines)


PAGES = {"scene_flow": "scene_flow_skeletons"}
"""Page of a paper, if it is not called as the paper."""

TABLES: dict[str, Callable[[], str]] = {
    **{f"papers_{paper}": partial(paper_table, paper) for paper in PAPERS},
    "tables": tables_table,
    "packages": package_table,
    "everyday": everyday_table,
    "live": lambda: select("pipeline", LIVE, LIVE_COLUMNS, "graph"),
    "events": lambda: select("accuracy", EVENTS, EVENT_COLUMNS, "test part of"),
    "faults": lambda: select("faults", FAULTS, FAULT_COLUMNS, "fault"),
    "networks": network_table,
    "strangers": lambda: select("strangers", STRANGERS, {"before": "before", "after": "after"}, "fault"),
    "mounting": mounting_table,
    "teach": lambda: select(
        "accuracy",
        {f"teach, five new actions of UTD-MHAD, from {name}": name for name in TEACH},
        {name: f"{name}, %" for name in RECOVERY},
        "package, clips of each action",
    ),
    "color": lambda: select(
        "accuracy",
        {
            f"depth or color alone, {data}, {name}, {how}": f"{data}, `{name}`, {how}"
            for data, name in (("UTD-MHAD", "joint_tcn_everyday"), ("UTD-MHAD", "deepacts_graph_utd_mhad"),
                               ("N-UCLA", "joint_tcn_everyday"), ("N-UCLA", "deepacts_graph_nucla"))
            for how in ("with depth", "color alone")
        },
        {"right and accepted": "right and accepted", "wrong and accepted": "wrong and accepted"},
        "clips, package",
    ),
    "frame_rate": lambda: select(
        "accuracy",
        {f"frame rate, {name}": f"`{name}`" for name in
         ("deepacts_graph_nucla", "deepacts_graph_utd_mhad", "sem_net_shrec17")},
        {f"top-1 at {rate} Hz": f"{rate} Hz" for rate in (60, 30, 15, 10, 7, 5, 3)},
        "package",
    ),
    "scene_flow_speed": lambda: select(
        "scene_flow",
        {f"speed, {size}": size.replace("x", "×") for size in ("160x120", "320x240", "640x480")},
        {"pd_flow": "`pd_flow`, frames/s", "dis": "`dis`, frames/s"},
        "size",
    ),
    "calibration": lambda: select(
        "calibration",
        {f"intrinsics, {board}, {size}": f"{board}, {size}"
         for board in ("ChArUco", "chessboard") for size in ("640×480", "1280×720")},
        {"focal length error, mean": "focal length, mean error, %", "focal length error, worst": "worst",
         "principal point error, mean": "principal point, mean error, px", "principal point error, worst": "worst, px"},
        "board",
    ),
    "viewers": lambda: select(
        "pipeline",
        {f"visualization_node, {name}": name for name in
         ("nothing subscribed", "markers", "annotated_image", "annotated_image/compressed", "all three")},
        {"cores used": "cores"},
        "subscribed",
    ),
}  # fmt: skip


def bars(title: str, groups: list[str], series: Mapping[str, list[float]], unit: str) -> str:
    """Return horizontal bars as SVG that is legible on light and dark pages."""
    from matplotlib import pyplot, rcParams

    rcParams.update({"svg.hashsalt": "actrec", "svg.fonttype": "path", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(7.5, 0.6 + 0.34 * len(groups) * max(len(series), 1)))
    height = 0.8 / len(series)
    colors = ("#00897b", "#b0bec5", "#e57373")
    for number, (name, values) in enumerate(series.items()):
        places = [group + (number - (len(series) - 1) / 2) * height for group in range(len(groups))]
        drawn = axes.barh(places, values, height, label=name, color=colors[number % len(colors)])
        axes.bar_label(drawn, [f"{value:g}" for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set(xlabel=unit, title=title)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False, loc="best")
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    pyplot.close(figure)
    return out.getvalue()


def live_plot() -> str:
    """Return the latency of labels by number of people."""
    found = results("pipeline")
    series = {
        name: [float(found[f"{subject}: {quantity}"].value) for subject in LIVE] for name, quantity in RUN_NAMES.items()
    }
    return bars("From a frame's stamp to its label, two CPU cores", list(LIVE.values()), series, "ms")


def away_plot() -> str:
    """Return the labels of the default package on sets that its networks never saw."""
    figures = elsewhere(next(iter(packages().values())))
    series = {name: [round(100 * each[name], 1) for each in figures] for name in ("right", "unknown", "wrong")}
    return bars(
        "Everyday actions in sets left out of training", [SETS[f["set"]] for f in figures], series, "% of clips"
    )


def size_plot() -> str:
    """Return the time of a window of each network as published."""
    from math import log10

    suffix = ", published size: time of a window"
    found = {
        name.removesuffix(suffix): float(f.value) for name, f in results("inference").items() if name.endswith(suffix)
    }
    ordered = dict(sorted(found.items(), key=lambda item: item[1]))
    from matplotlib import pyplot, rcParams

    rcParams.update({"svg.hashsalt": "actrec", "svg.fonttype": "path", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(7.5, 0.3 * len(ordered) + 0.8))
    drawn = axes.barh(list(ordered), list(ordered.values()), color="#00897b")
    axes.bar_label(drawn, [f"{value:g}" for value in ordered.values()], padding=3, fontsize=9)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set(xlabel="ms, logarithmic", title="Time of one window, ONNX Runtime, two threads")
    axes.set_xlim(0.5, 10 ** (log10(max(ordered.values())) + 0.6))
    axes.spines[["top", "right"]].set_visible(False)
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    pyplot.close(figure)
    return out.getvalue()


PLOTS: dict[str, tuple[str, Callable[[], str]]] = {
    "live": ("Latency from frame to label by number of people", live_plot),
    "away": ("Shares of right, unknown and wrong labels in four data sets", away_plot),
    "networks": ("Time of a window of each network", size_plot),
}
"""Description and drawing of each plot."""


def on_files(files: Any, config: Any) -> Any:
    """Add the plots to the site's files (a hook of MkDocs)."""
    from mkdocs.structure.files import File

    for name, (_, draw) in PLOTS.items():
        files.append(File.generated(config, f"images/plot_{name}.svg", content=draw()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the markers of a page (a hook of MkDocs)."""
    up = "../" * page.file.src_uri.count("/")

    def replaced(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return TABLES[name]() if kind == "table" else f"![{PLOTS[name][0]}]({up}images/plot_{name}.svg)"

    return MARKER.sub(replaced, markdown)
