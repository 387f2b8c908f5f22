"""Image files by any name: `cv2.imread` and `cv2.imwrite` end the process at one whose bytes are no UTF-8."""

from pathlib import Path

import cv2
import numpy as np

from actrec.errors import InputError


def read(path: Path, flags: int) -> np.ndarray | None:
    """The image in a file, [H, W] or [H, W, channels], BGR; None where it is none, or truncated.

    Args:
        path: The file.
        flags: OpenCV's, `cv2.IMREAD_…`.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    return cv2.imdecode(content, flags) if content.size else None


def write(path: Path, image: np.ndarray) -> None:
    """Writes an image [H, W] or [H, W, channels], BGR, in the format that its ending names.

    Raises:
        OSError: The file cannot be written.
        InputError: There is no such format.
    """
    if not (path.suffix.isascii() and cv2.haveImageWriter(f"image{path.suffix}")):
        raise InputError(f"'{path}' has the ending of no image that can be written: take .png")
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
