"""Figures carry words, and their frames are where they should be."""

from __future__ import annotations

import re

import numpy as np
import pytest

from descentmaps import bandwidth, squared_distances
from descentmaps.figures import Frames, Panel, Picture, Scrubber, panel, scan_panel, style


def a_panel():
    figure, axes = panel("Title", "x (unit)", "y (unit)")
    axes.plot([0, 1], [0, 1])
    return figure, axes


def test_style_and_panel_label_the_axes():
    style()
    _, axes = a_panel()
    assert (axes.get_title(), axes.get_title("left")) in {("", "Title"), ("Title", "")}
    assert axes.get_xlabel() == "x (unit)"


class TestPicture:
    def test_escapes_its_words(self):
        html = Picture(a_panel()[0], alt='a "quoted" <b>', caption="x < y")._repr_html_()
        assert 'alt="a &quot;quoted&quot; &lt;b&gt;"' in html
        assert "<figcaption>x &lt; y</figcaption>" in html

    def test_dense_is_pixels(self):
        assert "data:image/webp" in Picture(a_panel()[0], alt="a", caption="c", dense=True)._repr_html_()

    def test_same_figure_is_same_html(self):
        first, second = (Picture(a_panel()[0], alt="a", caption="c")._repr_html_() for _ in range(2))
        assert first == second

    @pytest.mark.parametrize("alt", ["", "  ", ["one", "two"], []])
    def test_missing_alt_is_refused(self, alt):
        with pytest.raises(ValueError, match="^alt must"):
            Picture(a_panel()[0], alt=alt, caption="c")

    def test_missing_caption_is_refused(self):
        with pytest.raises(ValueError, match="^caption must be a text that says what to see, got ''"):
            Picture(a_panel()[0], alt="a", caption="")


class TestScrubber:
    def scrubber(self):
        return Scrubber([Panel(a_panel()[1], [0, 0.5, 1], [0, 0.5, 1], "a line")], ["a", "b", "c"], "time", "see")

    def test_marker_lies_on_the_path(self):
        """The middle of a straight path is drawn midway between its ends, up being up."""
        paths, _ = self.scrubber()._show()
        start, middle, end = np.array(paths[0])
        np.testing.assert_allclose(middle, (start + end) / 2, atol=0.1)
        assert end[0] > start[0]
        assert end[1] < start[1]  # pixels count downward

    def test_page_and_widget_show_the_same_stage(self):
        scrubber = self.scrubber()
        widget = scrubber.widget()
        picture, controls, _ = widget.children
        assert picture.value in scrubber._repr_html_()
        controls.children[1].value = 0
        assert picture.value == scrubber._stage(0)
        assert controls.children[2].value == "a"

    def test_paths_of_other_length_are_refused(self):
        with pytest.raises(ValueError, match=r"panels and readouts must have one length, got lengths \[2, 3\]"):
            Scrubber([Panel(a_panel()[1], [0, 1, 2], [0, 1, 2], "a")], ["a", "b"], "time", "see")

    def test_nan_on_the_path_is_refused(self):
        with pytest.raises(ValueError, match="x and y of a panel must be finite"):
            Scrubber([Panel(a_panel()[1], [0, np.nan], [0, 1], "a")], ["a", "b"], "time", "see")


class TestFrames:
    def frames(self, **options):
        figures = [[a_panel()[0]] for _ in range(3)]
        return Frames(figures, [["one"], ["two"], ["three"]], ["a", "b", "c"], "knob", "see", **options)

    def test_one_frame_shows_at_the_start(self):
        html = self.frames(start=1)._repr_html_()
        hidden = re.findall(r'<div class="frame"( hidden)?>', html)
        assert hidden == [" hidden", "", " hidden"]
        assert ">b</output>" in html

    def test_every_frame_has_its_alt(self):
        assert re.findall(r'alt="(\w+)"', self.frames()._repr_html_()) == ["one", "two", "three"]

    def test_lengths_that_differ_are_refused(self):
        with pytest.raises(ValueError, match="frames, alts and readouts must have one length"):
            Frames([[a_panel()[0]]], [["one"]], ["a", "b"], "knob", "see")


def test_scan_panel_marks_what_each_rule_chooses():
    d2 = squared_distances(np.random.default_rng(0).random((100, 2)))
    _, axes = scan_panel(d2)
    curve, *marks = axes.get_lines()
    assert curve.get_xdata()[0] < min(mark.get_xdata()[0] for mark in marks)
    rules = ["median", "max-slope", "nearest", "scan"]
    assert [mark.get_xdata()[0] for mark in marks] == [bandwidth(d2, rule) for rule in rules]
