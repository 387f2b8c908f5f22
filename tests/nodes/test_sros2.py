"""The SROS2 policies: names exist in the code, nodes may do all that they do, and only the recognizer may label."""

import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import pytest
import rclpy
from rclpy.action import get_action_server_names_and_types_by_node
from rclpy.context import Context

from actrec_nodes.bringup import graph
from actrec_nodes.bringup.monitor import GraphMonitor
from actrec_nodes.common import topics
from actrec_nodes.common.participants import Participant

SROS2 = Path(__file__).resolve().parents[2] / "deploy/sros2"
INCLUDE = "{http://www.w3.org/2001/XInclude}include"
NODES = [spec.name for spec in graph.GRAPH]
ROS_TOPICS = {"/rosout", "/parameter_events", "/diagnostics", "/clock", "/tf", "/tf_static"}
RIGHTS = ("publish", "subscribe", "request", "reply", "call", "execute")

Allowed = dict[str, set[str]]
"""Full names by right."""


def included(element: ElementTree.Element, folder: Path) -> ElementTree.Element:
    """Replace the includes in an element: a profile, or with an xpointer its content."""
    for include in [child for child in element.iter() if child.tag == INCLUDE]:
        parent = next(other for other in element.iter() if include in list(other))
        at = list(parent).index(include)
        file = folder / include.attrib["href"]
        root = included(ElementTree.parse(file).getroot(), file.parent)
        parent.remove(include)
        for offset, child in enumerate(list(root) if "xpointer" in include.attrib else [root]):
            parent.insert(at + offset, child)
    return element


@pytest.fixture(scope="module")
def enclaves() -> dict[str, dict[str, Allowed]]:
    """Return what each node of each enclave may do."""
    policy = included(ElementTree.parse(SROS2 / "policy.xml").getroot(), SROS2)
    found: dict[str, dict[str, Allowed]] = {}
    for enclave in policy.iter("enclave"):
        profiles = found.setdefault(enclave.attrib["path"], {})
        for profile in enclave.iter("profile"):
            allowed = profiles.setdefault(profile.attrib["node"], defaultdict(set))
            for group in profile:
                for right in group.attrib.keys() & set(RIGHTS):
                    assert group.attrib[right] == "ALLOW" and profile.attrib["ns"] == "/"
                    names = (str(entry.text).replace("~", f"/{profile.attrib['node']}", 1) for entry in group)
                    allowed[right] |= {"/" + name.lstrip("/") for name in names}
    return found


def merged(profiles: dict[str, Allowed]) -> Allowed:
    return {right: set().union(*(allowed[right] for allowed in profiles.values())) for right in RIGHTS}


def test_policy_only_the_recognizer_labels_and_only_the_operator_changes_it(enclaves) -> None:
    rights = {path: merged(profiles) for path, profiles in enclaves.items()}
    assert set(rights) == {f"/actrec/{name}" for name in (*NODES, "graph", "behavior", "operator")}
    for label in (topics.ACTION_LABEL, topics.ACTION_LABEL_TEXT, topics.ACTION_EVENTS):
        publishers = {path for path, allowed in rights.items() if f"/{label}" in allowed["publish"]}
        assert publishers == {"/actrec/recognizer_node", "/actrec/graph"}
    for service in ("load_model", "set_parameters", "set_parameters_atomically", "change_state"):
        callers = {path for path, allowed in rights.items() if f"/recognizer_node/{service}" in allowed["request"]}
        assert callers == {"/actrec/operator"}
    assert not any("*" in name for path in rights for name in rights[path]["request"] | rights[path]["call"])
    published = set().union(*(allowed["publish"] for allowed in rights.values()))
    assert {name for name in published if "*" in name} == {f"/{topics.HUMANS_BODIES}/*"}


def test_policy_nodes_have_the_same_rights_in_one_process(enclaves) -> None:
    for name in NODES:
        assert enclaves["/actrec/graph"][name] == enclaves[f"/actrec/{name}"][name]
    assert set(enclaves["/actrec/graph"]) == {*NODES, GraphMonitor.NAME}


def test_policy_nodes_may_ask_the_nodes_after_which_they_start(enclaves) -> None:
    for spec in graph.GRAPH:
        awaited = graph.start_after(spec, graph.GRAPH, first=[GraphMonitor.NAME])["start_after"].split(",")
        for enclave in (f"/actrec/{spec.name}", "/actrec/graph"):
            allowed = enclaves[enclave][spec.name]["request"]
            assert {f"/{name}/get_state" for name in awaited} <= allowed, spec.name


def test_policy_names_exist_in_the_code(enclaves) -> None:
    ours = {value for name, value in vars(topics).items() if name.isupper() and isinstance(value, str)}
    vendors = {name for names in topics.VENDORS.values() for name in names.values()}
    own = {f"/{name}/{topic}" for name in NODES for topic in ("statistics", "transition_event")}
    known = ROS_TOPICS | vendors | own | {f"/{name}" for name in (*ours, f"{topics.HUMANS_BODIES}/*")}
    for path, profiles in enclaves.items():
        allowed = merged(profiles)
        assert (allowed["publish"] | allowed["subscribe"]) - known == set(), path
        assert (allowed["call"] | allowed["execute"]) <= {"/recognizer_node/wait_for_action"}


@pytest.mark.ros
def test_policy_running_nodes_may_do_all_they_do(enclaves) -> None:
    """All nodes in one process, active; `hri_node` only exists, as `hri_msgs` is not installed everywhere."""
    context = Context()
    rclpy.init(context=context, args=["--ros-args", "-p", "recognizer_node:watchdog_s:=0.0"])
    nodes = [spec.load()(context=context) for spec in graph.GRAPH]
    monitor = GraphMonitor(NODES, lambda change: None, context=context)
    services: set[str] = set()
    try:
        assert {node.get_name() for node in nodes if not node.start()} <= {"hri_node"}
        for node in [*nodes, monitor]:
            name = node.get_name()
            allowed = enclaves["/actrec/graph"][name]
            deadline = time.monotonic() + 30
            while not node.get_publisher_names_and_types_by_node(name, "/") and time.monotonic() < deadline:
                time.sleep(0.05)
            published = {topic for topic, _ in node.get_publisher_names_and_types_by_node(name, "/")}
            subscribed = {topic for topic, _ in node.get_subscriber_names_and_types_by_node(name, "/")}
            replied = {service for service, _ in node.get_service_names_and_types_by_node(name, "/")}
            actions = {action for action, _ in get_action_server_names_and_types_by_node(node, name, "/")}
            rights = allowed if node is not monitor else merged(enclaves["/actrec/graph"])
            assert {topic for topic in published if "/_action/" not in topic} <= rights["publish"]
            assert subscribed <= rights["subscribe"]
            assert {service for service in replied if "/_action/" not in service} <= rights["reply"]
            assert actions == allowed["execute"]
            services |= replied
        # What another participant of a node subscribes to, the node does, too: its own rights suffice.
        other = Participant(nodes[NODES.index("recognizer_node")], "frames")
        try:
            found = (other.node.get_publisher_names_and_types_by_node, other.node.get_service_names_and_types_by_node)
            published, replied = ({name for name, _ in names(other.node.get_name(), "/")} for names in found)
        finally:
            other.close()
        assert published <= {"/parameter_events"} and not replied
        operated = merged({"": enclaves["/actrec/operator"]["operator"]})["request"]
        assert operated - services <= {f"/{name}/get_type_description" for name in NODES}  # not in Humble
    finally:
        for node in nodes:
            node.close()
            node.destroy_node()
        monitor.destroy_node()
        rclpy.shutdown(context=context)
