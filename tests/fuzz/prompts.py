"""Malformed prompt files, and the properties that must hold when they are read."""

from __future__ import annotations

import csv
import io

from lineas_core.prompts.checks import line_issues
from lineas_core.prompts.files import MAX_BYTES, read_pasted, read_prompt_file, write_prompts
from lineas_core.prompts.prompt_set import PromptSet
from tests.fuzz.guard import promised
from tests.fuzz.mutations import (
    Chooser,
    changed_bytes,
    changed_json,
    json_bytes,
    pick,
)

ROWS = [("a cat", "a cat in blue"), ("=1+1", "-x"), ('say "hi", you', "ß\u2028é"), ("d", "e")]
SET = {
    "name": "n",
    "title": "t",
    "modality": "text",
    "source": [row[0] for row in ROWS],
    "target": [row[1] for row in ROWS],
    "concept": "c",
    "license": "",
}
RECORDS = [{"source": a, "target": b} for a, b in ROWS] + [{"prompt": "p", "side": "target"}]
FILES = {
    "a.json": (json_bytes(SET), json_bytes(RECORDS), json_bytes(["a", "b"])),
    "a.jsonl": (b"\n".join(map(json_bytes, RECORDS)),),
    "a.csv": (
        b"source,target\r\n" + b"\r\n".join(f"{a},{b}".encode() for a, b in (ROWS[0], ROWS[3])),
        'id;Source;TARGET\n1;"a;=b";c\n2;"d\n=e";\n'.encode("utf-8-sig"),
        b"source\ttarget\n'=1\t'@x\n",
    ),
    "a-target.txt": (b"one\r\n\r\n two \rthree\n", "\ufeffß\n漢字\n".encode()),
    "a.pdf": (b"%PDF",),
}
ALL = tuple(data for files in FILES.values() for data in files)


def build(choose: Chooser) -> tuple[str, bytes]:
    """The name and bytes of a generated file."""
    name = pick(choose, tuple(FILES))
    if name.startswith("a.json") and choose.number(0, 1):
        if name == "a.json":
            data = json_bytes(changed_json(choose, pick(choose, (SET, RECORDS, ["a"]))))
        else:
            data = b"\n".join(json_bytes(changed_json(choose, record)) for record in RECORDS)
        return name, data
    return name, changed_bytes(choose, pick(choose, FILES[name]), ALL)


def check(name: str, data: bytes) -> bool:
    """Read it with every reader and check the results; returns whether any accepted it."""
    read = promised(lambda: read_prompt_file(name, data))
    pasted = promised(lambda: read_pasted(data.decode("utf-8", "surrogateescape"), "target"))
    loaded = promised(lambda: PromptSet.parse(name, data))
    for lines in (read, pasted):
        if lines is not None:
            assert all(text == text.strip() != "" for text in lines.source + lines.target)
            promised(lambda lines=lines: line_issues(lines.source[:100], lines.target[:100]))
            made = promised(lambda lines=lines: PromptSet("n", [*lines.source], [*lines.target]))
            if made is not None:
                _comes_back(made)
    if loaded is not None:
        _comes_back(loaded)
        assert PromptSet.parse("n.json", loaded.to_json().encode()) == loaded
    return any(value is not None for value in (read, pasted, loaded))


def _comes_back(prompts: PromptSet) -> None:
    """Check that exports contain the same prompts, and that no table cell starts a formula."""
    wanted = tuple(tuple(filter(None, map(_stripped, s))) for s in (prompts.source, prompts.target))
    for format in ("json", "csv"):
        ((name, data),) = write_prompts(prompts, format).items()
        # A valid set may be too large for one file.
        if len(data) <= MAX_BYTES:
            read = read_prompt_file(name, data)
            assert (read.source, read.target) == wanted
    text = data.decode("utf-8-sig")
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            for cell in row:
                formula = cell.lstrip("\t\r\n").startswith(tuple("=+-@＝＋－＠"))  # noqa: RUF001
                assert not formula, (separator, cell)
                assert separator != "," or not cell.startswith(("\t", "\r")), cell


def _stripped(text: str) -> str:
    before = None
    while before != text:
        before, text = text, text.strip().strip("\ufeff")
    return text
