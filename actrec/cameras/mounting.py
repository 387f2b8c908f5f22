"""Frames of a camera with the direction of gravity of its mounting, for commands without a graph."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from actrec.cameras import DRIVERS, create
from actrec.types import RgbdFrame
from actrec.utils import calibration_files, gravity
from actrec.utils.calibration_files import MOUNT

DRIVER_OPTION = "--driver-option mount="
"""How the user sets the mounting of a driver's camera, for warnings."""

logger = logging.getLogger(__name__)


def is_setting(driver: str) -> bool:
    """Return whether `mount` is a setting of the driver itself; raise ConfigError for an unknown driver."""
    return "mount" in {field.name for field in dataclasses.fields(DRIVERS.get(driver).config_class)}


@contextlib.contextmanager
def open_mounted(driver: str, options: Mapping[str, Any]) -> Iterator[Callable[[float], RgbdFrame]]:
    """Open a camera, and yield its `read`.

    `up` of a frame comes from the first of `gravity.SOURCES` that has it: the option `mount`, the camera's
    `SERIAL_mount.yaml`, the frame itself.

    Args:
        driver: Name of the driver.
        options: Its settings, and for any driver `mount` (`gravity.parse_mount`, or "auto").

    Raises:
        ConfigError: An option is unknown, or `mount` is no mounting; others as `Camera.open`.
        InputError: The mount file is damaged.
    """
    given, stated = dict(options), None
    if not is_setting(driver):
        mount = str(given.pop("mount", "auto"))
        stated = None if mount == "auto" else gravity.parse_mount(mount)
    with create(driver, **given) as camera:
        file = calibration_files.load(camera.serial, parts=(MOUNT,)).mount if camera.serial else None
        calibrated = None if file is None else file.up
        choice = gravity.Choice(logger)

        def read(timeout_s: float) -> RgbdFrame:
            frame = camera.read(timeout_s)
            known = {"calibration": calibrated, frame.up_source: frame.up}
            if (up := choice.of(known if stated is None else {**known, "setting": stated})) is not None:
                frame.up, frame.up_source = up, choice.source
            return frame

        yield read
