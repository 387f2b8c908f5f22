"""Image transport between processes: Fast DDS as it comes loses nearly every 640×480 image."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from actrec.inference import zoo
from actrec.utils.errors import ConfigError

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
    """Return the variables that `prepare` would set: none where another middleware or transport is chosen."""
    if "fastrtps" not in environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"):
        return {}
    if any(environment.get(name) for name in OWN_CHOICE):
        return {}
    path = str(shared_file(PROFILE))
    # Humble knows the first name, later distributions the second.
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": path, "FASTDDS_DEFAULT_PROFILES_FILE": path}


def shared_file(relative: str) -> Path:
    """Return a file that ships with the package, from the source tree or the share folder of ROS's or Python's prefix.

    Raises:
        ConfigError: It is in neither place.
    """
    *shares, source = zoo.installed(relative)
    for path in (source, *shares):
        if path.is_file():
            return path
    raise ConfigError(f"{relative} is not installed: build the workspace again (make build, or colcon build)")
