"""The page of a comparison is whole by itself, says what the terminal says, and opens in a browser without an error."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import needs_browser, opened
from made_up import made_up

from distsgd.compare.comparison import Comparison, compare
from distsgd.compare.page import page
from distsgd.compare.pictures import COLOURS, OTHERS

ODD = "<script>alert(1)</script> & $x_1$ \x00\u202e"


@pytest.fixture(scope="module")
def compared() -> Comparison:
    found = []
    for place, lr in enumerate((0.01, 0.03, 0.1)):
        for seed in range(6):
            losses = tuple(1 / (1 + lr * step) + 0.001 * seed for step in range(1, 40))
            accuracy = 0.8 + 0.05 * place + 0.001 * seed
            found.append(made_up(accuracy, seed=seed, losses=losses, optim__lr=lr, name=f"lr={lr} seed={seed}"))
    return compare([*found, made_up(0.1, seed=7, optim__lr=0.1, name=ODD)])


@pytest.fixture(scope="module")
def text(compared) -> str:
    return page(compared, ODD)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def tags(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    return parser


def test_nothing_is_fetched_and_nothing_runs(text):
    parser = tags(text)
    names = {name for name, _ in parser.found}
    assert not names & {"script", "link", "iframe", "img", "object", "embed"}
    for _, attributes in parser.found:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("href", "src", "xlink:href"):
                assert str(value).startswith("#")
    assert "default-src 'none'" in text
    assert "url(http" not in text


def test_names_are_shown_as_they_are_and_do_nothing(text):
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x_1$" in text
    assert "\x00" not in text
    assert "\u202e" not in text


def test_tables_and_sentences_are_those_of_the_comparison(text, compared):
    words = " ".join(tags(text).words)
    for setting in compared.settings:
        assert str(setting.values["optim.lr"]) in words
    for one in compared.contrasts:
        assert one.sentences()[0] in words
    assert "optim.lr" in words
    assert "Learning rate" in words


def test_pictures_have_a_curve_of_every_setting_over_steps_samples_and_seconds(text):
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ET.fromstring(picture)
    for metric in ("val/loss", "val/accuracy"):
        for axis in ("steps", "samples", "seconds"):
            for place in (1, 2, 3):
                assert f'id="{metric}-{axis}-setting-{place}"' in pictures[0]
    for place in (1, 2, 3):
        assert f'id="rate-setting-{place}"' in pictures[1]
    identifiers = re.findall(r' id="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_a_comparison_of_one_run_without_held_out_rows_has_a_page():
    run = made_up(losses=(1.0, float("inf"), 0.5))
    object.__setattr__(run, "curves", {"train/loss": run.curves["train/loss"]})
    ET.fromstring(re.findall(r"<svg.*?</svg>", page(compare([run]), "one"), re.DOTALL)[0])


def legends(text: str) -> list[list[tuple[str, str]]]:
    found = re.findall(r"<ul class='legend'>(.*?)</ul>", text, re.DOTALL)
    return [re.findall(r'background:(#\w+)"></span> (.*?)</li>', legend) for legend in found]


def test_each_picture_has_a_legend_with_the_names_of_the_settings_and_the_colours_of_their_curves(text, compared):
    named = [(COLOURS[place], setting.name) for place, setting in enumerate(compared.settings)]
    assert legends(text) == [named, named]
    picture = re.findall(r"<svg.*?</svg>", text, re.DOTALL)[0]
    for place, (colour, _) in enumerate(named, 1):
        curve = re.search(rf'id="val/loss-steps-setting-{place}">(.*?)</g>', picture, re.DOTALL)
        assert f"stroke: {colour}" in curve[1]


def test_settings_beyond_the_colours_are_counted_in_the_legend():
    runs = [made_up(0.5 + 0.01 * place, optim__lr=0.01 * (place + 1), name=f"run {place}") for place in range(13)]
    (first, _) = legends(page(compare(runs), "many"))
    assert len(first) == 11
    assert first[-1] == (OTHERS, "3 more settings")


def test_equal_points_do_not_hide_one_another():
    """Runs of two settings and two seeds have one learning rate and one accuracy: four rings, and their number."""
    pairs = itertools.product((0, 1), (0.0, 1e-3))
    runs = [made_up(0.9, seed=seed, optim__lr=0.1, optim__l2=l2, name=f"{l2} {seed}") for seed, l2 in pairs]
    runs.append(made_up(0.7, optim__lr=0.3, name="other"))
    picture = re.findall(r"<svg.*?</svg>", page(compare(runs), "equal"), re.DOTALL)[1]
    assert ">×4</text>" in re.sub(r"\s+", "", picture)
    rings = Counter()
    for group in re.findall(r'<g id="rate-setting-\d+">(.*?)</g>', picture, re.DOTALL):
        for path, style in re.findall(r'<path d="(.*?)".*?style="(.*?)"', group, re.DOTALL):
            assert "fill: none" in style
            x, y = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float).T
            centre = round((x.min() + x.max()) / 2), round((y.min() + y.max()) / 2)
            rings[centre, round(x.max() - x.min(), 1)] += 1
    assert set(rings.values()) == {1}, "a ring hides another one"
    assert sorted(Counter(centre for centre, _ in rings).values()) == [1, 4]


@pytest.mark.slow
@pytest.mark.timeout(110)
@needs_browser
def test_a_browser_opens_the_page_without_a_network_and_without_an_error(text, tmp_path):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    shown = opened((tmp_path / "page.html").as_uri(), tmp_path, "--proxy-server=127.0.0.1:9")
    assert not shown.console
    assert "Settings, the best first" in " ".join(tags(shown.text).words)
    assert len(legends(shown.text.replace('class="legend"', "class='legend'"))) == 2
    assert 'id="val/loss-steps-setting-1"' in shown.text
    assert shown.picture.stat().st_size > 10_000
