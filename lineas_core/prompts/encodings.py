"""Decodes text files, whatever encoding they were saved in."""

from __future__ import annotations

import re

from lineas_core.errors import PromptFileError

BINARY = (
    (b"PK\x03\x04", "a ZIP archive (as are .xlsx, .ods and .docx)", "Save the sheet as CSV"),
    (b"%PDF", "a PDF", "Copy its text, and paste it"),
    (b"\x89PNG", "a PNG picture", "Give a file of texts"),
    (b"\xff\xd8\xff", "a JPEG picture", "Give a file of texts"),
    (b"GIF8", "a GIF picture", "Give a file of texts"),
    (b"RIFF", "a picture, sound or film", "Give a file of texts"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it, and give what is in it"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it, and give what is in it"),
    (b"Rar!", "a RAR archive", "Unpack it, and give what is in it"),
    (b"PAR1", "a Parquet table", "Save it as CSV or JSON lines"),
    (b"SQLite format 3", "an SQLite database", "Save the table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Office document (.xls or .doc)", "Save the sheet as CSV"),
    (b"{\\rtf", "an RTF document", "Save it as plain text"),
)
MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
TITLES = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32-le": "UTF-32",
          "utf-32-be": "UTF-32"}  # fmt: skip
# UTF-16 without a byte order mark: in Latin text every other byte is 0. In other scripts, only
# spaces and line ends have a 0 byte, and those are more than 1 in 50 characters.
MIN_ZEROS = 0.01
# Does not occur in Western languages: three accented letters in a row, an accented capital inside a
# word, a symbol inside a word, or four non-ASCII characters in a row.
FOREIGN = re.compile(
    "[\u00c0-\u00ff\u0160\u0152\u017d\u0161\u0153\u017e\u0178]{3}"
    "|[a-z\u00df-\u00ff][\u00c0-\u00de\u0160\u0152\u017d\u0178]"
    "|[^\\W\\d_][\u00a1-\u00a9\u00ab\u00ac\u00ae-\u00b6\u00b8\u00b9\u00bb-\u00bf"
    "\u20ac\u201a\u0192\u201e\u2020\u2021\u02c6\u2030\u2039\u02dc\u2122\u203a](?=[^\\W\\d_])"
    "|[^\\x00-\\x7f]{4}"
)
SHOWN = 40


def decoded(name: str, data: bytes) -> tuple[str, tuple[str, ...]]:
    """Decode a text file; also return notes on the guessed encoding, one sentence each.

    A byte order mark decides, and is removed. Without one, zero bytes at every other position mean
    UTF-16. Otherwise UTF-8 is tried, then Windows-1252, unless the result is not Western text.

    Args:
        name: file name, for error messages.
        data: its bytes; the caller limits their number.

    Raises:
        PromptFileError: it is not text, or its encoding cannot be determined.
    """
    for signature, title, remedy in BINARY:
        if data.startswith(signature):
            raise PromptFileError(f"{name} is {title}, not a text. {remedy}.")
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _marked(name, data[len(mark) :], encoding)
    if b"\x00" in data:
        return _without_mark(name, data)
    try:
        return data.decode(), ()
    except UnicodeDecodeError as error:
        return _western(name, data, error.start)


def _marked(name: str, data: bytes, encoding: str) -> tuple[str, tuple[str, ...]]:
    try:
        return data.decode(encoding), _encoding_note(name, TITLES.get(encoding, ""))
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            # Count the 3 bytes of the mark, which were removed.
            raise _unreadable(name, data, error.start, 3) from error
        raise PromptFileError(
            f"{name} begins as {TITLES[encoding]}, but byte {error.start + 1} after its mark is "
            "not. Save the file as UTF-8 and give it again."
        ) from error


def _without_mark(name: str, data: bytes) -> tuple[str, tuple[str, ...]]:
    even, odd = data[::2].count(0), data[1::2].count(0)
    if len(data) % 2 == 0 and max(even, odd) >= MIN_ZEROS * len(data) and not min(even, odd):
        encoding = "utf-16-le" if odd else "utf-16-be"
        try:
            return data.decode(encoding), _encoding_note(name, TITLES[encoding])
        except UnicodeDecodeError:
            pass
    raise PromptFileError(
        f"{name} is not a text: its byte {data.index(0) + 1} is 0. Give a text file, or save the "
        "table as CSV."
    )


def _western(name: str, data: bytes, start: int) -> tuple[str, tuple[str, ...]]:
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise _unreadable(name, data, start) from error
    if FOREIGN.search(text):
        raise _unreadable(name, data, start)
    place = next(n for n, letter in enumerate(text) if letter > "\x7f")
    line = re.split(r"[\r\n]", text[max(0, place - SHOWN // 2) :][:SHOWN])
    example = next(part for part in line if not part.isascii()).strip()
    return text, (
        f"{name} is not UTF-8: it was read as Windows-1252 (Western European), for example "
        f"“{example}”. If that looks wrong, save the file as UTF-8 and give it again.",
    )


def _encoding_note(name: str, title: str) -> tuple[str, ...]:
    return (f"{name} was read as {title}.",) if title else ()


def _unreadable(name: str, data: bytes, start: int, before: int = 0) -> PromptFileError:
    return PromptFileError(
        f"{name} line {data[:start].count(10) + 1}: byte {start + before + 1} "
        f"(0x{data[start]:02X}) is not UTF-8, and the file is not Western text (Windows-1252) "
        "either. Save the file as UTF-8 and give it again."
    )
