"""The README's table of configuration keys, from the code: `python docs/configuration_table.py` writes it again."""

from __future__ import annotations

from pathlib import Path

from distsgd.config.keys import keys

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- keys: python docs/configuration_table.py -->\n", "<!-- end of keys -->\n"


def table() -> str:
    """Return a Markdown table with a row for each key: name, default, what it takes, what it means."""
    rows = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for key in keys():
        meaning = key.meaning.replace("|", "\\|")
        rows.append(f"| `{key.name}` | {key.default} | {key.takes} | {meaning} |")
    return "\n".join(rows) + "\n"


def replaced(text: str) -> str:
    """Return the README's text with the table in it as the code has it now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")
