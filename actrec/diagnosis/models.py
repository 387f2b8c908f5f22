"""Model packages: which are found, and whether they are whole."""

from collections.abc import Iterator

from actrec import zoo
from actrec.diagnosis.finding import Finding


def findings() -> Iterator[Finding]:
    """One line a package found, and a fault where none is usable."""
    entries = zoo.list_packages()
    for entry in entries:
        if entry.package is None:
            yield Finding("models", entry.name, False, entry.problem, f"install it again, or remove {entry.path}")
        else:
            yield Finding("models", entry.name, True, f"{len(entry.package.labels)} labels, at {entry.path}")
    if not any(entry.package for entry in entries):
        remedy = f"set {zoo.VARIABLE} to a folder of packages, or train one: actrec train --help"
        yield Finding("models", "model package", False, "no usable one found", remedy, required=True)
