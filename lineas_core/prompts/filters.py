"""Finds flaws in prompts that a model wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lineas_core.prompts.prompt_set import Side

MIN_WORDS, MAX_WORDS = 5, 30
# Thresholds on how much likelier a sentence is after sentences about the concept than after
# everyday ones, in nats per token. In five shipped sets (50 + 50 each), 86% of the target and 12%
# of the source sentences exceed 0.1; 60% and none exceed 0.35.
LEANS_TO_TOPIC = 0.1
ON_TOPIC = 0.35
# Threshold for a sentence without any of the topic's words.
SURELY_ON_TOPIC = 0.8
BE = r"(?:is|are|was|were)"
TAILS = "s|es|e|ee|ed|er|ers|ing|ings|y|ies|ic|ist|ists|ian|ians"
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of and or in on at to for with from by about as is are was my your our his her "
        "its their this that style some any very when what were have been would will could there "
        "then than they them into over under after before through between during without because "
        "which while",
    )
)
UNWANTED = re.compile(
    r"[\"“”„«»*#_<>\[\]{}|:;()/\\=~^]|https?|www|\d|^\W|\ufffd|(?:^|\s)'|'(?:\s|$)|\b(\w+) \1\b",
    re.IGNORECASE,
)
# Phrases that a small model falls back on for any concept.
SWEEPING = re.compile(
    r"\b(whole|entire) (town|city|village|world|country|family|earth)\b|\bin the world was\b|"
    r"\bfor the first time\b|\bthe ancient times\b|\b(one day|because of (it|them))[.!]$",
    re.IGNORECASE,
)
META = re.compile(
    r"\b(sentences?|paragraphs?|captions?|prompts?|language model|as an ai|here (is|are)|"
    r"for example|the following|the (text|passage|author))\b",
    re.IGNORECASE,
)


ARTICLES = frozenset(["a", "an", "the", "my", "our", "his", "her", "its", "their", "this", "that"])
PEOPLE = frozenset(
    re.findall(
        r"\w+",
        "i you he she we they me him us them people man men woman women boy girl child children "
        "mother father sister brother uncle aunt friend friends neighbour teacher",
    )
)


def sentence_flaw(text: str) -> str:
    """Why a sentence is unusable as a prompt; empty if it is usable.

    >>> sentence_flaw("The ship ship sank at dawn."), sentence_flaw("The old ship sank at dawn.")
    ('odd', '')
    """
    if not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
        return "length"
    if META.search(text):
        return "about the task"
    if UNWANTED.search(text) or SWEEPING.search(text):
        return "odd"
    if not text[0].isupper() or text[-1] not in ".!?" or text[:-1].split()[-1] in STOP_WORDS:
        return "unfinished"
    return "repeats itself" if _repeats(text) else ""


def caption_flaw(text: str) -> str:
    """Why a caption is unusable as a prompt; empty if it is usable.

    >>> caption_flaw("a lion on a hill"), caption_flaw("a lion on a")
    ('', 'unfinished')
    """
    words = text.lower().split()
    if not 2 <= len(words) <= 10:
        return "length"
    if META.search(text):
        return "about the task"
    if UNWANTED.search(text) or "," in text or "." in text:
        return "odd"
    if words[-1] in STOP_WORDS or text.endswith("-"):
        return "unfinished"
    return "repeats itself" if _repeats(text) else ""


class Topic:
    """Judges whether a sentence is about a concept.

    Args:
        concept: its name, a few words.
        words: related words.
    """

    def __init__(self, concept: str, words: Sequence[str]) -> None:
        content = [w for w in re.findall(r"\w+", concept.lower()) if w not in STOP_WORDS]
        self._content = [any_form(word) for word in content or [concept.lower()]]
        self._words = [any_form(word) for word in words]
        anyhow = "|".join(form.pattern for form in [*self._content, *self._words])
        # Matches "The king was a queen": sentences that equate two topic words are rarely right.
        self._confused = re.compile(
            rf"(?:{anyhow})\s+{BE}\s+(?:an?|the)\s+(?:\w+\s+)?(?:{anyhow})", re.IGNORECASE
        )

    def flaw(self, side: Side, text: str, gain: float) -> str:
        """Why a sentence does not belong on a side; empty if it does.

        Args:
            side: source or target.
            text: the sentence.
            gain: how much likelier it is after sentences about the concept, in nats per token.
        """
        found = sum(bool(form.search(text)) for form in self._content)
        near = sum(bool(form.search(text)) for form in self._words)
        if side == "source":
            return "on topic" if found or near or gain > LEANS_TO_TOPIC else ""
        if self._confused.search(text):
            return "odd"
        if found == len(self._content):
            return ""
        needed = LEANS_TO_TOPIC if found + near > 1 else ON_TOPIC if near else SURELY_ON_TOPIC
        return "" if gain > needed else "off topic"

    def own(self, text: str) -> frozenset[str]:
        """The topic's own words, including those of its name, that a text contains in any form."""
        return frozenset(
            form.pattern for form in [*self._content, *self._words] if form.search(text)
        )

    def frame(self, text: str) -> tuple[str, ...]:
        """The words around the first topic word of a sentence.

        The two words before it, filled up with words after it if there are fewer. All articles
        become "A", all people "PERSON", and things that tell (a book, a talk) before "about"
        become "TELLS". For a sentence without a topic word, its first three words.

        >>> topic = Topic("jazz", ["sax"])
        >>> topic.frame("My sister gave me a book about jazz.")
        ('TELLS', 'about', 'TOPIC')
        >>> topic.frame("She watched a film about the sax.")
        ('TELLS', 'about', 'TOPIC')
        >>> topic.frame("The sax was on the floor."), topic.frame("He saw her old sax.")
        (('A', 'TOPIC', 'was'), ('A', 'old', 'TOPIC'))
        """
        words = re.findall(r"[^\W\d_]+", text.lower())
        forms = [*self._content, *self._words]
        own = [any(form.fullmatch(word) for form in forms) for word in words]
        if True not in own:
            return tuple(words[:3])
        first = own.index(True)
        before = [_merged(word) for word in words[:first]]
        if "about" in before[-3:]:
            return "TELLS", "about", "TOPIC"
        behind = words[first + 1 :]
        return (*before[-2:], "TOPIC", *behind[: max(0, 2 - len(before))])


def _merged(word: str) -> str:
    if word in ARTICLES:
        return "A"
    return "PERSON" if word in PEOPLE else word


def content_words(text: str) -> list[str]:
    """The words of four letters or more that are not stop words, in lower case."""
    words = re.findall(r"[^\W\d_]{4,}", text.lower())
    return [word for word in words if word not in STOP_WORDS]


def _repeats(text: str) -> bool:
    """Whether two content words have the same first five letters, as `erupts` and `eruption` do."""
    beginnings = [word[:5] for word in content_words(text)]
    return len(set(beginnings)) < len(beginnings)


def stem_of(word: str) -> str:
    """A word without its ending: a rough stem."""
    for tail in ("ies", "ing", "es", "ed", "y", "e", "s"):
        if word.endswith(tail) and len(word) - len(tail) >= 3 and not word.endswith("ss"):
            return word.removesuffix(tail)
    return word


def any_form(word: str) -> re.Pattern[str]:
    """A pattern that also matches a word's other endings: singular and plural, verb and noun."""
    stem = stem_of(word)
    return re.compile(rf"\b{re.escape(stem)}{re.escape(stem[-1])}?(?:{TAILS})?\b", re.IGNORECASE)
