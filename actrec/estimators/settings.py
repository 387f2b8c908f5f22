"""The settings of the estimators, apart from them so that reading these loads no MediaPipe."""

from dataclasses import dataclass

from actrec.config import setting


@dataclass(frozen=True)
class BodyEstimatorConfig:
    """Settings of the body estimator."""

    num_poses: int = setting(
        2, "The most people estimated in one frame; each costs one pose network run", range=(1, 10)
    )
    detect_every: int = setting(
        5,
        "Frames between looks for newcomers while somebody is followed; the search runs every frame otherwise",
        range=(1, 300),
    )
    min_detection_score: float = setting(
        0.5, "Score from which the person detector's find is followed up", range=(0.0, 1.0)
    )
    max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a jump back, forgets the people followed", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class HandEstimatorConfig:
    """Settings of the hand estimator."""

    hand_model: str = setting(
        "lite", "Landmark network: full finds 1 % more hands and takes twice as long", choices=("lite", "full")
    )
    hand_window_m: float = setting(
        0.26, "Edge of the square around a body's hand in which it is looked for", unit="m", range=(0.1, 1.0)
    )
    num_hands: int = setting(2, "The most hands looked for where no bodies are known", range=(1, 8))
    hand_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a jump back, forgets the hands followed", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class FaceEstimatorConfig:
    """Settings of the face estimator."""

    num_faces: int = setting(2, "The most faces looked for where no bodies are known", range=(1, 10))
    head_window_m: float = setting(
        0.5, "Edge of the square around a body's head in which the face is looked for", unit="m", range=(0.1, 2.0)
    )
    face_attention: bool = setting(False, "Use the slower mesh that is more exact at lips and eyes")
    face_retry_every: int = setting(
        3, "Frames between looks for a face that was not found at a body's head", range=(1, 100)
    )
    face_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a jump back, forgets the faces followed", unit="s", range=(0.0, 60.0)
    )
