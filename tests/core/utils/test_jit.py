"""Compilation ahead of the first frame."""

import subprocess
import sys

import pytest

REGISTRATION = """
import numpy as np
from actrec.cameras.realsense.camera import RealSenseCamera
from actrec.types import Intrinsics
from actrec.utils import registration
from actrec.utils.calibration_files import DepthGeometry
RealSenseCamera.prepare(object.__new__(RealSenseCamera))  # without a device
camera = Intrinsics(16, 12, 12.0, 12.0, 7.5, 5.5)
made = registration.Registration(camera, camera, DepthGeometry(np.eye(4)))
kernels = [registration._splat]
use = lambda: made.register(np.ones((12, 16), np.float32))
"""
BODIES = """
import numpy as np
from actrec.perception.pipeline import BodyPerception
from actrec.skeleton import shape_fits
made = BodyPerception()
kernels = [shape_fits._translated, shape_fits._fitted]
use = lambda: shape_fits.fit_similarity(*np.ones((2, 9, 3), np.float32), np.ones(9, np.float32), 0.1)
"""
SCENE_FLOW = """
import numpy as np
from actrec import scene_flow
from actrec.scene_flow import dis
from actrec.types import Intrinsics
made = scene_flow.create("dis")
made.prepare()
kernels = [dis._lift, dis._smooth_surface]
image = np.zeros((36, 48, 3), np.uint8), np.ones((36, 48), np.float32)
use = lambda: made.estimate(*image, *image, Intrinsics(48, 36, 40.0, 40.0, 23.5, 17.5), 0.1)
"""
CHECK = """
before = [len(kernel.signatures) for kernel in kernels]
use()
assert all(before), f"not compiled: {before}"
assert [len(kernel.signatures) for kernel in kernels] == before, "compiled again by the first use"
"""


@pytest.mark.parametrize("code", [REGISTRATION, BODIES, SCENE_FLOW], ids=["registration", "bodies", "scene flow"])
def test_kernels_are_compiled_before_the_first_frame(code):
    """In a process of its own: others have compiled them already."""
    done = subprocess.run([sys.executable, "-c", code + CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
