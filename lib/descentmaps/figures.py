"""One visual language: the book's style, figures that carry alt text and a caption, and a scrubber through time.

Figures are shown as HTML with the picture inside, so that a page, a notebook and an exported file all show the same
picture with the same words, and none of them needs a kernel, a network or a script from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, get_args

import ipywidgets
import matplotlib as mpl
import numpy as np
from cycler import cycler
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .kernels import Rule, bandwidth, kernel_sum_scan

__all__ = ["COLORS", "Frames", "Panel", "Picture", "Scrubber", "panel", "scan_panel", "style"]

#: Okabe and Ito's palette, told apart in every common kind of color blindness.
COLORS = {
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#a8508a",
    "sky": "#3a8fc0",
    "amber": "#b07900",
    "ink": "#22303c",
}
PAPER = "#fcfbf7"  # figures keep their paper in dark mode, where a stylesheet rounds its corners
FRAMES_PER_SECOND = 25
POINTS = 72  # an inch, in the units of a picture


def style() -> None:
    """Set matplotlib's defaults for every figure of the book."""
    ink = COLORS["ink"]
    mpl.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=list(COLORS.values())),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": ink,
            "axes.labelcolor": ink,
            "axes.titlecolor": ink,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "xtick.color": ink,
            "ytick.color": ink,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 1.6,
            "image.cmap": "viridis",
            "svg.fonttype": "path",
            "svg.hashsalt": "descent",  # the same figure is the same file
        }
    )


def panel(title: str, xlabel: str, ylabel: str, width: float = 3.6, height: float = 3.1) -> tuple[Figure, Axes]:
    """A figure of one labelled axes, ``width`` by ``height`` inches: pictures are made of panels that can wrap.

    It is unknown to pyplot, so that no notebook displays it by itself, without words: a :class:`Picture` or a
    :class:`Scrubber` does.
    """
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def scan_panel(d2: NDArray[np.float64], width: float = 6.0, height: float = 3.4) -> tuple[Figure, Axes]:
    """The scan of bandwidths of squared distances (n, n): the dimension it sees, and what each rule would choose.

    Where the curve is flat the kernel sees one dimension over a range of scales, and a bandwidth there is safe. At its
    left end a point has no neighbor but itself, at its right all points look alike.
    """
    scan = kernel_sum_scan(d2)
    figure, axes = panel("Scan of bandwidths", "bandwidth ε (squared distance)", "dimension seen", width, height)
    axes.semilogx(scan.epsilons, 2 * scan.slopes, color=COLORS["ink"])
    styles = zip(get_args(Rule), ("blue", "orange", "green", "purple"), ("-", "--", "-.", ":"), strict=True)
    for rule, color, dash in styles:
        epsilon = bandwidth(d2, rule)
        axes.axvline(epsilon, color=COLORS[color], linestyle=dash, label=f"{rule}: {epsilon:.2g}")
    axes.set_ylim(bottom=0)
    axes.legend(title="rule", loc="upper left", bbox_to_anchor=(1, 1))
    return figure, axes


class Picture:
    """Figures side by side, each with its alt text, under one caption that says what to see.

    They wrap below one another where the page is narrow. ``alt`` is one text per figure. With ``dense`` they are
    stored as pixels, which clouds of thousands of points need. ValueError where a text is missing or empty.
    """

    def __init__(self, *figures: Figure, alt: str | Sequence[str], caption: str, dense: bool = False) -> None:
        texts = [alt] if isinstance(alt, str) else list(alt)
        self._caption = _required("caption", caption)
        self._images = _images(figures, texts, dense)

    def _repr_html_(self) -> str:
        return f'<figure class="figure-card">{_PANELS.format(self._images)}{_figcaption(self._caption)}</figure>'

    def __repr__(self) -> str:
        return f"Picture: {self._caption}"


@dataclass(frozen=True)
class Panel:
    """One figure of a scrubber: its axes, the data coordinates (n,) of the path through it, and its alt text."""

    axes: Axes
    x: ArrayLike
    y: ArrayLike
    alt: str


