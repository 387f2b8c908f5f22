"""Print the share of lines that the tests have run, by package, from the data file of coverage; write coverage.xml.

make coverage, or: python -m pytest --cov --cov-report= tests/core && python scripts/coverage_by_package.py
"""

from collections import defaultdict
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("nodes/", "models/", "calibration/")


def package_of(file: str) -> str:
    """Return the package of a module: `actrec.cameras` of actrec/cameras/realsense/camera.py."""
    path = Path(file).resolve().relative_to(ROOT).as_posix()
    for top in TOPS:
        path = path.removeprefix(top)
    return ".".join(path.split("/")[:-1][:2])


def main() -> None:
    """Print a Markdown table with one row for each package, and the total."""
    measured = Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in measured.get_data().measured_files():
        _, lines, _, missing, _ = measured.analysis2(file)
        for package in (package_of(file), "all"):
            counts[package][0] += len(lines)
            counts[package][1] += len(missing)
    measured.xml_report(outfile=str(ROOT / "coverage.xml"))
    print("| package | lines | run, % |\n| --- | --- | --- |")
    for package in sorted(counts, key=lambda name: (name == "all", name)):
        total, not_run = counts[package]
        print(f"| {package} | {total} | {100 * (1 - not_run / max(total, 1)):.0f} |")


if __name__ == "__main__":
    main()
