"""Errors of actrec. A message is one line with the cause and a remedy."""


class ActrecError(Exception):
    """Base of all expected errors. The command line prints the message and exits with status 1."""


class ConfigError(ActrecError):
    """A setting is unknown, of the wrong type, or out of its range. The command line exits with status 2."""


class MissingLibraryError(ActrecError):
    """An optional library is not installed; the message has the command to install it."""


class DeviceError(ActrecError):
    """A camera, file or accelerator is missing, in use, or does not respond."""


class EndOfStream(ActrecError):  # noqa: N818  (like StopIteration, not a fault)
    """A recording has ended."""


class AbortedError(ActrecError):
    """Work was ended before it had a result, which is not needed any longer."""


class PackageError(ActrecError):
    """A model package is missing, corrupt or of another format."""


class InputError(ActrecError):
    """Data has the wrong shape, type, unit or layout."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters; its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
