"""Texts for the tables: from a file or folder, the Hugging Face Hub, or a stand-in.

The stand-ins in `standins/` are short lists of our own writing. They allow a table to be made
without a network; results on them are not comparable with published ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lineas_core.errors import ConfigError
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.system.paths import packaged

STANDINS = packaged("evaluation/standins")
STANDIN_TEXTS = {
    "standin_openings": STANDINS / "openings.txt",
    "standin_sentences": STANDINS / "sentences.txt",
}
# Fields that hold the text in public prompt files.
TEXT_FIELDS = ("text", "prompt", "query")
# Lengths in characters that keep real sentences of an encyclopaedia, not fragments or lists.
MIN_SENTENCE, MAX_SENTENCE = 40, 300
# Articles to read per sentence wanted, so that there are some to draw from.
ARTICLES_PER_SENTENCE = 5


@dataclass(frozen=True)
class HubTexts:
    """A public data set of texts.

    Attributes:
        id: its id on the hub.
        split: the split to read.
        config: the configuration, if the data set has several.
        articles: whether its texts are many long articles; they are then streamed, and one
            sentence is taken from each.
    """

    id: str
    split: str = "train"
    config: str | None = None
    articles: bool = False


HUB_TEXTS = {
    "rtp": HubTexts("allenai/real-toxicity-prompts"),
    "tet": HubTexts("convoicon/Thoroughly_Engineered_Toxicity"),
    "wikipedia": HubTexts("wikimedia/wikipedia", config="20231101.en", articles=True),
}


def load_texts(name: str, count: int, seed: int = 0) -> list[str]:
    """At most `count` different texts, drawn without replacement.

    Args:
        name: a stand-in (standin_openings, standin_sentences); rtp (RealToxicityPrompts), tet
            (Thoroughly Engineered Toxicity, gated) or wikipedia, which are fetched from the hub;
            a .txt file with one text per line; a .jsonl file with one object per line, its text
            under "text", "prompt" or "query"; or a folder of such files.
        count: 1 or more.
        seed: of the draw.

    Raises:
        ConfigError: there is no such data set, or it cannot be read or fetched.
    """
    if count < 1:
        raise ConfigError(f"the number of texts is {count}; it must be 1 or more.")
    if name in HUB_TEXTS:
        found = _fetch(HUB_TEXTS[name], count)
    else:
        path = STANDIN_TEXTS.get(name, Path(name).expanduser())
        if not path.exists():
            raise ConfigError(
                f"texts are {name!r}; give a file, a folder, or one of "
                f"{', '.join([*STANDIN_TEXTS, *HUB_TEXTS])}."
            )
        files = [path] if path.is_file() else sorted([*path.glob("*.txt"), *path.glob("*.jsonl")])
        found = [text for file in files for text in _read(file)]
    unique = list(dict.fromkeys(text for text in found if text))
    if not unique:
        raise ConfigError(f"{name} holds no text; give .txt files or .jsonl files with texts.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(unique), generator=generator)[:count].tolist()
    return [unique[i] for i in order]


def draw_prompts(prompts: PromptSet, count: int, seed: int) -> PromptSet:
    """At most `count` prompts per side, drawn without replacement, in their original order.

    Raises:
        PromptError: `count` is below the minimum size of a set.
    """
    generator = torch.Generator().manual_seed(seed)
    source, target = (
        [lines[i] for i in sorted(torch.randperm(len(lines), generator=generator)[:count].tolist())]
        for lines in (prompts.source, prompts.target)
    )
    return replace(prompts, source=source, target=target)


def evaluation_package(name: str) -> ModuleType:
    """Import a module that only the evaluation needs.

    Raises:
        ConfigError: its package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name.partition('.')[0]} is needed here and cannot be imported ({error}); "
            "run pip install 'lineas-studio[eval]'."
        ) from error


def _read(file: Path) -> list[str]:
    if file.suffix == ".jsonl":
        return [_text_of(row, str(file)) for row in _objects(file)]
    return _lines(file)


def _objects(file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{file} line {number} is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{file} line {number} is not a JSON object.")
        rows.append(row)
    return rows


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a readable UTF-8 file: {error}.") from error
    return [line.strip() for line in lines if line.strip()]


def _text_of(row: dict[str, Any], where: str) -> str:
    for field in TEXT_FIELDS:
        value = row.get(field)
        if isinstance(value, dict):
            value = value.get("text")
        if isinstance(value, str):
            return value.strip()
    raise ConfigError(
        f"{where} has the fields {', '.join(row) or '(none)'}; a text is looked for in "
        f"{', '.join(TEXT_FIELDS)}."
    )


def _fetch(source: HubTexts, count: int) -> list[str]:
    datasets = evaluation_package("datasets")
    try:
        rows: Iterator[dict[str, Any]] = iter(
            datasets.load_dataset(
                source.id, source.config, split=source.split, streaming=source.articles
            )
        )
        if not source.articles:
            return [_text_of(row, source.id) for row in rows]
        articles = islice(rows, count * ARTICLES_PER_SENTENCE)
        return [first_sentence(_text_of(row, source.id)) for row in articles]
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{source.id} cannot be fetched ({reason_of(error)}). Check that this machine reaches "
            "the Hugging Face Hub (a gated data set also needs `hf auth login`), or give a file "
            "or folder of texts, or a stand-in."
        ) from error


def first_sentence(article: str) -> str:
    """The first sentence of ordinary length; empty if there is none.

    >>> first_sentence("A note. Basalt is a dark rock that forms when lava cools. It is hard.")
    'Basalt is a dark rock that forms when lava cools.'
    """
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n+", article):
        length = len(sentence)
        if MIN_SENTENCE <= length <= MAX_SENTENCE and sentence.endswith("."):
            return sentence
    return ""


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
