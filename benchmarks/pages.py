"""Pages of figures: what a benchmark command measured stands between marks of its own."""

from pathlib import Path

from actrec.utils.errors import ConfigError


def marks(benchmark: str) -> tuple[str, str]:
    """Where the figures of `actrec bench BENCHMARK` begin and end."""
    return f"<!-- actrec bench {benchmark}: begin -->", f"<!-- actrec bench {benchmark}: end -->"


def around(page: Path, benchmark: str) -> tuple[str, str]:
    """What stands before and after a benchmark's figures, marks included.

    Raises:
        ConfigError: There is no such page, or it has no marks.
    """
    begin, end = marks(benchmark)
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {page}: {error.strerror}") from error
    if not 0 <= text.find(begin) < text.find(end):
        raise ConfigError(f"{page} lacks the marks '{begin}' and '{end}' between which the figures go")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def write(page: Path, benchmark: str, figures: str) -> None:
    """Replaces what stands between the marks of a page; raises as `around` does."""
    before, after = around(page, benchmark)
    page.write_text(f"{before}\n\n{figures}\n\n{after}", encoding="utf-8")
