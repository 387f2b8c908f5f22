"""The synchronizer pairs color with depth by stamp, and emits color without depth after a timeout."""

import re

import numpy as np
import pytest

from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils.errors import InputError
from actrec_nodes.common import conversions as c
from actrec_nodes.common.synchronizer import (
    RgbdMessages,
    Synchronizer,
    SynchronizerConfig,
    to_frame,
)

MS = NANOSECONDS // 1000
INTRINSICS = Intrinsics(8, 6, 10, 10, 4, 3)
ALONE = "working on color alone: "
NO_DEPTH = f"{ALONE}no depth image so far on camera/depth_registered/image_raw"


def color(ms: float):
    return c.color_to_image(np.zeros((6, 8, 3), np.uint8), c.header(int(ms * MS), "camera"))


def depth(ms: float):
    return c.depth_to_image(np.ones((6, 8), np.float32), c.header(int(ms * MS), "camera"))


class Bench:
    """A synchronizer with its outputs and a clock that the test sets."""

    def __init__(self, info: bool = True, **options):
        self.out: list[tuple[float, float | None]] = []
        self.lines: list[str] = []
        self.unpaired = 0
        self.now = 0.0
        self.sync = Synchronizer(
            SynchronizerConfig(**options), self.emit, self.lines.append, self.lost, lambda: self.now
        )
        if info:
            self.sync.add_info(c.intrinsics_to_info(INTRINSICS, c.header(0, "camera")))

    def emit(self, frame: RgbdMessages) -> None:
        paired = None if frame.depth is None else c.stamp_to_ns(frame.depth.header.stamp) / MS
        self.out.append((frame.stamp_ns / MS, paired))

    def lost(self, number: int) -> None:
        self.unpaired += number


@pytest.mark.parametrize("depth_first", [False, True])
def test_synchronizer_pairs_by_stamp_in_any_order(depth_first: bool) -> None:
    bench = Bench()
    for k in range(4):
        steps = [lambda t: bench.sync.add_color(color(t)), lambda t: bench.sync.add_depth(depth(t + 2))]
        for step in reversed(steps) if depth_first else steps:
            step(100 + 33 * k)
    assert bench.out == [(100 + 33 * k, 102 + 33 * k) for k in range(4)]
    assert (bench.unpaired, bench.lines) == (0, [])


def test_synchronizer_tolerance_is_half_a_frame() -> None:
    bench = Bench()
    for t in (100, 133, 166):
        bench.sync.add_color(color(t))
        bench.sync.add_depth(depth(t))
    bench.sync.add_color(color(199))
    bench.sync.add_depth(depth(199 + 17))
    assert len(bench.out) == 3
    bench.sync.add_color(color(232))
    assert bench.out[-1] == (232, 216)


def test_synchronizer_explicit_tolerance_is_used() -> None:
    bench = Bench(sync_tolerance_s=0.001)
    bench.sync.add_color(color(100))
    bench.sync.add_depth(depth(102))
    assert bench.out == []
    bench.sync.add_depth(depth(100.5))
    assert bench.out == [(100, 100.5)]


def test_synchronizer_lost_depth_image_drops_one_frame() -> None:
    bench = Bench()
    for t in (100, 133, 166, 199):
        bench.sync.add_color(color(t))
        if t != 133:
            bench.sync.add_depth(depth(t))
    assert [t for t, _ in bench.out] == [100, 166, 199]
    assert bench.unpaired == 1


def test_synchronizer_without_depth_emits_color_alone_until_depth_returns() -> None:
    bench = Bench(depth_wait_s=1.0)
    for k in range(40):
        bench.now = k / 30
        bench.sync.add_color(color(100 + 33 * k))
    count = len(bench.out)
    assert count == 9
    assert all(d is None for _, d in bench.out)
    assert set(bench.lines) == {NO_DEPTH}
    for k in range(40, 43):
        bench.now = k / 30
        bench.sync.add_color(color(100 + 33 * k))
        bench.sync.add_depth(depth(100 + 33 * k))
    assert [d is None for _, d in bench.out[count:]] == [True, False, False]


