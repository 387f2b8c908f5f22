"""Write requirements/constraints/*.txt: a version for each package that the requirements files leave open or pull in.

Run it after changing a requirements file, then install and test:

  .venv/bin/python -m pip install uv && .venv/bin/python scripts/lock_requirements.py

`--check` writes nothing: it finds out if each set still has wheels for its Python versions and platforms.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
SETS = {
    "wheels": (("3.11",), ()),
    "humble": (("3.10",), ("numpy<2",)),
    "jazzy": (("3.12",), ("numpy==1.26.4",)),
    "lyrical": (("3.12", "3.13", "3.14"), ("numpy==2.3.4",)),
}
"""Python versions and further requirements of each set; the first version writes it, the others are checked with it.

Rclpy and the messages need the major version of NumPy that their distribution built them with."""
PLATFORMS = ("x86_64-manylinux_2_35", "aarch64-manylinux_2_35")
# PyTorch's wheels on PyPI pin CUDA's packages themselves, its CPU builds need none.
CUDA = ("nvidia-", "cuda-", "triton")


def requirement_files(name: str) -> list[Path]:
    """Return the requirements files that a set applies to."""
    return [path for path in sorted(FOLDER.glob("*.txt")) if name == "wheels" or path.name != "ros-wheels.txt"]


def requirements(path: Path) -> list[Requirement]:
    """Return the requirements of a file."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def resolve(name: str, python: str, platform: str, further: list[str]) -> list[str]:
    """Return `name==version` of all packages that a set installs on one version of Python and platform.

    Raises:
        SystemExit: There is no such set of versions.
    """
    files = [str(path) for path in requirement_files(name)]
    # The distributions' robots must not compile; some packages of the ROS wheels are source alone.
    binary = [] if name == "wheels" else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", python]
    command += ["--python-platform", platform, *binary, *files, *further]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"actrec: {name} on Python {python}, {platform}: {result.stderr.strip()}")
    return [line for line in result.stdout.splitlines() if line and not line.startswith("#")]


def write(name: str, path: Path) -> None:
    """Write the versions of a set, by its first Python version."""
    pythons, bounds = SETS[name]
    direct = [requirement for file in requirement_files(name) for requirement in requirements(file)]
    pinned = {canonicalize_name(requirement.name) for requirement in direct if requirement.specifier}
    with tempfile.TemporaryDirectory() as folder:
        further = Path(folder) / "bounds.txt"
        further.write_text("\n".join(bounds) + "\n", encoding="utf-8")
        found = resolve(name, pythons[0], PLATFORMS[0], [str(further)])
    kept = [line for line in found if line.split("==")[0] not in pinned and not line.startswith(CUDA)]
    header = f"# Versions for {name} (Python {', '.join(pythons)}). Written by scripts/lock_requirements.py.\n"
    path.write_text(header + "\n".join(kept) + "\n", encoding="utf-8")


def main() -> None:
    """Write and check every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for name, (pythons, _) in SETS.items():
        path = FOLDER / "constraints" / f"{name}.txt"
        if not check:
            write(name, path)
        for python in pythons:
            for platform in PLATFORMS[: 1 if name == "wheels" else None]:
                count = len(resolve(name, python, platform, ["--constraint", str(path)]))
                print(f"{path.name}: {count} packages on Python {python}, {platform}")


if __name__ == "__main__":
    main()
