"""Measure the structure of a checkout: `python -m tests.house.structure [ROOT]` prints the figures as a table.

The figures cover the four import packages, without benchmarks: modules, lines, entries of each folder, import circles,
file names and class names of several modules, and the actrec modules that a part imports, directly and indirectly.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

FOLDERS = {
    "actrec": "actrec",
    "actrec_nodes": "nodes/actrec_nodes",
    "actrec_models": "models/actrec_models",
    "actrec_calibration": "calibration/actrec_calibration",
}
PARTS = {
    "recognizer_node": ["actrec_nodes.recognizer_node"],
    "training": ["actrec_models.training.trainer", "actrec_models.training"],
    "export": ["actrec_models.export.exporter", "actrec_models.export"],
}


class Structure:
    """The modules below `root` and the imports between them, at module level and inside functions."""

    def __init__(self, root: Path):
        self.root = root
        self.files = dict(self._files())

    def _files(self) -> Iterator[tuple[str, Path]]:
        for package, folder in FOLDERS.items():
            for path in sorted((self.root / folder).rglob("*.py")):
                parts = path.relative_to(self.root / folder).with_suffix("").parts
                yield ".".join([package, *parts]).removesuffix(".__init__"), path

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Return the parsed source of each module."""
        return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.files.items()}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Return the modules that each module imports; a name of a package's `__init__` counts as the package."""
        return {name: set(self._imported(tree)) - {name} for name, tree in self.trees.items()}

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.files)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    if full in self.files or node.module in self.files:
                        yield full if full in self.files else node.module

    @property
    def lines(self) -> int:
        """Return the number of source lines."""
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in self.files.values())

    def entries(self) -> dict[str, int]:
        """Return the number of modules and folders in each folder, `__init__` not counted."""
        counts: Counter[str] = Counter()
        for path in {p for file in self.files.values() for p in (file, file.parent)}:
            if path.name != "__init__.py":
                counts[path.parent.relative_to(self.root).as_posix()] += 1
        return {
            folder: count for folder, count in counts.items() if folder not in {".", "nodes", "models", "calibration"}
        }

    def cycles(self) -> list[list[str]]:
        """Return the groups of modules that import each other in a circle."""
        return _circles(self.imports)

    def package_edges(self) -> dict[str, set[str]]:
        """Return, for each sub-package (`actrec.features`), the others of its package that it imports."""
        edges: dict[str, set[str]] = {}
        for name, imported in self.imports.items():
            if "." in name:
                own = _subpackage(name)
                others = {_subpackage(other) for other in imported if other.startswith(own.split(".")[0] + ".")}
                edges.setdefault(own, set()).update(others - {own})
        return edges

    def package_cycles(self) -> list[list[str]]:
        """Return the groups of sub-packages that import each other in a circle."""
        return _circles(self.package_edges())

    def duplicate_modules(self) -> dict[str, list[str]]:
        """Return the file names that stand for several modules."""
        names: dict[str, list[str]] = {}
        for module, path in self.files.items():
            if path.name != "__init__.py":
                names.setdefault(path.name, []).append(module)
        return {name: modules for name, modules in names.items() if len(modules) > 1}

    def duplicate_classes(self) -> dict[str, list[str]]:
        """Return the names of public classes that several modules define."""
        names: dict[str, list[str]] = {}
        for module, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    names.setdefault(node.name, []).append(module)
        return {name: modules for name, modules in names.items() if len(modules) > 1}

    def reached(self, module: str) -> set[str]:
        """Return the actrec modules that `module` imports, directly or indirectly."""
        found, pending = set[str](), [module]
        while pending:
            for imported in self.imports[pending.pop()] - found:
                found.add(imported)
                pending.append(imported)
        return found - {module}


def _subpackage(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def main() -> None:
    """Print the figures of the checkout named on the command line, by default this one."""
    structure = Structure(Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve())
    if len(sys.argv) == 1:
        structure = Structure(Path(__file__).resolve().parents[2])
    rows = [
        ("modules", len(structure.files)),
        ("source lines", structure.lines),
        ("import circles of modules", len(structure.cycles())),
        ("modules in them", sum(map(len, structure.cycles()))),
        ("sub-packages in a circle", sum(map(len, structure.package_cycles()))),
        ("file names of several modules", len(structure.duplicate_modules())),
        ("class names of several modules", len(structure.duplicate_classes())),
    ]
    for part, names in PARTS.items():
        known = next(name for name in names if name in structure.files)
        direct = len(structure.imports[known])
        rows.append((f"actrec modules imported by {part} ({known}), directly", direct))
        rows.append((f"actrec modules imported by {part} ({known}), in all", len(structure.reached(known))))
    rows += [(f"entries of {folder}", count) for folder, count in sorted(structure.entries().items()) if count > 8]
    for name, figure in rows:
        print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main()
