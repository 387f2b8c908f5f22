"""Clips that the simulated camera renders: colour, depth, scene flow, bodies and hands of procedural actors.

They need no files and cost some milliseconds a frame. They are there to test the machinery of training with pictures
and flow end to end where no dataset of people is at hand. The actors' movements are written by hand and repeat
themselves: an accuracy on these clips says that a network, its inputs and its training work, and nothing about people.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import yaml

from actrec import __version__, config
from actrec.errors import ConfigError
from actrec.frames import RgbdFrame
from actrec_models.data.clips import Clip
from actrec_models.data.lazy import LazyStreams
from actrec_models.data.rendered_item import VIEWS, RenderedConfig, RenderedItem
from actrec_models.data.source import Entry, Source

OPTIONS_FILE = "rendered.yaml"


class RenderedRgbd(Source):
    """The simulated camera's clips, a test of the machinery that says nothing about people.

    Eight actions by actors of other sizes, proportions, clothes and tempo, from three views, each time in another room.
    Split "cross_actor" tests on actors who are not in training, "cross_view" on a view that is not.

    Args:
        root: May hold `rendered.yaml`, fields of `RenderedConfig`; needs not exist.
        options: Fields of `RenderedConfig`, before those of the file.

    Raises:
        ConfigError: An option is unknown or out of range, or the file is no YAML mapping.
    """

    splits: ClassVar = ("cross_actor", "cross_view")
    caveat: ClassVar = (
        "A test of the machinery on clips that the simulated camera rendered: it says nothing about people."
    )
    has_files: ClassVar = False
    licence: ClassVar = "none needed: the clips are rendered by this program"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(RenderedConfig, {**_file_options(self.root / OPTIONS_FILE), **options})
        self.classes = self.config.classes
        if self.config.held_out >= self.config.actors:
            raise ConfigError(
                f"RenderedConfig.held_out is {self.config.held_out} of {self.config.actors} actors: leave one to train"
            )

    def entries(self) -> list[Entry]:
        """As the base says: action by action, actor by actor, view by view."""
        c, made = self.config, []
        numbers = range(1, c.actors + 1), range(1, len(VIEWS) + 1), range(1, c.takes + 1)
        for label, subject, view, take in product(range(len(self.classes)), *numbers):
            meta = {"subject": subject, "view": view, "take": take}
            made.append(Entry(f"{self.classes[label]}_p{subject}_v{view}_t{take}", label, meta))
        return made

    def read(self, entry: Entry) -> Clip:
        """As the base says; joints, hands and their pixels at once, colour, flow and motion when they are looked at."""
        shown = RenderedItem(self.config, entry)
        return Clip(entry.name, entry.label, shown.stamps_ns, shown.bodies, LazyStreams(shown.streams, shown.pictures))

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        if split == "cross_view":
            return "test" if entry.meta["view"] == len(VIEWS) else "train"
        return "test" if int(entry.meta["subject"]) > self.config.actors - self.config.held_out else "train"

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """As the base says; `skeletons` are the exact ones."""
        return RenderedItem(self.config, entry).frames()

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """SHA-256 over the options, this release and the names of the items."""
        told = [__version__, *self.classes, *map(str, dataclasses.astuple(self.config)), *(e.name for e in entries)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _file_options(path: Path) -> dict[str, Any]:
    """Options of a dataset's folder; none where it has no such file."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"'{path}' cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' holds no options, expected e.g. 'width: 160'; without the file defaults hold")
    return content
