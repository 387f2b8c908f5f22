"""Write requirements/constraints.txt from the versions installed in the running environment.

Run it after changing and installing a requirements file:  .venv/bin/python scripts/lock_requirements.py
"""

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
HEADER = """\
# Exact versions of all dependencies of the requirements files, as tested on Python 3.11.
# Written by scripts/lock_requirements.py; applied on Python 3.11 and newer.
"""


def direct_requirements() -> list[Requirement]:
    """Return the requirements listed in the requirements files."""
    lines: list[str] = []
    for path in sorted(FOLDER.glob("*.txt")):
        if path.name != "constraints.txt":
            lines += [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether the requirement's marker holds here, alone or with one of `extras`."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def installed_closure(direct: list[Requirement]) -> dict[str, str]:
    """Canonical name to `name==version` of everything that `direct` needs, itself included."""
    found: dict[str, str] = {}
    queue = [requirement for requirement in direct if applies(requirement, set())]
    visited: set[tuple[str, frozenset[str]]] = set()
    while queue:
        requirement = queue.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in visited:
            continue
        visited.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        # Drop the local label (+cpu): the pin must fit any build.
        found[key[0]] = f"{distribution.metadata['Name']}=={distribution.version.split('+')[0]}"
        needed = [Requirement(text) for text in distribution.requires or []]
        queue += [other for other in needed if applies(other, requirement.extras)]
    return found


def main() -> None:
    """Write the file."""
    direct = direct_requirements()
    closure = installed_closure(direct)
    named = {canonicalize_name(requirement.name) for requirement in direct}
    pins = [pin for name, pin in sorted(closure.items()) if name not in named]
    (FOLDER / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")
    print(f"{len(pins)} versions pinned in {FOLDER / 'constraints.txt'}")


if __name__ == "__main__":
    main()
