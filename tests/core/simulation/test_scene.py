"""Geometry, visibility and exact scene flow of rendered scenes."""

import numpy as np
import pytest

from actrec.simulation.appearance import DEFAULT_APPEARANCES, atlas
from actrec.simulation.renderer import Renderer, furnished_room, render_room
from actrec.simulation.scene import CameraPose, Scene, performed_scene
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Intrinsics
from actrec.utils.camera_model import project
from actrec.utils.errors import InputError
from actrec.utils.geometry import rotation
from benchmarks.scene_flow import flow_between
from tests.core.simulation.conftest import PosedActor

INDEX = KINECT_V2_25.index


def standing(shift=(0.0, 1.0, 2.6), velocity=(0.0, 0.0, 0.0), turn=0.0, appearance=0):
    """Return a body at rest at `shift` in the camera's frame, moving at `velocity`, turning at `turn` rad/s about y."""
    return PosedActor(
        DEFAULT_APPEARANCES[appearance],
        lambda t: (rotation(1, turn * t).astype(np.float64), np.array(shift) + t * np.array(velocity)),
    )


def points_of(rendering, intrinsics):
    v, u = np.mgrid[: intrinsics.height, : intrinsics.width]
    z = rendering.depth.astype(np.float64)
    return np.stack([(u - intrinsics.cx) / intrinsics.fx * z, (v - intrinsics.cy) / intrinsics.fy * z, z], -1)


def test_scene_depth_at_visible_joints_is_skin(intrinsics) -> None:
    scene = performed_scene(intrinsics, ("wave", "point", "pick_up"), seed=3)
    for time in (0.0, 1.5, 4.5, 8.0, 10.0):
        snapshot = scene.at(time)
        body = snapshot.bodies[0]
        assert body.body_id == "actor_1" and body.layout == "kinect_v2_25"
        np.testing.assert_allclose(body.pixels, project(body.positions, intrinsics), atol=1e-3)
        u, v = np.round(body.pixels).astype(int).T
        visible = body.scores == 1
        assert visible.sum() >= 10
        before_joint = body.positions[visible, 2] - snapshot.rendering.depth[v[visible], u[visible]]
        # Skin is in front of the joint; beside a thin limb's axis a pixel may show the surface just behind it.
        assert (before_joint > -0.03).all() and (before_joint < 0.17).all()
        assert (snapshot.rendering.people[v[visible], u[visible]] == 0).all()


def test_room_depth_matches_geometry(intrinsics) -> None:
    room, camera = furnished_room(back=4.0), CameraPose(1.2, np.radians(12.0))
    background = render_room(room, intrinsics, camera.rotation, camera.position)
    v, u = np.mgrid[: intrinsics.height, : intrinsics.width]
    rays = np.stack([(u - intrinsics.cx) / intrinsics.fx, (v - intrinsics.cy) / intrinsics.fy, np.ones(u.shape)], -1)
    points = (rays * background.depth[..., None]) @ camera.rotation.T + camera.position
    assert np.isfinite(background.depth).all()
    np.testing.assert_allclose(points[background.floor][:, 1], 0.0, atol=1e-4)
    assert background.floor.mean() > 0.2
    low, high = np.array(room.low) - 1e-3, np.array(room.high) + 1e-3
    assert ((points > low) & (points < high)).all()
    assert (background.facing >= 0).all() and background.facing.max() <= 1.0001


def test_scene_flow_translation_is_velocity(intrinsics) -> None:
    velocity = np.array([0.3, -0.2, 0.5])
    scene = Scene([standing(velocity=velocity)], intrinsics, CameraPose())
    snapshot = scene.at(0.0)
    flow = scene.scene_flow(snapshot, 1 / 30)
    person = snapshot.rendering.people == 0
    assert person.sum() > 3000
    np.testing.assert_allclose(flow[person], np.broadcast_to(velocity, (person.sum(), 3)), atol=2e-3)
    assert (flow[~person] == 0).all()


def test_scene_flow_rotation_matches_points(intrinsics) -> None:
    turn, dt = 0.8, 1 / 60
    scene = Scene([standing(turn=turn)], intrinsics, CameraPose())
    snapshot = scene.at(0.0)
    flow = scene.scene_flow(snapshot, dt)
    person = snapshot.rendering.people == 0
    center = np.array([0.0, 1.0, 2.6])
    points = points_of(snapshot.rendering, intrinsics)[person]
    moved = (points - center) @ rotation(1, turn * dt).T.astype(np.float64) + center
    np.testing.assert_allclose(flow[person], (moved - points) / dt, atol=3e-3)


