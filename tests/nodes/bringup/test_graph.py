"""The graph's nodes and their parameters, and `actrec run`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from actrec_msgs.srv import LoadModel
from sensor_msgs.msg import CameraInfo

from actrec import cameras
from actrec.cli import main
from actrec.cli import run as run_command
from actrec.features.specs import InputSpec
from actrec.utils import folders
from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import graph, processes, run, transport
from actrec_nodes.bringup.monitor import GraphMonitor
from actrec_nodes.common import conversions, topics
from tests.example_scene import CROP, FLOW, HANDS, WINDOW
from tests.models.own_recordings import walker, write_bag
from tests.tiny_model import write_any, write_tiny

pytestmark = pytest.mark.ros

SMALL = ["--driver", "simulated"] + [
    item
    for option in ("width=320", "height=240", "fps=15")
    for item in ("--driver-option", option)
]  # fmt: skip


def plan(*arguments: str) -> run.Plan:
    parser = ArgumentParser()
    run_command.add_arguments(parser)
    return run_command.plan(parser.parse_args(list(arguments)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny(folder)
    return str(folder)


def test_graph_node_names_match_their_classes(root: Path) -> None:
    for spec in graph.GRAPH:
        assert spec.load().__name__ == spec.name.title().replace("_", "")
        assert f'"{spec.name}"' in (root / "setup.py").read_text()


@pytest.mark.parametrize("spec", graph.GRAPH, ids=lambda spec: spec.name)
def test_main_runs_the_node_with_the_name_of_the_executable(monkeypatch: pytest.MonkeyPatch, spec) -> None:
    monkeypatch.setattr(sys, "argv", [f"/opt/lib/actrec/{spec.name}", "--ros-args"])
    monkeypatch.setattr(processes, "spin", lambda choose, args: (choose(), args))
    monkeypatch.setattr(processes, "end_after", lambda timeout_s: None)
    assert processes.main() == ((spec.load(), []), sys.argv)  # type: ignore[comparison-overlap]


def test_graph_order_starts_subscribers_before_publishers() -> None:
    order = [spec.switch for spec in graph.GRAPH]
    assert order[-1] == "camera"
    assert order.index("recognizer") < order.index("skeleton")


def test_select_by_switch_or_name_keeps_the_order_of_activation() -> None:
    assert [s.switch for s in graph.select(["camera", "skeleton_node"])] == ["skeleton", "camera"]
    assert [s.switch for s in graph.select(without=["hand", "face", "scene_flow", "visualization", "hri"])] == [
        "recognizer",
        "skeleton",
        "camera",
    ]


@pytest.mark.parametrize(
    ("nodes", "without", "line"),
    [(["nose"], [], "unknown node 'nose'; known: recognizer"), (["hand"], ["hand"], "no node is left to run")],
)
def test_select_unknown_node_or_no_node_raises_config_error(nodes, without, line) -> None:
    with pytest.raises(ConfigError, match=line):
        graph.select(nodes, without)


def test_plan_command_line_sets_parameters_of_its_nodes() -> None:
    planned = plan("--driver", "replay", "--driver-option", "path=/x=y", "--driver-option", "loop=true", "--model", "m")
    assert planned.overrides["camera_node"] == {"driver": "replay", "replay.path": "/x=y", "replay.loop": True}
    assert planned.overrides["recognizer_node"] == {"model": "m"}


def test_plan_source_of_color_alone_starts_only_the_nodes_that_work_without_depth(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "desk.yaml").write_text("/**/camera_node: {ros__parameters: {driver: webcam}}")
    flow = str(write_any(tmp_path / "flow", [FLOW], WINDOW).path)
    path = f"path={tmp_path / 'clip.mp4'}"
    video = ["--driver", "replay", "--driver-option", path]
    sources = ["--driver", "webcam"], video, ["--params", f"{tmp_path}/desk.yaml"]
    for arguments in sources:
        planned = plan(*arguments, "--with", "hand")
        assert "scene_flow" not in [spec.switch for spec in (*planned.specs, *planned.spare)]
        for name in ("skeleton_node", "hand_node", "face_node"):
            assert planned.overrides[name] == {"use_depth": False}
        with pytest.raises(ConfigError, match="scene_flow_node needs depth, but the camera has color alone"):
            plan(*arguments, "--with", "scene_flow")
        with pytest.raises(ConfigError, match=r"requires flow, .* or --model joint_tcn_everyday"):
            plan(*arguments, "--model", flow)
    assert "skeleton_node" not in plan("--driver", "simulated").overrides
    assert "skeleton_node" not in plan("--driver", "replay", "--driver-option", "path=/nowhere").overrides


def test_plan_recording_of_joints_refuses_model_of_color(tmp_path: Path) -> None:
    (tmp_path / "joints.skeleton").touch()
    color, flow = (str(write_any(tmp_path / spec.name, [spec], WINDOW).path) for spec in (CROP, FLOW))
    write_bag(tmp_path / "bag", walker)
    for name in ("joints.skeleton", "bag"):
        replay = ["--driver", "replay", "--driver-option", f"path={tmp_path / name}"]
        for model, stream in ((color, "color images"), (flow, "scene flow")):
            message = f"takes {stream}, and the recording has joints without color: .* such as joint_tcn_everyday"
            with pytest.raises(ConfigError, match=message):
                plan(*replay, "--model", model)
        assert plan(*replay, "--model", "joint_tcn_everyday").model == "joint_tcn_everyday"
    write_bag(tmp_path / "images", walker, images=True)
    for source in (["simulated"], ["replay", "--driver-option", f"path={tmp_path}/images"], ["replay"]):
        assert plan("--driver", *source, "--model", color).model == color


@pytest.mark.slow
def test_run_webcam_labels_people_without_depth(
    data_root: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = (
        f"source={data_root / 'videos/people_1080p.mp4'}",
        "fps=8",
    )  # 9 s, enough for two windows on a busy machine
    given = [argument for option in options for argument in ("--driver-option", option)]
    assert main(["run", "--driver", "webcam", *given, "--json"]) == 0
    printed = capfd.readouterr()
    figures = json.loads(printed.out.strip().splitlines()[-1])
    assert figures["labels"] > 0 and {"body_1", "body_2"} <= {change[1] for change in figures["changes"]}
    assert list(figures["nodes"]) == ["recognizer_node", "skeleton_node", "camera_node"]
    assert all(node["last_error"] == "" for node in figures["nodes"].values())
    assert caplog.text.count("assuming a field of view of 65 degrees") == 1 and "color alone" not in printed.err


def test_plan_two_sources_of_images_raise_config_error() -> None:
    with pytest.raises(ConfigError, match=r"--vendor orbbec_camera takes .*, --driver simulated .*: give one"):
        plan("--vendor", "orbbec_camera", "--driver", "simulated")


def test_plan_vendor_replaces_the_camera_node() -> None:
    planned = plan("--vendor", "realsense2_camera", "--ros-args", "-r", "__ns:=/robot")
    assert "camera_node" not in [spec.name for spec in planned.specs]
    assert f"{topics.COLOR}:=/camera/camera/color/image_raw" in planned.ros_args
    assert planned.ros_args[-2:] == ["-r", "__ns:=/robot"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--driver-option", "a=b"], "needs a driver"),
        (["--driver", "replay", "--driver-option", "a={"], "driver option 'a={': the value cannot be read as YAML"),
        (["--driver", "replay", "--driver-option", "a"], "driver option is 'a', expected KEY=VALUE"),
        (["--params", "/nowhere.yaml"], "there is no parameter file /nowhere.yaml"),
        (["--nodes", "nose"], "unknown node 'nose'"),
        (["--duration", "0"], "--duration is 0 s"),
        (["--duration", "inf"], "--duration is inf s, expected a number above 0"),
    ],
)
def test_run_wrong_arguments_exit_with_status_2_and_one_line(arguments, line, capsys) -> None:
    assert main(["run", *arguments]) == 2
    output = capsys.readouterr().err
    assert line in output
    assert output.count("\n") == 1


def test_plan_starts_the_nodes_that_the_model_takes(tmp_path: Path, capsys, monkeypatch) -> None:
    def switches(*arguments: str) -> str:
        return ",".join(spec.switch for spec in plan(*arguments).specs)

    taken = "recognizer,skeleton,{}camera"
    assert switches() == taken.format("")
    assert switches("--with", "face", "--without", "camera") == "recognizer,skeleton,face"
    assert switches("--nodes", "hand,face,recognizer", "--without", "face") == "recognizer,hand"
    assert switches("--without", "recognizer") == taken.format("hand,face,scene_flow,").removeprefix("recognizer,")
    model = write_any(tmp_path / "flow", [FLOW, HANDS], WINDOW).path
    (tmp_path / "robot.yaml").write_text(f"/**/recognizer_node: {{ros__parameters: {{model: {model}}}}}")
    every = taken.format("hand,scene_flow,")
    given = ["--params", f"{tmp_path}/robot.yaml"]
    assert switches("--model", str(model)) == switches(*given, "--ros-args", "-r", "__ns:=/robot") == every
    assert switches("--ros-args", "-p", f"recognizer_node:model:={model}") == every
    assert switches(*given, "--model", "joint_tcn_everyday") == taken.format("")
    with pytest.raises(ConfigError, match="--with names hand, which --nodes or --without leaves out"):
        plan("--with", "hand", "--without", "hand,face")
    monkeypatch.setattr(run, "run_graph", lambda chosen, stopped: None)
    assert main(["run", *given, "--with", "scene_flow"]) == 1
    remedy = "each starts when its topic has a subscriber, or now with --with face,visualization,hri"
    assert capsys.readouterr().out.splitlines() == [
        "starting camera, scene_flow, hand, skeleton, recognizer …",
        f"not started: face_node (model {model} takes no face), visualization_node (no subscriber), "
        f"hri_node (no subscriber); {remedy}",
    ]


def test_graph_topics_of_a_stream_are_its_publisher_s() -> None:
    named = {spec.stream: spec.topics for spec in graph.GRAPH if spec.stream}
    flow = (topics.SCENE_FLOW, topics.SCENE_FLOW_INFO, topics.SCENE_FLOW_PREVIEW)
    assert named == {"hands": (topics.HANDS,), "face": (topics.FACE,), "flow": flow}


def test_graph_without_nodes_of_the_model_warns(tmp_path: Path, model: str) -> None:
    needs_streams = str(write_any(tmp_path / "needy", [FLOW, HANDS], WINDOW).path)
    assert graph.left_out(graph.select(), needs_streams) == []
    lines = graph.left_out(graph.select(["camera", "skeleton", "recognizer"]), needs_streams)
    assert [line.removeprefix(f"model {needs_streams} ") for line in lines] == [
        "can use hands, and hand_node does not run: it works without unless hand_node runs elsewhere",
        "needs flow, and scene_flow_node does not run: labels stay unknown unless scene_flow_node runs elsewhere",
    ]
    assert graph.left_out(graph.select(["camera"]), needs_streams) == []
    assert graph.left_out(graph.select(["camera", "skeleton", "recognizer"]), model) == []


def test_left_out_model_of_hands_needs_the_hand_node(tmp_path: Path) -> None:
    raw = {"center": "none", "align": "none", "scale": "none"}
    spec = InputSpec("hand", "body", "hand_22", (1, 3, WINDOW.frames, 22), "m", raw)
    model = str(write_any(tmp_path / "gestures", [spec], WINDOW).path)
    assert graph.left_out(graph.select(), model) == []
    assert graph.left_out(graph.select(without=["hand"]), model) == [
        f"model {model} needs hands, and hand_node does not run: labels stay unknown unless hand_node runs elsewhere"
    ]


@pytest.mark.parametrize("processes", [[], ["--processes"]])
def test_run_node_that_fails_to_configure_ends_the_run(capfd, processes) -> None:
    assert main(["run", "--nodes", "camera", "--driver", "kinect_v9", *processes]) == 1
    output = capfd.readouterr().err
    assert output.count("unknown camera driver 'kinect_v9'; known:") == 1
    assert "Traceback" not in output


def test_run_invalid_ros_arguments_are_one_line(capfd) -> None:
    assert main(["run", "--nodes", "camera", "--ros-args", "-p", "nonsense"]) == 2
    assert "ROS refuses its arguments" in capfd.readouterr().err


def test_graph_unknown_parameters_are_reported(capfd) -> None:
    arguments = ["-p", "modle:=x", "-p", "depth_wait_s:=1.0", "-p", "retry_s:=1.0", "-p", "replay.rate:=0.5"]
    assert main(["run", "--nodes", "camera,hand", "--driver", "replay", "--ros-args", *arguments]) == 1
    output = capfd.readouterr().err
    assert "no node here has a parameter modle, it is ignored; " in output


def test_run_missing_model_ends_the_run(capfd) -> None:
    assert main(["run", "--model", "/nowhere/model", *SMALL]) == 1
    output = capfd.readouterr().err
    assert output.count("/nowhere/model") == 1
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [[], ["--processes"]])
def test_run_graph_simulated_frames_become_labels_and_another_model_starts_its_nodes(
    capfd, tmp_path: Path, model: str, processes: list[str]
) -> None:
    options = ["-p", "statistics_period_s:=0.2", "-p", "num_hands:=1"]
    planned = plan("--model", model, "--without", "face", *SMALL, *processes, "--ros-args", *options)
    assert [spec.switch for spec in planned.spare] == ["hand", "scene_flow", "visualization", "hri"]
    with_hands = write_any(tmp_path / "with_hands", [HANDS], WINDOW)

    def swap(running: run.Running, monitor: GraphMonitor) -> None:
        def wait_until(condition) -> None:
            deadline = time.monotonic() + 100
            while not condition():
                assert time.monotonic() < deadline, monitor.statistics()
                time.sleep(0.05)

        wait_until(lambda: monitor.truth.figures() and monitor.labels)
        if processes:
            os.kill(running.children["skeleton_node"].pid, signal.SIGKILL)
            wait_until(running.restarted)
            labels = monitor.labels
            wait_until(lambda: monitor.labels > labels + 2)
            wait_until(lambda: monitor.statistics().get("skeleton_node", {}).get("processed"))
        client = monitor.create_client(LoadModel, "recognizer_node/load_model")
        assert client.wait_for_service(100)
        for package, figure in ((with_hands.path, "processed"), (model, "idle")):
            answer = client.call(LoadModel.Request(package=str(package)), timeout_sec=100)
            assert answer is not None and answer.success, answer
            wait_until(lambda: monitor.statistics().get("hand_node", {}).get(figure))  # noqa: B023

    result = run.run_graph(planned, swap)
    _, err = capfd.readouterr()
    assert result is not None, err
    assert run.verdict(result) is None, err
    names = {"recognizer_node", "skeleton_node", "camera_node", "hand_node"}
    assert set(result["nodes"]) == names and set(result["usage"]) == (names if processes else {"all"})
    assert "actions" in result["performed"] and result["labels"] > 0 and result["latency_ms"]["p50"] > 0
    assert all(figures["processed"] > 0 for figures in result["nodes"].values())
    assert "hands has a subscriber: starting hand_node" in err
    again = ["skeleton_node was ended by SIGKILL: starting it again", "skeleton_node is active again"]
    assert [line in err for line in again] == [bool(processes)] * 2
    assert "num_hands, it is ignored" not in err, "hand_node has it"
    assert "hand_node: idle, no subscriber" in run_command.table(result)
    assert "Traceback" not in err


@pytest.mark.slow
def test_recording_first_frame_reaches_nodes_in_other_processes(data_root: Path) -> None:
    """The camera waits until DDS has discovered the nodes; the slow rate leaves time for each frame."""
    options = {"path": str(data_root / "rgbd/person_turning"), "intrinsics": "525,525,319.5,239.5"}
    with cameras.create("replay", rate=0.0, depth_scale=0.001, restamp=False, **options) as camera:
        first_ns = camera.read(10.0).stamp_ns
    settings = {**options, "depth_scale": 0.001, "rate": 0.1, "duration_s": 0.3, "restamp": False}
    arguments = [item for name, value in settings.items() for item in ("--driver-option", f"{name}={value}")]
    stamps: list[int] = []

    def wait_for_end(running: run.Running, monitor: GraphMonitor) -> None:
        def store_stamp(message: CameraInfo) -> None:
            stamps.append(conversions.stamp_to_ns(message.header.stamp))

        monitor.create_subscription(CameraInfo, topics.SCENE_FLOW_INFO, store_stamp, topics.SMALL)
        assert running.wait(200)

    planned = plan("--nodes", "camera,scene_flow", "--driver", "replay", *arguments, "--processes")
    result = run.run_graph(planned, wait_for_end)
    assert result is not None and set(result["nodes"]) == {"camera_node", "scene_flow_node"}
    assert all(figures["processed"] for figures in result["nodes"].values())
    assert stamps[0] == first_ns


def test_run_end_of_recording_ends_the_run(capfd, data_root: Path) -> None:
    path = data_root / "rgbd" / "person_turning"
    options = (f"path={path}", "intrinsics=525,525,319.5,239.5", "depth_scale=0.001", "duration_s=1")
    arguments = [item for option in options for item in ("--driver-option", option)]
    arguments = ["run", "--nodes", "camera,scene_flow", "--driver", "replay", *arguments]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert "has ended (on_end: exit)" in err
    assert "| camera_node |" in out
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert set(figures["nodes"]) == {"camera_node", "scene_flow_node"} and figures["labels"] == 0
    assert figures["performed"] == {}, "a recording has no ground truth"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--processes"]])
def test_run_truncated_recording_exits_with_status_1(capfd, tmp_path: Path, processes: list[str]) -> None:
    for k in range(8):
        cv2.imwrite(str(tmp_path / f"{k:04d}.png"), np.full((48, 64, 3), 10 * k, np.uint8))
    truncated = tmp_path / "0006.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    options = (f"path={tmp_path}", "intrinsics=50,50,31.5,23.5")
    arguments = [item for option in options for item in ("--driver-option", option)]
    assert main(["run", "--nodes", "camera", "--driver", "replay", *arguments, *processes]) == 1
    output = capfd.readouterr().err
    assert output.count("0006.png' cannot be decoded") == 1
    assert "Traceback" not in output


def test_run_node_without_statistics_has_an_empty_row() -> None:
    latency = {"p50": None, "p95": None}
    result = {"nodes": {"skeleton_node": {}}, "labels": 0, "duration_s": 1.0, "latency_ms": latency, "usage": {}}
    assert "| skeleton_node | – | – | – | – | – | – |" in run_command.table(result)
    assert run.verdict(result) == "skeleton_node gave no sign of life"


def test_verdict_names_the_first_idle_node_from_the_source() -> None:
    waiting = {"processed": 0, "last_error": "waiting for skeletons on /skeletons: is skeleton_node active?"}
    no_images = {"processed": 0, "last_error": "no image on /camera/color/image_raw: it has no publisher"}
    result = {"nodes": {"recognizer_node": waiting, "skeleton_node": no_images}, "labels": 0}
    assert run.verdict(result) == (
        "skeleton_node processed nothing: no image on /camera/color/image_raw: it has no publisher"
    )


def test_verdict_ignores_idle_image_nodes_for_recordings_of_joints() -> None:
    active, idle = ({"received": n, "processed": n, "last_error": ""} for n in (37, 0))
    nodes = {"recognizer_node": active, "skeleton_node": idle, "hand_node": idle, "camera_node": active}
    assert run.verdict({"nodes": nodes, "labels": 11}) is None
    assert run.verdict({"nodes": nodes, "labels": 0}) == "hand_node processed nothing: no input reached it"
    with_skeletons = {**nodes, "skeleton_node": active}
    assert run.verdict({"nodes": with_skeletons, "labels": 11}) == "hand_node processed nothing: no input reached it"
    no_hands = {**nodes, "hand_node": {}}
    assert run.verdict({"nodes": no_hands, "labels": 11}) == "hand_node gave no sign of life"


def test_verdict_excuses_nodes_without_subscribers_if_others_worked() -> None:
    worked = {"received": 9, "processed": 9, "last_error": ""}
    idle = {"received": 0, "processed": 0, "last_error": "", "idle": "no subscriber"}
    assert run.verdict({"nodes": {"hand_node": idle, "camera_node": worked}, "labels": 0}) is None
    assert (
        run.verdict({"nodes": {"hand_node": idle}, "labels": 0}) == "hand_node processed nothing: no input reached it"
    )


def test_run_without_images_exits_with_status_1(capfd) -> None:
    assert main(["run", "--nodes", "skeleton", "--duration", "1"]) == 1
    assert "skeleton_node processed nothing: no input reached it" in capfd.readouterr().err


def test_process_second_ctrl_c_is_ignored_during_clean_up() -> None:
    command = [
        sys.executable,
        "-m",
        "actrec_nodes.bringup.processes",
        "camera_node",
        "--ros-args",
        "-p",
        "autostart:=true",
    ]
    command += ["-p", "statistics_period_s:=0.2", "-p", "simulated.width:=64", "-p", "simulated.height:=48"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("processed at" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        remaining = process.stderr.read()
        assert process.wait(60) == 0
    assert "Traceback" not in remaining


def test_parameter_file_applies_in_any_namespace(root: Path, tmp_path: Path) -> None:
    from actrec_nodes.bringup.processes import ros
    from actrec_nodes.camera_node import CameraNode

    assert (
        "driver" in yaml.safe_load((root / "config" / "replay.yaml").read_text())["/**/camera_node"]["ros__parameters"]
    )
    for namespace in ("/", "/robot"):
        arguments = ["--ros-args", "--params-file", str(root / "config" / "replay.yaml"), "-r", f"__ns:={namespace}"]
        with ros(arguments) as context:
            node = CameraNode(context=context)
            assert node.get_parameter("driver").value == "replay"
            node.destroy_node()


def test_shipped_parameter_files_set_only_known_parameters(root: Path) -> None:
    from actrec_nodes.bringup.processes import ros

    for path in sorted((root / "config").glob("*.yaml")):
        for name, content in yaml.safe_load(path.read_text()).items():
            parameters = content["ros__parameters"]
            specs = [graph.find(name.rpartition("/")[2])] if name != "/**" else list(graph.GRAPH)
            with ros() as context:
                nodes = [spec.load()(context=context) for spec in specs]
                known = {parameter for node in nodes for parameter in node._parameters}
                assert {key for key, value in parameters.items() if not isinstance(value, dict)} <= known, path.name
                for node in nodes:
                    node.destroy_node()


@pytest.mark.parametrize("name", [*transport.OWN_CHOICE])
def test_transport_chosen_by_the_user_is_kept(name: str) -> None:
    assert transport.profile_environment({name: "mine"}) == {}


def test_transport_profile_is_set_for_fast_dds_only() -> None:
    assert transport.profile_environment({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}) == {}
    for rmw in ({}, {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}):
        environment = dict(rmw)
        assert transport.prepare(environment)
        assert os.path.isfile(environment["FASTRTPS_DEFAULT_PROFILES_FILE"])


def test_transport_each_process_gets_ports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes the ports of one that was killed may get no message: others still send to the dead one."""
    environment: dict[str, str] = {}
    for port in (71, 189):  # the second is started by the first, and inherits its environment
        monkeypatch.setattr(random, "choice", lambda ports, port=port: port if port in ports else None)
        assert transport.prepare(environment)
        profile = Path(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).read_text()
        assert f"<rtps><port><offsetd3>{port}</offsetd3></port>" in profile
        assert profile.count("<transport_id>actrec_shm</transport_id>") == 2  # defined, and used
    assert transport.prepare(environment, images=False)
    profile = Path(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).read_text()
    assert profile.count("<transport_id>actrec_shm</transport_id>") == 1
    assert transport.prepare(environment), "a process that this one starts chooses for itself"
    assert Path(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).read_text().count("actrec_shm") == 2


def test_transport_profile_of_a_wheel_is_in_the_python_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip installation has neither a source tree nor a ROS prefix."""
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "lib/actrec/folders.py"))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ConfigError, match=r"config/fastdds\.xml is not installed"):
        transport.profile_environment({})
    installed = tmp_path / "share/actrec" / transport.PROFILE
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert transport.profile_environment({})["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(installed)
