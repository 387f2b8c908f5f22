"""`actrec bench acted-events` and `idle-events`: events of one action acted once, and of people who wait.

`acted-events` runs the whole graph: the simulated camera's person waits, acts once and waits again, and the messages on
`action_events` are counted. A person who has sat down stays seated.

`idle-events` is without ROS and as fast as it runs: people who stand and wait in rendered images with the noise of a
sensor, estimated by the body perception, or with `--exact` the exact joints; then the recognizer's events.
"""

import time
from collections.abc import Iterator
from typing import Any

from actrec_msgs.msg import ActionEvent
from rclpy.node import Node
from tqdm import tqdm

from actrec import cameras, inference
from actrec.cli import Parser, amount, count
from actrec.perception.pipeline import BodyPerception
from actrec.recognition import ActionRecognizer
from actrec.simulation.scene import Routine
from actrec.types import Body, RgbdFrame
from actrec.utils.errors import DeviceError
from actrec_nodes.bringup import run
from actrec_nodes.common import topics

ACTIONS = ("wave", "throw", "sit down")
PAUSE_S = 2.0
BEFORE, AFTER = 2, 3  # idle actions, each with a pause of the same label
PEOPLE = 2  # in one scene
SCENE_MINUTES = 2.5


def plan_of(action: str, seed: int, fps: float) -> tuple[list[str], float]:
    """Return the settings of a camera whose person acts once, and when the action ends, s."""
    rest = "idle_seated" if action == "sit down" else "idle"
    actions = ["idle"] * BEFORE + [action] + [rest] * AFTER
    routine, at = Routine(actions, seed, PAUSE_S), 0.0
    acted = ""
    while not acted:
        segment = routine.segment(at)
        acted, at = segment.label if segment.label != "idle" else "", segment.end + 1e-6
    listed = ", ".join(actions)
    duration = at + AFTER * PAUSE_S
    settings = [f"actions=[{listed}]", f"pause={PAUSE_S}", f"fps={fps}", f"duration={duration:.1f}", f"seed={seed}"]
    return [*settings, "realtime=false", "start_stamp_ns=0"], at


def act(action: str, seed: int = 0, fps: float = 10.0, model: str | None = None) -> list[ActionEvent]:
    """Run the graph while a simulated person acts once, and return the messages on `action_events`."""
    received: list[ActionEvent] = []

    def watch(running: Any, monitor: Node) -> None:
        monitor.create_subscription(ActionEvent, topics.ACTION_EVENTS, received.append, topics.SMALL)
        running.wait(None)
        time.sleep(0.5)  # for the last messages

    settings, _ = plan_of(action, seed, fps)
    chosen = run.plan("simulated", settings, model, log_level="warn")
    if run.run_graph(chosen, watch) is None:
        raise DeviceError("a node of the graph has failed; see above")
    return received


def acted(arguments: list[str]) -> dict[str, Any]:
    """Run the benchmark `acted-events`."""
    parser = Parser("actrec bench acted-events", description="Events of actions, each acted once, in the graph.")
    parser.add_argument("--actions", nargs="+", default=ACTIONS, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--seeds", type=count, default=3, help="performances of each action (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=10.0, help="frames a second (default: %(default)s)")
    parser.add_argument("--model", help="model package (default: the graph's)")
    options = parser.parse_args(arguments)
    rows = []
    for action in options.actions:
        for seed in range(options.seeds):
            _, end_s = plan_of(action, seed, options.fps)
            events = act(action, seed, options.fps, options.model)
            own = [event for event in events if event.label == action]
            began = [event for event in own if event.kind == ActionEvent.BEGAN]
            others = [event.label for event in events if event.label != action and event.kind == ActionEvent.BEGAN]
            decided = began[0].header.stamp.sec + began[0].header.stamp.nanosec / 1e9 if began else float("nan")
            rows.append(
                {
                    "action": action, "seed": seed, "began": len(began), "ended": len(own) - len(began),
                    "confidence": max((event.confidence for event in own), default=0.0),
                    "decided after its end, s": round(decided - end_s, 2), "other events": ", ".join(others) or "none",
                }
            )  # fmt: skip
    return {"events": rows}


def idle(arguments: list[str]) -> dict[str, Any]:
    """Run the benchmark `idle-events`."""
    parser = Parser("actrec bench idle-events", description="Events of simulated people who stand and wait.")
    parser.add_argument("--minutes", type=amount, default=20.0, help="minutes of all people (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=10.0, help="frames a second (default: %(default)s)")
    parser.add_argument("--model", default="joint_tcn_everyday", help="model package (default: %(default)s)")
    parser.add_argument("--exact", action="store_true", help="exact joints instead of estimated ones")
    options = parser.parse_args(arguments)
    session, found, seconds = inference.load(options.model), [], 0.0
    scenes = max(round(options.minutes / PEOPLE / SCENE_MINUTES), 1)
    for seed in tqdm(range(scenes), desc="scenes", disable=None):
        recognizer = ActionRecognizer(session)
        duration = 60 * options.minutes / PEOPLE / scenes
        for frame, bodies in _waiting(seed, duration, options.fps, options.exact):
            recognizer.add_skeletons(frame.stamp_ns, bodies, frame.up)
            recognizer.predict()
            found += [(seed, event) for event in recognizer.events() if event.kind == "began"]
            seconds += len(bodies) / options.fps
    rows = [
        {"scene": seed, "at, s": event.stamp_ns / 1e9, "body": event.body_id, "label": event.label,
         "confidence": event.confidence}
        for seed, event in found
    ]  # fmt: skip
    kind = "exact joints" if options.exact else "rendered images, estimated joints"
    return {"source": kind, "minutes of people": round(seconds / 60, 1), "events": len(found), "found": rows}


def _waiting(seed: int, seconds: float, fps: float, exact: bool) -> Iterator[tuple[RgbdFrame, list[Body]]]:
    """Yield the frames of a scene with two people who stand and wait, and their bodies."""
    settings = {"actions": ["idle"], "actors": PEOPLE, "seed": seed, "person": 1 + PEOPLE * seed, "fps": fps}
    camera = cameras.create("simulated", realtime=False, start_stamp_ns=0, noise=not exact, **settings)
    estimator = None if exact else BodyPerception()
    try:
        with camera:
            for _ in range(round(seconds * fps)):
                frame = camera.read()
                yield frame, list(frame.skeletons or []) if estimator is None else estimator.process(frame)
    finally:
        if estimator is not None:
            estimator.close()
