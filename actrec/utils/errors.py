"""The errors that actrec raises on purpose: one line, with the remedy in it."""


class ActrecError(Exception):
    """Base of every expected failure. The command line prints it as one line and exit with 1."""


class ConfigError(ActrecError):
    """A setting is unknown, of the wrong type, or out of its range. The command line exits with 2."""


class MissingLibraryError(ActrecError):
    """An optional library is not installed; the message says how to install it."""


class DeviceError(ActrecError):
    """A camera, file or accelerator is absent or stopped answering."""


class EndOfStream(ActrecError):  # noqa: N818  (named as StopIteration is: it is no fault)
    """A recording has been played to its end."""


class PackageError(ActrecError):
    """A model package is missing, corrupt or foreign."""


class InputError(ActrecError):
    """Data has the wrong shape, type, unit or layout; the message names both sides."""
