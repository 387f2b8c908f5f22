"""Image transport between processes: Fast DDS as it comes loses nearly every 640×480 image."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from actrec.errors import ConfigError

PROFILE = "config/fastdds.xml"
OWN_CHOICE = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
"""Where the user has set one of these, the transport is theirs."""


def prepare(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Points Fast DDS to the profile shipped, unless the user has chosen otherwise; call before `rclpy.init`.

    Returns:
        Whether the profile was set.
    """
    settings = profile_environment(environment)
    environment.update(settings)
    return bool(settings)


def profile_environment(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that `prepare` would set: none where another middleware or transport is chosen."""
    if "fastrtps" not in environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"):
        return {}
    if any(environment.get(name) for name in OWN_CHOICE):
        return {}
    path = str(shared_file(PROFILE))
    # Humble knows the first name, later distributions the second.
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": path, "FASTDDS_DEFAULT_PROFILES_FILE": path}


def shared_file(relative: str) -> Path:
    """A file that ships with the package: in the source tree, or in its share folder once installed.

    Raises:
        ConfigError: It is in neither place.
    """
    here = Path(__file__).resolve().parents[2] / relative
    if here.is_file():
        return here
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        installed = Path(prefix) / "share" / "actrec" / relative
        if prefix and installed.is_file():
            return installed
    raise ConfigError(f"{relative} is not installed: build the workspace again (make build, or colcon build)")
