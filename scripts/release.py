"""Write the files that repeat the version, the changelog and the model packages; run it after changing one of them.

`__version__` in actrec/__init__.py, CHANGELOG.md and models/zoo decide. It writes:

- the version of both package.xml and CITATION.cff, and the maintainer and addresses of the first in the others,
- CHANGELOG.rst of both ROS packages, as catkin_pkg and bloom read them,
- actrec/inference/zoo.yaml, the manifest of published model packages.

    python scripts/release.py            # or --check: only name the files that differ
"""

import re
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

import actrec
from actrec.inference import manifest

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = "Messages"
"""The part of each version of CHANGELOG.md that goes to the changelog of actrec_msgs."""

_SHARED = re.compile(r" *<version>.*</url>\n", re.DOTALL)  # of a package.xml
_VERSION = re.compile(r"^## \[(?P<version>[\d.]+|Unreleased)\](?: - (?P<date>[\d-]+))?$", re.MULTILINE)


def versions(text: str) -> list[tuple[str, str, dict[str, list[str]]]]:
    """Return version, date and the items of each part of CHANGELOG.md."""
    found = []
    headings = list(_VERSION.finditer(text))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        body = text[heading.end() : following.start() if following else len(text)]
        parts: dict[str, list[str]] = {}
        for part in re.split(r"^### ", body, flags=re.MULTILINE)[1:]:
            title, _, lines = part.partition("\n")
            items = re.split(r"^- ", lines, flags=re.MULTILINE)[1:]
            parts[title.strip()] = [" ".join(item.split()) for item in items]
        found.append((heading["version"], heading["date"] or "", parts))
    return found


def changelog(package: str, text: str) -> str:
    """Return CHANGELOG.rst of a ROS package."""
    title = f"Changelog for package {package}"
    lines = ["^" * len(title), title, "^" * len(title), ""]
    for version, date, parts in versions(text):
        chosen = [
            item for name, items in parts.items() if (name == MESSAGES) == (package == "actrec_msgs") for item in items
        ]
        heading = "Forthcoming" if version == "Unreleased" else f"{version} ({date})"
        if version == "Unreleased" and not chosen:
            continue
        lines += [heading, "-" * len(heading), *(f"* {_restructured(item)}" for item in chosen or ["No changes"]), ""]
    return "\n".join(lines)


def _restructured(item: str) -> str:
    """Convert a line of Markdown to reStructuredText: code and links."""
    item = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1 (\2)", item)
    return re.sub(r"`([^`]+)`", r"``\1``", item).replace("**", "")


def zoo() -> str:
    """Return the manifest of models/zoo."""
    entries = {}
    for folder in sorted(path.parent for path in (ROOT / "models/zoo").glob("*/model.yaml")):
        entry = asdict(manifest.describe(folder))
        del entry["name"]
        entry["labels"] = list(entry["labels"])
        entry["files"] = {file.pop("name"): file for file in entry["files"]}
        entries[folder.name] = entry
    text = yaml.safe_dump({"packages": entries}, sort_keys=False, allow_unicode=True, width=120)
    return f"# Written by scripts/release.py from models/zoo.\n{text}"


def files() -> dict[Path, str]:
    """Return the content of each written file."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = actrec.__version__
    dates = {number: date for number, date, _ in versions(text)}
    if version not in dates:
        raise SystemExit(f"actrec: CHANGELOG.md has no heading '## [{version}] - DATE': add it")
    messages = ROOT / "ros2_ws/src/actrec_msgs"
    found = {
        ROOT / "CHANGELOG.rst": changelog("actrec", text),
        messages / "CHANGELOG.rst": changelog("actrec_msgs", text),
        ROOT / "actrec/inference/zoo.yaml": zoo(),
    }
    described = (ROOT / "package.xml").read_text(encoding="utf-8")
    found[ROOT / "package.xml"] = described = re.sub(r"(?<=<version>).*(?=</version>)", version, described, count=1)
    shared = _SHARED.search(described)
    assert shared is not None, "package.xml has no version to url"
    other = (messages / "package.xml").read_text(encoding="utf-8")
    description = re.search(r" *<description>.*</description>\n", other)
    block = re.sub(r" *<description>.*</description>\n", description[0] if description else "", shared[0])
    found[messages / "package.xml"] = _SHARED.sub(lambda _: block, other, count=1)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    address = re.search(r'<url type="repository">(.*)</url>', described)
    values = {"version": version, "date-released": dates[version], "repository-code": address[1] if address else ""}
    for field, value in values.items():
        citation = re.sub(rf"(?m)^{field}: .*$", f"{field}: {value}", citation)
    found[ROOT / "CITATION.cff"] = citation
    return found


def differing() -> list[str]:
    """Return the files that must be written again."""
    return [
        path.relative_to(ROOT).as_posix()
        for path, content in files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]


def main(arguments: list[str]) -> int:
    """Write the files, or check them."""
    names = differing()
    if "--check" in arguments:
        print(*(f"{name} differs: run scripts/release.py" for name in names), sep="\n", end="\n" if names else "")
        return 1 if names else 0
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
    print(f"written: {', '.join(names) or 'nothing has changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
