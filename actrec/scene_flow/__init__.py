"""Scene flow: the 3D velocity of the surface at each pixel, by methods registered by name."""

from typing import Any

from actrec.scene_flow.base import SceneFlow
from actrec.utils.registry import Registry

__all__ = ["METHODS", "SceneFlow", "create"]

METHODS = Registry(
    "scene flow method",
    {"dis": "actrec.scene_flow.dis:DisFlow", "pd_flow": "actrec.scene_flow.pd_flow:PdFlow"},
    install={"numba": "pip install numba", "cv2": "pip install opencv-contrib-python"},
)


def create(name: str, **options: Any) -> SceneFlow:
    """Create the method `name`; `options` are the fields of its settings dataclass.

    Raises:
        ConfigError: Unknown method or option.
        MissingLibraryError: A required library is not installed.
    """
    return METHODS.create(name, **options)
