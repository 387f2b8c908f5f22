"""The renderer of boards, where tests look for it."""

from actrec_calibration.rendering import project, render, views

__all__ = ["project", "render", "views"]
