"""The README's table of configuration keys, from the code: `python docs/configuration_table.py` writes it again."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo

from distsgd.config import Config

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- keys: python docs/configuration_table.py -->\n", "<!-- end of keys -->\n"
WORDS = {int: "integer", float: "number", bool: "`true`, `false`", str: "text"}
BOUNDS = {
    annotated_types.Ge: "≥",
    annotated_types.Gt: ">",
    annotated_types.Le: "≤",
    annotated_types.Lt: "<",
    annotated_types.MinLen: "of length ≥",
}


def table() -> str:
    """Return a Markdown table with a row for each key: name, default, what it takes, what it means."""
    rows = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for section, holder in Config.model_fields.items():
        assert isinstance(holder.annotation, type)
        for name, field in holder.annotation.model_fields.items():  # type: ignore[attr-defined]
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            rows.append(f"| `{section}.{name}` | {default(field.default)} | {takes(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def default(value: Any) -> str:
    """Return a default as TOML has it; `unset` if there is none."""
    if value is None:
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def takes(field: FieldInfo) -> str:
    """Return what a field takes, such as `number > 0`; None, which only means unset, is left out."""
    return ", ".join([kind(field.annotation)] + [bound(constraint) for constraint in field.metadata])


def kind(annotation: Any) -> str:
    """Return a type in words, its alternatives separated by commas."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(kind(argument) for argument in arguments if argument is not types.NoneType)
    if origin is tuple:
        return "list of texts"
    return WORDS[annotation]


def bound(constraint: Any) -> str:
    """Return `≥ 1` and the like."""
    (field,) = dataclasses.fields(constraint)
    value = getattr(constraint, field.name)
    return f"{BOUNDS[type(constraint)]} {'2⁶³' if value == 2**63 else value}"


def replaced(text: str) -> str:
    """Return the README's text with the table in it as the code has it now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")
