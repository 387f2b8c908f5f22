"""Datasets, found by name and read from their published files or from a prepared store."""

import contextlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actrec.datasets.base import Clip, ClipDataset, Entry, Source, SourceDataset
from actrec.datasets.store import PreparedDataset, is_store
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.registry import Registry

__all__ = [
    "DATASETS", "PARTS", "Clip", "ClipDataset", "Entry", "PreparedDataset", "Source", "SourceDataset", "create",
    "create_unknown", "find_copies", "find_duplicates", "folder", "folds", "is_store", "source",
]  # fmt: skip

logger = logging.getLogger(__name__)

DATASETS = Registry(
    "dataset",
    {
        "acted": "actrec.datasets.acted:Acted",
        "bandai_namco": "actrec.datasets.bandai_namco:BandaiNamco",
        "cad60": "actrec.datasets.cad60:Cad60",
        "everyday": "actrec.datasets.everyday:Everyday",
        "florence3d": "actrec.datasets.florence3d:Florence3d",
        "folder": "actrec.datasets.user_folder:Folder",
        "hdm05": "actrec.datasets.hdm05:Hdm05",
        "kard": "actrec.datasets.kard:Kard",
        "kinder_gator": "actrec.datasets.kinder_gator:KinderGator",
        "msr_action3d": "actrec.datasets.msr_action3d:MsrAction3d",
        "ntu120": "actrec.datasets.ntu.dataset:Ntu120",
        "ntu60": "actrec.datasets.ntu.dataset:Ntu60",
        "nucla": "actrec.datasets.nucla:Nucla",
        "shrec17_14": "actrec.datasets.shrec17:Shrec17",
        "shrec17_28": "actrec.datasets.shrec17:Shrec17Fine",
        "smarthome": "actrec.datasets.smarthome:Smarthome",
        "sysu": "actrec.datasets.sysu:Sysu",
        "utd_mhad": "actrec.datasets.utd_mhad:UtdMhad",
        "utkinect": "actrec.datasets.utkinect:Utkinect",
    },
)

READ_AT_MOST = 5000
"""Largest part that is read to find duplicates; a larger one is searched only in a prepared store."""

FAMILIES = {"ntu60": "ntu", "ntu120": "ntu", "shrec17_14": "shrec17", "shrec17_28": "shrec17", "everyday": ".",
            "rendered_everyday": "."}  # fmt: skip
"""Name of the shared folder of datasets that use the same files; the last two merge folders below the data root."""

_WARNED: set[Path] = set()
"""Stores of which `_warn_omitted` warned."""

PARTS = ("train", "test")
RESERVED = ("name", "root", "split", "part")
"""Arguments of `create` that are not options of a dataset."""


def source(name: str, root: str | Path, **options: Any) -> Source:
    """Return the dataset `name` in folder `root` without reading it.

    Raises:
        ConfigError: Unknown name or option.
    """
    dataset_class = DATASETS.get(name)
    parameters = inspect.signature(dataset_class).parameters
    known = [key for key, parameter in parameters.items() if parameter.kind != parameter.VAR_KEYWORD and key != "root"]
    unknown = sorted(set(options) - set(known))
    if unknown and not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ConfigError(f"{name} has no option '{unknown[0]}'; known: {', '.join(known) or 'none'}")
    instance: Source = dataset_class(root=root, **options)
    return instance


def create(name: str, root: str | Path, *, split: str = "", part: str = "train", **options: Any) -> ClipDataset:
    """Return one part of the dataset `name`.

    Args:
        name: One of `DATASETS.names()`.
        root: Folder of the dataset's files, or of a store made by `actrec prepare`.
        split: One of the official protocols; empty for the first.
        part: "train" or "test".
        options: Options of the dataset. For a store: the options of its preparation, and the fold.

    Raises:
        ConfigError: Unknown name, split, part or option.
        DeviceError: The files are missing.
        InputError: A list or an archive is corrupt.
    """
    return _open(name, root, split, part, options, unknown=False)


def create_unknown(
    name: str, root: str | Path, *, split: str = "", part: str = "train", **options: Any
) -> SourceDataset | PreparedDataset:
    """Return the clips of one part that show none of the classes: the user's recordings labeled `unknown`, label −1.

    Arguments and errors are the same as for `create`. Published datasets have no such clips.
    """
    return _open(name, root, split, part, options, unknown=True)


def _open(
    name: str, root: str | Path, split: str, part: str, options: dict[str, Any], unknown: bool
) -> SourceDataset | PreparedDataset:
    if part not in PARTS:
        raise ConfigError(f"{name} has parts {', '.join(PARTS)}; got '{part}'")
    if is_store(root):
        return _open_store(name, PreparedDataset(root), split, part, options, unknown)
    dataset = source(name, root, **options)
    split = split or dataset.splits[0]
    dataset.check(split)
    items = dataset.unknown_entries() if unknown else dataset.entries()
    return SourceDataset(dataset, [entry for entry in items if dataset.part(entry, split) == part])