def test_scene_flow_leads_to_next_surface(intrinsics) -> None:
    scene, dt = performed_scene(intrinsics, ("throw", "walk"), seed=2), 1 / 30
    for time in (1.2, 1.6, 5.5, 7.0):
        first, second = scene.at(time), scene.at(time + dt)
        flow = scene.scene_flow(first, dt)
        person = first.rendering.people == 0
        assert np.linalg.norm(flow[person], axis=-1).max() > 0.05
        moved_points = points_of(first.rendering, intrinsics)[person] + flow[person] * dt
        u, v = np.round(project(moved_points, intrinsics)).astype(int).T
        inside = (u >= 0) & (v >= 0) & (u < intrinsics.width) & (v < intrinsics.height)
        gap = moved_points[inside, 2] - second.rendering.depth[v[inside], u[inside]]
        # Points that are hidden later are behind the surface; only at silhouettes are points far in front of it.
        assert np.median(np.abs(gap)) < 2e-3
        assert (gap < -0.02).mean() < 0.06


def test_scene_flow_still_scene_is_zero(intrinsics) -> None:
    scene = Scene([standing()], intrinsics, CameraPose())
    flow = scene.scene_flow(scene.at(0.0), 0.1)
    np.testing.assert_allclose(flow, 0.0, atol=1e-4)
    assert np.isfinite(flow).all()


def test_scene_flow_moving_camera_moves_room(intrinsics) -> None:
    scene = Scene([standing()], intrinsics, CameraPose())
    snapshot, dt = scene.at(0.0), 0.1
    move = np.concatenate([np.eye(3), [[0.0], [0.0], [-0.05]]], axis=1)  # the camera advances 5 cm
    renderer = Renderer(intrinsics, atlas((DEFAULT_APPEARANCES[0].face,)), np.array([0.0, -1.0, 0.0]))
    flow = renderer.scene_flow(snapshot.rendering, snapshot.rendering.placed, dt, move)
    room = snapshot.rendering.ids < 0
    np.testing.assert_allclose(flow[room], np.broadcast_to([0.0, 0.0, -0.5], (room.sum(), 3)), atol=1e-4)


def test_flow_to_other_camera_leads_to_its_surface(intrinsics) -> None:
    dt, axes = 1 / 30, rotation(1, 0.02).astype(np.float64)
    here, there = CameraPose(1.0), CameraPose(1.03, np.radians(1.5))
    moved = there.rotation.T @ (here.position - there.position)
    before = Scene([standing()], intrinsics, here)
    turned = PosedActor(
        DEFAULT_APPEARANCES[0],
        lambda t: (
            there.rotation.T @ here.rotation @ axes,
            there.rotation.T @ here.rotation @ [0.05, 1.0, 2.6] + moved,
        ),
    )
    after = Scene([turned], intrinsics, there)
    first, second = before.at(0.0), after.at(0.0)
    flow = flow_between(before, first, after, second, dt)
    moved_points = points_of(first.rendering, intrinsics) + flow * dt
    u, v = np.round(project(moved_points, intrinsics)).astype(int).transpose(2, 0, 1)
    inside = (u >= 0) & (v >= 0) & (u < intrinsics.width) & (v < intrinsics.height)
    gap = moved_points[inside, 2] - second.rendering.depth[v[inside], u[inside]]
    person = (first.rendering.people == 0)[inside]
    assert np.median(np.abs(gap[person])) < 3e-3
    assert np.median(np.abs(gap[~person])) < 3e-3
    same = flow_between(before, first, before, before.at(0.0), dt)
    np.testing.assert_allclose(same, 0, atol=1e-3)
    empty = Scene([], intrinsics, there)
    with pytest.raises(InputError, match="no actor"):
        flow_between(before, first, empty, empty.at(0.0), dt)


