"""Images are shown with the skeletons of their stamp, and with labels that are still valid."""

import numpy as np

from actrec.types import Intrinsics, RgbdFrame
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import Captions, Matched, Snapshot, SnapshotMatcher

MS = 1_000_000


class Line:
    """A matcher with a clock that the test sets."""

    def __init__(self, with_images=True):
        self.now, self.matches = 0.0, []
        self.matcher = SnapshotMatcher(self.matches.append, wait_s=0.5, clock=lambda: self.now)
        self.matcher.with_images = with_images

    def shown(self):
        return [(m.stamp_ns // MS, m.image, m.skeletons, m.parts) for m in self.matches]


def test_matcher_image_waits_for_its_skeletons():
    line = Line()
    for stamp in (0, 33, 66):
        line.matcher.add_image(stamp * MS, f"image {stamp}")
    assert line.matches == []
    line.matcher.add_skeletons(33 * MS, "skeletons 33")
    assert line.shown() == [(33, "image 33", "skeletons 33", {})]
    line.matcher.add_skeletons(66 * MS, "skeletons 66")
    assert line.shown()[1:] == [(66, "image 66", "skeletons 66", {})], "the image of 0 ms is not shown late"


def test_matcher_slow_skeletons_are_shown():
    """People are estimated in 0.8 s a frame, and images come at 30 Hz."""
    line = Line()
    for k in range(180):
        line.now = k / 30
        line.matcher.add_image(round(line.now * 1e9), f"image {k}")
        if k >= 24 and k % 24 == 0:
            line.matcher.add_skeletons(round((line.now - 0.8) * 1e9), f"skeletons {k}")
        if k % 3 == 0:
            line.matcher.advance()
    assert sum(match.skeletons is not None for match in line.matches) >= 5


def test_matcher_skeletons_wait_for_their_image_for_a_time():
    line = Line()
    line.matcher.add_skeletons(33 * MS, "skeletons 33")
    assert line.matches == []
    line.matcher.add_image(33 * MS, "image 33")
    assert line.shown() == [(33, "image 33", "skeletons 33", {})]
    line.matcher.add_skeletons(66 * MS, "skeletons 66")
    line.matcher.add_image(99 * MS, "image 99")
    assert line.shown()[1:] == [(66, "image 99", "skeletons 66", {})], "the image of 66 ms was lost"
    line.matcher.add_skeletons(132 * MS, "skeletons 132")
    line.now = 0.6
    line.matcher.advance()
    assert line.shown()[2:] == [(132, None, "skeletons 132", {})]


def test_matcher_without_skeletons_images_are_shown_alone():
    line = Line()
    line.matcher.add_image(0, "image 0")
    assert line.matches == []
    line.now = 0.5
    line.matcher.advance()
    line.matcher.add_image(500 * MS, "image 500")
    assert line.shown() == [(0, "image 0", None, {})]
    line.now = 3.0
    line.matcher.add_image(3000 * MS, "image 3000")
    assert line.shown()[1:] == [(500, "image 500", None, {}), (3000, "image 3000", None, {})], "no more waiting"
    line.matcher.add_skeletons(3000 * MS, "skeletons 3000")
    line.matcher.add_image(3033 * MS, "image 3033")
    line.matcher.add_image(3066 * MS, "image 3066")
    assert line.shown()[3:] == [(3000, "image 3033", "skeletons 3000", {})], "images wait again"


def test_matcher_hands_of_the_image_are_waited_for_if_hands_come():
    line = Line()
    for stamp in (0, 33):
        line.matcher.add_image(stamp * MS, f"image {stamp}")
    line.matcher.add_part("hands", 0, "hands 0")
    line.matcher.add_skeletons(33 * MS, "skeletons 33")
    assert line.matches == []
    line.matcher.add_part("hands", 33 * MS, "hands 33")
    assert line.shown() == [(33, "image 33", "skeletons 33", {"hands": "hands 33"})]
    line.matcher.add_image(66 * MS, "image 66")
    line.matcher.add_skeletons(66 * MS, "skeletons 66")
    line.now = 0.15
    line.matcher.advance()
    assert line.shown()[1:] == [(66, "image 66", "skeletons 66", {"hands": "hands 33"})]
    line.now = 1.2
    line.matcher.add_image(1200 * MS, "image 1200")
    line.matcher.add_skeletons(1200 * MS, "skeletons 1200")
    assert line.shown()[2:] == [(1200, "image 1200", "skeletons 1200", {})], (
        "old hands are neither shown nor waited for"
    )


def test_matcher_without_images_skeletons_are_shown_at_once():
    line = Line(with_images=False)
    line.matcher.add_skeletons(33 * MS, "skeletons 33")
    assert line.shown() == [(33, None, "skeletons 33", {})]


def test_matcher_recording_that_starts_again_is_shown_again():
    line = Line()
    for stamp in (5000, 5033, 0, 33):
        line.matcher.add_image(stamp * MS, f"image {stamp}")
        line.matcher.add_skeletons(stamp * MS, f"skeletons {stamp}")
    assert [m.stamp_ns // MS for m in line.matches] == [5000, 5033, 0, 33]


def test_captions_are_valid_near_their_stamp_only():
    captions = Captions(hold_s=2.0)
    captions.add(1_000 * MS, "body_1", Caption("throw", 0.9))
    captions.add(3_500 * MS, "body_2", Caption("wave", 0.8))
    assert captions.at(2_900 * MS) == {"body_1": Caption("throw", 0.9), "body_2": Caption("wave", 0.8)}
    assert list(captions.at(3_200 * MS)) == ["body_2"]
    for number in range(2000):
        captions.add(0, f"body_{number}", Caption())
    assert len(captions.at(0)) == 1000


def test_captions_of_hands_are_their_persons_too():
    captions = Captions(hold_s=2.0)
    for name, caption in {
        "1_left": ("wave", 0.6),
        "1_right": ("unknown", 0.9),
        "2_left": ("a", 0.5),
        "2": ("b", 0.1),
    }.items():
        captions.add(0, f"body_{name}", Caption(*caption))
    found = captions.at(0)
    assert found["body_1"] == Caption("wave", 0.6) and found["body_1_right"].label == "unknown"
    assert found["body_2"] == Caption("b", 0.1), "its own label is kept"


def test_snapshot_of_a_frame_has_its_images():
    frame = RgbdFrame(7, np.zeros((4, 6, 3), np.uint8), None, Intrinsics(6, 4, 5.0, 5.0, 2.5, 1.5))
    snapshot = Snapshot.of_frame(frame)
    assert (snapshot.stamp_ns, snapshot.bodies, snapshot.depth) == (7, [], None) and snapshot.color is frame.color
    assert Matched(7).parts == {}