def _open_store(
    name: str, store: PreparedDataset, split: str, part: str, options: dict[str, Any], unknown: bool
) -> PreparedDataset:
    head = store.head
    if head.dataset != name:
        raise ConfigError(f"'{store.folder}' holds {head.dataset}, not {name}: prepare it into a folder called {name}")
    _warn_omitted(name, store, options)
    fold = options.pop("fold", 0)
    if type(fold) is not int:
        raise ConfigError(f"{name}'s fold is {fold!r}, expected a number")
    for key, value in json.loads(json.dumps(options)).items():
        if _as_list(head.options.get(key)) != _as_list(value):
            prepared = f"{key}={head.options[key]}" if key in head.options else f"no {key}"
            raise ConfigError(
                f"'{store.folder}' was prepared with {prepared}: prepare {name} into another folder with "
                f"--option {key}={value}"
            )
    return store.part(split, part, fold, unknown)


def _warn_omitted(name: str, store: PreparedDataset, options: dict[str, Any]) -> None:
    """Warn once of a store whose preparation had options other than the default that are not in `options`.

    A store of the user's folder is skipped: its options have no defaults to compare with.
    """
    if name == "folder" or store.folder in _WARNED:
        return
    settings = getattr(source(name, store.folder), "config", None)
    defaults = json.loads(json.dumps({} if settings is None else asdict(settings)))
    own = {key: value for key, value in store.head.options.items() if key not in options}
    if other := [f"{key}={json.dumps(value)}" for key, value in own.items() if value != defaults.get(key)]:
        _WARNED.add(store.folder)
        logger.warning(
            "'%s' was prepared with %s, which is not asked for: add it to dataset_options, or as --option",
            store.folder, ", ".join(other),
        )  # fmt: skip


def _as_list(value: Any) -> list[Any]:
    """Return a list; a single value (`held_out=ben`) means a list of one."""
    return value if isinstance(value, list) else [value]


def folder(data_root: str | Path, name: str) -> str:
    """Return the folder of the dataset `name` below `data_root`.

    It is called as the dataset, `motion/<name>` (HDM05's `hdm05_eleven`), or as in `FAMILIES`.
    """
    root = Path(data_root)
    named = [root / name, root / "motion" / {"hdm05": "hdm05_eleven"}.get(name, name)]
    return str(next((folder for folder in named if folder.is_dir()), root / FAMILIES.get(name, name)))


def folds(name: str, root: str | Path, *, split: str = "", **options: Any) -> list[int]:
    """Return the folds of a split that have test clips in this folder; arguments and errors as for `create`.

    A merged dataset has a fold only for each merged set (`everyday`), and a folder may lack the clips of a person.
    """
    found, refused, kind = [], None, DATASETS.get(name)
    if kind.fold_splits and (split or kind.splits[0]) not in kind.fold_splits:
        raise ConfigError(
            f"split {split or kind.splits[0]} of {name} has no folds, which split {', '.join(kind.fold_splits)} has: "
            "choose it, or omit --folds"
        )
    for fold in range(1, kind.folds + 1):
        try:
            if len(create(name, root, split=split, part="test", **{**options, "fold": fold})):
                found.append(fold)
        except ConfigError as error:
            refused = refused or error
    if refused is not None and not found:
        raise refused
    return found


def find_duplicates(clips: ClipDataset, training: Callable[[], ClipDataset]) -> dict[str, str]:
    """Find the clips whose joints equal the joints of a training clip exactly; published datasets have some.

    Clips without joints and unreadable clips are ignored.

    Args:
        clips: The test part.
        training: Opens the training part. A missing part, or one larger than `READ_AT_MOST` and not prepared, has no
            duplicates.

    Returns:
        The name of the first equal training clip, by the name of the test clip.
    """
    try:
        known_clips = training()
    except (InputError, DeviceError):  # a folder with a test part only
        return {}
    acted = [meta.get("set") == "acted" for meta in known_clips.metas]
    if any(acted):  # performances are no recordings
        known_clips = known_clips.subset(np.flatnonzero(~np.array(acted)))
    if len(known_clips) > READ_AT_MOST and not isinstance(known_clips, PreparedDataset):
        return {}
    known: dict[bytes, int] = {}
    for index, digest in _digests(known_clips):
        known.setdefault(digest, index)
    names, others = clips.names, known_clips.names
    return {
        names[index]: others[known[digest]]
        for index, digest in _digests(clips)
        if digest in known and _same(clips, index, known_clips, known[digest])
    }


def find_copies(clips: ClipDataset) -> dict[str, str]:
    """Find the clips whose joints equal the joints of an earlier clip; unreadable ones as in `find_duplicates`.

    Returns:
        The name of the first equal clip, by the name of each later one.
    """
    first: dict[bytes, int] = {}
    names = clips.names
    return {
        names[index]: names[first[digest]]
        for index, digest in _digests(clips)
        if first.setdefault(digest, index) != index and _same(clips, index, clips, first[digest])
    }


def _digests(clips: ClipDataset) -> Iterator[tuple[int, bytes]]:
    for index in range(len(clips)):
        with contextlib.suppress(InputError, DeviceError):
            yield index, clips.joints_digest(index)


def _same(clips: ClipDataset, index: int, others: ClipDataset, other: int) -> bool:
    try:
        a, b = clips[index].bodies, others[other].bodies
    except (InputError, DeviceError):  # a damaged store, of which only the checksums can be read
        return False
    return bool(np.isfinite(a).any()) and np.array_equal(a, b, equal_nan=True)
