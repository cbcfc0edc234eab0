"""Writes source and target prompts about a concept or in a style with a language model.

The model continues short lists of sentences (few-shot). Each line starts with given words, so that
even a small model writes different lines. It writes more lines than are wanted; flawed ones are
dropped, and the likeliest are kept.
"""

from __future__ import annotations

import random
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from lineas_core.errors import ConfigError, PromptError
from lineas_core.models.language.continuation import Continuer, Stop, Written
from lineas_core.models.language.model import LanguageModel
from lineas_core.prompts.filters import Topic, any_form, caption_flaw, sentence_flaw
from lineas_core.prompts.prompt_set import Side
from lineas_core.prompts.writing.candidates import Clock, Draft, Sheet
from lineas_core.prompts.writing.vocabulary import vocabulary
from lineas_core.system.paths import packaged

COUNT = 32
# A batch that has started is still judged, which takes seconds on a busy machine.
SECONDS = 85.0
MAX_CONCEPT_LETTERS = 80
LESSONS = 2
EVERYDAY = "everyday life"
# Loss, in nats per token, above which lines are mostly mistakes.
ODD = 1.9
MANNER = re.compile(
    r"\b(accent|dialect|slang|jargon|english|style|tone|speech|talk|voice|manner|rhymes?|"
    r"sarcasm|politeness|(formal|informal|polite|rude|simple|plain) language)$",
    re.IGNORECASE,
)
ABOUT_ONLY = (
    "{concept} is a way of speaking: these sentences are about it, not spoken in it. To train a "
    "map that speaks this way, paste or upload target prompts that do."
)


def write_text_prompts(
    model: LanguageModel,
    concept: str,
    *,
    count: int = COUNT,
    seed: int = 0,
    seconds: float = SECONDS,
    should_stop: Stop | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Draft]:
    """Write everyday sentences (source) and sentences about a concept (target).

    A target sentence contains the concept's words, or is judged to be about it: its tokens are
    likelier after sentences about the concept than after everyday ones. A source sentence is
    neither. For a way of speaking ("a pirate accent"), the sentences are about it rather than in
    it, and the last draft says so.

    Args:
        model: any causal language model; a context of 250 tokens is enough.
        concept: a few words, such as "volcanoes" or "jazz music".
        count: prompts per side.
        seed: the same seed gives the same prompts, unless the time runs out.
        seconds: time limit, after which the last draft says how many prompts are missing.
        should_stop: polled after each token; if true, the last draft has what was written so far.
        clock: returns the time in seconds, from any origin.

    Yields:
        A draft after each batch; the last one is done.

    Raises:
        PromptError: the concept is empty or too long.
        ConfigError: count is below 1, or the model's context is too short.
    """
    sheet = Sheet(
        _checked(concept, count), count, seconds, should_stop, clock, _manner_note(concept)
    )
    rng = random.Random(f"{seed}/{sheet.concept}")
    writers: dict[Side, Continuer] = {
        "target": Continuer(model, _lead(sheet.concept, sheet.concept)),
        "source": Continuer(model, _lead(EVERYDAY, sheet.concept)),
    }
    words = vocabulary(writers["target"], writers["source"], sheet.concept, sheet.stop)
    topic = Topic(sheet.concept, words)
    starts = {
        "target": _target_starts(sheet.concept, words, rng),
        "source": _shuffled(lambda: list(_given()["starts"]["everyday"]), rng),
    }
    while not sheet.ended(("target", "source")):
        side = sheet.shortest()
        here, there = writers[side], writers["source" if side == "target" else "target"]
        chosen = [f" {next(starts[side])}" for _ in range(sheet.batch(side))]
        lines = here.write(chosen, [rng.getrandbits(32) for _ in chosen], sheet.stop)
        flaws = [sentence_flaw(line.text) or _unfinished(line) for line in lines]
        doubtful = [i for i, flaw in enumerate(flaws) if not flaw]
        others = there.losses([lines[i] for i in doubtful]) if doubtful else []
        losses = [line.loss for line in lines]
        for i, other in zip(doubtful, others, strict=True):
            gain = other - losses[i] if side == "target" else losses[i] - other
            flaws[i] = topic.flaw(side, lines[i].text, gain)
            if side == "target":
                # A sentence that is likely only after the concept's words often makes no sense.
                losses[i] = (losses[i] + other) / 2
        for line, flaw, loss in zip(lines, flaws, losses, strict=True):
            if side == "source":
                sheet.take(side, line.text, flaw, loss, plain=True)
            else:
                frame, own = topic.frame(line.text), topic.own(line.text)
                sheet.take(side, line.text, flaw, loss, frame=frame, own=own)
        yield sheet.draft()
    yield sheet.draft(done=True)


