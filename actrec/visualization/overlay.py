"""Skeletons, hands, faces and labels, drawn on a color image."""

import math
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from actrec.skeleton import layouts
from actrec.types import UNASSIGNED_HAND, UNKNOWN, Body
from actrec.utils.errors import InputError

Color = tuple[int, int, int]

COLORS: tuple[Color, ...] = (
    (255, 149, 5),
    (0, 183, 255),
    (102, 214, 72),
    (255, 89, 148),
    (250, 224, 50),
    (176, 132, 255),
    (24, 216, 189),
    (255, 112, 67),
    (198, 226, 110),
    (94, 150, 255),
)
"""Colors of people, RGB."""

SUBDUED: Color = (96, 100, 106)
"""Color of the banner of an unknown action, and of a hand without a body; RGB."""

MIN_SCORE = 0.1
"""Joints with a lower score are not drawn."""

FONT = cv2.FONT_HERSHEY_DUPLEX

MARGIN = 0.35  # around the text of a banner, in heights of a line
TEXT_HEIGHT = 0.03  # of the image's shorter edge
SMALLEST_TEXT_PX = 9.0
FAR_PX = 16_000.0  # joints farther outside the image are drawn there; OpenCV's lines have limits


@dataclass(frozen=True)
class Caption:
    """The label of one person.

    Attributes:
        label: Name of the action; `unknown` is drawn subdued. Empty if there is none yet.
        confidence: Its probability, 0..1; NaN if unknown.
    """

    label: str = ""
    confidence: float = math.nan


def draw(
    image: np.ndarray,
    bodies: Sequence[Body],
    hands: Sequence[Body] = (),
    faces: Sequence[Body] = (),
    captions: Mapping[str, Caption] | None = None,
) -> np.ndarray:
    """Return a copy of an image with people and their labels.

    Lines and text scale with the image. A banner stays inside the image and covers no other banner. Joints without
    pixels, or with a score below `MIN_SCORE`, are skipped.

    Args:
        image: [H, W, 3] uint8 RGB.
        bodies, hands, faces: Drawn at their `pixels`, in the color of their `body_id`.
        captions: Body id, or id of a hand without a body, to its label. Ids that are not in the image are ignored.

    Raises:
        InputError: The image has another shape or type, or a body has not the joints of its layout.
        ConfigError: A layout is unknown.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"image is {image.dtype}{list(image.shape)}, expected uint8[H, W, 3] RGB")
    drawn = np.array(image, order="C")
    width = line_width(drawn)
    for face in faces:
        _draw_joints(drawn, face, max(width // 2, 1), radius=0)
    for body in bodies:
        _draw_joints(drawn, body, width, radius=width + 1)
    for hand in hands:
        _draw_joints(drawn, hand, max(width // 2, 1), radius=max(width // 2, 1))
    _draw_banners(drawn, [*bodies, *hands], captions or {})
    return drawn


def color_of(body_id: str) -> Color:
    """Return the color of a person by the number at the end of the id, or by the whole id; RGB."""
    if not body_id or body_id.startswith(UNASSIGNED_HAND):
        return SUBDUED
    digits = body_id[len(body_id.rstrip("0123456789")) :]
    number = int(digits) - 1 if digits else zlib.crc32(body_id.encode())
    return COLORS[number % len(COLORS)]


def text_of(body_id: str, caption: Caption | None) -> str:
    """Return the text of a person's banner: label, confidence unless it is unknown, and id."""
    label, confidence = (caption.label, caption.confidence) if caption else ("", math.nan)
    share = "" if label in ("", UNKNOWN) or math.isnan(confidence) else f"{confidence:.0%}"
    return "  ".join(part for part in (label, share, body_id) if part)


def line_width(image: np.ndarray) -> int:
    """Return the width of a bone in an image, px."""
    return max(round(min(image.shape[:2]) / 240), 1)


def drawable(text: str, unicode: bool = hasattr(cv2, "FontFace")) -> str:
    """Return text that OpenCV can draw: on one line, and ASCII before OpenCV 5.

    Accents are then removed; other characters become a question mark, as OpenCV 5 draws a character without a glyph.
    """
    text = " ".join(text.split())
    if unicode:
        return text
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in plain)


def finite_pixels(body: Body) -> np.ndarray:
    """Return a body's pixels [V, 2] float32, NaN for the joints that are not drawn.

    Raises InputError if the body has not the joints of its layout, ConfigError if the layout is unknown.
    """
    layout = layouts.get(body.layout)
    if len(body.pixels) != len(layout):
        raise InputError(f"'{body.body_id}' has {len(body.pixels)} joints, {layout.name} has {len(layout)}")
    seen = np.isfinite(body.pixels).all(axis=1) & (body.scores >= MIN_SCORE)
    return np.where(seen[:, None], np.clip(body.pixels, -FAR_PX, FAR_PX), np.nan).astype(np.float32)


