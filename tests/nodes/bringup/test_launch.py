"""The processes that launch arguments start.

The code under test needs no launch, so none of it is replaced here. That launch really starts these processes is tested
in test_real_launch.py, where the launch packages are installed: they come with a ROS 2 distribution; neither PyPI nor
Debian has them.
"""

import argparse
import ast
from pathlib import Path

import pytest

from actrec.cli import run as run_command
from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import graph, launching
from actrec_nodes.bringup.launching import Launch, Process
from actrec_nodes.common import parameter_files, topics
from tests.example_scene import CROP, FLOW, WINDOW
from tests.tiny_model import write_any

EACH = {"respawn": "false"}  # a process of launch for each node
EVERY = {spec.switch: "true" for spec in graph.GRAPH if spec.is_optional}


@pytest.fixture(autouse=True)
def insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)


def plan(outer: str = "", **arguments: str) -> Launch:
    """Return the plan of the launch file with these arguments and other defaults."""
    defaults = (
        dict.fromkeys(launching.ARGUMENTS, "")
        | launching.DEFAULTS
        | {name: value for name, (value, _) in launching.SWITCHES.items()}
    )
    assert set(arguments) <= set(defaults)
    return launching.plan(defaults | arguments, outer)


def started(**arguments: str) -> list[Process]:
    """Return the processes of `plan`."""
    return plan(**arguments).processes


def names(processes: list[Process]) -> list[str]:
    return [process.name for process in processes]


def test_launch_replaces_processes_by_one_that_watches_the_others() -> None:
    (process,) = started(hand="true", face="false", driver="realsense", use_sim_time="true")
    assert (process.executable, process.name) == ("graph", "")
    assert process.arguments == ["--processes", "--without", "face", "--with", "hand", "--driver", "realsense"]
    assert process.parameters == {"autostart": True, "start_retry_s": 5.0, "use_sim_time": True}


@pytest.mark.parametrize("reason", [EACH, {"autostart": "false"}, "security", "camera alone"])
def test_launch_starts_each_node_in_its_own_process(reason: object, monkeypatch: pytest.MonkeyPatch) -> None:
    given = reason if isinstance(reason, dict) else {}
    if reason == "security":
        monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    if reason == "camera alone":
        only = {spec.switch: "false" for spec in graph.GRAPH if spec.switch != "camera"}
        assert names(started(**only)) == ["camera_node"]
        return
    processes = started(**EVERY, **given)
    assert [process.executable for process in processes] == [spec.name for spec in graph.GRAPH] == names(processes)
    # Defaults are not repeated; the camera starts after the nodes that labels need.
    shared = {"autostart": "autostart" not in given, **({} if given == EACH else {"start_retry_s": 5.0})}
    *other_nodes, camera = processes
    assert all(process.parameters == shared for process in other_nodes)
    assert camera.parameters == {**shared, "start_after": "recognizer_node,skeleton_node"}


@pytest.mark.parametrize("by_file", [False, True])
def test_launch_starts_the_nodes_that_the_model_takes_and_notes_the_others(tmp_path: Path, by_file: bool) -> None:
    model = str(write_any(tmp_path / "flow", [FLOW], WINDOW).path)
    planned = plan(**EACH)
    assert names(planned.processes) == ["recognizer_node", "skeleton_node", "camera_node"]
    assert planned.processes[-1].parameters["start_after"] == "recognizer_node,skeleton_node"
    assert planned.note == (
        "not started: hand_node, face_node, scene_flow_node (model joint_tcn_everyday takes no hands or face or flow), "
        "visualization_node (no subscriber), hri_node (no subscriber); to start: hand:=true face:=true "
        "scene_flow:=true visualization:=true hri:=true"
    )
    (tmp_path / "robot.yaml").write_text(f"/robot/recognizer_node: {{ros__parameters: {{model: {model}}}}}")
    given = {"params_file": f"{tmp_path}/robot.yaml", "namespace": "robot"} if by_file else {"model": model}
    planned = plan(hand="true", **EACH, **given)
    assert names(planned.processes)[1:-1] == ["skeleton_node", "hand_node", "scene_flow_node"]
    assert planned.note.startswith("not started: face_node (model")
    nowhere = started(model="/nowhere", **EACH)
    assert len(started(recognizer="false", **EACH)) == len(nowhere) - 1
    assert {"hand_node", "face_node", "scene_flow_node"} <= set(names(nowhere)), "a model that cannot be read"


