"""Labels compared with what simulated actors perform."""

from pathlib import Path

import pytest
import yaml

from actrec.inference import zoo
from actrec.recognition.ground_truth import WAITING, GroundTruth
from actrec.simulation.scene import Routine

S = 1_000_000_000


def play(actions: str, labels: str, period_s: float = 0.5) -> GroundTruth:
    """Add an action and a label for each letter: w(ave), c(lap), b(ow), and a point for waiting or unknown."""
    names = {"w": "wave", "c": "clap", "b": "bow"}
    truth = GroundTruth()
    for k, (action, label) in enumerate(zip(actions, labels, strict=True)):
        stamp_ns = round((k * period_s + 1) * S)
        truth.add_action(stamp_ns, "actor_1", names.get(action, "idle"))
        truth.add_label(stamp_ns, "body_1", names.get(label, "unknown"))
    return truth


@pytest.mark.parametrize(
    ("performed", "labels", "found", "others", "false"),
    [
        ("..wwww......", "...www......", 1, {}, {}),
        ("..wwww......", ".......w....", 1, {}, {}),  # within a second of the end
        ("..wwww......", "........w...", 0, {}, {"wave": 1}),
        ("..wwww......", "...cccww....", 1, {"clap": 1}, {}),
        ("..wwww......", "...cbcb.....", 0, {"clap": 2, "bow": 2}, {}),
        ("..wwww......", "cc..w......b", 1, {}, {"clap": 1, "bow": 1}),
        ("..wwww......", "............", 0, {}, {}),
    ],
)
def test_figures_labels_within_a_second_of_their_action_are_right(performed, labels, found, others, false) -> None:
    figures = play(performed, labels).figures()
    assert figures["labels_while_waiting"] == false
    wave = figures["actions"]["wave"]
    assert (wave["performed"], wave["found"], wave["other_labels"]) == (1, found, others)


def test_figures_delay_is_the_median_from_the_starts() -> None:
    figures = play(".ww....www.....wwww..", "..w......w........w..").figures()
    assert figures["actions"]["wave"] == {
        "performed": 3, "found": 3, "known": True, "other_labels": {}, "median_delay_s": 1.0,
        "median_confidence": None,
    }  # fmt: skip
    assert figures["waited_s"] == 5.5


def test_figures_action_cut_off_by_the_end_is_not_counted() -> None:
    assert list(play("..ww...cc.", "..w.......").figures()["actions"]) == ["wave"]
    assert list(play("..ww...cc.", "..w.....c.").figures()["actions"]) == ["wave", "clap"]


def test_figures_action_that_the_model_lacks_is_not_known() -> None:
    actions = play("ww....cc...", "...........").figures(["Wave", "bow"])["actions"]
    assert [actions[name]["known"] for name in ("wave", "clap")] == [True, False]


def test_add_label_two_actors_either_action_is_right() -> None:
    truth = GroundTruth()
    assert truth.add_label(S, "body_1", "wave") == ("", None)
    assert truth.figures() == {}
    for actor, action in (("actor_1", "sit_down"), ("actor_2", "clap")):
        truth.add_action(2 * S, actor, action)
    assert truth.add_label(2 * S, "body_2", "sit down") == ("clap + sit down", True)
    assert truth.add_label(2 * S, "body_1", "wave") == ("clap + sit down", False)
    for actor in ("actor_1", "actor_2"):
        truth.add_action(9 * S, actor, "idle")
    assert truth.add_label(9 * S, "body_1", "unknown") == (WAITING, None)


def test_demo_performs_actions_of_the_default_model(root: Path) -> None:
    (camera,) = yaml.safe_load((root / "config/demo.yaml").read_text()).values()
    routine = Routine(camera["ros__parameters"]["simulated"]["actions"])
    performed = {routine.segment(second).label.replace("_", " ") for second in range(60)} - {"idle"}
    assert len(performed) == 10
    assert performed <= set(zoo.find("joint_tcn_everyday").labels)


def test_labels_of_bodies_that_have_left_are_forgotten() -> None:
    truth = GroundTruth()
    truth.add_action(0, "actor_1", "wave")
    for number in range(2000):
        truth.add_label(number, f"body_{number}", "wave")
    assert len(truth._labels) == 1000


def test_figures_two_actors_who_do_the_same_are_both_found() -> None:
    truth = GroundTruth()
    for k in range(2, 26):
        for actor, begin in (("actor_1", 6), ("actor_2", 7)):
            truth.add_action(k * S // 2, actor, "wave" if begin <= k < begin + 5 else "idle")
        for body_id, begin in (("body_1", 8), ("body_2", 9)):
            truth.add_label(k * S // 2, body_id, "wave" if begin <= k < 11 else "unknown")
    assert truth.figures()["actions"]["wave"]["found"] == 2


def test_figures_action_of_more_than_a_minute_is_found_late() -> None:
    figures = play("w" * 150, "." * 140 + "w" * 10).figures()
    assert figures["labels_while_waiting"] == {} and figures["actions"]["wave"]["found"] == 1
