"""The text of a CSV file, whatever its compression and encoding, in pieces of whole rows."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from typing import IO

from distsgd.errors import DataError

CHUNK_BYTES = 2**23
"""Bytes of text that are parsed at a time."""

MAX_ROW_BYTES = 2**28
"""A longer row is refused."""

SAMPLE_BYTES = 2**20
"""Bytes at the beginning of a file from which its dialect is found out."""

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""How compressed files begin, and pyarrow's name for what reads them."""

ENDINGS = (".gz", ".bz2", ".zst")
"""What compressed files' names end with."""

BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

FALLBACK = "cp1252"
"""Windows' encoding of western European languages, which Excel writes there."""

NUL_SAMPLE = 512


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file for reading its bytes, decompressed if it is compressed."""
    with open(path, "rb") as file:
        head = file.read(4)
        form = next((form for magic, form in COMPRESSED.items() if head.startswith(magic)), None)
        if form is None:
            file.seek(0)
            yield file
            return
    import pyarrow as pa

    with pa.OSFile(path) as raw, pa.CompressedInputStream(raw, form) as stream:
        yield stream


def is_text(head: bytes) -> bool:
    """Return whether a file that begins with `head` may be text: UTF-16 alone has zero bytes."""
    return b"\0" not in head or _utf16(head) is not None


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text by its beginning: UTF-16 or, for all else, UTF-8."""
    for bom, name in BOMS.items():
        if head.startswith(bom):
            return name
    return _utf16(head) or "utf-8"


def fallback(text: bytes, path: str) -> str:
    """Return the encoding to try on text that is not UTF-8; DataError if it cannot be that one either."""
    try:
        text.decode(FALLBACK)  # five bytes stand for nothing in it
    except UnicodeDecodeError:
        pass
    else:
        return FALLBACK
    raise DataError(
        f"{path} is not UTF-8 text, and its encoding cannot be told; name it with --set data.csv_encoding=..., such as "
        "shift_jis, or save the file as UTF-8 (in Excel: CSV UTF-8)"
    )


def foreign_word(text: bytes, encoding: str) -> str:
    """Return the first word with a character beyond ASCII, at most 30 characters of it."""
    found = re.search(rb"[^\W\d]*[\x80-\xff][^\s,;|\"]*", text)
    return found[0][:30].decode(encoding, "replace") if found else ""


def _utf16(head: bytes) -> str | None:
    """Return which UTF-16 a text is in, with a mark at its beginning or, being mostly ASCII, without; None for none."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[:NUL_SAMPLE:2].count(0), head[1:NUL_SAMPLE:2].count(0)
    half = len(head[:NUL_SAMPLE]) // 2
    if half > 1 and min(even, odd) == 0 and max(even, odd) > 0.9 * half:
        return "utf-16-le" if odd else "utf-16-be"
    return None


class NotUtf8Error(Exception):
    """Text said to be UTF-8 is not; `text` is a piece of it."""

    def __init__(self, text: bytes) -> None:
        super().__init__("not UTF-8")
        self.text = text


def chunks(path: str, encoding: str, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the text of a file as UTF-8 without a byte order mark, in pieces of whole rows, about `size` bytes each.

    A line end inside quotes ends no row. Raises NotUtf8Error for UTF-8 that is none, DataError for any other encoding
    that the text is not in, and for a row of more than MAX_ROW_BYTES.
    """
    pending = b""
    with opened(path) as file:
        for piece in _utf8(file, encoding, size, path):
            pending += piece
            end = row_end(pending)
            if end:
                yield pending[:end]
                pending = pending[end:]
            elif len(pending) > MAX_ROW_BYTES:
                raise DataError(
                    f"{path} has a row of more than {MAX_ROW_BYTES // 2**20} MiB; is a quote not closed, or is it no "
                    "CSV file?"
                )
    if pending:
        yield pending


def _utf8(file: IO[bytes], encoding: str, size: int, path: str) -> Iterator[bytes]:
    """Yield the bytes of a file as UTF-8, checked, without a byte order mark."""
    decoder = codecs.getincrementaldecoder(encoding)()
    first = True
    while True:
        piece = file.read(size)
        if encoding == "utf-8" and not first and piece and piece.isascii() and not decoder.getstate()[0]:
            yield piece
            continue
        try:
            text = decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            if encoding == "utf-8":
                raise NotUtf8Error(piece) from None
            raise DataError(
                f"{path} is not {encoding} text ({error.reason}); name its encoding with --set data.csv_encoding=..."
            ) from None
        if first:
            text, first = text.removeprefix("\ufeff"), not text
        if text:
            yield text.encode()
        if not piece:
            return


def row_end(text: bytes) -> int:
    """Return where the last whole row of `text`, which begins with a row, ends; 0 if none does.

    A line end after an odd number of quotes is inside a value. If all are, a quote is no quotation mark somewhere, and
    the last line end is taken.
    """
    mark = b"\n" if b"\n" in text else b"\r"
    # A carriage return at the end may be the first half of a line end.
    end = last = text.rfind(mark, 0, len(text) - text.endswith(b"\r")) + 1
    quotes = text.count(b'"', 0, end)
    while end and quotes % 2:
        before = text.rfind(mark, 0, end - 1) + 1
        quotes -= text.count(b'"', before, end)
        end = before
    return end or last


def row_starts(text: bytes, line: int) -> Iterator[tuple[int, int]]:
    """Yield the line and the offset at which each row of `text`, which begins with line `line`, starts.

    Blank lines between rows are passed over, as the parser does.
    """
    inside, offset = False, 0
    for content in text.splitlines(keepends=True):
        if not inside and content not in (b"\n", b"\r\n", b"\r"):
            yield line, offset
        if content.count(b'"') % 2:
            inside = not inside
        line, offset = line + 1, offset + len(content)


def simple_rows(text: bytes) -> int | None:
    """Return how many rows a text of whole rows has if each is a line of its own; None if that has to be looked at."""
    lines = text.count(b"\n")
    if b'"' in text or b"\n\n" in text or b"\n\r" in text or text[:1] in (b"\n", b"\r"):
        return None
    return lines if text.endswith(b"\n") and text.count(b"\r") in (0, text.count(b"\r\n")) else None
