"""The manifest of the published model packages: files with hashes, labels, licenses; and fetching one by it.

A wheel holds the default package and `joint_tcn_open`. Others come from a folder or URL that the user names; nothing
else connects to another machine. The hashes are part of this program, so the source need not be trusted.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlsplit

import yaml

from actrec.inference import package
from actrec.inference.package import ModelPackage
from actrec.utils import folders
from actrec.utils.errors import ConfigError, DeviceError, PackageError

FILE = Path(__file__).with_name("zoo.yaml")

SCHEMES = ("http", "https", "file")
TIMEOUT_S = 30.0  # without any data


@dataclass(frozen=True)
class ListedFile:
    """A file of a published package."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class ListedPackage:
    """A published model package."""

    name: str
    family: str
    dataset: str
    license: str
    labels: tuple[str, ...]
    files: tuple[ListedFile, ...]

    @property
    def size(self) -> int:
        """Size of its files in bytes."""
        return sum(file.size for file in self.files)


@cache
def read() -> dict[str, ListedPackage]:
    """Return the published packages by name; raise PackageError if one has a file that no package has."""
    found = {}
    for name, entry in yaml.safe_load(FILE.read_text(encoding="utf-8"))["packages"].items():
        if foreign := [file for file in entry["files"] if file not in package.FILES or not folders.is_plain(name)]:
            raise PackageError(f"{FILE} lists '{foreign[0]}' of '{name}', no file of a package: install actrec again")
        files = tuple(ListedFile(file, **values) for file, values in entry.pop("files").items())
        found[name] = ListedPackage(name, labels=tuple(entry.pop("labels")), files=files, **entry)
    return found


def describe(folder: Path) -> ListedPackage:
    """Return the entry of a package's folder."""
    described = package.load(folder)
    paths = [path for path in sorted(folder.iterdir()) if path.name in package.FILES]
    contents = {path.name: folders.read_file(path, package.MAX_BYTES) for path in paths}
    files = tuple(ListedFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items())
    provenance = described.provenance
    return ListedPackage(folder.name, described.family, provenance.dataset, provenance.license, described.labels, files)


def fetch(name: str, source: str, target: Path, progress: Callable[[int], object] = lambda size: None) -> ModelPackage:
    """Copy a published package from a folder or URL, and check every file.

    Args:
        name: In the manifest.
        source: Folder or URL that holds the folder `name`, as `models/zoo` of the source does.
        target: Folder to write the folder `name` to.
        progress: Called with the number of bytes of each part read.

    Raises:
        ConfigError: The name is not in the manifest, or the URL is of another kind.
        DeviceError: The source cannot be read, or the target not be written.
        PackageError: A file is not the published one, or another package of this name is in the target.
    """
    if (listed := read().get(name)) is None:
        raise ConfigError(f"no published model package '{name}'; known: {', '.join(sorted(read()))}")
    if (target / name).exists():
        return _present(listed, target / name)
    contents = {file.name: _read(source, name, file, progress) for file in listed.files}
    folders.write_folder(target / name, contents, check=package.load)
    return package.load(target / name)


def _present(listed: ListedPackage, folder: Path) -> ModelPackage:
    """Return the package in a folder; raise PackageError if it is not the published one."""
    try:
        same = describe(folder) == listed
    except (PackageError, OSError):
        same = False
    if not same:
        raise PackageError(f"'{folder}' exists and is not the published package {listed.name}: move it away")
    return package.load(folder)


def _read(source: str, name: str, file: ListedFile, progress: Callable[[int], object]) -> bytes:
    """Return a file's content."""
    import http.client  # not when a node starts, which reads the manifest alone
    import urllib.request

    is_url = "://" in source
    where = (
        f"{source.rstrip('/')}/{quote(name)}/{file.name}"
        if is_url
        else str(folders.expanded(source) / name / file.name)
    )
    if is_url and urlsplit(source).scheme not in SCHEMES:
        raise ConfigError(f"'{source}' is no folder and no URL of {', '.join(SCHEMES)}: name another source")
    parts, size = [], 0
    try:
        with urllib.request.urlopen(where, timeout=TIMEOUT_S) if is_url else open(where, "rb") as stream:
            while size <= file.size and (part := stream.read(min(1 << 20, file.size + 1 - size))):
                parts.append(part)
                size += len(part)
                progress(len(part))
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DeviceError(
            f"cannot read '{where}' ({cause}): name the folder or URL that holds the folder {name}"
        ) from error
    content = b"".join(parts)
    if size != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
        found = hashlib.sha256(content).hexdigest()
        raise PackageError(
            f"'{where}' is not the published file ({size} of {file.size} bytes, SHA-256 {found[:12]}…, expected "
            f"{file.sha256[:12]}…): name another source, or update actrec"
        )
    return content
