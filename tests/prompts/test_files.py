"""Reading and writing prompt files: every format round-trips to the same prompts."""

import csv
import io
import json
import random

import pytest

import lineas_core as lc
from lineas_core.errors import PromptError, PromptFileError
from lineas_core.prompts.files import (
    MAX_BYTES,
    MAX_LINES,
    Picked,
    UnclearColumnsError,
    read_pasted,
    read_prompt_file,
    write_prompts,
)
from tests.fuzz.guard import limited

LETTERS = "abcdefgh  ,;\t'\"=+-@\\/|{}[]:éßŁ漢字🙂\u2028\u00a0\x0b" + "\r\n"


def random_prompts(seed: int, letters: str) -> lc.PromptSet:
    """Distinct texts full of separators, quotes and formula characters."""
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
    assert ("does not say" in read.notes[0]) == (side is None and name == "list.txt")


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
        ("a.txt", b"%PDF-1.7", "a.txt is a PDF, not a text. Copy its text"),
        ("a.csv", b"PK\x03\x04..", "a.csv is a ZIP archive .*Save the sheet as CSV"),
        ("a.txt", b"\x01\x00\x00", "a.txt is not a text: its byte 2 is 0"),
        ("a.txt", b"ok\n\xe4\xe5\xed\xfc", r"line 2: byte 4 \(0xE4\) is not UTF-8, and"),
        ("a.txt", "za\nżółw".encode("cp1250"), r"a.txt line 2: byte 4"),
        ("a.txt", b"", "a.txt holds no prompts"),
        ("a.txt", b"ok\nb\x81", r"a.txt line 2: byte 5 \(0x81\) is not UTF-8, and"),
        ("a.txt", b"\xef\xbb\xbfok\nb\xe9", r"line 2: byte 8 \(0xE9\)"),
        ("a.csv", b"one,two\n1,2", "a.csv line 1: its columns are 'one', 'two'"),
        ("a.csv", b"source,source\n1,2", "two columns 'source'"),
        ("a.csv", b"source,target\na,b\nc,d,e", "a.csv line 3: has 3 cells"),
        ("a.csv", b'source,target\n"a,b\nc,d', "a.csv line 3: not a readable table"),
        ("a.json", b'{"source": [\n"a",\n]}', r"a\.json line [23]: not readable JSON"),
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
        read_prompt_file("a.txt", b"x" * (MAX_BYTES + 1))
    lines = [f"line {n}" for n in range(MAX_LINES)]
    assert len(read_prompt_file("a.txt", "\n".join(lines).encode()).source) == MAX_LINES
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


FOX = ("a fox", "a boat on the sea", "an old tower", "four lamps")
FOG = tuple(f"{text} in fog" for text in FOX)
PAIRS = list(zip(FOX, FOG, strict=True))
SLIDERS = "# a comment\n" + "".join(
    f"- target: 'x'\n  positive: \"{b}\"\n  unconditional: {a}\n  neutral: x\n"
    "  action: enhance\n  guidance_scale: 4\n"
    for a, b in PAIRS
)


def table(header: str, separator: str = ",") -> str:
    return "\r\n".join([header, *(separator.join(pair) for pair in PAIRS), ""])


def labelled(header: str, source: object, target: object) -> str:
    rows = [f"{a},{source}" for a in FOX] + [f"{b},{target}" for b in FOG]
    return "\n".join([header, *rows])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "\n".join(json.dumps({"source": a, "target": b}) for a, b in PAIRS)),
        ("a.jsonl", json.dumps([{"before": a, "after": b} for a, b in PAIRS], indent=1)),
        ("a.txt", json.dumps({"source": FOX, "target": FOG}, indent=1)),
        ("a.txt", f"```json\n{json.dumps({'positive': FOG, 'negative': FOX})}\n```"),
        ("a.json", json.dumps({"text": FOX + FOG, "label": [0] * 4 + [1] * 4})),
        ("a.json", json.dumps(PAIRS)),
        ("a.txt", str({"source": list(FOX), "target": list(FOG)})),
        ("a.csv", "sep=;\r\n" + table("Source;Target", ";")),
        ("a.csv", table("From\tTo", "\t")),
        ("a.tsv", table("source\ttarget", "\t")),
        ("a.txt", table("Source_Prompt\tTarget prompts", "\t")),
        ("a.csv", labelled("prompt,side", "source", "target")),
        ("a.csv", labelled("Sentence,Label", 0, 1)),
        ("a.csv", labelled("caption,split", "before", "after")),
        ("a.csv", labelled("text,class", "neg", "pos")),
        ("a.yaml", SLIDERS),
        ("a.txt", SLIDERS),
        ("a.txt", "|Source|Target|\n|---|:-:|\n" + "\n".join(f"|{a} | {b}|" for a, b in PAIRS)),
        ("a.txt", "Source:\n" + "\n".join(FOX) + "\n\n## Target prompts\n" + "\n".join(FOG)),
        ("a.txt", "\n".join(f"Source: {a}\nTarget: {b}" for a, b in PAIRS)),
        ("a.txt", table("", "\t")),
    ],
)  # fmt: skip
def test_files_are_told_by_what_they_hold(name: str, text: str) -> None:
    read = read_prompt_file(name, text.encode())
    assert (read.source, read.target) == (FOX, FOG)
    pasted = read_pasted(text, "target")
    if name == "a.txt":
        assert (pasted.source, pasted.target) == (FOX, FOG)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32", "cp1252"]
)
def test_files_of_every_encoding_are_read_and_it_is_said(encoding: str) -> None:
    text = table("source,target").replace("lamps", "lampes d'été à côté €")
    read = read_prompt_file("a.csv", text.encode(encoding))
    assert read.source == (*FOX[:3], "four lampes d'été à côté €")
    assert ("été à côté" in " ".join(read.notes)) == (encoding == "cp1252")


