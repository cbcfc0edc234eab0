"""PromptSet: the source and the target prompts that a map is learned from."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Generic, Literal, TypeVar

from lineas_core.errors import PromptError
from lineas_core.system.files import parse_json, why, write_whole
from lineas_core.system.paths import shipped
from lineas_core.system.words import counted, folded

MIN_PROMPTS = 4
LONG_PROMPT = 400
MAX_PROMPT = 4000
# Per side. The papers learn from 32 prompts, and each further one adds a row to every step.
MAX_LINES = 2000
# Both sides with the maximum number of prompts at their maximum length, four bytes per character.
MAX_SET_BYTES = 2 * MAX_LINES * MAX_PROMPT * 4
# Limit for name, title, concept and license, which are repeated in maps and pages.
MAX_TEXT = 4000
MAX_ERRORS = 50

Side = Literal["source", "target"]
Sample = TypeVar("Sample")


class _NoSetError(PromptError):
    """A file is not a prompt set in JSON, but may be another list of prompts."""


@dataclass(frozen=True)
class PromptIssue:
    """An error or a warning about a prompt set.

    Attributes:
        level: an error stops the set from being used, a warning does not.
        side: source or target.
        line: line number, from 1; None if the issue concerns the whole side.
        message: the problem, and what to do.
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
        title: the title shown to users.
        modality: "text" or "image".
        source: prompts x ~ p, run through the steered model; at least 4.
        target: prompts y ~ q, run through the untouched model; at least 4.
        concept: what the target has and the source lacks.
        license: license of the prompts.

    Raises:
        PromptError: the set cannot be used; the message lists up to 50 errors with their lines.
    """

    name: str
    source: list[str]
    target: list[str]
    title: str = ""
    modality: Literal["text", "image"] = "text"
    concept: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        for key in ("name", "title", "concept", "license"):
            text = getattr(self, key)
            if len(text) > MAX_TEXT:
                raise PromptError(
                    f"{key} has {len(text)} characters; shorten it to {MAX_TEXT} at most."
                )
            if not is_whole(text):
                raise PromptError(f"{key} holds half a character; write it again.")
        errors = [str(i) for i in check_prompts(self.source, self.target) if i.level == "error"]
        if errors:
            more = len(errors) - MAX_ERRORS
            shown = [*errors[:MAX_ERRORS], *([f"and {more} more"] if more > 0 else [])]
            raise PromptError(f"Prompt set {self.name!r} cannot be used:\n" + "\n".join(shown))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PromptSet:
        """Read a prompt set file, or the shipped set of that name.

        Other formats (tables, JSON lines, YAML) are read by `files.read_prompt_file`.

        Raises:
            PromptError: there is no such file or set, or it cannot be used.
        """
        shipped = shipped_prompt_sets()
        source = Path(path)
        try:
            if str(path) in shipped and not source.exists():
                source = shipped[str(path)]
            with source.open("rb") as file:
                # One byte over the limit is enough to refuse the file.
                data = file.read(MAX_SET_BYTES + 1)
        except FileNotFoundError as error:
            raise PromptError(
                f"There is no prompt set {source.name!r:.200}. Give a JSON file or one of: "
                f"{', '.join(shipped)}."
            ) from error
        except (OSError, ValueError) as error:
            raise PromptError(
                f"{source.name:.200} cannot be read ({why(error)}). Give a JSON file or one of: "
                f"{', '.join(shipped)}."
            ) from error
        name = source.name[:200]
        if source.suffix.lower() != ".json":
            return cls._read(name, data)
        try:
            return cls.parse(name, data)
        except _NoSetError:
            # JSON lines and lists of pairs may also be called .json.
            with contextlib.suppress(PromptError):
                return cls._read(name, data)
            raise

    @classmethod
    def _read(cls, name: str, data: bytes) -> PromptSet:
        """Read any format that `read_prompt_file` accepts into a set named after the file."""
        from lineas_core.prompts.files import read_prompt_file

        lines = read_prompt_file(name, data)
        return cls(
            name=PurePath(name).stem,
            title=lines.title,
            modality="image" if lines.modality == "image" else "text",
            source=list(lines.source),
            target=list(lines.target),
            concept=lines.concept,
            license=lines.license,
        )

    @classmethod
    def parse(cls, file: str, data: bytes) -> PromptSet:
        """Parse a prompt set from the bytes of its file.

        Args:
            file: file name without folders, for error messages.
            data: JSON in UTF-8, with or without a byte order mark, at most 64 MB.

        Raises:
            PromptError: it is not a prompt set, or cannot be used.
        """
        if len(data) > MAX_SET_BYTES:
            raise PromptError(
                f"{file} has more than {MAX_SET_BYTES:,} bytes; that is the limit. Remove some."
            )
        try:
            raw = parse_json(data.decode("utf-8-sig"))
        except ValueError as error:
            raise _NoSetError(
                f"{file} is not a readable JSON file: {why(error)}. Save it as JSON in UTF-8."
            ) from error
        if not isinstance(raw, dict):
            raise _NoSetError(f"{file} holds a {type(raw).__name__}; a prompt set is an object.")
        for side in ("source", "target"):
            lines = raw.get(side)
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise _NoSetError(f"{file}: {side!r} must be a list of texts.")
        fields = ("name", "title", "modality", "source", "target", "concept", "license")
        known = {key: raw[key] for key in fields if key in raw}
        for key in set(known) - {"source", "target"}:
            if not isinstance(known[key], str):
                raise PromptError(f"{file}: {key!r} is {known[key]!r:.80}; it must be a text.")
        if known.get("modality", "text") not in ("text", "image"):
            raise PromptError(
                f"{file}: 'modality' is {known['modality']!r:.80}; it must be 'text' or 'image'."
            )
        try:
            return cls(**{"name": PurePath(file).stem, **known})
        except PromptError as error:
            raise PromptError(f"{file}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set as JSON, atomically.

        Raises:
            PromptError: the file cannot be written.
        """
        try:
            return write_whole(path, self.to_json())
        except (OSError, ValueError) as error:
            raise PromptError(
                f"Cannot write the prompts to {Path(path).name:.200} ({why(error)}). Choose a "
                "folder that can be written."
            ) from error

    def to_json(self) -> str:
        """The set as the JSON text of its file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def issues(self) -> list[PromptIssue]:
        """Warnings about this set; errors are raised on construction."""
        return check_prompts(self.source, self.target)

    def hash(self) -> str:
        """A short hash of the prompts, in order."""
        text = json.dumps([self.modality, self.source, self.target])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def split(self, holdout: float, seed: int) -> tuple[Sides[str], Sides[str]]:
        """Training and held-out prompts; see `Sides.split`."""
        return Sides(self.source, self.target).split(holdout, seed)


@dataclass(frozen=True)
class Sides(Generic[Sample]):
    """Source and target samples, prompts or pictures, any number of each."""

    source: list[Sample]
    target: list[Sample]

    def split(self, holdout: float, seed: int) -> tuple[Sides[Sample], Sides[Sample]]:
        """Split each side at random into training and held-out samples, keeping their order.

        Args:
            holdout: share held out, in [0, 0.5]; rounded, and at least 2 per side unless it is 0.
            seed: random seed.
        """
        # Imported here, since reading prompts needs no torch. Keep torch's generator: another one
        # would hold out other prompts, and a stored run would not continue to the same map.
        import torch

        generator = torch.Generator().manual_seed(seed)

        def divide(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
            held = max(2, round(holdout * len(samples))) if holdout else 0
            order = torch.randperm(len(samples), generator=generator).tolist()
            kept = sorted(order[held:])
            return [samples[i] for i in kept], [samples[i] for i in sorted(order[:held])]

        (source, held_source), (target, held_target) = divide(self.source), divide(self.target)
        return Sides(source, target), Sides(held_source, held_target)


def check_prompts(source: Sequence[str], target: Sequence[str]) -> list[PromptIssue]:
    """Find all errors and warnings in two lists of prompts; those of one line come line by line."""
    issues: list[PromptIssue] = []
    first: dict[str, tuple[Side, int]] = {}
    sides: tuple[tuple[Side, Sequence[str]], ...] = (("source", source), ("target", target))
    for side, lines in sides:
        if len(lines) < MIN_PROMPTS:
            message = f"has {counted(len(lines), 'prompt')}; give {MIN_PROMPTS} or more."
            issues.append(PromptIssue("error", side, None, message))
        if len(lines) > MAX_LINES:
            message = f"has {len(lines)} prompts; {MAX_LINES} are the most. Remove some."
            issues.append(PromptIssue("error", side, None, message))
        for number, line in enumerate(lines, start=1):
            earlier = first.setdefault(folded(line), (side, number))
            issues += [
                PromptIssue(level, side, number, message)
                for level, message in _line_problems(
                    line, None if earlier == (side, number) else earlier
                )
            ]
    if source and sorted(map(str.strip, source)) == sorted(map(str.strip, target)):
        message = "is the same as source; there is nothing to learn."
        issues.append(PromptIssue("error", "target", None, message))
    elif len(source) != len(target):
        message = (
            f"has {counted(len(target), 'prompt')} and source {len(source)}; equal numbers "
            "learn best."
        )
        issues.append(PromptIssue("warning", "target", None, message))
    return issues


def _line_problems(
    line: str, earlier: tuple[Side, int] | None
) -> Iterator[tuple[Literal["error", "warning"], str]]:
    """The problems of one line.

    Args:
        line: a prompt.
        earlier: side and number of the first line that is the same but for case and spacing.
    """
    text = line.strip().strip("\ufeff").strip()
    if not text:
        yield "error", "is empty; write a prompt or remove it."
        return
    if len(text) > MAX_PROMPT:
        yield "error", f"has {len(text)} characters; shorten it to {MAX_PROMPT} at most."
    elif len(text) > LONG_PROMPT:
        yield "warning", f"has {len(text)} characters; prompts over {LONG_PROMPT} slow training."
    if not is_whole(text):
        yield "error", "holds half a character (a lone surrogate); write it again."
    if earlier:
        yield "warning", f"repeats {earlier[0]} line {earlier[1]}; change or remove it."


def is_whole(text: str) -> bool:
    r"""Whether a text has no lone surrogate, which JSON can express but UTF-8 cannot encode.

    >>> is_whole("an emoji: \U0001f642"), is_whole("\ud83d")
    (True, False)
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def shipped_prompt_sets() -> dict[str, Path]:
    """Name -> file of the prompt sets that come with the project."""
    return {path.stem: path for path in sorted(shipped("prompts").glob("*.json"))}


def load_jigsaw(path: str | os.PathLike[str], *, count: int = 32, seed: int = 0) -> PromptSet:
    """Draw toxic (source) and non-toxic (target) comments from a Jigsaw toxicity CSV file.

    Reads the columns `comment_text` and `toxic` (0 or 1) of the Jigsaw Toxic Comment
    Classification Challenge, or `target` (>= 0.5 is toxic) of Jigsaw Unintended Bias.

    Args:
        path: the CSV file, UTF-8.
        count: comments per side, drawn without replacement among those up to 400 characters.
        seed: random seed.

    Raises:
        PromptError: the file lacks a column, or has an unreadable label or too few comments.
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
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(f"{path} is not a readable UTF-8 CSV file: {why(error)}.") from error
    import torch

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
