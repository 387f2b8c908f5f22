"""Hands and faces run at half rate while skeletons do not keep up with the images."""

import pytest
from actrec_msgs.msg import SkeletonArray

from actrec_nodes.perception_nodes import FaceNode, LoadShedder


class Machine:
    """Images at 30 Hz of a fake clock, a share of them with skeletons, and accepted ones with work of `work_s`."""

    def __init__(self, work_s: float = 0.02):
        self.now, self.lines = 0.0, list[str]()
        self.shedder = LoadShedder(self.lines.append, lambda: self.now)
        for _ in range(3):
            self.shedder.add_work(work_s)
        self.run(1.0)

    def run(self, share: float, counts: int = 1) -> float:
        """Pass the images of some counts, and return how many of 30 were accepted."""
        accepted = 0
        for image in range(30 * counts):
            self.now += 1 / 30
            if int(share * (image % 30 + 1)) > int(share * (image % 30)):
                self.shedder.add_skeletons()
            accepted += self.shedder.accepts()
        return accepted / counts


@pytest.mark.parametrize(("work_s", "images"), [(0.02, 15), (0.1, 5), (0.2, 2.5)])
def test_shedder_overload_halves_the_rate_until_skeletons_keep_up(work_s: float, images: float) -> None:
    machine = Machine(work_s)
    assert machine.run(0.85, 3) == 30, "few are lost"
    machine.run(0.5)
    assert machine.lines == ["half rate: skeletons for 15 of 30 images, the machine is overloaded (shed_load)"]
    assert machine.run(0.85, 12) == pytest.approx(images, abs=0.6), "not enough to return"
    machine.run(1.0, 3)
    machine.run(0.9)
    machine.run(1.0, 4)
    assert machine.shedder.reason, "not five in a row"
    machine.run(1.0)
    assert machine.run(1.0, 3) == 30
    assert machine.lines[1:] == ["full rate again: skeletons keep up with the images"]


def test_shedder_overload_that_returns_at_once_is_shed_for_longer() -> None:
    machine, held = Machine(), list[int]()
    for _ in range(6):
        machine.run(0.5)
        held.append(0)
        while machine.shedder.reason:
            machine.run(1.0)
            held[-1] += 1
    assert held == [5, 10, 20, 40, 80, 80]
    machine.run(1.0, 81)
    machine.run(0.5)
    machine.run(1.0, 5)
    assert not machine.shedder.reason


def test_shedder_stopped_process_does_not_lower_the_rate_further() -> None:
    machine = Machine()
    machine.run(0.5)
    before = machine.run(0.85)
    machine.shedder.add_work(10.0)  # SIGSTOP during the work
    assert machine.shedder.reason and machine.run(0.85) == before == pytest.approx(15, abs=0.6)


def test_shedder_without_any_skeletons_or_just_started_sheds_nothing() -> None:
    machine = Machine()
    assert machine.run(0.0, 5) == 30
    machine.shedder.restart()
    assert machine.run(0.1) == 30 and machine.lines == []
    machine.run(0.1)
    assert machine.shedder.reason
    machine.run(0.0, 5)
    assert not machine.shedder.reason, "skeleton_node has ended"


@pytest.mark.ros
@pytest.mark.parametrize("shed_load", [True, False])
def test_face_node_works_at_half_rate_and_reports_it(host, add, shed_load: bool) -> None:
    node, accepted = add(FaceNode, shed_load=shed_load), list[int]()
    assert host.start() is None
    node._put = accepted.append
    seconds = iter(range(1000))
    if shed_load:
        node._shedder._clock = lambda: next(seconds)
    for image in range(60):
        if image % 3 == 0:
            node._keep(SkeletonArray())
        node.receive(image)
    assert node.figures()["warning"] == ("half rate: skeletons for 10 of 30 images" if shed_load else "")
    for image in range(60, 80):
        node.receive(image)
    assert len(accepted) == (59 + 10 if shed_load else 80)
