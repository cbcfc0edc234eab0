"""PromptSet: the source and the target prompts that a map is learned from."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from lineas_core.errors import PromptError

SHIPPED = Path(__file__).resolve().parent.parent / "prompts"
FEWEST = 4
LONG_PROMPT = 400
LONGEST_PROMPT = 4000

Side = Literal["source", "target"]


@dataclass(frozen=True)
class PromptIssue:
    """Something about a prompt set that a person should know.

    Attributes:
        level: an error stops the set from being used, a warning does not.
        side: source or target.
        line: counted from 1; None where it is about the side as a whole.
        message: what, and what to do.
    """

    level: Literal["error", "warning"]
    side: Side
    line: int | None
    message: str

    def __str__(self) -> str:
        where = f"{self.side} line {self.line}" if self.line else self.side
        return f"{self.level}: {where}: {self.message}"


@dataclass(frozen=True)
class PromptSet:
    """Unpaired source and target prompts, and what the target is about.

    Args:
        name: short name, used in file names.
        title: what people read.
        modality: "text" or "image".
        source: prompts x ~ p, run through the steered model; at least 4.
        target: prompts y ~ q, run through the untouched model; at least 4.
        concept: what the target has and the source has not.
        license: of the prompts.

    Raises:
        PromptError: the set cannot be used; the message lists every error with its line.
    """

    name: str
    source: list[str]
    target: list[str]
    title: str = ""
    modality: Literal["text", "image"] = "text"
    concept: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        errors = [str(i) for i in check_prompts(self.source, self.target) if i.level == "error"]
        if errors:
            raise PromptError(f"Prompt set {self.name!r} cannot be used:\n" + "\n".join(errors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PromptSet:
        """Read a prompt set file, or the shipped set of that name.

        Raises:
            PromptError: there is no such file or set, or it cannot be used.
        """
        source = Path(path)
        if not source.exists() and str(path) in shipped_prompt_sets():
            source = shipped_prompt_sets()[str(path)]
        try:
            data = json.loads(source.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PromptError(
                f"There is no prompt set {str(path)!r}. Give a JSON file or one of: "
                f"{', '.join(shipped_prompt_sets())}."
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise PromptError(f"{source} is not a readable JSON file: {error}.") from error
        if not isinstance(data, dict):
            raise PromptError(f"{source} holds a {type(data).__name__}; a prompt set is an object.")
        for side in ("source", "target"):
            lines = data.get(side)
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise PromptError(f"{source}: {side!r} must be a list of texts.")
        fields = ("name", "title", "modality", "source", "target", "concept", "license")
        known = {key: data[key] for key in fields if key in data}
        for key in set(known) - {"source", "target"}:
            if not isinstance(known[key], str):
                raise PromptError(f"{source}: {key!r} is {known[key]!r}; it must be a text.")
        if known.get("modality", "text") not in ("text", "image"):
            raise PromptError(
                f"{source}: 'modality' is {known['modality']!r}; it must be 'text' or 'image'."
            )
        return cls(**{"name": source.stem, **known})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set as JSON."""
        target = Path(path)
        target.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")
        return target

    def issues(self) -> list[PromptIssue]:
        """Warnings about this set; a set with errors does not come to be."""
        return check_prompts(self.source, self.target)

    def hash(self) -> str:
        """A short hash of the prompts, in order."""
        text = json.dumps([self.modality, self.source, self.target])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def split(self, holdout: float, seed: int) -> tuple[Sides, Sides]:
        """Training and held-out prompts, drawn without order from each side.

        Args:
            holdout: share held out, in [0, 0.5]; rounded, and at least 2 a side where not 0.
            seed: of the draw.
        """
        generator = torch.Generator().manual_seed(seed)

        def divide(lines: list[str]) -> tuple[list[str], list[str]]:
            held = max(2, round(holdout * len(lines))) if holdout else 0
            order = torch.randperm(len(lines), generator=generator).tolist()
            kept = sorted(order[held:])
            return [lines[i] for i in kept], [lines[i] for i in sorted(order[:held])]

        (source, held_source), (target, held_target) = divide(self.source), divide(self.target)
        return Sides(source, target), Sides(held_source, held_target)


