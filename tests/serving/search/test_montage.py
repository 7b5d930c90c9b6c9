import io

import numpy as np
from PIL import Image

from ccpml.fonts import fonts_for
from ccpml.serving import Hit, Item
from ccpml.serving.search import montage
from ccpml.serving.search.montage import Answer, MontageRow, draw_montage

GRAY = np.full((40, 60, 3), 128, np.uint8)
GREEN, RED = (0, 130, 90), (204, 51, 17)


def answer(label, rank=1, picture=GRAY):
    return Answer(Hit(Item(rank, f"/photos/{rank}.jpg", label, {}, "", "", 60, 40), 0.25 * rank, rank), picture)


def colors(*rows):
    image = Image.open(io.BytesIO(draw_montage(rows)))
    return image.size, {color for _, color in image.getcolors(1 << 20)}


def test_only_answers_of_known_classes_are_marked():
    def marks(query, label):
        return colors(MontageRow("a.jpg", query, [GRAY], [answer(label)]))[1] & {GREEN, RED}

    assert marks("mug", "mug") == {GREEN}
    assert marks("mug", "cup") == {RED}
    assert marks("", "mug") == marks("mug", "") == marks("", "") == set()


def test_every_number_of_pictures_and_answers_is_drawn():
    one, _ = colors(MontageRow("a.jpg", "", [GRAY], [answer("mug")]))
    empty, _ = colors(MontageRow("a.jpg", "", [None], []))
    assert empty == one
    ten, _ = colors(MontageRow("a.jpg", "", [GRAY], [answer("", rank) for rank in range(1, 11)]))
    more, _ = colors(MontageRow("a.jpg", "", [GRAY], [answer("", rank) for rank in range(1, 12)]))
    assert (ten[1], more[0]) == (one[1], ten[0])
    assert more[1] > ten[1] > 0
    several, _ = colors(MontageRow("a.jpg", "", [GRAY, None, GRAY, GRAY, GRAY], [answer("mug", picture=None)]))
    assert several == one


def test_text_stays_within_its_width_and_unknown_characters_are_code_points(monkeypatch):
    written = []
    monkeypatch.setattr(montage.ImageDraw.ImageDraw, "text", lambda draw, at, text, *rest, **more: written.append(text))
    long = "a/very/deep/folder/of/classes/whose name does not fit at all, " + "x" * 5000
    names = ["größe Ωμέγα шапка", "\U000e0fff\n", long]
    draw_montage([MontageRow(name, "", [GRAY], []) for name in names])
    texts = [text for text in written if text != "no answer"]
    assert texts[:2] == ["größe Ωμέγα шапка", "U+E0FFFU+000A"]
    assert texts[2].startswith("whose name")
    assert texts[2].endswith("…")
    pen = montage._Pen(tuple(fonts_for(names, "DejaVu Sans")))
    assert all(pen._width(text) <= montage._SIDE for text in texts)
