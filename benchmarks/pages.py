"""Documentation pages with tables that benchmarks write between marks."""

from pathlib import Path

from actrec.utils.errors import ConfigError


def marks(benchmark: str) -> tuple[str, str]:
    """Return the marks around the table of `actrec bench BENCHMARK`."""
    return f"<!-- actrec bench {benchmark}: begin -->", f"<!-- actrec bench {benchmark}: end -->"


def around(page: Path, benchmark: str) -> tuple[str, str]:
    """Return the text before and after a benchmark's table, marks included.

    Raises:
        ConfigError: There is no such page, or it has no marks.
    """
    begin, end = marks(benchmark)
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {page}: {error.strerror}") from error
    if not 0 <= text.find(begin) < text.find(end):
        raise ConfigError(f"{page} has no marks '{begin}' and '{end}': add them around the place of the table")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def write(page: Path, benchmark: str, figures: str) -> None:
    """Replace the text between the marks of a page; raise like `around`."""
    before, after = around(page, benchmark)
    page.write_text(f"{before}\n\n{figures}\n\n{after}", encoding="utf-8")
