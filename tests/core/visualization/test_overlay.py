"""The overlay on images shows people, hands, faces and complete labels, whatever the image's size."""

import cv2
import numpy as np
import pytest

from actrec.skeleton import layouts
from actrec.types import Body, Face, Hand
from actrec.utils.errors import ConfigError, InputError
from actrec.visualization import overlay
from actrec.visualization.overlay import Caption

GRAY = 90


def person(body_id="body_1", u=320.0, v=160.0, size=1.0, layout="kinect_v2_25"):
    """Return a person whose head is at (u, v) px, with joints in a zigzag below."""
    count = len(layouts.get(layout))
    pixels = np.stack([u + size * 60 * np.sin(np.arange(count)), v + size * 8.0 * np.arange(count)], axis=1)
    positions = np.full((count, 3), np.nan, np.float32)
    return Body(body_id, layout, positions, pixels.astype(np.float32), np.ones(count, np.float32))


def blank(height=480, width=640):
    return np.full((height, width, 3), GRAY, np.uint8)


def area_of(image, color):
    """Return left, top, right and bottom of the pixels of a color."""
    rows, columns = np.nonzero((image == np.array(color, np.uint8)).all(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_draw_person_and_label_in_its_color_and_input_unchanged():
    image = blank()
    drawn = overlay.draw(image, [person()], captions={"body_1": Caption("throw", 0.91)})
    assert (image == GRAY).all() and drawn.shape == image.shape
    left, top, right, bottom = area_of(drawn, overlay.color_of("body_1"))
    assert left < 265 and right > 375 and top < 160 and bottom > 340, "the banner is above the joints"
    assert (drawn[400:] == GRAY).all()


@pytest.mark.parametrize(
    "label", ["throw", "pick up a heavy box from the floor and carry it to the other table", "x" * 90]
)
@pytest.mark.parametrize(("height", "width"), [(120, 160), (480, 640), (2160, 3840)])
def test_draw_banner_at_the_edge_is_complete(label, height, width, monkeypatch):
    texts, boxes = [], []
    monkeypatch.setattr(overlay.cv2, "putText", lambda image, text, *rest: texts.append((text, *rest)))
    monkeypatch.setattr(overlay.cv2, "rectangle", lambda image, start, end, *rest: boxes.append((*start, *end)))
    corner = person(u=float(width), v=0.0, size=height / 480)
    overlay.draw(blank(height, width), [corner], captions={"body_1": Caption(label, 0.5)})
    assert "".join(line for line, *_ in texts).replace(" ", "") == f"{label}50%body_1".replace(" ", "")
    left, top, right, bottom = boxes[0]
    assert left >= 0 and right < width and top >= 0 and bottom < height
    for line, (x, y), font, scale, _, thickness, _ in texts:
        (across, tall), baseline = cv2.getTextSize(line, font, scale, thickness)
        assert left <= x and x + across <= right + 1 and top <= y - tall and y + baseline <= bottom


def test_draw_lines_and_text_scale_with_the_image():
    small = overlay.draw(blank(), [person()], captions={"body_1": Caption("throw", 0.9)})
    large = overlay.draw(
        blank(2160, 2880), [person(u=1440.0, v=720.0, size=4.5)], captions={"body_1": Caption("throw", 0.9)}
    )
    changed = [float((image != GRAY).any(axis=2).mean()) for image in (small, large)]
    assert changed[1] == pytest.approx(changed[0], rel=0.35)


def test_draw_banners_of_neighbors_do_not_cover_each_other():
    people = [person(f"body_{i}", u=300.0 + 5 * i, v=30.0) for i in range(1, 6)]
    drawn = overlay.draw(blank(), people, captions={b.body_id: Caption("wave", 0.5) for b in people})
    bars = [area_of(drawn, overlay.color_of(b.body_id)) for b in people]
    filled = [int((drawn == np.array(overlay.color_of(b.body_id), np.uint8)).all(axis=2).sum()) for b in people]
    assert min(filled) > 800 and len(bars) == 5


def test_draw_unknown_person_and_hand_without_body_are_subdued():
    drawn = overlay.draw(blank(), [person()], captions={"body_1": Caption("unknown", 0.3)})
    left, _, right, bottom = area_of(drawn, overlay.SUBDUED)
    assert right - left > 80 and bottom < 160
    hand = person("hand_1", layout="hand_21")
    hand = Hand(**{**vars(hand), "side": "left"})
    assert area_of(overlay.draw(blank(2160, 2880), [], [hand]), overlay.SUBDUED)
    named = overlay.draw(blank(), [], [hand], captions={"hand_1": Caption("swipe", 0.8)})
    assert area_of(named, overlay.SUBDUED)[1] < 160, "a hand with a label has a banner"


def test_draw_missing_joints_and_absent_people_are_skipped():
    body = person()
    body.pixels[:] = np.nan
    drawn = overlay.draw(blank(), [body], captions={"body_1": Caption("throw", 0.9), "body_7": Caption("wave", 0.9)})
    assert (drawn == GRAY).all()
    body = person()
    body.scores[:] = 0.0
    assert (overlay.draw(blank(), [body]) == GRAY).all()
    body.scores[:2], body.pixels[1] = 1.0, (np.inf, 1e30)
    overlay.draw(blank(), [body])
    body.scores[:], body.pixels[:] = 1.0, 1e12
    assert overlay.draw(blank(), [body], captions={"body_1": Caption("throw", 0.9)}).shape == (480, 640, 3)


def test_draw_faces_and_hands_in_the_color_of_their_person():
    face = Face(**vars(person("body_2", layout="face_68")))
    hand = Hand(**vars(person("body_2", layout="hand_21")))
    image = blank(2160, 2880)
    for drawn in (overlay.draw(image, [], [], [face]), overlay.draw(image, [], [hand])):
        assert (drawn == np.array(overlay.color_of("body_2"))).all(axis=2).sum() > 50


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_draw_wrong_image_raises(image):
    with pytest.raises(InputError, match=r"expected uint8\[H, W, 3\] RGB"):
        overlay.draw(image, [])


def test_draw_wrong_layout_raises():
    with pytest.raises(ConfigError, match="nosuch"):
        overlay.draw(blank(), [Body("body_1", "nosuch", *[np.zeros((25, 2))] * 3)])
    with pytest.raises(InputError, match="'body_1' has 25 joints, hand_21 has 21"):
        overlay.draw(blank(), [Body("body_1", "hand_21", *[np.zeros((25, 2))] * 3)])


def test_color_of_people_differs_and_is_constant():
    assert len({overlay.color_of(f"body_{i}") for i in range(1, 11)}) == 10
    assert overlay.color_of("body_3") == overlay.color_of("body_3") != overlay.color_of("body_4")
    assert overlay.color_of("anna") in overlay.COLORS and overlay.color_of("hand_2") == overlay.SUBDUED


def test_drawable_text_is_ascii_before_opencv_5():
    assert overlay.drawable("Größe\n zählen, 投げる", unicode=False) == "Grosse zahlen, ???"
    assert overlay.drawable(" Größe\n ", unicode=True) == "Größe"


def test_draw_label_in_other_script_is_drawn():
    drawn = overlay.draw(blank(), [person()], captions={"body_1": Caption("投げる", 0.9)})
    assert area_of(drawn, overlay.color_of("body_1"))[1] < 160