@pytest.mark.parametrize("rate", [15, 30, 60])
@pytest.mark.parametrize("depth_late", [True, False])
def test_synchronizer_waits_for_late_depth_up_to_its_limit(rate: int, depth_late: bool) -> None:
    """Depth that is 0.6 s late, which is more than eight images, is paired."""
    bench = Bench(depth_wait_s=1.0)
    for frame in range(2 * rate):
        bench.now, delayed = frame / rate, frame - round(0.6 * rate)
        color_at, depth_at = (frame, delayed) if depth_late else (delayed, frame)
        if depth_at >= 0:
            bench.sync.add_depth(depth(100 + 1000 * depth_at / rate))
        if color_at >= 0:
            bench.sync.add_color(color(100 + 1000 * color_at / rate))
    assert len(bench.out) == 2 * rate - round(0.6 * rate)
    assert all(d == t for t, d in bench.out)
    assert (bench.unpaired, bench.lines) == (0, [])


def test_synchronizer_waits_again_for_late_depth_that_returns() -> None:
    bench = Bench(depth_wait_s=1.0)
    for k in range(90):
        bench.now = k / 30
        bench.sync.add_color(color(100 + 33 * k))
        if k >= 50:
            bench.sync.add_depth(depth(100 + 33 * (k - 15)))
    assert [d is None for _, d in bench.out[-20:]] == [False] * 20
    assert bench.lines[-1] == NO_DEPTH


def test_synchronizer_depth_later_than_the_limit_does_not_delay_color() -> None:
    bench = Bench(depth_wait_s=0.3)
    for k in range(90):
        bench.now = k / 30
        bench.sync.add_color(color(100 + 33 * k))
        bench.sync.add_depth(depth(100 + 33 * (k - 15)))
    assert len(bench.out) == 90 - 10 and all(d is None for _, d in bench.out)
    assert "depth comes 0.5 s after its color image" in bench.lines[-1]


def test_synchronizer_frequent_depth_pairs_the_nearest() -> None:
    bench = Bench()
    for k in range(20):
        bench.sync.add_depth(depth(100 + 33 * k))
        if k % 2 and k > 2:
            bench.sync.add_color(color(100 + 33 * (k + 1)))  # before the depth of the same stamp
    assert all(d == t for t, d in bench.out) and len(bench.out) == 8


