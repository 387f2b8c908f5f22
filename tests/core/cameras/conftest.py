"""Fixtures of the camera drivers."""

from tests.core.cameras.k4a.simulated_sdk import built_sdk, sdk
from tests.core.recordings.conftest import bag, person_frames

__all__ = ["bag", "built_sdk", "person_frames", "sdk"]