class _Player:
    """A slider through frames: the page moves by itself, and where a kernel runs, a widget does."""

    def __init__(self, readouts: Sequence[str], label: str, caption: str, start: int) -> None:
        self._label, self._caption = _required("label", label), _required("caption", caption)
        self._readouts = list(readouts)
        self._start = range(len(self._readouts))[start]

    def _stage(self, frame: int) -> str:
        """HTML of what is seen at one frame."""
        raise NotImplementedError

    def _show(self) -> tuple[Any, str]:
        """What the page needs to move from frame to frame: data for its script, and the lines that use them."""
        raise NotImplementedError

    def _page_stage(self) -> str:
        """HTML of the stage in a page without a kernel, where it differs."""
        return self._stage(self._start)

    def _repr_html_(self) -> str:
        data, show = self._show()
        stage = self._page_stage()
        key = "scrubber-" + hashlib.sha256((stage + json.dumps(data)).encode()).hexdigest()[:12]
        script = _SCRIPT.replace("SHOW", show).replace("READOUTS", json.dumps(self._readouts))
        script = script.replace("KEY", key).replace("DATA", json.dumps(data)).replace("FPS", str(FRAMES_PER_SECOND))
        return (
            f'<figure class="scrubber" id="{key}">{stage}{self._controls()}{_figcaption(self._caption)}</figure>'
            f"<script>{script}</script>"
        )

    def _controls(self) -> str:
        return (
            '<div class="controls" style="display:flex;gap:.8em;align-items:center;flex-wrap:wrap">'
            '<button type="button" aria-pressed="false">Play</button>'
            f'<input type="range" min="0" max="{len(self._readouts) - 1}" value="{self._start}" '
            f'aria-label="{escape(self._label)}" style="flex:1 1 12em">'
            '<output aria-live="off" style="font-variant-numeric:tabular-nums">'
            f"{escape(self._readouts[self._start])}</output></div>"
        )

    def _repr_mimebundle_(self, **_: Any) -> Mapping[str, Any]:
        bundle = {"text/html": self._repr_html_(), "text/plain": repr(self)}
        if get_ipython() is not None and hasattr(get_ipython(), "kernel"):
            bundle |= self.widget()._repr_mimebundle_()
        return bundle

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self._caption}"

    def widget(self) -> ipywidgets.Widget:
        """The same picture as a widget, for where a kernel runs."""
        start, last = self._start, len(self._readouts) - 1
        slider = ipywidgets.IntSlider(start, 0, last, description="frame", readout=False, tooltip=self._label)
        play = ipywidgets.Play(value=start, max=last, interval=1000 // FRAMES_PER_SECOND)
        picture, readout = ipywidgets.HTML(self._stage(start)), ipywidgets.Label(self._readouts[start])
        ipywidgets.jslink((play, "value"), (slider, "value"))

        def show(change: Mapping[str, int]) -> None:
            picture.value = self._stage(change["new"])
            readout.value = self._readouts[change["new"]]

        slider.observe(show, names="value")
        caption = ipywidgets.HTML(_figcaption(self._caption))
        return ipywidgets.VBox([picture, ipywidgets.HBox([play, slider, readout]), caption])


class Scrubber(_Player):
    """A slider through the frames of a run, which moves one marker through several panels at once.

    Each panel's figure is drawn once; a path grows over it up to the chosen frame, and a marker sits at its end.
    The page does this by itself; where a kernel runs, a widget does.

    Parameters
    ----------
    panels
        What is shown side by side; all paths have one length n.
    readouts
        One short text per frame, shown beside the slider.
    label
        What the slider runs through, for those who hear the page.
    caption
        What to see.
    """

    def __init__(self, panels: Sequence[Panel], readouts: Sequence[str], label: str, caption: str) -> None:
        if not panels:
            raise ValueError("panels must hold at least one Panel, got none")
        lengths = {len(np.ravel(path)) for panel in panels for path in (panel.x, panel.y)} | {len(readouts)}
        if len(lengths) != 1:
            raise ValueError(f"panels and readouts must have one length, got lengths {sorted(lengths)}")
        super().__init__(readouts, label, caption, start=-1)
        self._alts = [_required("alt", panel.alt) for panel in panels]
        self._drawings = [_drawing(panel) for panel in panels]

    def _stage(self, frame: int) -> str:
        drawings = zip(self._drawings, self._alts, strict=True)
        return _PANELS.format("".join(drawing.svg(frame, alt) for drawing, alt in drawings))

    def _show(self) -> tuple[Any, str]:
        return [drawing.path.tolist() for drawing in self._drawings], _MOVE_MARKERS


class Frames(_Player):
    """A slider through whole pictures, for a knob that changes everything, such as a bandwidth or an alpha.

    Parameters
    ----------
    frames
        For each position of the slider the figures shown side by side, as many in each frame.
    alts
        For each frame one alt text per figure.
    readouts
        One short text per frame, shown beside the slider.
    label, caption
        What the slider changes, for those who hear the page; what to see.
    start
        The frame shown first.
    dense
        Store the frames as pixels, which clouds of thousands of points need.
    """

    def __init__(
        self,
        frames: Sequence[Sequence[Figure]],
        alts: Sequence[Sequence[str]],
        readouts: Sequence[str],
        label: str,
        caption: str,
        start: int = 0,
        dense: bool = False,
    ) -> None:
        if not frames or not len(frames) == len(alts) == len(readouts):
            lengths = f"{len(frames)}, {len(alts)} and {len(readouts)}"
            raise ValueError(f"frames, alts and readouts must have one length, at least 1, got {lengths}")
        super().__init__(readouts, label, caption, start)
        pairs = zip(frames, alts, strict=True)
        self._stages = [_PANELS.format(_images(figures, texts, dense)) for figures, texts in pairs]

    def _stage(self, frame: int) -> str:
        return self._stages[frame]

    def _page_stage(self) -> str:
        return "".join(
            f'<div class="frame"{"" if frame == self._start else " hidden"}>{stage}</div>'
            for frame, stage in enumerate(self._stages)
        )

    def _show(self) -> tuple[Any, str]:
        return None, _SWITCH_FRAMES


_PANELS = '<div class="panels" style="display:flex;flex-wrap:wrap;gap:.5em;justify-content:center">{}</div>'

# The player: no library, and nothing outside its own figure is touched.
_SCRIPT = """
for (const figure of document.querySelectorAll('#KEY')) {
  const data = DATA, readouts = READOUTS;
  const slider = figure.querySelector('input'), button = figure.querySelector('button');
  const output = figure.querySelector('output');
  let timer = null;
  const show = () => {
    const frame = Number(slider.value);
    SHOW
    output.textContent = readouts[frame];
    slider.setAttribute('aria-valuetext', readouts[frame]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = 'Play';
    button.setAttribute('aria-pressed', 'false');
  };
  const tick = () => {
    const stride = Math.max(1, Math.round(readouts.length / 250));
    slider.value = Number(slider.value) + stride;
    show();
    if (Number(slider.value) >= Number(slider.max)) stop();
  };
  slider.addEventListener('input', show);
  button.addEventListener('click', () => {
    if (timer !== null) return stop();
    if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
    button.textContent = 'Pause';
    button.setAttribute('aria-pressed', 'true');
    timer = setInterval(tick, Math.max(1000 / FPS, 6000 / readouts.length));
  });
  show();
}
"""


_MOVE_MARKERS = """data.forEach((path, k) => {
      const marker = figure.querySelectorAll('circle.marker')[k];
      figure.querySelectorAll('polyline.past')[k].setAttribute('points', path.slice(0, frame + 1).join(' '));
      marker.setAttribute('cx', path[frame][0]);
      marker.setAttribute('cy', path[frame][1]);
    });"""
_SWITCH_FRAMES = "figure.querySelectorAll('.frame').forEach((picture, k) => { picture.hidden = k !== frame; });"


@dataclass(frozen=True)
class _Drawing:
    """A panel's picture and its path in the picture's own units, points from the upper left corner."""

    image: str
    width: float
    height: float
    path: NDArray[np.float64]

    def svg(self, frame: int, alt: str) -> str:
        points = " ".join(f"{x},{y}" for x, y in self.path[: frame + 1])
        x, y = self.path[frame]
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(alt)}" '
            f'style="{_fit(self.width)}">'
            f'<image href="{self.image}" width="{self.width:g}" height="{self.height:g}"/>'
            f'<polyline class="past" points="{points}" fill="none" stroke="{COLORS["blue"]}" stroke-width="1.8" '
            'stroke-linejoin="round"/>'
            f'<circle class="marker" cx="{x}" cy="{y}" r="5" fill="{COLORS["orange"]}" stroke="white" '
            'stroke-width="1.5"/></svg>'
        )


