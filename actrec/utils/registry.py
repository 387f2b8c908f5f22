"""Lazy registry of drivers, estimators, backends, networks and datasets by name."""

import importlib
from typing import Any

from actrec.utils.errors import ConfigError, MissingLibraryError

INSTALL_OPENCV = (
    "pip install opencv-contrib-python; if it lacks a library such as libxcb: sudo apt-get install libgl1 "
    "libglib2.0-0, or pip uninstall -y opencv-contrib-python && pip install opencv-contrib-python-headless"
)


class Registry:
    """Mapping from names to `package.module:attribute` targets that are imported on first use.

    Args:
        kind: Kind of the targets, for messages ("camera driver").
        targets: Name to target.
        install: Top-level module to the command that installs it.
    """

    def __init__(self, kind: str, targets: dict[str, str], install: dict[str, str] | None = None):
        self.kind = kind
        self._targets = dict(targets)
        self._install = install or {}

    def add(self, name: str, target: str) -> None:
        """Register a target, also from another package."""
        self._targets[name] = target

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._targets)

    def get(self, name: str) -> Any:
        """Return the class or function behind `name`.

        Raises:
            ConfigError: The name is unknown; the message lists the known ones.
            MissingLibraryError: A required library is not installed or does not load.
        """
        if name not in self._targets:
            raise ConfigError(f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}")
        module, attribute = self._targets[name].split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            library = (error.name or "").split(".")[0]
            not_installed = isinstance(error, ModuleNotFoundError)  # else a library that it links to is missing
            if library.startswith("actrec") or not (not_installed or library in self._install):
                raise
            problem = "which is not installed" if not_installed else f"which cannot be loaded ({error})"
            remedy = self._install.get(library, f"pip install {library}")
            raise MissingLibraryError(
                f"{self.kind} '{name}' needs the library '{library}', {problem}: {remedy}"
            ) from error

    def create(self, name: str, **options: Any) -> Any:
        """Import the target and call it with `options`."""
        return self.get(name)(**options)
