"""Every configuration key in words: what `distsgd keys` prints and docs/configuration.md shows."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distsgd.config.config import Config
from distsgd.config.hints import key_of

WORDS = {int: "integer", float: "number", bool: "`true`, `false`", str: "text"}
BOUNDS = {
    annotated_types.Ge: "≥",
    annotated_types.Gt: ">",
    annotated_types.Le: "≤",
    annotated_types.Lt: "<",
    annotated_types.MinLen: "of length ≥",
    annotated_types.MaxLen: "of length ≤",
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """A configuration key. Literal values are between backticks, as in Markdown."""

    name: str
    """Dotted: `optim.lr`."""
    default: str
    """As TOML has it; `unset` if there is none."""
    takes: str
    """Type and bounds, such as `number, > 0`."""
    meaning: str
    """A sentence or two, in one line."""


def keys() -> list[Key]:
    """Return all keys, in the order of the sections."""
    return list(_keys_of(Config, ""))


def matching(word: str) -> list[Key]:
    """Return the keys that have `word` in their name or meaning, and the one that other libraries call `word`."""
    wanted = word.strip().lower().replace("-", "_")
    meant = key_of(word, [key.name for key in keys()])
    return [key for key in keys() if key.name == meant or wanted in f"{key.name} {key.meaning}".lower()]


def _keys_of(section: type[BaseModel], prefix: str) -> Iterator[Key]:
    meanings = _meanings(section)
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys_of(field.annotation, f"{prefix}{name}.")
        else:
            meaning = " ".join(meanings[name].split())
            default = getattr(section(), name) if field.default_factory else field.default
            yield Key(name=f"{prefix}{name}", default=_default(default), takes=_takes(field), meaning=meaning)


def _meanings(section: type[BaseModel]) -> dict[str, str]:
    """Return the texts below the fields of a section in its source."""
    (tree,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _takes(field: FieldInfo) -> str:
    """Return what a field takes; None, which only means unset, is left out."""
    return _with_bounds(field.annotation, field.metadata)


def _with_bounds(annotation: Any, constraints: Iterable[Any]) -> str:
    return ", ".join([_kind(annotation)] + [_bound(constraint) for constraint in constraints])


def _kind(annotation: Any) -> str:
    """Return a type in words, its alternatives separated by commas."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        kind, field = arguments
        return _with_bounds(kind, field.metadata)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(_kind(argument) for argument in arguments if argument is not types.NoneType)
    if origin is tuple:
        return f"list of {WORDS[arguments[0]]}s"
    if origin is dict:
        return f"table of {_kind(arguments[1]).replace('number', 'numbers')}"
    return WORDS[annotation]


def _bound(constraint: Any) -> str:
    """Return `≥ 1` and the like."""
    (field,) = dataclasses.fields(constraint)
    value = getattr(constraint, field.name)
    return f"{BOUNDS[type(constraint)]} {'2⁶³' if value == 2**63 else value}"
