"""From captures of an Azure Kinect to registered images, by the factory's calibration or one of our own."""

from typing import Any

import cv2
import numpy as np

from actrec.camera_files import CameraFiles, DepthGeometry, fitted
from actrec.capture.k4a_captures import Image
from actrec.capture.registration import Registration
from actrec.errors import ConfigError, DeviceError
from actrec.frames import Intrinsics

_COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # OpenCV's order
_BROWN_CONRADY = 4  # K4A_CALIBRATION_LENS_DISTORTION_MODEL_BROWN_CONRADY: the only one that cameras are shipped with


class View:
    """Turns captures of one calibration into registered images.

    Where files of the camera's own calibration say where the depth camera sits, depth is registered here; else by the
    SDK's transformation, which gets the colour intrinsics of the file if there is one. Smaller images are registered at
    their own size at once.

    Attributes:
        intrinsics: Of both images.
        depth_lens, geometry: Intrinsics of the depth camera, where it sits, and what its readings are off by.
        to_colour: [4, 4] float64: a point of the depth camera, metres, in the colour camera.

    Args:
        k4a: Bindings of libk4a.
        calibration: The factory's.
        files: The camera's own; None to go by the factory's alone.
        width: Of the images; 0 for the colour camera's.
        rectify: Whether lens distortion is taken out of them.
        register: False leaves depth as the depth camera reads it, in its own image.

    Raises:
        ConfigError: The camera's images are narrower than `width`.
        InputError: A file is of another aspect than the images.
        DeviceError: The calibration's lens model is unknown, or the SDK rejects it.
    """

    def __init__(
        self,
        k4a: Any,
        calibration: Any,
        files: CameraFiles | None,
        width: int = 0,
        rectify: bool = False,
        register: bool = True,
    ):
        self._k4a, self._register = k4a, register
        factory = intrinsics_of(calibration.color_camera_calibration)
        if width > factory.width:
            raise ConfigError(f"width is {width}, but the camera's images are {factory.width} wide: choose 0 or less")
        width = width or factory.width
        size = width, round(width * factory.height / factory.width)
        own = files.colour if files is not None else None
        self._lens = fitted(own, *size) if own is not None else factory.resized(*size)
        self.intrinsics = pinhole(self._lens) if rectify else self._lens
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        geometry = _factory_geometry(calibration)
        self._registration: Registration | None = None
        self._transformation = None
        depth = intrinsics_of(calibration.depth_camera_calibration)
        if files is not None and files.geometry is not None and files.depth is not None:
            geometry = files.geometry
            depth = fitted(files.depth, depth.width, depth.height)
            self._registration = Registration(depth, self.intrinsics, geometry)
        else:
            self._transformation = self._make_transformation(calibration)
        self.to_colour = geometry.to_colour
        self.depth_lens, self.geometry = depth, geometry

    def colour(self, image: Image) -> np.ndarray | None:
        """[H, W, 3] uint8 RGB; None where the image is damaged."""
        c = self.intrinsics
        pixels = image.rgb(c.width)
        if pixels is None:
            return None
        if self.intrinsics != self._lens:
            return self._straightened(pixels)
        if pixels.shape[:2] != (c.height, c.width):
            return cv2.resize(pixels, (c.width, c.height), interpolation=cv2.INTER_AREA)
        return pixels

    def depth(self, image: Image) -> np.ndarray:
        """[H, W] float32 metres as the colour camera sees it, NaN where missing.

        Raises:
            DeviceError: The SDK cannot register it.
        """
        if not self._register:
            return image.depth()
        if self._registration is not None:
            return self._registration.register(image.depth())
        k4a, c, handle = self._k4a, self.intrinsics, self._k4a.k4a_image_t()
        kind = k4a.K4A_IMAGE_FORMAT_DEPTH16
        if k4a.k4a_image_create(kind, c.width, c.height, 2 * c.width, handle):
            raise DeviceError("the Azure Kinect SDK has no memory for a depth image: close other programs")
        registered = Image(k4a, handle)
        try:
            # pykinect-azure's own function for it keeps the result to itself.
            transform = k4a.k4a_dll.k4a_transformation_depth_image_to_color_camera
            transform.argtypes = (k4a.k4a_transformation_t, k4a.k4a_image_t, k4a.k4a_image_t)
            if transform(self._transformation, image.handle, handle):
                raise DeviceError("the Azure Kinect SDK cannot register depth to colour: open the camera again")
            return registered.depth()
        finally:
            registered.release()

    def close(self) -> None:
        """Frees the transformation."""
        if self._transformation is not None:
            self._k4a.k4a_transformation_destroy(self._transformation)
            self._transformation = None

    def _make_transformation(self, calibration: Any) -> Any:
        ours = type(calibration).from_buffer_copy(calibration)
        camera, c = ours.color_camera_calibration, self.intrinsics
        camera.resolution_width, camera.resolution_height = c.width, c.height
        values = {"fx": c.fx, "fy": c.fy, "cx": c.cx, "cy": c.cy}
        values |= dict.fromkeys(_COEFFICIENTS, 0.0) | dict(zip(_COEFFICIENTS, c.distortion, strict=False))
        for name, value in values.items():
            setattr(camera.intrinsics.parameters.param, name, value)
        transformation = self._k4a.k4a_transformation_create(ours)
        if not transformation:
            raise DeviceError("the Azure Kinect SDK rejects the camera's calibration: update its firmware")
        return transformation

    def _straightened(self, pixels: np.ndarray) -> np.ndarray:
        """Without distortion, at the size wanted."""
        if self._maps is None:
            c = self.intrinsics
            bent = self._lens.resized(pixels.shape[1], pixels.shape[0])
            distortion = np.array(bent.distortion)
            self._maps = cv2.initUndistortRectifyMap(
                bent.matrix, distortion, None, c.matrix, (c.width, c.height), cv2.CV_16SC2
            )
        return cv2.remap(pixels, *self._maps, cv2.INTER_LINEAR)


def intrinsics_of(camera: Any) -> Intrinsics:
    """Intrinsics of a `k4a_calibration_camera_t`.

    Raises:
        DeviceError: Its lens model is none that OpenCV has.
    """
    if camera.intrinsics.type != _BROWN_CONRADY:
        raise DeviceError(
            f"the Azure Kinect's calibration has lens model {camera.intrinsics.type}, only Brown-Conrady "
            f"({_BROWN_CONRADY}) is known: update its firmware"
        )
    p = camera.intrinsics.parameters.param
    distortion = tuple(float(getattr(p, name)) for name in _COEFFICIENTS)
    size = int(camera.resolution_width), int(camera.resolution_height)
    return Intrinsics(*size, p.fx, p.fy, p.cx, p.cy, distortion if any(distortion) else ())


def pinhole(camera: Intrinsics) -> Intrinsics:
    """The same camera without lens distortion."""
    return Intrinsics(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)


def _factory_geometry(calibration: Any) -> DepthGeometry:
    depth_to_colour = calibration.extrinsics[0][1]  # K4A_CALIBRATION_TYPE_DEPTH to …_COLOR
    pose = np.eye(4)
    pose[:3, :3] = np.array(depth_to_colour.rotation).reshape(3, 3)
    pose[:3, 3] = np.array(depth_to_colour.translation) / 1000
    return DepthGeometry(pose)