def test_launch_webcam_starts_only_the_nodes_that_work_without_depth(tmp_path: Path) -> None:
    (tmp_path / "desk.yaml").write_text("/**/camera_node: {ros__parameters: {driver: webcam}}")
    for chosen in ({"driver": "webcam"}, {"params_file": f"{tmp_path}/desk.yaml"}):
        given = chosen | EACH
        planned = plan(hand="true", **given)
        assert names(planned.processes) == ["recognizer_node", "skeleton_node", "hand_node", "camera_node"]
        assert [process.parameters.get("use_depth") for process in planned.processes] == [None, False, False, None]
        assert "scene_flow" not in planned.note
        with pytest.raises(ConfigError, match="scene_flow_node needs depth, but the camera has color alone"):
            plan(scene_flow="true", **given)
        assert "recognizer_node" in names(started(model="/nowhere", **given))


def test_launch_recording_of_joints_refuses_model_of_color(tmp_path: Path) -> None:
    (tmp_path / "joints.skeleton").touch()
    model = str(write_any(tmp_path / "crop", [CROP], WINDOW).path)
    given = {"driver": "replay", "driver_options": f"path={tmp_path}/joints.skeleton", "model": model}
    with pytest.raises(ConfigError, match="takes color images, and the recording has joints without color"):
        plan(**given)
    assert "recognizer_node" in names(started(**{**given, "model": ""}))


