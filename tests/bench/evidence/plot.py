"""The figures of docs/evidence.md as SVG files beside it; drawn again from the same numbers they are the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from page import PAGE
from seeds import Interval

FOLDER = PAGE.parent / "evidence"
Curve = Sequence[tuple[float, Interval]]


def dots(name: str, rows: Mapping[str, Interval], label: str, zero: bool = False) -> Path:
    """A mean and its interval a row, the first on top; `zero`: a line at 0."""
    figure, axes = _drawing(7.2, 0.9 + 0.24 * len(rows))
    for place, one in enumerate(rows.values()):
        colour = "C0" if not zero or one.low > 0 or one.high < 0 else "0.55"
        axes.plot([one.low, one.high], [place, place], color=colour, alpha=0.45, linewidth=4, solid_capstyle="butt")
        axes.plot([one.mean], [place], "o", color=colour, markersize=4.5)
    if zero:
        axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [text.replace("`", "") for text in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="0.9")
    return _saved(figure, name)


def curves(
    name: str,
    panels: Mapping[str, Mapping[str, Curve]],
    label: str,
    marks: Mapping[str, float] | None = None,
    base: int = 10,
) -> Path:
    """Lines with bands over a logarithmic axis, a panel a quantity; `marks`: curve → where a broken line falls to the axis."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    figure, axes = _drawing(4.2 * max(len(panels), 1.5), 4.0, len(panels))
    for panel, (quantity, lines) in zip([axes] if len(panels) == 1 else axes, panels.items(), strict=True):
        for place, (title, curve) in enumerate(lines.items()):
            xs = [x for x, _ in curve]
            panel.plot(xs, [one.mean for _, one in curve], "o-", color=f"C{place}", markersize=3.5, label=title)
            panel.fill_between(
                xs, [o.low for _, o in curve], [o.high for _, o in curve], color=f"C{place}", alpha=0.13, linewidth=0
            )
            if title in (marks or {}):
                panel.axvline(marks[title], color=f"C{place}", linewidth=1, linestyle=(place, (3, 3)))
        panel.set_xscale("log", base=base)
        panel.xaxis.set_major_locator(LogLocator(base, subs=(1, 2, 5) if base == 10 else (1,)))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(quantity)
        panel.set_ylabel(label)
        panel.grid(color="0.9")
    drawn, titles = panel.get_legend_handles_labels()
    titles = [title.replace("`", "") for title in titles]
    figure.legend(drawn, titles, loc="outside lower center", ncols=min(len(titles), 3), frameon=False, fontsize=8)
    return _saved(figure, name)


def _drawing(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "grpo-kd", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    matplotlib.rcParams |= {"axes.spines.right": False, "axes.axisbelow": True}
    from matplotlib import pyplot

    return pyplot.subplots(1, panels, figsize=(width, height), layout="constrained")


def _saved(figure: Any, name: str) -> Path:
    from matplotlib import pyplot

    path = FOLDER / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
