"""Where a recording's intrinsics come from: an option, a file beside the images, a stated field of view."""

import math
from pathlib import Path
from typing import Any

import yaml

from actrec.errors import ConfigError, DeviceError, InputError
from actrec.frames import Intrinsics
from actrec.recordings.base import RecordingConfig, log

FILE_NAME = "intrinsics.yaml"
DISTORTION_MODELS = ("", "plumb_bob", "rational_polynomial")
"""ROS's names of the lens models that `Intrinsics` can be of."""
_UNBENT = ("pinhole", "none")
"""What some drivers call a lens that does not bend; ROS has no name for it."""
REMEDY = (
    "give option intrinsics='fx,fy,cx,cy' or a YAML file, put intrinsics.yaml (width, height, fx, fy, cx, cy) beside "
    "the images, or state the field of view with hfov_deg"
)


def from_hfov(width: int, height: int, hfov_deg: float) -> Intrinsics:
    """Square pixels, principal point in the middle, of a horizontal field of view in degrees."""
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    return Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def rectified(topic: str) -> bool:
    """Whether a topic's images are rectified, by ROS's names of such: image_rect, image_rect_color, image_rect_raw.

    The camera_info beside them tells the raw images' K and D; these have its P and no distortion.
    """
    return any(part.startswith("image_rect") for part in topic.split("/"))


def is_known(model: str, coefficients: Any) -> bool:
    """Whether `Intrinsics` can be of a lens of ROS's distortion_model and D."""
    return model in DISTORTION_MODELS or (model.lower() in _UNBENT and not any(coefficients))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        DeviceError: It is not there.
        InputError: It is not YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise DeviceError(f"cannot read intrinsics '{path}': {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' holds no mapping; expected width, height, fx, fy, cx, cy")
    return content


def from_yaml(path: Path) -> Intrinsics:
    """Reads `width, height, fx, fy, cx, cy[, distortion]`, or the YAML that ROS's camera_calibration writes.

    Raises:
        DeviceError: It is not there.
        InputError: A key is missing or no number, or the lens is of a model that is not known here.
    """
    content = load_yaml(path)
    model = str(content.get("distortion_model") or "")
    try:
        if "camera_matrix" in content:
            k = [float(value) for value in content["camera_matrix"]["data"]]
            width, height = int(content["image_width"]), int(content["image_height"])
            fx, fy, cx, cy = k[0], k[4], k[2], k[5]
            d = content.get("distortion_coefficients", {}).get("data", [])
        else:
            width, height = int(content["width"]), int(content["height"])
            fx, fy, cx, cy = (float(content[key]) for key in ("fx", "fy", "cx", "cy"))
            d = content.get("distortion", [])
        if not is_known(model, d):
            raise InputError(
                f"'{path}' has distortion '{model}', known are {', '.join(filter(None, DISTORTION_MODELS))}: calibrate "
                "it so, or use rectified images with their intrinsics"
            )
        return _possible(Intrinsics(width, height, fx, fy, cx, cy, distortion(d)))
    except KeyError as error:
        raise InputError(f"'{path}' lacks {error}; expected width, height, fx, fy, cx, cy") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"'{path}' is no camera's intrinsics: {error}") from error


def number(path: Path, content: dict[str, Any], key: str) -> float:
    """A length or rate in a YAML file's mapping; 0 where it does not say.

    Raises:
        InputError: It is no positive number.
    """
    try:
        value = float(content.get(key, 0.0))
    except (TypeError, ValueError):
        value = math.nan
    if key in content and not 0 < value < math.inf:
        raise InputError(f"'{path}': {key} is '{content[key]}', expected a positive number")
    return value


def _possible(camera: Intrinsics) -> Intrinsics:
    """The camera itself.

    Raises:
        ValueError: There is none of such numbers.
    """
    if min(camera.width, camera.height) <= 0:
        raise ValueError(f"images of {camera.width}×{camera.height}")
    numbers = camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion
    if not (camera.fx > 0 and camera.fy > 0 and all(map(math.isfinite, numbers))):
        raise ValueError(f"fx, fy, cx, cy are {', '.join(f'{value:g}' for value in numbers[:4])}")
    return camera


def distortion(values: Any) -> tuple[float, ...]:
    """OpenCV's coefficients as `Intrinsics` has them, five or eight; none where all are 0.

    Raises:
        TypeError, ValueError: They are no numbers, or those of another lens model.
    """
    coefficients = tuple(float(value) for value in values)
    if not any(coefficients):
        return ()
    if not any(coefficients[8:]):  # OpenCV's own rational model comes with six more
        coefficients = coefficients[:8]
    if len(coefficients) not in (4, 5, 8):
        raise ValueError(f"{len(coefficients)} distortion coefficients, known are the models of 4, 5 and 8")
    return coefficients if len(coefficients) > 4 else (*coefficients, 0.0)


def _from_option(text: str, width: int, height: int) -> Intrinsics:
    if text.count(",") == 3:
        try:
            fx, fy, cx, cy = (float(value) for value in text.split(","))
            return _possible(Intrinsics(width, height, fx, fy, cx, cy))
        except ValueError as error:
            raise ConfigError(f"intrinsics is '{text}', expected four numbers 'fx,fy,cx,cy' or a YAML file") from error
    return from_yaml(Path(text).expanduser())


def resolve(path: Path, config: RecordingConfig, width: int, height: int, beside: Path | None = None) -> Intrinsics:
    """The intrinsics of width×height images of the recording at `path`.

    An option wins over `intrinsics.yaml` in the folder `beside`, which wins over a field of view.

    Raises:
        InputError: Nothing says what they are, or they are of another image size.
    """
    if config.intrinsics:
        found = _from_option(config.intrinsics, width, height)
    elif beside is not None and (beside / FILE_NAME).is_file():
        found = from_yaml(beside / FILE_NAME)
    elif config.hfov_deg > 0:
        log.warning("'%s': assuming a horizontal field of view of %g degrees and no distortion", path, config.hfov_deg)
        found = from_hfov(width, height, config.hfov_deg)
    else:
        raise InputError(f"'{path}' has no intrinsics: {REMEDY}")
    if (found.width, found.height) != (width, height):
        raise InputError(
            f"'{path}': the intrinsics are of {found.width}×{found.height} images, but these are {width}×{height}; "
            "give those of this size"
        )
    return found
