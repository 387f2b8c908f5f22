"""The documents are short, their links lead somewhere, their figures hold. `test_remedies` checks their commands."""

import re
from pathlib import Path

import yaml

from actrec.cameras.base import Camera
from tests.documents import blocks, documents

ROOT = Path(__file__).resolve().parents[2]
MOST_WORDS = 18_000
LINK = re.compile(r"\]\(([^)\s]+)\)")
NOT_COUNTED = ("CHANGELOG.md", "models/zoo/", ".github/")
"""Cards and the changelog may be as long as they need."""


def words(text: str) -> int:
    """Count the words, which have a letter or digit, code and tables included."""
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MkDocs form them."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)", plain, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def test_documents_are_short() -> None:
    counted = {name: words(text) for name, text in documents().items() if not name.startswith(NOT_COUNTED)}
    assert sum(counted.values()) <= MOST_WORDS, sorted(counted.items(), key=lambda item: -item[1])


def test_issue_templates_ask_for_no_images_of_people() -> None:
    for file in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        text = file.read_text(encoding="utf-8")
        for command in re.findall(r"`actrec record ([^`]*)`", text):
            assert "--topics" in command and "image_raw" not in command, file.name
        assert "--images" not in text


def test_contributing_names_each_abstract_member_of_a_driver() -> None:
    (line,) = (line for line in documents()["CONTRIBUTING.md"].splitlines() if "a subclass of `Camera`" in line)
    assert {name for name in Camera.__abstractmethods__ if f"`{name}" not in line} == set()


def test_load_model_examples_name_a_shipped_package_or_a_whole_path() -> None:
    """The recognizer's folder is another one than the shell's."""
    named = [name for text in documents().values() for name in re.findall(r"\{package: ([^}]*)\}", text)]
    assert named
    for name in named:
        assert name.startswith("$PWD/") or (ROOT / "models/zoo" / name).is_dir(), name


def test_security_pages_name_the_usage_data_of_rerun() -> None:
    assert all("rerun analytics disable" in documents()[page] for page in ("docs/security.md", "SECURITY.md"))


def test_brackets_in_shell_blocks_are_quoted() -> None:
    """zsh takes an unquoted bracket for a pattern of file names, and refuses the command."""
    wrong = []
    for name, text in documents().items():
        for line in "".join(blocks(text, "bash")).splitlines() if name != "CHANGELOG.md" else ():
            if re.search(r"\w=?\[", re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", line)):
                wrong.append(f"{name}: {line}")
    assert wrong == []


def test_environments_do_not_lie_where_a_clone_may() -> None:
    """`git clone` into the home folder makes ~/actrec."""
    assert [name for name, text in documents().items() if re.search(r"-m venv (~/)?actrec\b(?!_)", text)] == []


def test_relative_links_and_anchors_exist() -> None:
    broken = []
    for name, text in documents().items():
        for link in LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            if "://" in link or link.startswith("mailto:"):
                continue
            is_page = target.suffix == ".md" and target.is_file()
            known = anchors(target.read_text(encoding="utf-8")) if anchor and is_page else {anchor}
            if not target.exists() or anchor not in known:
                broken.append(f"{name}: {link}")
    assert broken == []


def test_readme_figures_of_sets_left_out_are_the_packages() -> None:
    package = yaml.safe_load((ROOT / "models/zoo/joint_tcn_everyday/model.yaml").read_text(encoding="utf-8"))
    names = {"nucla": "N-UCLA", "utd_mhad": "UTD-MHAD", "kard": "KARD", "kinder_gator": "Kinder-Gator"}
    rows = [line for line in documents()["README.md"].splitlines() if line.startswith("|")]
    sets, _, figures = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    table = dict(zip(sets, figures, strict=True))
    for model in package["provenance"]["figures"]["elsewhere"]:
        for each in model["sets"]:
            if not each["trained"]:
                shares = " / ".join(f"{100 * each[key]:.0f}" for key in ("right", "unknown", "wrong"))
                assert table[names[each["set"]]] == shares
    for page in ("README.md", "docs/index.md", "docs/networks/everyday.md"):
        assert f"{100 * package['provenance']['accuracy']:.1f} %" in documents()[page], page
