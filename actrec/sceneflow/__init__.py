"""Scene flow, the motion in space of what each pixel shows, by methods found by name."""

from typing import Any

from actrec.registry import Registry
from actrec.sceneflow.base import SceneFlow

METHODS = Registry(
    "scene flow method",
    {"dis": "actrec.sceneflow.dis:DisFlow", "pd_flow": "actrec.sceneflow.pd_flow:PdFlow"},
    install={"numba": "pip install numba", "cv2": "pip install opencv-contrib-python"},
)


def create(name: str, **options: Any) -> SceneFlow:
    """Makes the method `name`; `options` are the fields of its settings dataclass.

    Raises:
        ConfigError: Unknown method or option; the known ones are listed.
        MissingLibraryError: A library it needs is absent, with the command that installs it.
    """
    return METHODS.create(name, **options)
