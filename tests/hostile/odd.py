"""Odd texts, numbers and bytes, of which the generators make their cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

TEXTS = (
    "",
    " ",
    "a b",
    "\t",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "\x07",
    "\x7f",
    "ünïcödé",
    "数据",
    "\u202egnp.exe",
    "\ufeffbom",
    "e\u0301",
    "🦆",
    "\udcff\udcfe",
    "%s%n%d",
    "{0.__class__}",
    "$HOME",
    "`id`",
    "$(id)",
    ";id",
    "'",
    '"',
    "\\",
    "a" * 256,
    "a" * 5000,
    "None",
    "null",
    "nan",
)

NUMBERS = (
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "1" + "0" * 400,
    "9" * 5000,
    "1.5",
    "-0.0",
    "0.0",
    "1e-320",
    "5e-324",
    "1e-45",
    "1e-7",
    "0.3333333333333333",
    "0.9999999999999999",
    "1e38",
    "1e39",
    "1e150",
    "1e300",
    "1.7976931348623157e308",
    "1e309",
    "-1e300",
    "inf",
    "-inf",
    "nan",
    "0x10",
    "0b1",
    "1_000",
    "1e3",
    "٣",
    "\uff11",
)
"""As they are typed."""

TOML_VALUES = (
    "true",
    "false",
    "[]",
    "[1]",
    "[[1]]",
    "['a', 'a']",
    "[true]",
    "{}",
    "{a = 1}",
    "{a.b.c = 1}",
    "{hidden = 3}",
    "''",
    "'x'",
    '"\\u0000"',
    '"\\uD800"',
    '"\\n"',
    "'''\nx'''",
    "1979-05-27",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "[" * 3000,
    "[" * 300 + "]" * 300,
    "{a=" * 2000,
    "1\nb = 2",
    "1 # comment",
    "1]",
    "=",
    "= 1",
    '"',
)


def texts() -> SearchStrategy[str]:
    """Odd texts that may be a process's argument: no NUL, no surrogates but those of undecodable bytes."""
    characters = st.one_of(
        st.characters(exclude_categories=("Cs",), exclude_characters="\0"),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)),
    )
    return st.sampled_from(TEXTS) | st.text(characters, max_size=30)


def numbers() -> SearchStrategy[str]:
    """Numbers as they are typed."""
    return st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats().map(repr)


def toml_values() -> SearchStrategy[str]:
    """What may stand behind the equals sign."""
    return st.sampled_from(TOML_VALUES) | numbers() | texts()


@dataclass(frozen=True)
class Damage:
    """One change to some bytes; positions are fractions of the length, so that one damage fits any file."""

    how: str
    where: float
    size: int
    content: bytes

    def done_to(self, data: bytes) -> bytes:
        """Return the damaged bytes."""
        start = int(self.where * len(data))
        return HOW[self.how](data, start, self)


def _flip(data: bytes, start: int, damage: Damage) -> bytes:
    if not data:
        return data
    start = min(start, len(data) - 1)
    return data[:start] + bytes([data[start] ^ 1 << damage.size % 8]) + data[start + 1 :]


def _duplicate_lines(data: bytes, start: int, damage: Damage) -> bytes:
    lines = data.splitlines(keepends=True)
    number = int(damage.where * len(lines))
    return b"".join([*lines[:number], *lines[number : number + damage.size] * 2, *lines[number + damage.size :]])


def _swap_lines(data: bytes, start: int, damage: Damage) -> bytes:
    lines = data.splitlines(keepends=True)
    number = int(damage.where * len(lines))
    return b"".join([*lines[:number], *lines[number : number + 2][::-1], *lines[number + 2 :]])


HOW: dict[str, Callable[[bytes, int, Damage], bytes]] = {
    "flip a bit": _flip,
    "cut": lambda data, start, _: data[:start],
    "cut a few": lambda data, start, damage: data[: max(0, len(data) - damage.size)],
    "empty": lambda data, start, _: b"",
    "take out": lambda data, start, damage: data[:start] + data[start + damage.size :],
    "zero": lambda data, start, damage: (
        data[:start] + bytes(len(data[start : start + damage.size])) + data[start + damage.size :]
    ),
    "double": lambda data, start, damage: data[: start + damage.size] + data[start:],
    "insert": lambda data, start, damage: data[:start] + damage.content + data[start:],
    "overwrite": lambda data, start, damage: data[:start] + damage.content + data[start + len(damage.content) :],
    "replace": lambda data, start, damage: damage.content,
    "append": lambda data, start, damage: data + damage.content,
    "double lines": _duplicate_lines,
    "swap lines": _swap_lines,
}

FRAGMENTS: Sequence[bytes] = (
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\n\n",
    b"{}",
    b"[]",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 401,
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'""',
    b'"\\ud800"',
    b"true",
    b",",
    b"}",
    b'{"step": 1e3}',
    b'{"step": -1}\n',
    b"PK\x03\x04",
    b"\x93NUMPY",
    b"\xef\xbb\xbf",
)


def contents() -> SearchStrategy[bytes]:
    """A few bytes, some of which mean something to one reader or another."""
    return st.sampled_from(FRAGMENTS) | st.binary(max_size=40)


def damages() -> SearchStrategy[Damage]:
    """One change to some bytes."""
    return st.builds(
        Damage,
        how=st.sampled_from(sorted(HOW)),
        where=st.floats(0, 1, allow_nan=False),
        size=st.integers(1, 64),
        content=contents(),
    )
