from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.metrics.concepts import concept_presence, concept_words
from lineas_core.prompts.prompt_set import check_prompts, shipped_prompt_sets
from tools.captions import TAGS

FOUR = ["a b", "b c", "c d", "d e"]


def test_problems_are_found_with_their_lines() -> None:
    source = ["one  word", "two", " ", "ONE word ", "x" * 500, "y" * 5000]
    found = [str(issue) for issue in check_prompts(source, FOUR[:3])]
    assert found == [
        "error: source line 3: is empty; write a prompt or remove it.",
        "warning: source line 4: repeats source line 1; change or remove it.",
        "warning: source line 5: has 500 characters; prompts over 400 slow training.",
        "error: source line 6: has 5000 characters; shorten it to 4000 at most.",
        "error: target: has 3 prompts; give 4 or more.",
        "warning: target: has 3 prompts and source 6; equal numbers learn best.",
    ]
    assert check_prompts(FOUR, [f"new {line}" for line in FOUR]) == []


def test_a_set_with_errors_does_not_come_to_be() -> None:
    with pytest.raises(lc.PromptError, match=r"(?s)'x' cannot be used.*target: is the same as"):
        lc.PromptSet(name="x", source=FOUR, target=FOUR[::-1])


def test_save_and_load_give_the_same_set(tmp_path: Path) -> None:
    first = lc.PromptSet("x", FOUR, ["é", "日本", "c", "d"], "T", "image", "c", "MIT")
    assert lc.PromptSet.load(first.save(tmp_path / "x.json")) == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON"),
        ("[1]", "holds a list"),
        ('{"source": "a"}', "'source' must be a list"),
        ('{"source": ["a"], "target": [1]}', "'target' must be a list"),
        ("[" * 100_000, "not a readable JSON"),
        (json.dumps({"source": FOUR, "target": ["w", "x", "y", "z"], "modality": "sound"}), "mod"),
        (json.dumps({"source": FOUR, "target": ["w", "x", "y", "z"], "title": 3}), "'title' is 3"),
    ],
)
def test_files_that_are_no_prompt_set_are_explained(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(lc.PromptError, match=message):
        lc.PromptSet.load(tmp_path / "x.json")
    with pytest.raises(lc.PromptError, match=r"(?s)no prompt set 'none'.*football"):
        lc.PromptSet.load("none")


def test_the_split_holds_out_a_share_and_loses_nothing() -> None:
    prompts = lc.PromptSet("x", [f"s{i}" for i in range(20)], [f"t{i}" for i in range(10)])
    kept, held = prompts.split(0.2, seed=3)
    assert (len(held.source), len(held.target)) == (4, 2)
    assert sorted(kept.source + held.source) == sorted(prompts.source)
    assert sorted(kept.target + held.target) == sorted(prompts.target)
    assert prompts.split(0.2, seed=3) == (kept, held)
    assert prompts.split(0.2, seed=4) != (kept, held)
    whole, none = prompts.split(0, seed=3)
    assert (whole.source, none.source) == (prompts.source, [])


def test_the_hash_is_that_of_the_prompts() -> None:
    first = lc.PromptSet("x", FOUR, ["w", "x", "y", "z"])
    assert first.hash() == lc.PromptSet("other", FOUR, ["w", "x", "y", "z"], title="t").hash()
    assert first.hash() != lc.PromptSet("x", FOUR, ["w", "x", "y", "zz"]).hash()


@pytest.mark.parametrize("name", list(shipped_prompt_sets()))
def test_shipped_sets_are_clean(name: str) -> None:
    prompts = lc.PromptSet.load(name)
    assert prompts.issues() == []
    assert prompts.name == name
    number = 50 if prompts.modality == "text" else 32
    assert (len(prompts.source), len(prompts.target)) == (number, number)
    assert prompts.license == "Apache-2.0"
    assert prompts.title
    assert prompts.concept
    if name in concept_words():
        assert sum(concept_presence(prompts.target, name)) == 50
        assert sum(concept_presence(prompts.source, name)) == 0


def test_the_five_concepts_share_their_generic_side() -> None:
    sources = {tuple(lc.PromptSet.load(name).source) for name in concept_words()}
    assert len(concept_words()) == 5
    assert len(sources) == 1


def test_style_targets_are_their_sources_with_tags() -> None:
    styles = image_sets("style")
    assert len(styles) == 12
    assert len({tuple(prompts.source) for prompts in styles}) == 1
    for prompts in styles:
        added = added_by_targets(prompts)
        tags = [addition.split(", ") for addition in added]
        assert {len(chosen) for chosen in tags} == {2, 3, 4}
        assert all(len(set(chosen)) == len(chosen) for chosen in tags)
        assert 6 <= len(set(itertools.chain(*tags))) <= 8
        assert len(set(added)) > 16
        assert sum(prompts.concept in chosen for chosen in tags) > 8


def test_removal_targets_are_their_sources_without_the_thing() -> None:
    removals = image_sets("remove")
    assert [prompts.concept for prompts in removals] == ["clock", "pink elephant", "umbrella"]
    for prompts in removals:
        words = re.compile("|".join(prompts.concept.split()), re.IGNORECASE)
        assert all(prompts.concept in line.lower() for line in prompts.source)
        assert not any(words.search(line) for line in prompts.target)
        for source, target in zip(prompts.source, prompts.target, strict=True):
            assert target.lower() in source.lower()


def test_emoji_sets_name_the_looks_of_the_embedded_model() -> None:
    sets = image_sets("emoji")
    assert len({tuple(prompts.source) for prompts in sets}) == 1
    looks = [prompts.name.removeprefix("emoji-") for prompts in sets]
    # All looks drawn from the artists' emoji, and the 3D artist's.
    assert set(looks) == set(TAGS) - {"noto", "fluent-flat", "twemoji"}
    for look, prompts in zip(looks, sets, strict=True):
        assert prompts.concept == TAGS[look][0]
        assert set(added_by_targets(prompts)) == set(TAGS[look])


def image_sets(kind: str) -> list[lc.PromptSet]:
    """The shipped sets whose names begin with `kind`."""
    sets = [lc.PromptSet.load(n) for n in shipped_prompt_sets() if n.startswith(f"{kind}-")]
    assert {prompts.modality for prompts in sets} == {"image"}
    return sets


def added_by_targets(prompts: lc.PromptSet) -> list[str]:
    """The part of each target that follows its source and a comma."""
    pairs = list(zip(prompts.source, prompts.target, strict=True))
    assert all(target.startswith(f"{source}, ") for source, target in pairs)
    return [target.removeprefix(f"{source}, ") for source, target in pairs]


def write_jigsaw(path: Path, rows: int, label: str = "toxic") -> Path:
    lines = [f"id,comment_text,{label}"]
    lines += [f'{i},"comment, number\n{i}",{i % 2}' for i in range(rows)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("label", ["toxic", "target"])
def test_jigsaw_comments_go_to_their_sides(tmp_path: Path, label: str) -> None:
    prompts = lc.load_jigsaw(write_jigsaw(tmp_path / "x.csv", 40, label), count=10, seed=1)
    assert len(set(prompts.source)) == len(set(prompts.target)) == 10
    assert all(int(line.split()[-1]) % 2 == 1 for line in prompts.source)
    assert all(int(line.split()[-1]) % 2 == 0 for line in prompts.target)
    again = lc.load_jigsaw(tmp_path / "x.csv", count=10, seed=1)
    assert again == prompts
    assert lc.load_jigsaw(tmp_path / "x.csv", count=10, seed=2) != prompts


def test_files_that_are_not_jigsaw_are_explained(tmp_path: Path) -> None:
    path = write_jigsaw(tmp_path / "x.csv", 10)
    with pytest.raises(lc.PromptError, match="5 toxic comments; 32 are asked"):
        lc.load_jigsaw(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(lc.PromptError, match="columns a, b"):
        lc.load_jigsaw(path)
    path.write_text("comment_text,toxic\nhello,perhaps\n")
    with pytest.raises(lc.PromptError, match=r"line 2: toxic is 'perhaps'"):
        lc.load_jigsaw(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(lc.PromptError, match="not a readable UTF-8"):
        lc.load_jigsaw(path)
    with pytest.raises(lc.PromptError, match="not a readable UTF-8"):
        lc.load_jigsaw(tmp_path / "none.csv")
