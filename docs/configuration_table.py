"""The tables of docs/configuration.md, from the code: `python docs/configuration_table.py` writes them again."""

from __future__ import annotations

import itertools
from pathlib import Path

from distsgd.config.keys import keys

PAGE = Path(__file__).resolve().parent / "configuration.md"
BEGIN, END = "<!-- keys: python docs/configuration_table.py -->\n", "<!-- end of keys -->\n"


def tables() -> str:
    """Return a heading and a Markdown table for each section: a key's name, default, what it takes, what it means."""
    lines = []
    for section, members in itertools.groupby(keys(), lambda key: key.name.partition(".")[0]):
        lines += [f"## {section}", "", "| key | default | takes | meaning |", "|---|---|---|---|"]
        for key in members:
            meaning = key.meaning.replace("|", "\\|")
            lines.append(f"| `{key.name}` | {key.default} | {key.takes} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """Return the page's text with the tables in it as the code has them now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
