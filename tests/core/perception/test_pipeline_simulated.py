"""Perception against the simulated actor, whose joints are known exactly."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from actrec import cameras, perception
from actrec.cameras.simulated import SimulatedCamera
from actrec.perception.pipeline import BodyPerception, FacePerception, HandPerception, Pipeline
from actrec.skeleton.layouts import KINECT_V2_25, convert
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError

J = KINECT_V2_25.index
SURE = [J[f"{joint}_{side}"] for joint in ("shoulder", "elbow", "wrist", "knee", "ankle") for side in ("left", "right")]


def play(count, **options):
    """Frames of the simulated camera with the exact hands in each."""
    camera = SimulatedCamera(realtime=False, fps=15.0, start_stamp_ns=0, **options)
    with camera:
        for _ in range(count):
            frame = camera.read()
            assert camera.scene is not None and camera.snapshot is not None
            yield frame, camera.scene.hands(camera.snapshot)


@pytest.fixture(scope="module")
def wave():
    return list(play(30, actions=["wave"]))


@pytest.fixture(scope="module")
def seen(wave):
    body = BodyPerception(num_poses=1, min_hits=1)
    found = [body.process(frame) for frame, _ in wave]
    body.close()
    return found


def test_body_perception_simulated_actor_error_is_centimeters(wave, seen):
    assert [len(bodies) for bodies in seen] == [1] * 30
    errors = np.array(
        [bodies[0].positions - frame.skeletons[0].positions for (frame, _), bodies in zip(wave, seen, strict=True)]
    )
    apart = np.linalg.norm(errors, axis=2)
    assert np.median(apart) < 0.035
    assert np.median(apart[:, SURE], axis=0).max() < 0.06
    # Surfaces lie before joints: without their radii everything would be some 5 cm too near.
    assert abs(np.median(errors[:, :, 2])) < 0.015


def test_body_perception_smoothing_waving_wrist_does_not_lag(wave, seen):
    side = "left" if np.ptp([f.skeletons[0].positions[J["wrist_left"], 0] for f, _ in wave]) > 0.2 else "right"
    apart = [
        np.linalg.norm(bodies[0].positions[J[f"wrist_{side}"]] - frame.skeletons[0].positions[J[f"wrist_{side}"]])
        for (frame, _), bodies in zip(wave, seen, strict=True)
    ]
    assert np.median(apart) < 0.06 and max(apart) < 0.25


def test_hand_and_face_perception_simulated_actor_found(wave, seen):
    hand, face = HandPerception(), FacePerception()
    visible, errors, pixels, faces = 0, [], [], 0
    for (frame, truth), bodies in zip(wave, seen, strict=True):
        found = {h.side: h for h in hand.process(frame, bodies)}
        faces += len(face.process(frame, bodies))
        for exact in truth:
            if (exact.scores > 0.6).mean() < 0.4:
                continue
            visible += 1
            if exact.side in found:
                errors.append(np.linalg.norm(found[exact.side].positions - exact.positions, axis=1))
                pixels.append(np.linalg.norm(found[exact.side].pixels - exact.pixels, axis=1))
    hand.close()
    face.close()
    assert len(errors) > 0.85 * visible > 20
    assert np.median(pixels) < 4 and np.median(errors) < 0.045
    assert faces > 24


def test_body_perception_without_depth_distance_within_20_percent(wave):
    body = BodyPerception(num_poses=1, min_hits=1)
    for frame, _ in wave[:10]:
        (found,) = body.process(dataclasses.replace(frame, depth=None))
        ratio = np.median(found.positions[:, 2] / frame.skeletons[0].positions[:, 2])
        assert 0.8 < ratio < 1.2
        assert found.scores.max() <= 0.5
    body.close()


@pytest.mark.slow
@pytest.mark.parametrize("actors", [2, 5])
def test_body_perception_several_actors_keep_ids(actors):
    body = BodyPerception()
    owners: dict[str, set[str]] = {}
    all_found = 0
    for frame, _ in play(25 if actors == 2 else 40, actions=["wave"], actors=actors):
        bodies = body.process(frame)
        all_found += len(bodies) == actors
        for found in bodies:
            exact = min(
                frame.skeletons, key=lambda s: np.nanmean(np.linalg.norm(s.positions - found.positions, axis=1))
            )
            assert np.nanmedian(np.linalg.norm(exact.positions - found.positions, axis=1)) < 0.15
            owners.setdefault(found.body_id, set()).add(exact.body_id)
    body.close()
    assert all_found > 18
    assert sorted(map(sorted, owners.values())) == [[f"actor_{i + 1}"] for i in range(actors)]


def test_pipeline_simulated_actor_returns_people_as_its_parts_do(wave, seen):
    frames = [frame for frame, _ in wave[:6]]
    with Pipeline(num_poses=1, min_hits=1) as pipeline:
        people = [pipeline.process(frame) for frame in frames]
        pipeline.reset()
        assert [body.body_id for body in pipeline.process(frames[0]).bodies] == ["body_2"]
    for each, bodies in zip(people, seen, strict=False):
        (body,) = each.bodies
        np.testing.assert_allclose(body.positions, bodies[0].positions, atol=1e-5, equal_nan=True)
        assert {part.body_id for part in (*each.hands, *each.faces)} <= {body.body_id}
    assert {hand.side for each in people for hand in each.hands} == {"left", "right"}
    assert any(each.faces for each in people)


def test_pipeline_hands_and_faces_disabled_returns_bodies_only(wave):
    with perception.Pipeline(num_poses=1, min_hits=1, hands=False, faces=False) as pipeline:
        bodies, hands, faces = pipeline.process(wave[0][0])
    assert len(bodies) == 1 and hands == faces == []
    with pytest.raises(ConfigError, match="unknown option hand of PipelineConfig"):
        perception.Pipeline(hand=False)


def test_body_estimator_lost_person_is_found_again_around_the_last_place():
    """In a wide image the detector needs the tile with the person, which comes every fourth search only."""
    with cameras.create("simulated", actions=["wave"], realtime=False, fps=10.0) as camera:
        color: Any = camera.read().color
    wide = np.zeros((480, 1600, 3), np.uint8)
    wide[:, 1600 - 640 :] = color
    intrinsics = Intrinsics(1600, 480, 500.0, 500.0, 799.5, 239.5)
    estimator = perception.create("body")

    def count(k, image):
        return len(estimator.estimate(RgbdFrame(k * 100_000_000, image, None, intrinsics)))

    frames = iter(range(100))
    assert [count(next(frames), wide) for _ in range(8)][-1] == 1
    for gap in range(1, 5):
        assert [count(next(frames), np.zeros_like(wide)) for _ in range(gap)] == [0] * gap
        assert count(next(frames), wide) == 1
    estimator.close()


def estimated(frames, **options):
    """Return the detections of a new estimator in each frame."""
    estimator = perception.create("body", **options)
    found = [estimator.estimate(frame) for frame in frames]
    estimator.close()
    return found


def seen_as(frame, color):
    """Return the frame with another color image, without depth."""
    color = np.ascontiguousarray(color)
    height, width = color.shape[:2]
    intrinsics = Intrinsics(width, height, 500.0, 500.0, (width - 1) / 2, (height - 1) / 2)
    return RgbdFrame(frame.stamp_ns, color, None, intrinsics)


def pixels_of(detection):
    return convert(detection.pixels, detection.scores, detection.layout)[0]


def grey(color):
    return np.repeat(color.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


def enlarged(width, height):
    """Return a function that puts an image in the middle of one of this size, and one that moves its pixels there."""
    scale = height / 480
    left = round(width - 640 * scale) // 2

    def enlarge(color):
        inner = cv2.resize(color, None, fx=scale, fy=scale)
        return np.pad(inner, ((0, 0), (left, left), (0, 0)))

    return enlarge, lambda pixels: (pixels + 0.5) * scale - 0.5 + [left, 0]


def here(pixels):
    return pixels


@pytest.mark.parametrize(
    ("change", "move", "limit_px"),
    [
        (*enlarged(1920, 1080), 14.0),
        (*enlarged(3840, 2160), 28.0),
        (lambda color: color // 10, here, 8.0),
        (lambda color: np.minimum(color.astype(int) * 4, 255).astype(np.uint8), here, 8.0),
        (grey, here, 8.0),
        (lambda color: color[:, 320:], lambda pixels: pixels - [320, 0], 8.0),
        (lambda color: color[:260], here, 8.0),
        (lambda color: color[::-1, ::-1], lambda pixels: [639, 479] - pixels, 8.0),
    ],
    ids=["1080p", "4K", "dark", "over-exposed", "grey", "right half only", "without legs", "upside down"],
)
def test_body_estimator_in_hard_conditions_finds_the_person(wave, change, move, limit_px):
    frames, errors = [frame for frame, _ in wave[:5]], []
    for frame, bodies in zip(frames, estimated([seen_as(f, change(f.color)) for f in frames]), strict=True):
        exact = move(frame.skeletons[0].pixels)
        inside = ((exact >= 0) & (exact < np.array(change(frame.color).shape[1::-1]))).all(axis=1)
        errors += [np.nanmedian(np.linalg.norm(pixels_of(body) - exact, axis=1)[inside]) for body in bodies]
    assert 4 <= len(errors) <= 5 and np.median(errors) < limit_px


@pytest.mark.parametrize(("distance", "limit_px"), [(8.0, 4.0), (1.2, 20.0)])
def test_body_estimator_far_or_near_person_found(distance, limit_px):
    frames = [frame for frame, _ in play(5, actions=["wave"], distance=distance, seed=3)]
    errors = [
        np.nanmedian(np.linalg.norm(pixels_of(body) - frame.skeletons[0].pixels, axis=1))
        for frame, bodies in zip(frames, estimated(frames), strict=True)
        for body in bodies
    ]
    assert 4 <= len(errors) <= 5 and np.median(errors) < limit_px


@pytest.mark.slow
@pytest.mark.parametrize(("num_poses", "least"), [(5, 5), (20, 18)])
def test_body_estimator_row_of_20_people_finds_each_once_up_to_num_poses(wave, num_poses, least):
    frame = wave[0][0]
    row = [seen_as(frame, np.tile(frame.color[:, 220:420], (1, 20, 1)))] * 16
    found = estimated(row, num_poses=num_poses, detect_every=1)[-1]
    exact = [frame.skeletons[0].pixels + np.array([200 * n - 220, 0]) for n in range(20)]
    apart = [[np.nanmedian(np.linalg.norm(pixels_of(body) - one, axis=1)) for one in exact] for body in found]
    assert least <= len(found) <= num_poses and np.min(apart, axis=1).max() < 8.0
    assert len(set(np.argmin(apart, axis=1))) == len(found)


def test_body_estimator_dark_after_a_person_gives_no_body(wave):
    """No skeleton of an earlier image comes with a later stamp."""
    frames = [frame for frame, _ in wave[:3]]
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    colors = frames[0].color, np.zeros_like(noise), noise
    found = estimated([seen_as(frame, color) for frame, color in zip(frames, colors, strict=True)])
    assert [len(bodies) for bodies in found] == [1, 0, 0]
