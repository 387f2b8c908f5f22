"""Find model packages by name: the user's own, then the shipped ones."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actrec.inference import manifest, package
from actrec.inference.package import DESCRIPTION, ModelPackage
from actrec.utils.errors import ConfigError, PackageError
from actrec.utils.folders import installed

VARIABLE = "ACTREC_MODELS"

DEFAULT = "joint_tcn_everyday"
"""Name of the shipped package that is used if none is given."""


@dataclass(frozen=True)
class InstalledPackage:
    """A package found in one of the folders; `package` is None if it is broken, for the reason in `problem`."""

    name: str
    path: Path
    package: ModelPackage | None
    problem: str = ""


def folders() -> list[Path]:
    """Return the folders of packages, in order: `ACTREC_MODELS`, the user's, the installed and the source's zoo."""
    asked = [Path(os.path.expanduser(p)) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]
    return list(dict.fromkeys([*asked, own_folder(), *installed("models/zoo")]))


def own_folder() -> Path:
    """Return the user's folder of packages, to which `actrec models --fetch` writes."""
    return Path(os.path.expanduser(os.environ.get("XDG_DATA_HOME") or "~/.local/share")) / "actrec/models"


def find(name_or_path: str | Path, trusted: Sequence[str | Path] = ()) -> ModelPackage:
    """Return the package at a path, or the zoo's package of that name.

    Args:
        name_or_path: Folder or name.
        trusted: Folders in which the package must be, with all links resolved; if there are none, it may be anywhere.

    Raises:
        PackageError: There is none (the known names are listed), it is not in a trusted folder, or it is broken.
        ConfigError: A trusted folder is an empty string.
    """
    path = _path(name_or_path)
    _check_trusted(path, trusted)
    return package.load(path)


def _path(name_or_path: str | Path) -> Path:
    """Return the folder of a package with all links resolved."""
    text = str(name_or_path)
    if not text:
        raise PackageError(f"no model is given; known: {_known()}, or give a package folder")
    if isinstance(name_or_path, Path) or os.sep in text or "/" in text or text.startswith((".", "~")):
        return _resolved(text)
    for folder in folders():
        if os.path.isfile(folder / text / DESCRIPTION):
            return _resolved(folder / text)
    if os.path.isdir(text):
        return _resolved(text)
    if (listed := manifest.read().get(text)) is not None:
        raise PackageError(
            f"model package '{text}' ({listed.size / 1e6:.0f} MB) is not installed: actrec models --fetch {text} "
            f"--from SOURCE, or add the folder that holds it to {VARIABLE}"
        )
    raise PackageError(
        f"no model package '{text}'; known: {_known()}, or give its folder (or add its parent to {VARIABLE})"
    )


def _check_trusted(path: Path, trusted: Sequence[str | Path]) -> None:
    """Raise PackageError if there are trusted folders, but a resolved path is in none of them."""
    if not all(str(folder).strip() for folder in trusted):
        raise ConfigError("trusted_models has an empty folder: give the path of a folder, or remove it")
    if trusted and not any(path.is_relative_to(_resolved(folder)) for folder in trusted):
        raise PackageError(
            f"model package '{path}' is not in a trusted folder ({', '.join(map(str, trusted))}): move it there, or "
            "start the node with its parent folder in trusted_models"
        )


def _resolved(path: str | Path) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def list_packages() -> list[InstalledPackage]:
    """Return the packages in the readable `folders()` by name; of equal names the first, as in `find`."""
    found: dict[str, InstalledPackage] = {}
    for folder in folders():
        for path in sorted(folder.iterdir()) if os.path.isdir(folder) and os.access(folder, os.R_OK) else []:
            if path.name not in found and not path.name.startswith(".") and os.path.isfile(path / DESCRIPTION):
                try:
                    found[path.name] = InstalledPackage(path.name, path, package.load(path))
                except PackageError as error:
                    found[path.name] = InstalledPackage(path.name, path, None, str(error))
    return [found[name] for name in sorted(found)]


def _known() -> str:
    return ", ".join(entry.name for entry in list_packages() if entry.package) or "none"
