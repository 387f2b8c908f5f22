"""The processes that `recognize.launch.py` starts, by its arguments; the file itself only passes them to launch."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from actrec import cameras
from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.processes import WATCHED
from actrec_nodes.bringup.supervisor import START_RETRY_S
from actrec_nodes.common import parameter_files, topics

RESPAWN_DELAY_S = 0.5  # constant in launch; the process adds growing pauses (`wait_before_start`)

AUTO = "auto"

ARGUMENTS = {
    "driver": "camera driver; empty: from params_file, or the node's default",
    "driver_options": 'settings of the driver: "key=value key=value"',
    "serial_no": "serial number of the camera of driver; empty: the only one",
    "camera_name": "first part of the camera's topics, with driver also of its frame; a name for each camera",
    "camera_namespace": "as the argument of realsense2_camera, with vendor:=realsense2_camera",
    "model": "model package, by name or folder; empty: from params_file, or the node's default",
    "params_file": "ROS parameter file",
    "vendor": f"use images of this ROS driver instead of camera_node: {', '.join(sorted(topics.VENDORS))}",
    "namespace": "namespace of every node and topic",
    "remap_tf": "use tf and tf_static of the namespace, as Nav2 does: true or false",
    "use_sim_time": "use the time of /clock: true; false: as in params_file",
    "log_level": "debug, info, warn or error",
    "autostart": "configure and activate the nodes; false: leave it to another node: true or false",
    "composed": "all nodes in one process: true or false",
    "respawn": "replace a process that ends, and start again a node whose start fails: true, false, or auto: true, but "
    "false for a recording",
}
"""Arguments besides `SWITCHES`, with their descriptions."""

DEFAULTS = {
    "autostart": "true",
    "camera_name": topics.CAMERA,
    "camera_namespace": topics.CAMERA,
    "composed": "false",
    "remap_tf": "false",
    "respawn": AUTO,
    "use_sim_time": "false",
}
"""Values of `ARGUMENTS` that are not empty by default."""

IF_AUTO = {True: ", or auto: with respawn or composed, for subscribers", False: ", or auto: if the model takes it"}

SWITCHES = {
    spec.switch: (
        AUTO if spec.is_optional else "true",
        f"{spec.name}: {spec.purpose}; true or false{IF_AUTO[spec.on_demand] * spec.is_optional}",
    )
    for spec in graph.GRAPH
}
"""Arguments that turn a node on or off: default and description."""


@dataclass(frozen=True)
class Process:
    """One process to start.

    Attributes:
        executable: Of the package actrec.
        name: Name of its node; empty for the process with all nodes.
        arguments: Command line before the ones of ROS.
        files: Parameter files.
        parameters: Parameters by name, which outrank the files.
        environment: Environment variables.
    """

    executable: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Launch:
    """The processes to start, their common settings, and a line for the log; empty for none."""

    processes: list[Process]
    namespace: str
    remappings: list[tuple[str, str]]
    ros_arguments: list[str]
    respawn: bool
    note: str = ""


def plan(given: Mapping[str, str], outer_namespace: str = "") -> Launch:
    """Return the processes for the launch arguments, without nodes that the model does not need.

    Args:
        given: The value of every one of `ARGUMENTS` and `SWITCHES`.
        outer_namespace: That of a launch file which includes this one.

    Raises:
        ConfigError: A value is wrong, or a file is missing; the message names the argument.
    """
    auto = [spec.switch for spec in graph.GRAPH if spec.is_optional and given[spec.switch] == AUTO]
    left_out = [name for name in SWITCHES if name not in auto and not is_true(given, name)]
    if given["vendor"]:
        if given["driver"]:
            raise ConfigError("launch arguments vendor and driver each name an image source; set only one")
        left_out.append("camera")
    outer = "" if given["namespace"].startswith("/") else outer_namespace  # as launch_ros
    namespace = "".join(f"/{part.strip('/')}" for part in (outer, given["namespace"]) if part.strip("/"))
    files = _parameter_files(given, namespace)
    ros_arguments = ["-r", f"__ns:={namespace}", *(word for file in files for word in ("--params-file", file))]
    camera = _own_parameters(given, "camera_node")
    driver = graph.camera(ros_arguments, camera) if "camera" not in left_out else None
    respawn = is_true(given, "respawn") if given["respawn"] != AUTO else not graph.is_recording(driver)
    shared: dict[str, Any] = {
        "autostart": is_true(given, "autostart"),
        **({"start_retry_s": START_RETRY_S} if respawn else {}),
    }
    if is_true(given, "use_sim_time"):
        shared["use_sim_time"] = True
    specs = graph.select(without=left_out)
    model = graph.model_of(specs, given["model"], ros_arguments)
    graph.check_color(specs, model, driver)
    color_alone = graph.find("camera") in specs and not graph.has_depth(driver)
    if color_alone:
        specs = graph.without_depth(specs, model, [switch for switch in SWITCHES if switch not in (*auto, *left_out)])
    composed = is_true(given, "composed")
    if composed or (respawn and shared["autostart"] and len(specs) > 1 and not is_secure()):
        asked = [spec.switch for spec in graph.GRAPH if spec.is_optional and spec.switch not in (*auto, *left_out)]
        arguments = [*([] if composed else ["--processes"]), *_graph_arguments(given, left_out, asked)]
        return _launch(given, [Process("graph", arguments=arguments, files=files, parameters=shared)], respawn)
    spare = graph.unneeded(specs, model, [spec.switch for spec in specs if spec.switch not in auto])
    specs = [spec for spec in specs if spec not in spare]
    later = graph.later(specs, model, driver)
    awaited = [spec for spec in specs if spec not in later]
    note = graph.not_started(spare, model, f"to start: {' '.join(f'{spec.switch}:=true' for spec in spare)}")
    processes = [
        Process(
            spec.name,
            spec.name,
            files=files,
            parameters={
                **shared,
                **({"use_depth": False} if color_alone and spec.name in graph.OPTIONAL_DEPTH else {}),
                **_own_parameters(given, spec.name),
                **graph.start_after(spec, awaited),
            },
            # It is back soon after it has died.
            environment={WATCHED: ",".join(each.name for each in specs)} if spec == specs[-1] else {},
        )
        for spec in specs
    ]
    return _launch(given, processes, respawn, note)


def _launch(given: Mapping[str, str], processes: list[Process], respawn: bool, note: str = "") -> Launch:
    camera = given["camera_name"], given["camera_namespace"]
    remaps = topics.camera_remaps(given["vendor"], *camera)
    if given["vendor"] and given["namespace"] and camera == (topics.CAMERA, topics.CAMERA):
        color = dict(remaps)[topics.COLOR]
        shared = f"images are from {color}, outside namespace {given['namespace']}: another graph with this vendor "
        note = "; ".join(filter(None, (note, f"{shared}takes the same ones, unless it has another camera_name")))
    return Launch(
        processes,
        given["namespace"],
        [*remaps, *(topics.TF if is_true(given, "remap_tf") else [])],
        ["--log-level", given["log_level"]] if given["log_level"] else [],
        respawn,
        note,
    )


def _graph_arguments(given: Mapping[str, str], left_out: list[str], asked: list[str]) -> list[str]:
    """Return the arguments of the single process; they override parameter files, also per-node values."""
    arguments = ["--without", ",".join(left_out)] if left_out else []
    arguments += ["--with", ",".join(asked)] if asked else []
    for name in ("driver", "model"):
        arguments += [f"--{name}", given[name]] if given[name] else []
    return arguments + [f"--driver-option={word}" for word in _driver_options(given)]


def _own_parameters(given: Mapping[str, str], node: str) -> dict[str, Any]:
    """Return the parameters of one node that launch arguments set."""
    if node == "camera_node":
        own: dict[str, Any] = {"driver": given["driver"]} if given["driver"] else {}
        return own | graph.driver_options(given["driver"], _driver_options(given))
    return {"model": given["model"]} if node == "recognizer_node" and given["model"] else {}


def _parameter_files(given: Mapping[str, str], namespace: str) -> list[str]:
    """Return the parameter file, if one is given, checked for nodes in a namespace."""
    if not given["params_file"]:
        return []
    file = os.path.expanduser(given["params_file"])
    file = parameter_files.rekeyed(file, namespace)
    graph.check(file, namespace=namespace)  # launch itself would only warn
    return [file]


def _driver_options(given: Mapping[str, str]) -> list[str]:
    """Return driver_options as KEY=VALUE words, with the settings of serial_no and camera_name."""
    try:
        words = shlex.split(given["driver_options"])
    except ValueError as error:
        raise ConfigError(f"launch argument driver_options is {given['driver_options']!r}: {error}") from error
    driver = given["driver"]
    known = {field.name for field in fields(cameras.DRIVERS.get(driver).config_class)} if driver else set()
    # realsense2_camera takes '_0123' and "'0123'", so that launch does not read a number.
    serial = given["serial_no"].strip("'\"").removeprefix("_")
    if serial and "serial" not in known:
        raise ConfigError(
            f"launch argument serial_no needs a driver with serial numbers, but driver is '{driver}': set "
            "driver:=realsense or azure_kinect, or give the number to the vendor's driver"
        )
    if serial:
        words.append(f"serial='{serial}'")
    if given["camera_name"] != topics.CAMERA and "frame_id" in known and not re.search(r"\bframe_id=", str(words)):
        words.append(f"frame_id={given['camera_name']}_color_optical_frame")
    return words


def is_secure() -> bool:
    """Return whether SROS2 is on. Then launch starts each node itself, with an enclave that has only its rights."""
    return os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true"


def is_true(given: Mapping[str, str], name: str) -> bool:
    """Parse a true/false launch argument; empty is false."""
    value = given[name].lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("", "false", "0", "no", "off"):
        return False
    raise ConfigError(f"launch argument {name} is '{given[name]}', expected true or false")


# -- record.launch.py --------------------------------------------------------------------------------------------------

RECORDING = {
    "out": ("", "folder of the new bag; it must not exist"),
    "topics": ("", "topics to record, separated by blanks; empty: the graph's, without scene flow"),
    "duration_s": ("", "seconds to record; empty: until Ctrl-C"),
    "namespace": ("", "namespace of the graph"),
    "vendor": ("", "record the images of this ROS driver, as the argument of recognize.launch.py"),
    "camera_name": (topics.CAMERA, "as the argument of recognize.launch.py"),
    "camera_namespace": (topics.CAMERA, "as the argument of recognize.launch.py"),
    "use_sim_time": ("false", "use the time of /clock: true or false"),
}
"""Arguments of `record.launch.py`: default and description."""


def recording_remaps(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the remaps of `record_node` to the topics of a camera; raises as `topics.camera_remaps`."""
    return topics.camera_remaps(given["vendor"], given["camera_name"], given["camera_namespace"])


def recording(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of `record_node` for the value of each of `RECORDING`.

    Raises:
        ConfigError: No `out`, or the duration is no number.
    """
    if not given["out"]:
        raise ConfigError("launch argument out is empty: name the folder of the new bag, out:=FOLDER")
    try:
        duration = {"duration_s": float(given["duration_s"])} if given["duration_s"] else {}
    except ValueError as error:
        raise ConfigError(f"launch argument duration_s is '{given['duration_s']}', expected a number") from error
    chosen = {"topics": given["topics"].split()} if given["topics"].split() else {}
    return {"out": given["out"], "use_sim_time": is_true(given, "use_sim_time"), **duration, **chosen}


def typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters for launch with texts as texts: it parses them as YAML, also "/data/run #3" and 2026-10-07."""
    from launch_ros.parameter_descriptions import ParameterValue

    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
