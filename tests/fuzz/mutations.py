"""Malformed files: mutations of valid ones, and files constructed to be invalid.

All choices come from a `Chooser`, so that hypothesis and atheris build the same kinds of file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")

PIECES = (
    b"", b"\0", b"\r", b"\r\n", b"\n" * 3000, b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80",
    b"\xf0\x9f\x99\x82", b'"', b'""', b"'", b",", b";", b"\t", b"\\ud800", b"\\u0000", b"NaN",
    b"-Infinity", b"1e999", b"9" * 400, b"1" * 5000, b"[" * 3000, b'{"a":' * 3000, b"]" * 17,
    b"=cmd|' /C calc'!A0", b"'=1", b"\xef\xbc\x9d1", b"../", b"/etc/passwd", b"C:\\", b"true",
    b"null", b"{}", b"[]", b"-1", b" " * 3000, b" \xef\xbb\xbf" * 500, b"source", b"target",
    b"x" * 5000, b"ab " * 2000, b"PK\5\6", b"PK\1\2", b"\x80" * 9,
)  # fmt: skip


def _deep(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**63, -(2**63), 10**400, 0.5, float("nan"), float("inf"),
    1e308, "", "x", "\ud800", "\0", "../x", "/etc/passwd", "=1+1", "\u202e", "y" * 20_000, [], {},
    [[]], [1, "a"], {"a": 1}, [["n", 5], ["n", 5]], [["n", 2**40]], _deep(10), _deep(60),
    _deep(200), ["z"] * 3000, "image", "text", "source", "target", "prompt",
)  # fmt: skip


class Chooser(Protocol):
    """A source of choices."""

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, inclusive."""
        ...

    def data(self, most: int) -> bytes:
        """Arbitrary bytes, at most `most` of them."""
        ...


def pick(choose: Chooser, items: Sequence[Item]) -> Item:
    """Choose one of the items."""
    return items[choose.number(0, len(items) - 1)]


def changed_bytes(choose: Chooser, data: bytes, others: Sequence[bytes]) -> bytes:
    """The bytes with up to four mutations: flips, cuts, splices, duplications, insertions."""
    for _ in range(choose.number(0, 4)):
        at = choose.number(0, len(data))
        to = min(len(data), at + choose.number(0, 40))
        kind = choose.number(0, 7)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << choose.number(0, 7)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            other = pick(choose, others)
            data = data[:at] + other[choose.number(0, len(other)) :]
        elif kind == 4:
            data = data[:at] + pick(choose, PIECES) + data[to:]
        elif kind == 5:
            data = data[:to] + data[at:]
        elif kind == 6:
            # Overwrite an integer of any size that the formats use.
            size = pick(choose, (2, 4, 8))
            number = pick(choose, (0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**53, 2**63, 2**64 - 1))
            data = data[:at] + (number % 256**size).to_bytes(size, "little") + data[at + size :]
        else:
            data = data[:at] + choose.data(24) + data[to:]
    return data


def changed_json(choose: Chooser, value: Any) -> Any:
    """A copy of the value with up to three places changed, removed or added."""
    value = json.loads(json.dumps(value))
    for _ in range(choose.number(0, 3)):
        parent, part = None, value
        while isinstance(part, dict | list) and part and choose.number(0, 4):
            parent, key = (
                part,
                pick(choose, list(part) if isinstance(part, dict) else range(len(part))),
            )
            part = part[key]
        # Copy it, because later changes may modify it.
        new = json.loads(json.dumps(pick(choose, VALUES)))
        if parent is None:
            value = new
        elif not choose.number(0, 4):
            del parent[key]
        elif isinstance(parent, dict) and not choose.number(0, 4):
            parent[str(pick(choose, VALUES))[:300]] = new
        else:
            parent[key] = new
    return value


def json_bytes(value: Any) -> bytes:
    """Encode as JSON, including lone surrogates."""
    return json.dumps(value).encode()


Builder = Callable[[Chooser], bytes]
