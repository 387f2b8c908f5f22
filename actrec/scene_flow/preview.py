"""Visualization of scene flow as a color image."""

import cv2
import numpy as np


def flow_image(flow: np.ndarray, full_m_s: float = 1.0) -> np.ndarray:
    """Draw scene flow with the color wheel: hue is the direction in the image, brightness the speed.

    Right is red, down yellow-green, left cyan, up violet; motion along the optical axis is paler, unknown flow gray.

    Args:
        flow: [H, W, 3] m/s in the optical frame, NaN for unknown.
        full_m_s: Speed of full brightness.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    known = np.isfinite(flow).all(axis=-1)
    x, y, z = np.moveaxis(np.where(known[..., None], flow, 0), -1, 0)
    across = np.hypot(x, y)
    speed = np.hypot(across, z)
    hue = np.degrees(np.arctan2(y, x)) % 360
    saturation = np.divide(across, speed, out=np.zeros_like(speed), where=speed > 0)
    wheel = np.stack([hue, saturation, np.clip(speed / full_m_s, 0, 1)], axis=-1).astype(np.float32)
    rgb = cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB)
    out = np.round(255 * rgb).astype(np.uint8)
    out[~known] = 60
    return out
