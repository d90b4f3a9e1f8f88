"""What every page of ours keeps to, whoever reads it: with a screen reader, by keyboard, in the dark."""

import re
from html.parser import HTMLParser
from itertools import pairwise

Attributes = dict[str, str | None]


class Elements(HTMLParser):
    """The elements of a page with their attributes; all that have an end are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "circle", "path", "rect", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, Attributes]] = []
        self.open: list[str] = []
        self.tree: list[tuple[str, str]] = []  # element and the one that it is in
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID or tag in ("path", "use"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tree.append((tag, self.open[-1] if self.open else ""))
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(name)) is not None]

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.found if name == tag]


def check_sound(text: str) -> Elements:
    """Ids once, links that lead somewhere within the page, nothing of a network; pictures, tables and headings that can
    be read aloud.
    """
    page = Elements(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids)), "an id twice"
    targets = [each.removeprefix("#") for each in page.values("href") if each.startswith("#")]
    referred = re.findall(r"url\(#([^)]+)\)", text) + " ".join(page.values("aria-labelledby")).split()
    assert set(targets) | set(referred) <= set(ids)
    links = [each for name in ("src", "href") for each in page.values(name)]
    assert all(each.startswith(("#", "data:")) for each in links)
    assert "http" not in re.sub(r"xmlns(:\w+)?=\"[^\"]*\"", "", text)

    assert [attributes.get("lang") for attributes in page.all("html")] == ["en"]
    for landmark in ("main", "nav", "title", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    assert all(each.get("alt") and each.get("width") for each in page.all("img"))
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in page.all("svg"))
    assert all(each.get("scope") for each in page.all("th"))
    # What scrolls can be scrolled by keyboard, and has a name.
    assert all(each.get("aria-label") for each in page.all("div") if each.get("role") == "region")
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    return page


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours, #rrggbb: 4.5 is asked of text, 3 of drawings."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