@pytest.mark.parametrize(
    "text",
    [
        "{red|blue} car on a road\na {cat|dog} asleep\n{a|b} house\nfour lamps",
        '["ghost" sheet], night\na hill\na mill\na lake',
        '{"a": 1} is JSON.\na hill',
        "archery, target, outdoors\n1girl, bow, arrow\nforest, deer, mist\nrain, street, night",
        "archery,target,outdoors\n1girl,bow,arrow\nforest,deer,mist",
        "target; source; bow\nriver; hill; mist\na; b; c",
        "Photo: a cat\nPhoto: a dog\nTarget: bow",
        "[Verse 1] hello\n[Verse 2] you\n[Chorus] all",
    ],
)
def test_pasted_text_is_text_unless_all_of_it_is_something_else(text: str) -> None:
    assert read_pasted(text, "target").target == tuple(text.split("\n"))
    assert read_pasted(text).source == tuple(text.split("\n"))


@pytest.mark.parametrize(
    ("text", "offered", "wanted"),
    [
        (labelled("text,target", 0, 1), "its column target holds numbers", (FOX, FOG)),
        (labelled("comment_text,target", 0.25, 0.75), "load_jigsaw", (FOX, FOG)),
        (table("goal,target"), "its column target stands beside goal", (FOX, FOG)),
        (table("plain,misty"), "none of its columns is called source or target", (FOX, FOG)),
        (labelled("text,label", "clear", "misty"), "label does not say", (FOX, FOG)),
        (labelled("text,source", "reddit", "wiki"), "its column source stands beside text", None),
    ],
)  # fmt: skip
def test_columns_that_do_not_say_are_asked_about(text: str, offered: str, wanted) -> None:
    with pytest.raises(UnclearColumnsError, match=offered) as caught:
        read_prompt_file("a.csv", text.encode())
    parts = [part for part, _ in caught.value.offers]
    assert isinstance(caught.value, PromptFileError)
    if wanted:
        found = {
            read_prompt_file("a.csv", text.encode(), picked=Picked(p, None)).source
            for p in parts
        }  # fmt: skip
        assert set(wanted) <= found


def test_lists_lose_their_marks_and_sets_keep_their_names() -> None:
    for text in (
        "\n".join(f"- {a}" for a in FOX),
        "Here are four:\n" + "\n".join(f"{n}. {a}" for n, a in enumerate(FOX, start=1)),
        "\n".join(f'"{a}",' for a in FOX),
        str(list(FOX)),
    ):
        assert read_pasted(text, "target").target == FOX
    text = f"title: Sea fog\nconcept: fog\nmodality: image\nsource: {list(FOX)}\ntarget: [one]"
    read = read_prompt_file("a.yml", text.encode())
    assert (read.title, read.concept, read.modality) == ("Sea fog", "fog", "image")
    with pytest.raises(PromptFileError, match="alias"):
        read_prompt_file("a.yaml", b"a: &a [x]\nb: [*a, *a]\nsource: [*a]")


def test_the_library_and_the_command_line_read_the_same_files(tmp_path) -> None:
    for name, text in (
        ("fog.csv", table("source,target")),
        ("fog.yaml", SLIDERS),
        ("fog.json", "\n".join(json.dumps({"source": a, "target": b}) for a, b in PAIRS)),
    ):
        (tmp_path / name).write_text(text)
        prompts = lc.PromptSet.load(tmp_path / name)
        assert (prompts.name, prompts.source, prompts.target) == ("fog", [*FOX], [*FOG])
    (tmp_path / "asked.csv").write_text(table("goal,target"))
    with pytest.raises(UnclearColumnsError, match="asked.csv line 1: .*beside goal"):
        lc.PromptSet.load(tmp_path / "asked.csv")
