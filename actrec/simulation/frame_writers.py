"""Writers of simulated frames: an image folder for `actrec.recordings`, or a preview video."""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import files
from actrec.utils.errors import DeviceError, MissingLibraryError

_OWN_FILES = re.compile(r"\d{6}(_depth)?\.png|joints\.npz")

_PREVIEW_RANGE = 6.0  # m, from red to blue


class FolderWriter:
    """Writer of an image folder.

    Files are color `N.png`, depth `N_depth.png` (16 bit, mm, 0 for missing), `intrinsics.yaml` and `joints.npz` with
    stamps_ns [T], positions [M, T, 25, 3] m in the optical frame, pixels [M, T, 25, 2], scores [M, T, 25], body_ids [M]
    and actions [M, T]; an absent body has NaN and "".

    Args:
        folder: Output folder; created if it does not exist.
        intrinsics: Of the images.
        fps: Frames per second.
        overwrite: Write to a folder that is not empty; delete frames and joints of an earlier recording.

    Raises:
        DeviceError: The folder is not empty, or cannot be created or written.
    """

    def __init__(self, folder: Path, intrinsics: Intrinsics, fps: float, overwrite: bool = False):
        if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
            raise DeviceError(f"folder '{folder}' is not empty: choose another folder or use --overwrite")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Files of a longer earlier recording would be played after the new ones.
            for file in [*folder.glob("*.png"), folder / "joints.npz"]:
                if _OWN_FILES.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise DeviceError(f"cannot create or clear folder '{folder}': {error.strerror}") from error
        self._folder = folder
        self._stamps: list[int] = []
        self._bodies: list[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, str]]] = []
        about = {
            "width": intrinsics.width, "height": intrinsics.height, "fx": intrinsics.fx, "fy": intrinsics.fy,
            "cx": intrinsics.cx,
            "cy": intrinsics.cy, "depth_scale": 0.001, "fps": fps,
        }  # fmt: skip
        about = {key: int(value) if key in ("width", "height") else float(value) for key, value in about.items()}
        with _write_errors(folder / "intrinsics.yaml"):
            (folder / "intrinsics.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")

    def add(self, frame: RgbdFrame, actions: dict[str, str]) -> None:
        """Write one frame.

        Raises:
            DeviceError: An image cannot be written.
        """
        assert frame.color is not None and frame.depth is not None
        name = f"{len(self._stamps):06d}"
        millimeters = np.nan_to_num(np.rint(frame.depth * 1000), nan=0).clip(0, 65535).astype(np.uint16)
        self._image(f"{name}.png", cv2.cvtColor(frame.color, cv2.COLOR_RGB2BGR))
        self._image(f"{name}_depth.png", millimeters)
        self._stamps.append(frame.stamp_ns)
        self._bodies.append(
            {b.body_id: (b.positions, b.pixels, b.scores, actions.get(b.body_id, "")) for b in frame.skeletons}
        )

    def close(self) -> None:
        """Write the joints.

        Raises:
            DeviceError: The file cannot be written.
        """
        ids = sorted({body_id for bodies in self._bodies for body_id in bodies})
        shape = (len(ids), len(self._stamps), len(KINECT_V2_25))
        positions, pixels = np.full((*shape, 3), np.nan, np.float32), np.full((*shape, 2), np.nan, np.float32)
        scores, actions = np.zeros(shape, np.float32), np.full(shape[:2], "", "<U32")
        for t, bodies in enumerate(self._bodies):
            for body_id, values in bodies.items():
                m = ids.index(body_id)
                positions[m, t], pixels[m, t], scores[m, t], actions[m, t] = values
        file = self._folder / "joints.npz"
        with _write_errors(file):
            np.savez_compressed(
                file, stamps_ns=np.array(self._stamps, np.int64), positions=positions, pixels=pixels,
                scores=scores, body_ids=np.array(ids, "<U32"), actions=actions,
            )  # fmt: skip

    def _image(self, name: str, image: np.ndarray) -> None:
        with _write_errors(self._folder / name):
            files.write_image(self._folder / name, image)


@contextlib.contextmanager
def _write_errors(
    file: Path, *others: type[Exception], remedy: str = "choose another folder or free disk space"
) -> Iterator[None]:
    """Convert an OSError or one of `others` to a `DeviceError` that names the file."""
    failures: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except failures as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"cannot write '{file}': {reason}; {remedy}") from error


class PreviewWriter:
    """Writer of a video of color with joints, beside depth.

    Args:
        file: The mp4 file.
        fps: Frames per second.

    Raises:
        MissingLibraryError: PyAV is not installed.
        DeviceError: The file cannot be written; `add` and `close` raise it too.
    """

    def __init__(self, file: Path, fps: float):
        try:
            import av
        except ModuleNotFoundError as error:
            raise MissingLibraryError("a preview video needs the library 'av': pip install av") from error
        self._frame_class = av.VideoFrame
        self._write_errors = functools.partial(
            _write_errors,
            file,
            ValueError,
            av.error.FFmpegError,
            remedy="choose another file such as preview.mp4 or free disk space",
        )
        with self._write_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(file), "w")
            file.open("ab").close()  # fail early: PyAV opens the file only with the first packet
        self._fps = round(fps)
        self._stream: Any = None

    def add(self, frame: RgbdFrame, actions: dict[str, str]) -> None:
        """Append one frame."""
        assert frame.color is not None and frame.depth is not None
        image = np.hstack([draw_joints(frame, actions), _depth_image(frame.depth)])
        height, width = image.shape[0] & ~1, image.shape[1] & ~1
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=max(self._fps, 1))
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        video = self._frame_class.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        with self._write_errors():
            for packet in self._stream.encode(video):
                self._container.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        with self._write_errors():
            if self._stream is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()


def draw_joints(frame: RgbdFrame, actions: dict[str, str]) -> np.ndarray:
    """Draw joints (occluded ones hollow) and actions on a copy of the color image, [H, W, 3]."""
    assert frame.color is not None
    image = frame.color.copy()
    for body in frame.skeletons:
        points = np.nan_to_num(body.pixels, nan=-1e4).clip(-1e4, 1e4).astype(int)
        for joint, parent in KINECT_V2_25.edges:
            cv2.line(
                image, tuple(map(int, points[joint])), tuple(map(int, points[parent])), (60, 230, 90), 1, cv2.LINE_AA
            )
        for point, score in zip(points, body.scores, strict=True):
            cv2.circle(image, tuple(map(int, point)), 3, (255, 210, 40), -1 if score > 0.5 else 1, cv2.LINE_AA)
        place = (max(int(points[3, 0]) - 40, 2), max(int(points[3, 1]) - 30, 14))
        text = f"{body.body_id}: {actions.get(body.body_id, '')}"
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def _depth_image(depth: np.ndarray) -> np.ndarray:
    gray = np.nan_to_num(depth / _PREVIEW_RANGE * 255, nan=0).clip(0, 255).astype(np.uint8)
    image = cv2.cvtColor(cv2.applyColorMap(255 - gray, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    image[np.isnan(depth)] = 0
    return image
