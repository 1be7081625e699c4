"""What a result looks like in Python and in a notebook: its journal as a table, and the result in words and as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distsgd.rundir.journal import Record

if TYPE_CHECKING:
    import pandas

FIRST = ("step", "epoch", "train/loss", "val/loss", "val/accuracy")
"""Columns of the table that come first, in this order; the others follow as the journal has them."""

LEFT_OUT = ("status", "run_dir")
"""Entries of the HTML table's body that are in its heading or its end."""


def history_frame(records: Sequence[Record]) -> pandas.DataFrame:
    """Return a frame with a row for each record; NaN where nothing was measured."""
    import pandas

    found = list(dict.fromkeys(key for record in records for key in record))
    columns = [*(key for key in FIRST if key in found), *(key for key in found if key not in FIRST)]
    return pandas.DataFrame(list(records), columns=columns or list(FIRST))


def in_words(status: str, content: Mapping[str, Any], run_dir: str) -> str:
    """Return one line: how the run ended, its accuracy and losses if measured, its model and its directory."""
    steps, epochs = content["steps"], content["epochs"]
    parts = [status, f"{steps:,} step{'s' * (steps != 1)}", f"{epochs:g} epoch{'s' * (epochs != 1)}"]
    parts += [f"{key} {content[key]:.4f}" for key in (*FIRST[2:], "val/r2") if content.get(key) is not None]
    if content.get("weights_sha256"):
        parts.append(f"weights {content['weights_sha256'][:12]}")
    return f"<Result: {', '.join(parts)}, in {run_dir!r}>"


def as_html(status: str, content: Mapping[str, Any], run_dir: str) -> str:
    """Return a table with a row for each figure of the result that was measured; lists of texts follow below it."""
    rows, lists = [], []
    for key, value in content.items():
        if value is None or key in LEFT_OUT or isinstance(value, Mapping):
            continue
        if isinstance(value, list):
            kind = key.removesuffix("s")
            lists += [f"<div>{_escaped(f'{kind}: {item}')}</div>" for item in value]
        else:
            rows.append((key, _shown(key, value)))
    rows.append(("run_dir", run_dir))
    style = "text-align:left"
    body = "".join(
        f'<tr><th scope="row" style="{style}">{_escaped(key)}</th><td style="{style}">{_escaped(value)}</td></tr>'
        for key, value in rows
    )
    caption = f'<caption style="{style}"><b>distsgd</b> {_escaped(status)}</caption>'
    return f"<div><table>{caption}<tbody>{body}</tbody></table>{''.join(lists)}</div>"


def _shown(key: str, value: Any) -> str:
    if key == "weights_sha256":
        return f"{value[:16]}…"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _escaped(text: str) -> str:
    return html.escape(text)