@pytest.mark.parametrize("rate", [30, 60, 90])
@pytest.mark.parametrize("apart_ms", [0, 3, 7])
@pytest.mark.parametrize("depth_first", [True, False])
def test_synchronizer_jitter_of_depth_drops_no_frame(rate: int, apart_ms: int, depth_first: bool) -> None:
    """Stamps of arrival jitter; a short interval between two does not change the estimated rate."""
    bench, random = Bench(), np.random.default_rng(0)
    stamps = 100 + apart_ms + 1000 * np.arange(100 * rate // 30) / rate + random.normal(0, 90 / rate, 100 * rate // 30)
    images = [(100 + 1000 * k / 30, not depth_first, color) for k in range(100)]
    images += [(float(t), depth_first, depth) for t in sorted(stamps)]
    for t, _, make in sorted(images, key=lambda item: item[:2]):
        (bench.sync.add_color if make is color else bench.sync.add_depth)(make(t))
    assert len(bench.out) >= 98 and bench.unpaired <= 1
    assert max(abs(t - d) for t, d in bench.out) < 750 / rate


@pytest.mark.parametrize("depth_first", [True, False])
def test_synchronizer_jitter_of_color_drops_few_frames(depth_first: bool) -> None:
    """With jitter of a quarter of a frame, one image of ten is not nearest to its own depth."""
    bench, random = Bench(), np.random.default_rng(0)
    stamps = 100 + 1000 * np.arange(300) / 30 + random.normal(0, 8, 300)
    images = [(float(t), depth_first, color) for t in sorted(stamps)]
    images += [(100 + 1000 * k / 30, not depth_first, depth) for k in range(300)]
    for t, _, make in sorted(images, key=lambda item: item[:2]):
        (bench.sync.add_color if make is color else bench.sync.add_depth)(make(t))
    assert len(bench.out) >= 270


@pytest.mark.parametrize(("lost", "minimum"), [(0.3, 130), (0.5, 60)])
def test_synchronizer_lost_frames_do_not_pair_neighbors(lost: float, minimum: int) -> None:
    bench, random = Bench(), np.random.default_rng(0)
    for k in range(300):
        received = random.uniform(size=2) > lost
        if received[0]:
            bench.sync.add_color(color(100 + 33 * k))
        if received[1]:
            bench.sync.add_depth(depth(103 + 33 * k))
    assert sum(d == t + 3 for t, d in bench.out) >= len(bench.out) - 1 >= minimum


def test_synchronizer_repeated_depth_is_paired() -> None:
    bench = Bench()
    for k in range(30):
        bench.sync.add_depth(depth(100 + 33 * k))
        bench.sync.add_depth(depth(100.5 + 33 * k))
        bench.sync.add_color(color(103 + 33 * k))
    assert len(bench.out) >= 29 and all(abs(t - d) <= 3 for t, d in bench.out)


def test_synchronizer_replayed_recording_after_a_pause_has_depth() -> None:
    bench = Bench(depth_wait_s=1.0)
    for start in (0.0, 60.0):
        for k in range(30):
            bench.now = start + k / 30
            bench.sync.add_color(color(100 + 33 * k))
            if k < 29:  # the recording ends before its last depth image
                bench.sync.add_depth(depth(100 + 33 * k))
    assert bench.out == [(100 + 33 * k, 100 + 33 * k) for k in range(29)] * 2
    assert bench.unpaired == 1
    assert [line.split(" (")[0] for line in bench.lines] == ["color's stamps jumped back by 1.0 s"]


LATE = [(100 + 33 * k, k / 30, k / 30 + 0.45) for k in range(300)]
"""Stamp in ms, arrival of color and of depth in s: late by as much as 14 images."""


def play(bench: Bench, images: list[tuple[float, float, float | None]]) -> None:
    """Deliver color and depth at their times; no depth for None."""
    events = [(at, bench.sync.add_color, color(stamp)) for stamp, at, _ in images]
    events += [(at, bench.sync.add_depth, depth(stamp)) for stamp, _, at in images if at is not None]
    for at, add, message in sorted(events, key=lambda event: event[0]):
        bench.now = at
        add(message)


@pytest.mark.parametrize("disordered", [False, True], ids=["in order", "out of order"])
def test_synchronizer_depth_of_random_delay_is_paired(disordered: bool) -> None:
    bench, random = Bench(), np.random.default_rng(0)
    delays = random.uniform(0, 0.5, 300)
    arrivals = np.array([at for _, at, _ in LATE]) + delays
    arrivals = arrivals if disordered else np.maximum.accumulate(arrivals)
    play(bench, [(stamp, at, late) for (stamp, at, _), late in zip(LATE, arrivals.tolist(), strict=True)])
    assert all(d == t for t, d in bench.out) and bench.out == sorted(bench.out)
    assert len(bench.out) + bench.unpaired == 300 and not bench.lines
    assert bench.unpaired <= (6 if disordered else 0), "the first ones, until the disorder is known"


def test_synchronizer_lost_depth_does_not_delay_the_next_frame() -> None:
    bench = Bench()
    play(bench, [(t, at, None if k % 10 == 5 else late) for k, (t, at, late) in enumerate(LATE)])
    assert len(bench.out) == 270 and bench.unpaired == 30 and not bench.lines


def test_synchronizer_waiting_images_are_bounded_in_number() -> None:
    """Beyond the limit, images that wait are kept and new ones are dropped evenly; the advice pairs them all."""
    few = Bench(depth_wait_images=10)
    play(few, LATE)
    assert all(d == t for t, d in few.out) and len(few.out) >= 140
    assert np.diff([t for t, _ in few.out]).max() < 210, "dropped evenly, not in bursts"
    (number,) = re.findall(r"set depth_wait_images to (\d+)", few.lines[-1])
    enough = Bench(depth_wait_images=int(number))
    play(enough, LATE)
    assert len(enough.out) == 300 and not enough.lines


def test_synchronizer_waiting_images_are_references() -> None:
    bench, image = Bench(), color(100)
    bench.sync.add_color(image)
    held = [w.message for w in bench.sync._color]
    assert held[0] is image


@pytest.mark.parametrize("delay", [0.5, 1.2, 3.0])
def test_synchronizer_depth_later_than_the_limit_advises_a_wait_that_pairs_all(delay: float) -> None:
    images = [(stamp, at, at + delay) for stamp, at, _ in LATE]
    short = Bench(depth_wait_s=0.3)
    play(short, images)
    assert len(short.out) >= 285 and all(d is None for _, d in short.out), "color is not delayed"
    assert f"depth comes {delay:.1f} s after its color image, later than depth_wait_s (0.3 s)" in short.lines[-1]
    advised = {name: float(value) for name, value in re.findall(r"(depth_wait_\w+) to ([\d.]+)", short.lines[-1])}
    images_at_most = int(advised.get("depth_wait_images", 64))
    patient = Bench(depth_wait_s=advised["depth_wait_s"], depth_wait_images=images_at_most)
    play(patient, images)
    assert patient.out == [(stamp, stamp) for stamp, _, _ in LATE] and not patient.lines


def test_synchronizer_stopped_depth_is_reported_and_color_goes_on() -> None:
    bench = Bench()
    play(bench, [(t, at, late if k < 100 or k > 200 else None) for k, (t, at, late) in enumerate(LATE)])
    assert {line.split(" s ago")[0][:-4] for line in bench.lines} == {f"{ALONE}depth stopped"}
    paired = [t for t, d in bench.out if d is not None]
    assert paired[:100] == [t for t, _, _ in LATE[:100]] and len(paired) >= 180, "depth is used again when it returns"
    assert sum(d is None for _, d in bench.out) >= 60, "color alone goes on"


def test_synchronizer_delay_around_the_limit_does_not_alternate() -> None:
    """Depth that is now in time and now too late would cost the images that wait at each change."""
    bench = Bench(depth_wait_s=0.5)
    play(bench, [(t, at, at + (0.45 if k // 5 % 2 else 0.55)) for k, (t, at, _) in enumerate(LATE)])
    assert len(bench.out) >= 280 and bench.unpaired <= 20


@pytest.mark.parametrize("stamp_s", [0, -5, -(2**31), 2**31 - 1])
def test_synchronizer_stamps_of_any_size_are_paired_and_recovered_from(stamp_s: int) -> None:
    bench = Bench()
    for k in range(40):
        at = stamp_s * 1000 + k if 10 <= k < 20 else 50_000 + 33 * k
        bench.now = k / 30
        bench.sync.add_color(color(at))
        bench.sync.add_depth(depth(at))
    assert len(bench.out) == 40 and all(t == d for t, d in bench.out)
    assert len(bench.lines) == 1 and "stamps jumped back by" in bench.lines[0]


def test_synchronizer_color_out_of_order_is_emitted_in_order() -> None:
    bench = Bench()
    for k, stamp in enumerate((100, 133, 199, 166, 232)):
        bench.now = k / 30
        bench.sync.add_color(color(stamp))
    for stamp in (100, 133, 166, 199, 232):
        bench.sync.add_depth(depth(stamp))
    assert bench.out == [(t, t) for t in (100, 133, 166, 199, 232)] and not bench.lines


def test_synchronizer_pause_of_the_camera_does_not_give_up_depth() -> None:
    bench = Bench(depth_wait_s=1.0)
    for k, now in enumerate((0.0, 0.03, 1.5, 1.53)):
        bench.now = now
        bench.sync.add_color(color(100 + 33 * k))
        bench.sync.add_depth(depth(100 + 33 * k))
    assert [d is None for _, d in bench.out] == [False] * 4
    assert (bench.unpaired, bench.lines) == (0, [])


def test_synchronizer_depth_of_another_clock_is_reported() -> None:
    bench = Bench(depth_wait_s=0.5)
    for k in range(30):
        bench.now = k / 30
        bench.sync.add_depth(depth(50_000 + 33 * k))
        bench.sync.add_color(color(100 + 33 * k))
    assert bench.out
    assert all(d is None for _, d in bench.out)
    assert bench.lines[0].startswith(f"{ALONE}depth arrives in time, but its stamps are 49.9 s from color's")


def test_synchronizer_advised_tolerance_pairs_shifted_stamps() -> None:
    def shifted(**options: float) -> Bench:
        bench = Bench(depth_wait_s=0.5, **options)
        for k in range(60):
            bench.now = k / 30
            bench.sync.add_color(color(100 + 33 * k))
            bench.sync.add_depth(depth(110 + 33 * k))
        return bench

    line = shifted(sync_tolerance_s=0.002).lines[0]
    advised = shifted(sync_tolerance_s=float(line.split("set sync_tolerance_s to ")[1]))
    assert advised.out == [(100 + 33 * k, 110 + 33 * k) for k in range(60)] and not advised.lines


def test_synchronizer_without_use_depth_does_not_wait() -> None:
    bench = Bench(use_depth=False)
    bench.sync.add_color(color(100))
    assert bench.out == [(100, None)]


@pytest.mark.parametrize("depth_first", [False, True])
def test_synchronizer_restarts_when_stamps_jump_back(depth_first: bool) -> None:
    bench = Bench()
    times = [5000, 5033, 5066, 100, 133, 166]
    for t in times:
        if depth_first:
            bench.sync.add_depth(depth(t))
        bench.sync.add_color(color(t))
        if not depth_first:
            bench.sync.add_depth(depth(t))
    assert bench.out == [(t, t) for t in times]


def test_synchronizer_wild_stamps_do_not_drop_later_images() -> None:
    bench = Bench()
    for stamp_s in (1_600_000_000, 0, 2**31 - 1, -1, 1_500_000_000, 2**31 - 1):
        bench.sync.add_color(color(stamp_s * 1000))
        bench.sync.add_depth(depth(stamp_s * 1000))
    bench.out.clear()
    for k in range(10):
        bench.sync.add_color(color(1_700_000_000_000 + 33 * k))
        bench.sync.add_depth(depth(1_700_000_000_000 + 33 * k))
    assert len(bench.out) >= 9


def test_synchronizer_images_without_stamps_are_reported() -> None:
    bench = Bench()
    for _ in range(3):
        bench.sync.add_depth(depth(0))
        bench.sync.add_color(color(0))
    assert bench.out == [(0, 0)] * 3
    assert len(bench.lines) == 1
    assert bench.lines[0].startswith("color images repeat the previous stamp")


def test_synchronizer_images_sent_twice_keep_their_stamps() -> None:
    bench = Bench()
    for stamp in (0, 0, 100, 100, 200):
        bench.sync.add_depth(depth(stamp))
        bench.sync.add_color(color(stamp))
    assert not bench.lines


SENT_TWICE = [100 + 33 * (k // 2) for k in range(240)]


@pytest.mark.parametrize(
    "stamps",
    [SENT_TWICE, [0] * 240, [100 + 33 * (k % 15) for k in range(240)]],
    ids=["each image twice", "no stamps", "a recording that starts again each half second"],
)
def test_synchronizer_without_depth_emits_color_of_any_stamps(stamps: list[int]) -> None:
    bench = Bench(depth_wait_s=1.0)
    for k, stamp in enumerate(stamps):
        bench.now = k / 60
        bench.sync.add_color(color(stamp))
    assert [t for t, _ in bench.out] == stamps[-len(bench.out) :] and len(bench.out) > 170
    assert len(bench.out) + bench.unpaired == 240
    assert NO_DEPTH in bench.lines


def test_synchronizer_images_sent_twice_wait_for_late_depth() -> None:
    bench = Bench(depth_wait_s=1.0)
    for k, stamp in enumerate(SENT_TWICE):
        bench.now = k / 60
        bench.sync.add_color(color(stamp))
        if k >= 12:
            bench.sync.add_depth(depth(SENT_TWICE[k - 12]))
    assert bench.out == [(t, t) for t in sorted(set(SENT_TWICE))[:-6]]
    assert len(bench.out) + bench.unpaired + 12 == 240 and not bench.lines


def test_synchronizer_drops_frames_until_camera_info() -> None:
    bench = Bench(info=False)
    bench.sync.add_color(color(100))
    bench.sync.add_depth(depth(100))
    assert bench.out == []
    assert bench.lines == ["color images arrive, but no camera_info on camera/color/camera_info"]
    bench.sync.add_info(c.intrinsics_to_info(INTRINSICS, c.header(0, "camera")))
    bench.sync.add_color(color(133))
    bench.sync.add_depth(depth(133))
    assert bench.out == [(133, 133)]


def messages(depth_image=None, width: int = 8) -> RgbdMessages:
    info = c.intrinsics_to_info(Intrinsics(width, 6, 10, 10, 4, 3), c.header(0, "camera"))
    return RgbdMessages(color(100), depth_image, info)


def test_to_frame_keeps_stamp_and_frame_id() -> None:
    lines: list[str] = []
    frame = to_frame(messages(depth(100)), lines.append)
    frame.check()
    assert (frame.stamp_ns, frame.frame_id, lines) == (100 * MS, "camera", [])
    assert frame.depth is not None
    assert frame.depth[0, 0] == 1.0


def test_synchronizer_depth_of_another_size_is_dropped_and_reported() -> None:
    lines: list[str] = []
    other_size = c.depth_to_image(np.ones((12, 16), np.float32), c.header(100 * MS, "camera"))
    assert to_frame(messages(other_size), lines.append).depth is None
    assert len(lines) == 1
    assert lines[0].startswith("depth is 16×12, color is 8×6: working on color alone; register depth to color")


def test_synchronizer_unregistered_depth_is_reported() -> None:
    lines: list[str] = []
    frame = to_frame(messages(c.depth_to_image(np.ones((6, 8), np.float32), c.header(100 * MS, "lens"))), lines.append)
    assert frame.depth is not None
    assert len(lines) == 1
    assert lines[0].startswith("depth is seen from 'lens', color from 'camera': if it is not registered")
    without_frame = c.depth_to_image(np.ones((6, 8), np.float32), c.header(100 * MS, ""))
    to_frame(messages(without_frame), lines.append)
    assert len(lines) == 1


def test_synchronizer_empty_depth_is_reported() -> None:
    lines: list[str] = []
    empty_depth = c.depth_to_image(np.full((6, 8), np.nan, np.float32), c.header(100 * MS, "camera"))
    frame = to_frame(messages(empty_depth), lines.append)
    assert frame.depth is not None
    assert np.isnan(frame.depth).all()
    assert len(lines) == 1
    assert "no valid pixel" in lines[0]


def test_to_frame_camera_info_of_another_size_raises_input_error() -> None:
    with pytest.raises(InputError, match="camera_info is of a 16×6 image, but color is 8×6"):
        to_frame(messages(width=16), lambda line: None)