def _drawing(panel: Panel) -> _Drawing:
    figure = panel.axes.get_figure(root=True)
    if figure is None:
        raise ValueError("axes of a panel must belong to a figure, got removed ones")
    image = _data_uri(figure)  # drawing settles the layout, so it comes before asking where the path lies
    width, height = figure.get_size_inches() * POINTS
    pixels = panel.axes.transData.transform(np.column_stack([np.ravel(panel.x), np.ravel(panel.y)]))
    points = pixels * POINTS / figure.dpi
    path = np.column_stack([points[:, 0], height - points[:, 1]]).round(1)
    if not np.isfinite(path).all():
        raise ValueError("x and y of a panel must be finite, and positive on a logarithmic axis")
    return _Drawing(image, width, height, path)


def _images(figures: Sequence[Figure], alts: Sequence[str], dense: bool) -> str:
    if not figures or len(alts) != len(figures):
        raise ValueError(f"alt must give one text for each figure, got {len(alts)} for {len(figures)}")
    return "".join(
        f'<img src="{_data_uri(figure, dense)}" alt="{escape(_required("alt", alt))}" '
        f'style="{_fit(figure.get_size_inches()[0] * POINTS)}">'
        for figure, alt in zip(figures, alts, strict=True)
    )


def _data_uri(figure: Figure, dense: bool = False) -> str:
    buffer = io.BytesIO()
    if dense:
        figure.savefig(buffer, format="webp", dpi=2 * POINTS)
    else:
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    kind = "webp" if dense else "svg+xml"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def _fit(width: float) -> str:
    """Three panels share the width of a page; on a phone each takes a line of its own. No line is over-stretched."""
    return f"flex:1 1 {0.75 * width:.0f}px;min-width:0;max-width:{1.4 * width:.0f}px"


def _figcaption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>"


def _required(name: str, text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} must be a text that says what to see, got {text!r}")
    return text
