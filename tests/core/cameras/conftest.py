"""Fixtures of the camera drivers."""

from tests.core.cameras.k4a.simulated_sdk import built_sdk, sdk

__all__ = ["built_sdk", "sdk"]