def test_visibility_nearer_actor_occludes_other(intrinsics) -> None:
    near, far = standing((0.05, 1.0, 2.2)), standing((0.0, 1.0, 3.2), appearance=1)
    scene = Scene([far, near], intrinsics, CameraPose())
    snapshot = scene.at(0.0)
    people = snapshot.rendering.people
    assert set(np.unique(people)) == {-1, 0, 1}
    assert snapshot.rendering.depth[people == 1].max() < 2.6 < snapshot.rendering.depth[people == 0].min()
    far_body, near_body = snapshot.bodies
    assert (far_body.body_id, near_body.body_id) == ("actor_1", "actor_2")
    trunk = [INDEX[j] for j in ("spine_base", "spine_mid", "spine_shoulder")]
    assert (near_body.scores[trunk] == 1).all()
    assert (far_body.scores[trunk] == 0.5).all()
    alone = Scene([near], intrinsics, CameraPose()).at(0.0)
    np.testing.assert_array_equal(alone.rendering.depth[people == 1], snapshot.rendering.depth[people == 1])


def test_body_truth_outside_image_has_occluded_score(intrinsics) -> None:
    snapshot = Scene([standing((0.0, 1.0, 1.0))], intrinsics, CameraPose()).at(0.0)
    body = snapshot.bodies[0]
    ankle = INDEX["ankle_left"]
    assert body.pixels[ankle, 1] > intrinsics.height and body.scores[ankle] == 0.5
    assert np.isfinite(body.positions).all()


def test_scene_absent_actor_has_no_body_and_no_flow(intrinsics) -> None:
    still = (np.eye(3), np.array([0.0, 1.0, 2.6]))
    scene = Scene([PosedActor(DEFAULT_APPEARANCES[0], lambda t: still if t < 1 else None)], intrinsics, CameraPose())
    before, after = scene.at(0.95), scene.at(1.5)
    assert before.bodies and before.labels == {"actor_1": "still"}
    assert not after.bodies and not after.labels and (after.rendering.people == -1).all()
    flow = scene.scene_flow(before, 0.1)
    assert np.isnan(flow[before.rendering.people == 0]).all()
    assert (flow[before.rendering.people == -1] == 0).all()
    assert (scene.scene_flow(after, 0.1) == 0).all()


def test_hands_match_pose_to_finger_tips(intrinsics) -> None:
    scene = performed_scene(intrinsics, ("wave",), side="right")
    hands = scene.hands(scene.at(1.5))
    assert [(hand.side, hand.layout, hand.body_id) for hand in hands] == [
        ("left", "hand_21", "actor_1"), ("right", "hand_21", "actor_1"),
    ]  # fmt: skip
    for hand in hands:
        reach = np.linalg.norm(hand.positions[1:] - hand.positions[0], axis=-1)
        assert reach.min() > 0.01 and reach.max() < 0.21
    # Raised to the camera, the palm hides no finger.
    assert (hands[1].scores == 1).mean() > 0.8


def test_scene_without_actors_is_room(intrinsics) -> None:
    snapshot = Scene([], intrinsics, CameraPose()).at(0.0)
    assert snapshot.bodies == [] and (snapshot.rendering.ids == -1).all()
    assert snapshot.rendering.color.std() > 10


def test_rendered_sole_touches_floor(intrinsics) -> None:
    camera = CameraPose(1.3, np.radians(15.0))
    scene = performed_scene(intrinsics, ("idle",), camera=camera)
    snapshot = scene.at(0.5)
    person = snapshot.rendering.people == 0
    room = points_of(snapshot.rendering, intrinsics)[person] @ camera.rotation.T + camera.position
    assert -0.03 < room[:, 1].max() < 1e-3


def test_renderer_invalid_input_raises(intrinsics) -> None:
    scene = Scene([standing()], intrinsics, CameraPose())
    with pytest.raises(InputError, match="later"):
        scene.scene_flow(scene.at(0.0), 0.0)
    distorted = Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5, (0.1, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="distortion"):
        Scene([standing()], distorted, CameraPose())


def test_rendered_surfaces_have_texture(intrinsics) -> None:
    snapshot = Scene([standing()], intrinsics, CameraPose()).at(0.0)
    gray = snapshot.rendering.color.mean(axis=-1)
    slope = np.hypot(*np.gradient(gray))
    for region in (snapshot.rendering.people == 0, snapshot.rendering.people == -1):
        assert np.median(slope[region]) > 0.5
