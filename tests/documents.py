"""Documents as tests see them: their code blocks and the `actrec` commands in these."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def documents() -> dict[str, str]:
    """Return the tracked Markdown files by name."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in listed.split() if (ROOT / name).is_file()}


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a document in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after `actrec` of each command in the shell blocks of a document."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&& |\| ", line):
                if (found := shlex.split(part, comments=True)) and found[0] == "actrec":
                    yield found[1:]


def tutorial(name: str) -> str:
    """Return the text of a tutorial."""
    return (ROOT / f"docs/tutorials/{name}.md").read_text(encoding="utf-8")
