"""Reading and writing prompt files: every way back leads to the same prompts."""

import csv
import io
import json
import random

import pytest

import lineas_core as lc
from lineas_core.errors import PromptError
from lineas_core.prompt_files import (
    MOST_BYTES,
    MOST_LINES,
    read_pasted,
    read_prompt_file,
    write_prompts,
)
from tests.fuzz.guard import limited

LETTERS = "abcdefgh  ,;\t'\"=+-@\\/|{}[]:éßŁ漢字🙂\u2028\u00a0\x0b" + "\r\n"


def random_prompts(seed: int, letters: str) -> lc.PromptSet:
    """Texts full of what separates, quotes and begins formulas; none repeats."""
    rng = random.Random(seed)

    def side(count: int) -> list[str]:
        texts: list[str] = []
        while len(texts) < count:
            text = "".join(rng.choices(letters, k=rng.randint(1, 30))).strip()
            if text and text not in texts:
                texts.append(text)
        return texts

    return lc.PromptSet("a/b set", side(rng.randint(4, 9)), side(rng.randint(4, 9)))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("format", ["json", "csv", "txt"])
def test_what_is_written_is_read_back(seed: int, format: str) -> None:
    letters = LETTERS if format != "txt" else LETTERS.replace("\r", "").replace("\n", "")
    prompts = random_prompts(seed, letters)
    files = write_prompts(prompts, format)
    assert len(files) == (2 if format == "txt" else 1)
    assert not any("/" in name for name in files)
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    for name, data in files.items():
        read = read_prompt_file(name, data)
        source, target = source + read.source, target + read.target
    assert [*source] == prompts.source
    assert [*target] == prompts.target


def test_no_cell_of_a_written_table_begins_a_formula() -> None:
    nasty = ["=1+1", "+1", "-1", "@x", "'=1", "''-x", "plain", "'plain"]
    prompts = lc.PromptSet("n", nasty, ["a", "b", "c", "d"])
    (data,) = write_prompts(prompts, "csv").values()
    cells = [c for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), "")) for c in row]
    assert not any(cell and cell[0] in "=+-@\t\r" for cell in cells)
    assert list(read_prompt_file("n.csv", data).source) == nasty


def test_a_set_file_of_the_library_reads_the_same_and_loads_back(tmp_path) -> None:
    football = lc.PromptSet.load("football")
    (file,) = write_prompts(football, "json").items()
    (tmp_path / file[0]).write_bytes(file[1])
    assert lc.PromptSet.load(tmp_path / file[0]) == football
    assert list(read_prompt_file(*file).target) == football.target


def test_a_line_break_cannot_go_to_txt() -> None:
    prompts = lc.PromptSet("n", ["a", "b", "c", "d\ne"], ["v", "w", "x", "y"])
    with pytest.raises(PromptError, match="source line 4 has a line break"):
        write_prompts(prompts, "txt")


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("list.txt", None, "source"),
        ("list.txt", "target", "target"),
        ("my-target.txt", None, "target"),
        ("target-practice-source.txt", None, "source"),
    ],
)
def test_plain_lines_go_where_the_caller_or_the_name_says(name, side, expected) -> None:
    read = read_prompt_file(name, b"\xef\xbb\xbfone\r\n\r\n two \rthree\n", side)
    assert getattr(read, expected) == ("one", "two", "three")
    assert read.notes[-1] == "Skipped 1 empty place."
    assert ("does not say" in read.notes[0]) == (side is None)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_any_separator_with_columns_in_any_order(separator: str) -> None:
    text = "id|TARGET |Source\n1|t1|s1\n2||s2\n\n3|t3|\n".replace("|", separator)
    read = read_prompt_file("a.CSV", text.encode())
    assert (read.source, read.target) == (("s1", "s2"), ("t1", "t3"))
    assert read.notes == ("Skipped 1 column: id.", "Skipped 2 empty places.")
    assert read_pasted(text) == read


@pytest.mark.parametrize(
    "text",
    [
        '{"source": ["s1", "s2"], "target": ["t1"]}',
        '[{"source": "s1", "target": "t1"}, {"source": "s2"}]',
        '{"source": "s1", "target": "t1"}\n{"source": "s2", "target": null}',
        '{"prompt": "s1", "side": "source"}\n{"prompt": "t1", "side": "target"}\n{"prompt": "s2"}',
        "source,target\ns1,t1\ns2,\n",
        "s1\tt1\ns2\t\n",
    ],
)
def test_pasted_text_of_every_shape(text: str) -> None:
    read = read_pasted(text)
    assert (read.source, read.target) == (("s1", "s2"), ("t1",))


