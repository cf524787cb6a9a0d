"""What the points of an SVG say where the pointer rests on them, without a script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree import ElementTree

from matplotlib.artist import Artist

SVG = "http://www.w3.org/2000/svg"
MARK = "says:"  # how the id of an artist begins that has something to say
REACH = "7"  # points from a marker's middle within which it speaks
NAMES = {
    "": SVG,
    "xlink": "http://www.w3.org/1999/xlink",
    "cc": "http://creativecommons.org/ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
}


def says(artist: Artist, texts: Sequence[str]) -> None:
    """Have each point of an artist say its text, or the artist the one text that there is."""
    artist.set_gid(MARK + json.dumps(list(texts)))


def titled(svg: str) -> str:
    """A figure's SVG with a title where an artist has something to say. Raises ValueError for points without a text."""
    for prefix, space in NAMES.items():
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(svg)
    spots: list[ElementTree.Element] = []
    for number, group in enumerate(list(root.iter(f"{{{SVG}}}g"))):
        if group.get("id", "").startswith(MARK):
            texts = json.loads(group.attrib.pop("id").removeprefix(MARK))
            group.set("id", f"said_{number}")
            marks = list(group.iter(f"{{{SVG}}}use"))
            if marks:
                spots += [_spot(mark, text) for mark, text in zip(marks, texts, strict=True)]
            else:
                group.insert(0, _title(texts[0]))
    root.extend(spots)  # on top, since bands and other lines take the pointer too
    return '<?xml version="1.0" encoding="utf-8" standalone="no"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _spot(mark: ElementTree.Element, text: str) -> ElementTree.Element:
    """An unseen circle over a marker."""
    place = {"cx": mark.attrib["x"], "cy": mark.attrib["y"], "r": REACH, "fill-opacity": "0"}
    spot = ElementTree.Element(f"{{{SVG}}}circle", place)
    spot.append(_title(text))
    return spot


def _title(text: str) -> ElementTree.Element:
    title = ElementTree.Element(f"{{{SVG}}}title")
    title.text = text
    return title
