"""The vendor's filters of depth images, in the order that the vendor applies them."""

from dataclasses import dataclass
from typing import Any

import pyrealsense2 as rs

from actrec.config import setting

HOLE_FILLING = ("none", "left", "farthest", "nearest")


@dataclass(frozen=True)
class FilterSettings:
    """Which of librealsense's post-processing filters run; all off, as each costs time or smears edges."""

    decimation: int = setting(1, "Every so many depth pixels one; 1 takes them all.", range=(1, 8))
    spatial: bool = setting(False, "Smooths depth across the image, edges kept.")
    temporal: bool = setting(False, "Smooths depth over time; what moves fast leaves traces.")
    hole_filling: str = setting("none", "Where missing depth is taken from.", choices=HOLE_FILLING)
    farthest: float = setting(0.0, "Depth beyond it is missing; 0 for any.", unit="m", range=(0.0, 65.0))


def chain(settings: FilterSettings) -> list[Any]:
    """The filters to put depth frames through, one after another.

    Spatial and temporal work on disparity, whose noise is the same at every distance.
    """
    filters: list[Any] = []
    if settings.decimation > 1:
        filters.append(_with(rs.decimation_filter(), rs.option.filter_magnitude, settings.decimation))
    if settings.farthest:
        filters.append(_with(rs.threshold_filter(), rs.option.max_distance, settings.farthest))
        filters[-1].set_option(rs.option.min_distance, 0.0)
    if settings.spatial or settings.temporal:
        filters.append(rs.disparity_transform(True))
        filters += [rs.spatial_filter()] if settings.spatial else []
        filters += [rs.temporal_filter()] if settings.temporal else []
        filters.append(rs.disparity_transform(False))
    if settings.hole_filling != "none":
        mode = HOLE_FILLING.index(settings.hole_filling) - 1
        filters.append(_with(rs.hole_filling_filter(), rs.option.holes_fill, mode))
    return filters


def _with(made: Any, option: Any, value: float) -> Any:
    made.set_option(option, value)
    return made
