"""Figures as SVG within a page: small, with the page's own type, in colours that follow the reader's light or dark."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: it draws in these colours, which nothing else has, and they are put in after.
INK, MUTED, LINE = "#0000f0", "#0000f1", "#0000f2"
SERIES = tuple(f"#0000e{i}" for i in range(8))
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}
# One dash a colour, for those who see no colours, and for paper.
DASHES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3)))


def new_figure(columns: int, width: float = 3.3, height: float = 2.9) -> "Figure":
    """An empty figure of so many axes beside each other, each of this size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, height), layout="constrained")
    for axes in figure.subplots(1, columns, squeeze=False).flat:
        axes.set_facecolor("none")
        axes.grid(color=LINE, linewidth=0.6)
        axes.tick_params(colors=MUTED, labelsize=8, length=2)
        for side, spine in axes.spines.items():
            spine.set_color(LINE)
            spine.set_visible(side in ("left", "bottom"))
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(INK)
            text.set_fontsize(9)
    figure.patch.set_visible(False)
    return figure


def svg_of(figure: "Figure", name: str, alt: str) -> str:
    """The figure as an <svg> element; `name` keeps its ids apart from those of the page's other figures."""
    import matplotlib as mpl

    drawn = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify_threshold": 0.2}):
        figure.savefig(drawn, format="svg", transparent=True)
    return inline(drawn.getvalue(), name, alt)


def inline(svg: str, name: str, alt: str) -> str:
    """matplotlib's SVG file as an element: no styles for the whole page, no ids but those in use, CSS variables."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r'\s+id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    prefix = re.sub(r"[^\w-]", "_", name)
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;]*; |\s*transform=\"rotate\(-0 [^)]*\)\"| z(?=\")", "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    (box,) = re.findall(r'viewBox="([^"]*)"', svg)[:1]
    width = float(box.split()[2]) * 4 / 3  # points to px
    head = f'<svg viewBox="{box}" width="{width:.0f}" role="img" aria-label="{escape(alt)}" style="stroke-linejoin:round">'
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)  # a hundredth of a point is less than a screen shows
    return re.sub(r"\s*\n\s*", " ", head + body).strip()


def thinned(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """The points without those on a straight line between their neighbours."""
    points = list(zip(x, y, strict=True))
    kept = points[:1]
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        (x0, y0), (x1, y1), (x2, y2) = before, at, after
        if abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) > 1e-9:
            kept.append(at)
    return kept + points[1:][-1:]