def _draw_joints(image: np.ndarray, body: Body, width: int, radius: int) -> None:
    """Draw bones with a dark outline, then joints."""
    pixels, color = finite_pixels(body), color_of(body.body_id)
    edges = np.array(layouts.get(body.layout).edges)
    if radius == 0:  # contours of a face; its other edges only make it one tree
        edges = edges[abs(edges[:, 0] - edges[:, 1]) == 1]
    bones = pixels[edges]
    lines = np.round(bones[np.isfinite(bones).all(axis=(1, 2))]).astype(np.int32)  # (bones, 2, 2)
    if radius:
        cv2.polylines(image, list(lines), False, _shade(color, 0.25), width + 2, cv2.LINE_AA)
    cv2.polylines(image, list(lines), False, color, width, cv2.LINE_AA)
    for u, v in np.round(pixels[np.isfinite(pixels).all(axis=1)]).astype(int).tolist() if radius else ():
        cv2.circle(image, (u, v), radius, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(image, (u, v), radius, color, max(radius // 3, 1), cv2.LINE_AA)


@dataclass
class _Banner:
    """Lines of text in a box with its left upper corner at (x, y), px."""

    lines: list[str]
    scale: float
    thickness: int
    width: int
    line_height: int
    baseline: int
    margin: int
    x: int = 0
    y: int = 0

    @property
    def height(self) -> int:
        return self.line_height * len(self.lines)

    def covers(self, other: "_Banner") -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


def _draw_banners(image: np.ndarray, people: Sequence[Body], captions: Mapping[str, Caption]) -> None:
    placed: list[_Banner] = []
    named: set[str] = set()
    for person in people:
        caption = captions.get(person.body_id)
        is_part = person.layout in layouts.HANDS
        if person.body_id in named or (is_part and caption is None):
            continue
        pixels = finite_pixels(person)
        if not np.isfinite(pixels).any():
            continue
        named.add(person.body_id)
        left, top = np.nanmin(pixels, axis=0)
        banner = _fit(drawable(text_of(person.body_id, caption)), image)
        banner.x = round(float(left + np.nanmax(pixels[:, 0])) / 2 - banner.width / 2)
        banner.y = round(float(top)) - banner.height - 6 * line_width(image)
        _place(banner, image, placed)
        placed.append(banner)
        known = caption is not None and caption.label not in ("", UNKNOWN)
        _draw_banner(image, banner, color_of(person.body_id), known)


def _fit(text: str, image: np.ndarray) -> _Banner:
    """Return the banner of a text, on several lines if it is wide, and smaller if it is then too high."""
    rows, columns = image.shape[:2]
    height = max(TEXT_HEIGHT * min(rows, columns), SMALLEST_TEXT_PX)
    while True:
        scale = height / cv2.getTextSize("A", FONT, 1.0, 1)[0][1]
        thickness, margin = max(round(height / 14), 1), round(MARGIN * height)
        across = partial(_text_width, scale=scale, thickness=thickness)
        lines = _wrap(text, across, columns - 2 * margin)
        (_, tall), baseline = cv2.getTextSize("Ag", FONT, scale, thickness)
        width = max(map(across, lines)) + 2 * margin
        banner = _Banner(lines, scale, thickness, width, tall + baseline + margin, baseline, margin)
        if banner.height <= rows / 2 or height <= SMALLEST_TEXT_PX:
            return banner
        height = max(0.8 * height, SMALLEST_TEXT_PX)


def _text_width(line: str, scale: float, thickness: int) -> int:
    return cv2.getTextSize(line, FONT, scale, thickness)[0][0]


def _wrap(text: str, across: Callable[[str], int], limit: int) -> list[str]:
    """Break a text into lines of at most `limit` px, between words if possible."""
    lines = [""]
    for word in text.split(" "):
        if across(longer := f"{lines[-1]} {word}".strip()) <= limit:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for character in word:
            if lines[-1] and across(lines[-1] + character) > limit:
                lines.append("")
            lines[-1] += character
    return lines


def _place(banner: _Banner, image: np.ndarray, placed: Iterable[_Banner]) -> None:
    """Move a banner inside the image, and above the banners that it would cover, or below them at the upper edge."""
    rows, columns = image.shape[:2]
    banner.x = min(max(banner.x, 0), max(columns - banner.width, 0))
    banner.y = start = min(max(banner.y, 0), max(rows - banner.height, 0))
    for step in (-1, 1):
        banner.y = start
        while 0 <= banner.y <= rows - banner.height:
            other = next((each for each in placed if banner.covers(each)), None)
            if other is None:
                return
            banner.y = other.y + other.height if step > 0 else other.y - banner.height
    banner.y = start


def _draw_banner(image: np.ndarray, banner: _Banner, color: Color, known: bool) -> None:
    x, y, margin = banner.x, banner.y, banner.margin
    end = (x + banner.width - 1, y + banner.height - 1)
    cv2.rectangle(image, (x, y), end, color if known else SUBDUED, -1)
    if not known:
        cv2.rectangle(image, (x, y), (x + max(margin // 2, 1), end[1]), color, -1)
    ink = (20, 20, 20) if known else (225, 228, 232)
    for line in banner.lines:
        y += banner.line_height
        origin = (x + margin, y - 1 - banner.baseline - margin // 2)
        cv2.putText(image, line, origin, FONT, banner.scale, ink, banner.thickness, cv2.LINE_AA)


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (round(factor * channel) for channel in color)
    return red, green, blue
