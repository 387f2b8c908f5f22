"""`.skeleton` files made for tests: from a recording that was read, or of people that are nowhere."""

from pathlib import Path

import numpy as np

from actrec.datasets.ntu.skeletons import NtuRecording


def tokens(recording: NtuRecording) -> list[list[float]]:
    """Return the numbers of a recording's file line by line, NaN for unread ones (body state, orientations)."""
    lines: list[list[float]] = [[recording.positions.shape[1]]]
    for t in range(recording.positions.shape[1]):
        there = [m for m in range(len(recording.body_ids)) if recording.states[m, t, 0] >= 0]
        lines.append([len(there)])
        for m in there:
            lines.append([recording.body_ids[m], *[np.nan] * 9])
            lines.append([recording.positions.shape[2]])
            parts = (recording.positions, recording.depth_pixels, recording.color_pixels)
            lines += [
                [*np.concatenate([part[m, t, v] for part in parts]), *[np.nan] * 4, recording.states[m, t, v]]
                for v in range(25)
            ]
    return lines


def write(path: Path, bodies: dict[int, np.ndarray], frames: int) -> Path:
    """Writes people as the Kinect would.

    Args:
        path: The file.
        bodies: By tracking id, [T, 25, 3] metres in Kinect camera space; NaN in frames without the body.
        frames: T.
    """
    lines = [str(frames)]
    for t in range(frames):
        there = {number: body[t] for number, body in bodies.items() if np.isfinite(body[t]).all()}
        lines.append(str(len(there)))
        for number, joints in there.items():
            lines += [f"{number} 0 1 1 1 1 0 0.02 0.05 2", "25"]
            for x, y, z in joints:
                depth = 256 + 365 * x / z, 212 - 365 * y / z
                color = 960 + 1057 * (x + 0.05) / z, 540 - 1057 * y / z
                numbers = (x, y, z, *depth, *color, 0, 0, 0, 1)
                lines.append(" ".join(f"{value:.7g}" for value in numbers) + " 2")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def person(frames: int, seed: int = 0, x: float = 0.0, move: float = 0.05, flat: bool = False) -> np.ndarray:
    """[T, 25, 3] joints of an upright person at `x`, 3 m away, moving by `move` metres; wider than high if `flat`."""
    random = np.random.default_rng(seed)
    size = [1.2, 0.4, 0.3] if flat else [0.4, 1.6, 0.3]
    still = random.uniform(-0.5, 0.5, (25, 3)) * size
    still[:2] = [[-size[0] / 2, -size[1] / 2, 0], [size[0] / 2, size[1] / 2, 0]]
    swing = np.sin(np.arange(frames) / 5)[:, None, None] * move
    return still + swing + [x, 0, 3.0]
