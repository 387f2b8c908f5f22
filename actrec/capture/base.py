"""What every camera driver offers."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from actrec.camera_files import CameraFiles
from actrec.frames import Intrinsics, RgbdFrame

_Self = TypeVar("_Self", bound="Camera")


class Camera(ABC):
    """A source of registered RGB-D frames, used as a context manager.

    `with create("simulated") as camera: frame = camera.read(timeout_s=1.0)`

    Attributes:
        config_class: The settings dataclass that the constructor builds from its options; `camera_node` declares its
            fields as parameters `<driver>.<field>`.
        config: What it was built to.
        skipped: Frames left out since it was opened because the reader came too late, where the driver can tell.
        paced: Whether frames come at a pace of their own; false where they are to come as fast as they are taken.
        serial: The device's number, once open; empty where it has none.
        live: Whether a stream that broke off is worth opening again; opening a recording again would start it over.
    """

    config_class: ClassVar[type]
    config: Any
    live: ClassVar[bool] = True
    skipped: int = 0
    paced: bool = True
    serial: str = ""

    def __enter__(self: _Self) -> _Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Does what takes long and needs no device, lest those who listen already wait for it once it is opened."""
        return

    @abstractmethod
    def open(self) -> None:
        """Starts the stream.

        Raises:
            DeviceError: There is no such camera or recording, with the remedy.
        """

    @abstractmethod
    def close(self) -> None:
        """Stops the stream; safe to call twice, and while another thread reads, which soon gets a frame or an error."""

    @abstractmethod
    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """The next frame; blocks until it is due.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame within `timeout_s`.
        """

    def calibration(self) -> CameraFiles:
        """What its frames go by; valid once open. Where its depth camera sits is None where the driver cannot tell."""
        return CameraFiles(self.serial, self.intrinsics)

    def figures(self) -> dict[str, float | int]:
        """What the driver knows of its frames for the node's diagnostics: delays in ms, frames left out and why."""
        return {}

    @property
    @abstractmethod
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images that `read` returns; valid once open."""