def test_launch_parameter_file_is_checked_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "camera_node: {ros__parameters: {driver: replay}}\nrecognizr_node: {ros__parameters: {model: x}}\n"
    (tmp_path / "robot.yaml").write_text(text)
    assert len(started(params_file=f"{tmp_path}/robot.yaml", **EVERY, **EACH)) == len(graph.GRAPH)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_launch_parameter_file_is_checked_in_the_outer_namespace_too(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text("/fleet/robot/camera_node: {ros__parameters: {driver: replay}}")
    given = {"params_file": f"{tmp_path}/robot.yaml", "namespace": "robot"}
    assert plan("/fleet", **given).namespace == "robot"
    with pytest.raises(ConfigError, match="it is for namespace /fleet/robot, the nodes are in /other/robot"):
        plan("/other", **given)


def test_launch_arguments_become_parameters_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text("")
    planned = plan(
        driver="replay",
        driver_options='path="/my data/run.mcap" loop=true rate=0.5',
        model="mine",
        params_file=f"{tmp_path}/robot.yaml",
        use_sim_time="true",
        namespace="robot",
        log_level="warn",
    )
    assert (planned.namespace, planned.ros_arguments) == ("robot", ["--log-level", "warn"])
    recognizer, *_, camera = planned.processes
    assert all(process.files == [f"{tmp_path}/robot.yaml"] for process in planned.processes)
    assert recognizer.parameters == {"autostart": True, "use_sim_time": True, "model": "mine"}
    replay = {"driver": "replay", "replay.path": "/my data/run.mcap", "replay.loop": True, "replay.rate": 0.5}
    others = ",".join(name for name in names(planned.processes) if name != "camera_node")
    assert camera.parameters == {"autostart": True, "use_sim_time": True, "start_after": others, **replay}


def test_launch_mounting_is_a_setting_of_the_driver_or_else_of_the_node() -> None:
    options = "mount=upside_down fps=15.0"
    given = started(driver="simulated", driver_options=options, **EACH)[-1].parameters
    assert given["mount"] == "upside_down" and given["simulated.fps"] == 15.0 and "simulated.mount" not in given
    assert started(driver="replay", driver_options="mount=level", **EACH)[-1].parameters["replay.mount"] == "level"


def test_launch_switches_exclude_nodes() -> None:
    processes = started(hand="false", face="off", scene_flow="0", **EACH)
    assert names(processes) == ["recognizer_node", "skeleton_node", "camera_node"]


def test_launch_vendor_replaces_the_camera_node() -> None:
    planned = plan(vendor="realsense2_camera", **EACH)
    assert "camera_node" not in names(planned.processes)
    assert (topics.COLOR, "/camera/camera/color/image_raw") in planned.remappings


def test_launch_composed_is_one_process() -> None:
    (process,) = started(composed="true", hand="false", face="true", vendor="orbbec_camera")
    assert (process.executable, process.name) == ("graph", "")
    assert process.arguments == ["--without", "hand,camera", "--with", "face"]


def test_launch_text_argument_stays_a_text() -> None:
    options = "serial=017322071234 path='/data/run #3: again.mcap' fps=15"
    recognizer, *_, camera = started(driver="replay", driver_options=options, model="2026_11_22")
    assert camera.parameters["replay.serial"] == "017322071234"
    assert camera.parameters["replay.path"] == "/data/run #3: again.mcap"
    assert camera.parameters["replay.fps"] == 15
    assert recognizer.parameters["model"] == "2026_11_22"


def test_launch_arguments_outrank_the_parameter_file() -> None:
    """With one process, the arguments of the runner set the parameters."""
    options = 'path="/my data/run.mcap" serial=017'
    (process,) = started(composed="true", driver="replay", driver_options=options, model="mine", face="false")
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    args = parser.parse_args([*process.arguments, "--ros-args", "-r", "__ns:=/"])
    assert run_command.plan(args).overrides == {
        "camera_node": {"driver": "replay", "replay.path": "/my data/run.mcap", "replay.serial": "017"},
        "recognizer_node": {"model": "mine"},
    }
    assert "face_node" not in [spec.name for spec in run_command.plan(args).specs]


@pytest.mark.parametrize("composed", ["true", "false"])
def test_launch_respawn_is_on_unless_a_recording_plays(composed: str, tmp_path: Path) -> None:
    settings = "{driver: replay, replay: {path: /data/run.mcap}}"
    (tmp_path / "robot.yaml").write_text(f"/**/camera_node: {{ros__parameters: {settings}}}")
    recording = {"params_file": f"{tmp_path}/robot.yaml"}
    for given, expected in (
        ({}, True),
        ({"driver": "simulated"}, True),
        ({"respawn": "false"}, False),
        (recording, False),
        ({**recording, "respawn": "true"}, True),
        ({**recording, "vendor": "realsense2_camera"}, True),
    ):
        planned = plan(composed=composed, **given)
        assert planned.respawn == expected, given
        assert all(("start_retry_s" in process.parameters) == expected for process in planned.processes)
        assert (len(planned.processes) > 1) == (composed == "false" and not expected)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"composed": "perhaps"}, "launch argument composed is 'perhaps', expected true or false"),
        ({"vendor": "orbbec_camera", "driver": "realsense"}, "launch arguments vendor and driver each name"),
        ({"vendor": "acme"}, "unknown camera driver node 'acme'; known: azure_kinect_ros_driver"),
        ({"driver_options": "path=/x"}, "driver option 'path=/x' needs a driver"),
        ({"driver": "replay", "driver_options": "path"}, "driver option is 'path', expected KEY=VALUE"),
        ({"driver": "replay", "driver_options": "'path={a: 1}'"}, "driver option path is {'a': 1}, expected a text"),
        ({"driver": "replay", "driver_options": 'path="/data'}, "driver_options is 'path=.*: No closing quotation"),
        ({"params_file": "/nowhere/robot.yaml"}, "there is no parameter file /nowhere/robot.yaml"),
    ],
)
def test_launch_invalid_arguments_are_refused(arguments: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        started(**arguments)


def test_launch_files_are_python_that_imports_only_launch_and_the_plan(root: Path) -> None:
    """Decisions belong in the plan, which is tested without launch."""
    for path in (root / "launch").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        known = ("launch", "launch_ros", "actrec_nodes", "typing", "pathlib")
        assert {str(module).split(".")[0] for module in modules} <= set(known), path


def test_launch_camera_name_and_serial_no_select_a_camera() -> None:
    planned = plan(driver="realsense", serial_no="017322071234", camera_name="front", **EACH)
    camera = planned.processes[-1].parameters
    assert camera["realsense.serial"] == "017322071234"
    assert camera["realsense.frame_id"] == "front_color_optical_frame"
    assert (topics.COLOR, "front/color/image_raw") in planned.remappings
    assert plan().remappings == []
    planned = plan(vendor="realsense2_camera", camera_name="front")
    assert (topics.COLOR, "/camera/front/color/image_raw") in planned.remappings
    assert (topics.DEPTH, "/front/depth/image_raw") in plan(vendor="orbbec_camera", camera_name="front").remappings
    for documented in ("_017322071234", "'017322071234'", "\"'017322071234'\""):  # by realsense2_camera
        assert plan(driver="realsense", serial_no=documented, **EACH).processes[-1].parameters["realsense.serial"] == (
            "017322071234"
        ), documented
    with pytest.raises(ConfigError, match="serial_no needs a driver with serial numbers, but driver is ''"):
        plan(serial_no="017")
    with pytest.raises(ConfigError, match="azure_kinect_ros_driver has no names of cameras"):
        plan(vendor="azure_kinect_ros_driver", camera_name="front")
    with pytest.raises(ConfigError, match="camera_name is 'a/b'"):
        plan(camera_name="a/b")


@pytest.mark.parametrize(
    ("camera_namespace", "camera_name", "color"),
    [
        ("robot1", "camera", "/robot1/camera/color/image_raw"),
        ("/robot1/", "front", "/robot1/front/color/image_raw"),
        ("a/b", "camera", "/a/b/camera/color/image_raw"),
        ("", "camera", "/camera/color/image_raw"),
    ],
)
def test_launch_camera_namespace_is_the_first_part_of_the_vendor_topics(
    camera_namespace: str, camera_name: str, color: str
) -> None:
    names = {"camera_namespace": camera_namespace, "camera_name": camera_name}
    planned = plan(vendor="realsense2_camera", namespace="r", **names)
    remaps = dict(planned.remappings)
    assert remaps[topics.COLOR] == color
    assert remaps[topics.DEPTH] == color.replace("color", "aligned_depth_to_color")
    assert "images are from" not in planned.note


def test_launch_camera_namespace_without_effect_is_refused() -> None:
    for arguments in ({"driver": "realsense"}, {"vendor": "orbbec_camera"}):
        with pytest.raises(ConfigError, match="camera_namespace is only for vendor:=realsense2_camera"):
            plan(camera_namespace="robot1", **arguments)
    with pytest.raises(ConfigError, match="camera_namespace is 'a b'"):
        plan(vendor="realsense2_camera", camera_namespace="a b")


def test_launch_namespace_rekeys_the_parameter_file_and_tf(tmp_path: Path) -> None:
    file = tmp_path / "nav2 style.yaml"
    file.write_text(
        "camera_node: {ros__parameters: {driver: simulated, simulated: {fps: 5.0, actions: [wave]}}}\n"
        "/**/recognizer_node: {ros__parameters: {events.begin: 0.5}}\n"
    )
    assert plan(params_file=str(file)).processes[0].files == [str(file)]
    planned = plan("/fleet", params_file=str(file), namespace="robot", remap_tf="true")
    (rekeyed,) = set(planned.processes[0].files)
    assert parameter_files.read(rekeyed) == {
        "/fleet/robot/camera_node": {"driver": "simulated", "simulated.fps": 5.0, "simulated.actions": ["wave"]},
        "/**/recognizer_node": {"events.begin": 0.5},
    }
    assert planned.remappings == [("/tf", "tf"), ("/tf_static", "tf_static")]


def test_launch_booleans_have_defaults_and_autostart_can_be_off() -> None:
    assert {name: launching.DEFAULTS[name] for name in ("autostart", "composed", "use_sim_time")} == {
        "autostart": "true", "composed": "false", "use_sim_time": "false",
    }  # fmt: skip
    assert all(process.parameters["autostart"] is False for process in started(autostart="false"))


def test_launch_recording_arguments_become_parameters() -> None:
    defaults = {name: value for name, (value, _) in launching.RECORDING.items()}
    given = {"out": "/data/a b", "topics": "/skeletons /tf", "duration_s": "60"}
    assert launching.recording(defaults | given) == {
        "out": "/data/a b", "topics": ["/skeletons", "/tf"], "duration_s": 60.0, "use_sim_time": False,
    }  # fmt: skip
    for wrong, said in (({}, "out is empty"), ({**given, "duration_s": "1 min"}, "duration_s is '1 min'")):
        with pytest.raises(ConfigError, match=said):
            launching.recording(defaults | wrong)


def test_launch_absolute_namespace_is_not_within_the_outer_one(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text("camera_node: {ros__parameters: {driver: simulated}}")
    planned = plan("/fleet", params_file=f"{tmp_path}/robot.yaml", namespace="/robot")
    assert list(parameter_files.read(planned.processes[0].files[0])) == ["/robot/camera_node"]


@pytest.mark.parametrize("given", [{}, {"composed": "true"}, EACH])
def test_launch_scene_flow_of_color_alone_is_refused_at_once(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="scene_flow_node needs depth, but the camera has color alone"):
        plan(driver="webcam", scene_flow="true", **given)
