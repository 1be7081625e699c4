"""A comparison as one HTML page that needs nothing else: no network, no scripts, pictures within."""

from __future__ import annotations

import html
from collections.abc import Iterable

from distsgd.compare import pictures
from distsgd.compare.comparison import Comparison
from distsgd.compare.words import columns, number, row, value_text
from distsgd.errors import counted, printable
from distsgd.version import __version__

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2rem auto; max-width: 68rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #e2e2e2; text-align: left; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.chip { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 2px; }
svg { width: 100%; height: auto; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.1rem 1.2rem; }
li { margin: 0.4rem 0; } .more { color: #666; } details { margin-top: 1rem; }
"""

SHOWN = 30
"""Comparisons that are written out."""


def page(comparison: Comparison, title: str) -> str:
    """Return the page."""
    heading = f"Comparison of {_escaped(title)}"
    size = f"{counted(len(comparison.runs), 'run')}, {counted(len(comparison.settings), 'setting')}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{heading}</title><style>{STYLE}</style></head><body>",
        f"<h1>{heading}</h1>",
        f"<p>{size}, by {_escaped(comparison.metric)} of the weights that each run keeps; distsgd {__version__}.</p>",
        _sentences(comparison),
        "<h2>Settings, the best first</h2>",
        _table_of_settings(comparison),
        "<h2>Learning curves</h2>",
        _legend(comparison),
        pictures.curves(comparison),
        *_learning_rates(comparison),
        *_contrasts(comparison),
        "<h2>Parameters that differ</h2>",
        _table(
            ["parameter", "values"],
            (
                [key, ", ".join(value_text(key, value) for value in values)]
                for key, values in comparison.differing.items()
            ),
        ),
        "<details><summary>Parameters that are the same in all runs</summary>",
        _table(["parameter", "value"], ([key, value_text(key, value)] for key, value in comparison.same.items())),
        "</details><details open><summary>Runs</summary>",
        _table_of_runs(comparison),
        "</details></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _sentences(comparison: Comparison) -> str:
    texts = [*(comparison.pair.sentences() if comparison.pair is not None else []), *comparison.notes]
    return _list(texts) if texts else ""


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_escaped(text)}</li>" for text in texts) + "</ul>"


def _table_of_settings(comparison: Comparison) -> str:
    rows = []
    for place, setting in enumerate(comparison.settings):
        chip = _chip(pictures.colour(place))
        cells = "".join(f'<td class="number">{_escaped(cell)}</td>' for cell in row(comparison, setting))
        rows.append(f"<tr><td>{chip}</td>{cells}</tr>")
    heading = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in ("", *columns(comparison)))
    return f"<table id='settings'><thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _legend(comparison: Comparison) -> str:
    """Return the names of the settings beside their colours; those that share a colour are counted."""
    named = comparison.settings[: len(pictures.COLOURS)]
    entries = [(pictures.colour(place), setting.name) for place, setting in enumerate(named)]
    others = len(comparison.settings) - len(named)
    entries += [(pictures.OTHERS, f"{counted(others, 'more setting')}")] if others else []
    items = "".join(f"<li>{_chip(colour)} {_escaped(name)}</li>" for colour, name in entries)
    return f"<ul class='legend'>{items}</ul>"


def _chip(colour: str) -> str:
    return f'<span class="chip" style="background:{colour}"></span>'


def _learning_rates(comparison: Comparison) -> list[str]:
    picture = pictures.learning_rates(comparison)
    return [] if picture is None else ["<h2>Learning rate</h2>", _legend(comparison), picture]


def _contrasts(comparison: Comparison) -> list[str]:
    if not comparison.contrasts:
        return []
    items = []
    for one in comparison.contrasts[:SHOWN]:
        first, *rest = one.sentences()
        items.append(f"<li>{_escaped(first)}<br><span class='more'>{_escaped('; '.join(rest))}</span></li>")
    more = len(comparison.contrasts) - SHOWN
    return [
        "<h2>Against the best setting, in pairs of equal seeds</h2>",
        f"<ul>{''.join(items)}</ul>",
        *([f"<p>and {more} more, in the output of --json</p>"] if more > 0 else []),
    ]


def _table_of_runs(comparison: Comparison) -> str:
    rows = (
        [run.name, run.source, run.status, str(run.seed), f"{run.last_step:,}", number(run.final(comparison.metric))]
        for run in comparison.runs
    )
    return _table(["name", "run", "status", "seed", "steps", comparison.metric], rows)


def _table(names: list[str], rows: Iterable[list[str]]) -> str:
    heading = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))
