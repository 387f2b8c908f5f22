"""The streaming counterpart of `actrec.features.skeleton.normalise`: one new frame at a time."""

from collections import deque

import numpy as np

from actrec.errors import InputError
from actrec.features import skeleton
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.skeleton import layouts


class RunningNormaliser:
    """Normalises each new frame by where the person has been over the last `frames` frames, this one included.

    A window is normalised as a whole, by all of its frames; a stream cannot change frames that are gone. So each frame
    keeps the placement that was known when it came. A window with `placing` "running" is normalised alike.

    Args:
        frames: T of the network's window.
        options: As for the window form.
        layout: Of the joints.
    """

    def __init__(self, frames: int, options: SkeletonPreprocessing, layout: str = "kinect_v2_25"):
        self.options, self.layout = options, layout
        self._seen: deque[np.ndarray] = deque(maxlen=frames)

    def reset(self) -> None:
        """Forgets the person."""
        self._seen.clear()

    def step(self, bodies: np.ndarray) -> np.ndarray:
        """One frame's joints, normalised.

        Args:
            bodies: [M, V, 3] metres in the optical frame, NaN for missing; body 0 is the one that the stream is about.

        Returns:
            [M, V, 3] float32 without NaN.

        Raises:
            InputError: Wrong shape; both shapes are named.
        """
        bodies = np.asarray(bodies, dtype=np.float32)
        joints = len(layouts.get(self.layout))
        if bodies.ndim != 3 or bodies.shape[1:] != (joints, 3):
            raise InputError(f"a frame's bodies are {list(bodies.shape)}, expected [M, {joints}, 3] ({self.layout})")
        self._seen.append(bodies[0].copy())  # who gives them may write the next frame there
        return skeleton.placement(np.stack(self._seen), self.options, self.layout).apply(bodies, self.layout)

    def inputs(self, bodies: np.ndarray, modalities: tuple[str, ...]) -> dict[str, np.ndarray]:
        """As `step`, as what the step network takes: "body" and "bones" to (M, 3, 1, V).

        Raises:
            InputError: Wrong shape, or a modality that is not made from skeletons alone.
        """
        if moving := [modality for modality in modalities if modality.endswith("_motion")]:
            raise InputError(f"'{moving[0]}' needs two frames: it cannot be made frame by frame")
        joints = self.step(bodies)[:, None]  # (M, 1, V, 3)
        root = self.options.root_bone
        return {modality: skeleton.stack(joints, modality, self.layout, root) for modality in modalities}