def test_pasted_lines_that_only_look_like_something() -> None:
    lines = ["[Verse 1] hello", "The source, a spring,", "{not json"]
    assert read_pasted("\n".join(lines)).source == tuple(lines)
    assert read_pasted("one\ntwo", "target").target == ("one", "two")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pdf", b"x", "a.pdf ends in .pdf"),
        ("a.txt", b"", "a.txt holds no prompts"),
        ("a.txt", b"ok\nb\xe9", r"a.txt line 2: byte 5 \(0xE9\) is not UTF-8. Save"),
        ("a.txt", b"\xef\xbb\xbfok\nb\xe9", r"line 2: byte 8 \(0xE9\)"),
        ("a.csv", b"one,two\n1,2", "a.csv line 1: its columns are 'one,two'"),
        ("a.csv", b"source,source\n1,2", "two columns 'source'"),
        ("a.csv", b"source,target\na,b\nc,d,e", "a.csv line 3: has 3 cells"),
        ("a.csv", b'source,target\n"a,b\nc,d', "a.csv line 3: not a readable table"),
        ("a.json", b'{"source": [\n"a",\n]}', "a.json line 3: not readable JSON"),
        ("a.json", b'{"source": ["a", 5]}', "a.json source item 2: source is 5"),
        ("a.json", b'{"source": "a"}', "a.json: source is 'a'; it must be a list"),
        ("a.json", b'{"other": []}', "a.json: its fields are 'other'"),
        ("a.json", b"3", "a.json holds 3"),
        ("a.json", b"[" * 100_000, "a.json line 1: not readable JSON"),
        ("a.json", b'["\\ud800x"]', "a.json item 1: source holds half a character"),
        ("a.jsonl", b'{"prompt": "a", "side": "left"}', "a.jsonl line 1: side is 'left'"),
        ("a.jsonl", b'\n{"x": 1}', "a.jsonl line 2: is"),
        ("a.jsonl", b'{"source": "a"}\n{"source"', "a.jsonl line 2: not readable JSON"),
    ],
)
def test_errors_name_the_file_the_place_and_the_remedy(name, data, message) -> None:
    with pytest.raises(PromptError, match=message):
        read_prompt_file(name, data)


def test_limits() -> None:
    with pytest.raises(PromptError, match="1,048,576"):
        read_prompt_file("a.txt", b"x" * (MOST_BYTES + 1))
    lines = [f"line {n}" for n in range(MOST_LINES)]
    assert len(read_prompt_file("a.txt", "\n".join(lines).encode()).source) == MOST_LINES
    with pytest.raises(PromptError, match="line 2001: more than 2000"):
        read_prompt_file("a.txt", "\n".join([*lines, "one more"]).encode())
    with pytest.raises(PromptError, match="more than 2000"):
        read_prompt_file("a.json", json.dumps([*lines, "one more"]).encode())


def test_lines_are_limited_in_length_and_places_in_number() -> None:
    assert read_prompt_file("a.txt", b"x" * 4000).source == ("x" * 4000,)
    with pytest.raises(PromptError, match="a.txt line 2: source has 4001 characters; shorten it"):
        read_prompt_file("a.txt", b"x\n" + b"x" * 4001)
    with pytest.raises(PromptError, match=r"a.txt line 10001: more than 10000 lines or cells"):
        read_prompt_file("a.txt", b"\n" * 10_000 + b"x")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"x" + b" " * 1_000_000 + b"y"),
        ("a.txt", b"x" + b" \xef\xbb\xbf" * 250_000 + b"y"),
        ("a.csv", b"source" + b"," * 500_000 + b"\nx" + b"," * 500_000),
        ("a.csv", b'source\n"' + b"'" * 1_000_000 + b'"'),
        ("a.json", b'{"source": [' + b'"x",' * 200_000 + b'"x"]}'),
        ("a.jsonl", b'{"prompt": "x"}\n' * 60_000),
        ("a.json", b"[" * 1_000_000),
    ],
)
def test_files_that_would_take_long_are_refused_at_once(name: str, data: bytes) -> None:
    with limited(), pytest.raises(PromptError, match=r"^a\.") as caught:
        read_prompt_file(name, data)
    assert len(str(caught.value)) < 1000


def test_white_space_of_every_kind_is_taken_off() -> None:
    for letter in [*filter(str.isspace, map(chr, range(0x3001))), "\ufeff"]:
        if letter not in "\r\n":
            data = f"{letter}x{letter}y{letter}".encode()
            assert read_prompt_file("a.txt", data).source == (f"x{letter}y",)


def test_no_formula_begins_where_a_spreadsheet_parts_cells_at_semicolons() -> None:
    nasty = ["a;=cmd|' /C calc'!A0;", "b\t@x", "c\n=1+1\n", "d;'=1", "e;''-1\n+2", "f;-)"]
    prompts = lc.PromptSet("n", ["v", "w", "x", "y"], nasty)
    (data,) = write_prompts(prompts, "csv").values()
    for separator in ",;\t":
        text = io.StringIO(data.decode("utf-8-sig"), "")
        cells = [c.lstrip() for row in csv.reader(text, delimiter=separator) for c in row]
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells), separator
    assert list(read_prompt_file("n.csv", data).target) == [text.strip() for text in nasty]


def test_sets_that_no_file_could_hold_do_not_come_to_be(tmp_path) -> None:
    four = {"source": ["a", "b", "c", "d"], "target": ["w", "x", "y", "z"]}
    for change, message in (
        ({"name": "x" * 4001}, "name has 4001 characters; shorten it to 4000"),
        ({"concept": "\ud800"}, "concept holds half a character"),
        ({"source": ["a", "b", "c", "\udfff"]}, "source line 4: holds half a character"),
        ({"target": ["x"] * 2001}, "target: has 2001 prompts; 2000 are the most"),
        ({"source": [""] * 999}, "and 949 more"),
    ):
        with pytest.raises(PromptError, match=message):
            lc.PromptSet(**{"name": "n", **four, **change})
    for path in (tmp_path, tmp_path / ("n" * 5000), "\0", tmp_path / "none"):
        with pytest.raises(PromptError) as caught:
            lc.PromptSet.load(path)
        assert str(tmp_path) not in str(caught.value)
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(four).encode())
    assert lc.PromptSet.load(tmp_path / "marked.json").source == four["source"]
