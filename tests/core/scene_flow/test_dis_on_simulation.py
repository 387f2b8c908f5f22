"""DIS scene flow of the simulated actor against the renderer's exact flow."""

import numpy as np
import pytest

from actrec import scene_flow
from actrec.cameras.simulated import SimulatedCamera
from actrec.scene_flow.stream import resize

DT = 1 / 30


def pairs(noise: bool):
    """Yield every tenth pair of frames at half size, with the exact flow and the actor's mask."""
    camera = SimulatedCamera(realtime=False, start_stamp_ns=0, noise=noise)
    with camera:
        for k in range(100):
            frame = camera.read()
            if k % 10 > 1:
                continue
            assert frame.color is not None
            assert frame.depth is not None
            assert camera.scene is not None
            assert camera.snapshot is not None
            small = resize(frame.color, frame.depth, frame.intrinsics, 320, 240)
            if k % 10 == 0:
                truth = camera.scene.scene_flow(camera.snapshot, DT)[1::2, 1::2]
                first = (*small, truth, camera.snapshot.rendering.people[1::2, 1::2] >= 0)
            else:
                yield first, small


@pytest.mark.parametrize(("noise", "background_limit"), [(False, 0.01), (True, 0.6)])
def test_dis_simulated_actor_matches_exact_flow(noise: bool, background_limit: float) -> None:
    method = scene_flow.create("dis")
    errors, speeds, background, known = [], [], [], []
    for (c0, d0, intrinsics, truth, actor), (c1, d1, _) in pairs(noise):
        flow = method.estimate(c0, d0, c1, d1, intrinsics, DT)
        error, speed = np.linalg.norm(flow - truth, axis=-1), np.linalg.norm(truth, axis=-1)
        moving = actor & (speed > 0.3)
        errors.append(error[moving])
        speeds.append(speed[moving])
        background.append(error[~actor])
        known.append(np.isfinite(flow[moving]).all(-1))
    error = np.concatenate(errors)
    assert len(error) > 1000
    assert np.nanmedian(error) < 0.5 * np.concatenate(speeds).mean()
    assert np.nanmedian(np.concatenate(background)) < background_limit
    assert np.concatenate(known).mean() > 0.6