@dataclass(frozen=True)
class Sides:
    """Source and target prompts, any number of each."""

    source: list[str]
    target: list[str]


def check_prompts(source: Sequence[str], target: Sequence[str]) -> list[PromptIssue]:
    """Everything wrong, or odd, about two lists of prompts, with line numbers from 1."""
    issues: list[PromptIssue] = []
    sides: tuple[tuple[Side, Sequence[str]], ...] = (("source", source), ("target", target))
    for side, lines in sides:
        if len(lines) < FEWEST:
            issues.append(
                PromptIssue(
                    "error", side, None, f"has {len(lines)} prompts; give {FEWEST} or more."
                )
            )
        first_seen: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if not text:
                issues.append(PromptIssue("error", side, number, "is empty; remove it."))
            elif len(text) > LONGEST_PROMPT:
                issues.append(
                    PromptIssue(
                        "error",
                        side,
                        number,
                        f"has {len(text)} characters; shorten it to {LONGEST_PROMPT} at most.",
                    )
                )
            elif len(text) > LONG_PROMPT:
                issues.append(
                    PromptIssue(
                        "warning",
                        side,
                        number,
                        f"has {len(text)} characters; prompts over {LONG_PROMPT} slow training.",
                    )
                )
            if text and text.casefold() in first_seen:
                issues.append(
                    PromptIssue(
                        "warning", side, number, f"repeats line {first_seen[text.casefold()]}."
                    )
                )
            first_seen.setdefault(text.casefold(), number)
    if source and sorted(map(str.strip, source)) == sorted(map(str.strip, target)):
        issues.append(
            PromptIssue(
                "error", "target", None, "is the same as source; there is nothing to learn."
            )
        )
    elif len(source) != len(target):
        issues.append(
            PromptIssue(
                "warning",
                "target",
                None,
                f"has {len(target)} prompts and source {len(source)}; equal numbers learn best.",
            )
        )
    return issues


def shipped_prompt_sets() -> dict[str, Path]:
    """Name -> file of the prompt sets that come with the project."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}


def load_jigsaw(path: str | os.PathLike[str], *, count: int = 32, seed: int = 0) -> PromptSet:
    """Toxic (source) and non-toxic (target) comments out of a Jigsaw toxicity CSV file.

    Reads the columns `comment_text` and `toxic` (0 or 1) of the Jigsaw Toxic Comment
    Classification Challenge, or `target` (>= 0.5 is toxic) of Jigsaw Unintended Bias.

    Args:
        path: the CSV file, UTF-8.
        count: comments per side, drawn without replacement among those up to 400 characters.
        seed: of the draw.

    Raises:
        PromptError: the file lacks a column, holds an unreadable label or too few comments.
    """
    sides: dict[bool, list[str]] = {True: [], False: []}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            label = next((c for c in ("toxic", "target") if c in columns), None)
            if label is None or "comment_text" not in columns:
                raise PromptError(
                    f"{path} has the columns {', '.join(columns) or '(none)'}; a Jigsaw file has "
                    "'comment_text' and 'toxic' or 'target'."
                )
            for row in reader:
                text = " ".join((row["comment_text"] or "").split())
                try:
                    toxic = float(row[label]) >= 0.5
                except (TypeError, ValueError) as error:
                    raise PromptError(
                        f"{path} line {reader.line_num}: {label} is {row[label]!r}; "
                        "it must be a number."
                    ) from error
                if text and len(text) <= LONG_PROMPT:
                    sides[toxic].append(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"{path} is not a readable UTF-8 CSV file: {error}.") from error
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[bool, list[str]] = {}
    for toxic, lines in sides.items():
        unique = list(dict.fromkeys(lines))
        if len(unique) < count:
            kind = "toxic" if toxic else "non-toxic"
            raise PromptError(f"{path} has {len(unique)} {kind} comments; {count} are asked for.")
        order = torch.randperm(len(unique), generator=generator)[:count].tolist()
        drawn[toxic] = [unique[i] for i in order]
    return PromptSet(
        name="jigsaw",
        title="Less toxic (Jigsaw)",
        source=drawn[True],
        target=drawn[False],
        concept="non-toxic comments",
        license="CC0-1.0",
    )
