"""Hands and faces run at half rate while skeletons do not keep up with the images."""

import pytest

from actrec_nodes.perception_nodes import LoadShedder


class Machine:
    """Images at 30 Hz of a fake clock, a share of them with skeletons, and accepted ones with work of `work_s`."""

    def __init__(self, work_s: float = 0.02):
        self.now, self.lines = 0.0, list[str]()
        self.shedder = LoadShedder(self.lines.append, lambda: self.now)
        self.shedder.work_s = work_s
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


def test_shedder_without_any_skeletons_or_just_started_sheds_nothing() -> None:
    machine = Machine()
    assert machine.run(0.0, 5) == 30
    machine.shedder.restart()
    assert machine.run(0.1) == 30 and machine.lines == []
    machine.run(0.1)
    assert machine.shedder.reason
    machine.run(0.0, 5)
    assert not machine.shedder.reason, "skeleton_node has ended"
