"""Finds recipes: a file of the user's, or by name one of those that come with actrec."""

import difflib
from pathlib import Path

from actrec import zoo
from actrec.errors import ConfigError

PLACE = "models/recipes"


def folder(name: str = "") -> Path:
    """The folder of recipes that come with actrec, or one within it; of a clone, else as installed.

    Args:
        name: Within it: `papers`, `rendered`.

    Raises:
        ConfigError: It is nowhere.
    """
    for place in reversed(zoo.installed(PLACE)):
        if (place / name).is_dir():
            return place / name
    raise ConfigError(f"no folder {Path(PLACE, name)}: neither in a clone of actrec nor installed with it")


def find(name_or_path: str | Path) -> Path:
    """The recipe at a path, or the one of that name, with or without `models/recipes/` and `.yaml`.

    Args:
        name_or_path: `runs/mine.yaml`, `sem_net_shrec17`, `papers/vpn_ntu60`, `models/recipes/papers/vpn_ntu60.yaml`.

    Raises:
        ConfigError: There is none; what is named alike is told.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    name = path.as_posix().removeprefix(f"{PLACE}/").removesuffix(".yaml")
    for place in reversed(zoo.installed(PLACE)):
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    alike = difflib.get_close_matches(name, known(), n=3, cutoff=0.5)
    known_as = f"named alike: {', '.join(alike)}" if alike else f"known: {', '.join(known()) or 'none'}"
    raise ConfigError(f"no recipe '{name_or_path}', neither a file nor a name; {known_as}")


def known() -> list[str]:
    """The names of the recipes that come with actrec, those in folders after the others."""
    places = [place for place in zoo.installed(PLACE) if place.is_dir()]
    names = {path.relative_to(place).with_suffix("").as_posix() for place in places for path in place.rglob("*.yaml")}
    return sorted(names, key=lambda name: (name.count("/"), name))
