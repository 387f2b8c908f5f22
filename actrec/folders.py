"""Folders that are written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write(target: Path, files: Mapping[str, bytes], check: Callable[[Path], Any]) -> None:
    """Writes files to a temporary folder beside the target, which then takes its place, and that of one there.

    Args:
        target: The folder.
        files: Content by name.
        check: Called with the temporary folder; where it raises, the target stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        staging.chmod(0o755)
        for name, content in files.items():
            (staging / name).write_bytes(content)
        check(staging)
        _move_into_place(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _move_into_place(staging: Path, target: Path) -> None:
    """Renames; a folder that is there is put aside first and brought back if the renaming fails."""
    if not target.exists():
        os.rename(staging, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, aside / target.name)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside / target.name, target)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(aside)
