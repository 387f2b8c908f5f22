"""Count words and patterns that the house style avoids: `python -m tests.house.language [--list] [PATH …]`.

Checked are docstrings, comments, string literals with a space (errors, log lines, help), names of tests, and Markdown.
A line that must keep a word ends with the comment `# language: ok`.
"""

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = {
    "'where' for a condition": r"\bwhere (?:it|they|there|that|one|no|nobody|none|asked|any|nothing|not)\b",
    "headless 'what'": r"\bwhat (?:is|was|were|are|be|comes|came|an?|they|it|has|had|must|can|could|lies|goes|stays|the|of)\b",
    "'those of', 'of those', 'that of'": r"\b(?:those (?:of|that|who|which|in|with|without|by)|of (?:those|such)|that of)\b",
    "person as subject": r"\b(?:nobody|somebody|everybody|whoever)\b",
    "anew": r"\banew\b",
    "is said, is told": r"\b(?:is|are|was|were|be|been|being) (?:told|named|said|left out|passed (?:over|by)|gone|lacking|lacked)\b",
    "going on, taking over": r"\b(?:go(?:es|ing|ne)? on with|tak(?:es?|en|ing) over|went on)\b",
    "image, not picture": r"(?<!-)\b(?:pictures?|pictured|filmed|films?)\b",
    "judged, sights": r"\b(?:judge[sd]?|judging|sights?)\b",
    "color, and American spelling": r"(?i:colour|grey\b|centre|optimis(?!ti|m)|normalis|synchronis|neighbour|behaviour|labelled|initialis|quantis|recognis)",
    "for ever, at all costs": r"\b(?:for ever|at all costs)\b",
}
SUFFIXES = {".py", ".md"}


def files(paths: list[str]) -> list[Path]:
    """Return the tracked Python and Markdown files below `paths`, without model cards and this file."""
    listed = subprocess.run(["git", "ls-files", "--", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [ROOT / name for name in listed.stdout.splitlines()]
    return [f for f in found if f.suffix in SUFFIXES and "zoo" not in f.parts and f != Path(__file__) and f.is_file()]


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of everything in `file` that a person reads as language."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    if file.suffix == ".md":
        yield from enumerate(re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), text, flags=re.S).splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kept = " ".join(lines[token.start[0] - 1 : token.start[0]]).endswith("# language: ok")
        if token.type in (tokenize.COMMENT, tokenize.STRING) and " " in token.string and not kept:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
    if "tests" in file.parts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.lineno, node.name.replace("_", " ")


def matches(paths: list[str]) -> Iterator[tuple[str, Path, int, str]]:
    """Yield (pattern's name, file, line number, line) of each match."""
    for file in files(paths):
        for number, line in prose(file):
            for name, pattern in PATTERNS.items():
                if re.search(pattern, line):
                    yield name, file, number, line.strip()


def main() -> None:
    """Print the counts, and with --list each match."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    for name, file, number, line in matches(args.paths):
        counts[name] += 1
        if args.list:
            print(f"{file.relative_to(ROOT)}:{number}: [{name}] {line}")
    for name in PATTERNS:
        print(f"{counts[name]:6d}  {name}")
    print(f"{sum(counts.values()):6d}  in all")


if __name__ == "__main__":
    main()
