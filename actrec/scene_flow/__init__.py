"""Scene flow, the motion in space of what each pixel shows, by methods found by name."""

from typing import Any

from actrec.scene_flow.base import SceneFlow
from actrec.utils.registry import Registry

METHODS = Registry(
    "scene flow method",
    {"dis": "actrec.scene_flow.dis:DisFlow", "pd_flow": "actrec.scene_flow.pd_flow:PdFlow"},
    install={"numba": "pip install numba", "cv2": "pip install opencv-contrib-python"},
)


def create(name: str, **options: Any) -> SceneFlow:
    """Makes the method `name`; `options` are the fields of its settings dataclass.

    Raises:
        ConfigError: Unknown method or option; the known ones are listed.
        MissingLibraryError: A library it needs is absent, with the command that installs it.
    """
    return METHODS.create(name, **options)