def write_image_prompts(
    model: LanguageModel,
    style: str,
    *,
    subjects: Sequence[str] | None = None,
    count: int = COUNT,
    seed: int = 0,
    seconds: float = SECONDS,
    should_stop: Stop | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Draft]:
    """Write short captions (source), and the same with style tags added (target; LinEAS, Sec. 5).

    Args:
        model: any causal language model.
        style: tags separated by commas, such as "pixel art, 8-bit"; each target gets 1 to 3.
        subjects: what the image model knows, such as "a lion"; captions show nothing else.
        count: prompts per side.
        seed: the same seed gives the same prompts, unless the time runs out.
        seconds: time limit, after which the last draft says how many prompts are missing.
        should_stop: polled after each token; if true, the last draft has what was written so far.
        clock: returns the time in seconds, from any origin.

    Yields:
        A draft after each batch; the last one is done.

    Raises:
        PromptError: the style is empty or too long.
        ConfigError: count is below 1, or the model's context is too short.
    """
    sheet = Sheet(_checked(style, count), count, seconds, should_stop, clock)
    tags = [tag.strip() for tag in sheet.concept.split(",") if tag.strip()]
    rng = random.Random(f"{seed}/{sheet.concept}")
    writer = Continuer(
        model, _listed("Short captions of pictures", _given()["captions"]["lessons"])
    )
    starts = _shuffled(lambda: _caption_starts(subjects, rng), rng)
    while not sheet.ended(("source",)):
        chosen = [f" {next(starts)}" for _ in range(sheet.batch("source"))]
        seeds = [rng.getrandbits(32) for _ in chosen]
        for line in writer.write(chosen, seeds, sheet.stop, whole_line=True, most_tokens=12):
            text = line.text.rstrip(" .,")
            flaw = caption_flaw(text) or _unfinished(line)
            if not flaw and subjects and not any(_names(text, thing) for thing in subjects):
                flaw = "unknown thing"
            drawn = rng.sample(tags, rng.randint(1, min(3, len(tags))))
            sheet.take("source", text, flaw, line.loss, partner=", ".join([text, *drawn]))
        yield sheet.draft()
    yield sheet.draft(done=True)


def _checked(concept: str, count: int) -> str:
    words = " ".join(concept.split()).rstrip(" .")
    if not words:
        raise PromptError("concept is empty; say in a few words what the prompts are to be about.")
    if len(words) > MAX_CONCEPT_LETTERS:
        raise PromptError(
            f"concept has {len(words)} characters; shorten it to {MAX_CONCEPT_LETTERS} at most."
        )
    if count < 1:
        raise ConfigError(f"count is {count}; choose 1 or more.")
    return words


def _manner_note(concept: str) -> str:
    words = " ".join(concept.split()).rstrip(" .")
    return ABOUT_ONLY.format(concept=_capital(words)) if MANNER.search(words) else ""


@cache
def _given() -> dict[str, Any]:
    """The contents of words.toml, which explains each part."""
    text = packaged("prompts/writing/words.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _lessons(part: str, concept: str) -> list[tuple[str, list[str]]]:
    """At most two example lists of a part, preferably without words of the concept."""
    forms = [any_form(word) for word in re.findall(r"[^\W\d_]{4,}", concept)]
    others = {
        name: lines
        for name, lines in _given()[part].items()
        if not any(form.search(" ".join([name, *lines])) for form in forms)
    }
    return list((others or _given()[part]).items())[:LESSONS]


def _listed(title: str, lines: Sequence[str]) -> str:
    return f"{title}:\n" + "".join(f"- {line}\n" for line in lines) + "-"


def _lead(topic: str, concept: str) -> str:
    lists = [
        _listed(f"Sentences about {name}", lines) for name, lines in _lessons("lessons", concept)
    ]
    return "".join(f"{text[:-1]}\n" for text in lists) + _listed(f"Sentences about {topic}", ())


def _target_starts(concept: str, words: Sequence[str], rng: random.Random) -> Iterator[str]:
    starts = _given()["starts"]
    several = re.search(r"[^s]s$", concept) is not None
    blanks = {
        "c": concept,
        "C": _capital(concept),
        "is": "are" if several else "is",
        "was": "were" if several else "was",
        "has": "have" if several else "has",
    }

    turns = _shuffled(lambda: list(words), rng)

    def pool() -> list[str]:
        frames = starts["word"] if words else []
        with_words = [_agreed(f.format(w=next(turns), v=next(turns))) for f in frames]
        return [s.format(**blanks) for s in starts["topic"]] + with_words + list(starts["free"])

    return _shuffled(pool, rng)


def _agreed(start: str) -> str:
    """Make articles agree with the next word: a crater, an eruption, some ashes."""
    start = re.sub(r"\b(?:a|every|another) (?=\w+[^s]s\b)", "some ", start)
    start = re.sub(r"\b(?:A|Every|Another) (?=\w+[^s]s\b)", "Some ", start)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", start)


def _caption_starts(subjects: Sequence[str] | None, rng: random.Random) -> list[str]:
    if not subjects:
        return list(_given()["starts"]["caption"])
    return [f"{thing}{rng.choice(_given()['captions']['ends'])}" for thing in subjects]


def _shuffled(pool: Callable[[], list[str]], rng: random.Random) -> Iterator[str]:
    """Yield a pool in random order, then a fresh pool, endlessly."""
    while True:
        items = pool()
        rng.shuffle(items)
        yield from items


def _unfinished(line: Written) -> str:
    if not line.ended:
        return "unfinished"
    return "odd" if line.loss > ODD else ""


def _names(text: str, thing: str) -> bool:
    name = re.sub(r"^(a|an|the)\s+", "", thing.lower())
    return re.search(rf"\b{re.escape(name)}\b", text.lower()) is not None


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
