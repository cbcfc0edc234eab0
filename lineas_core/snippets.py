"""The Python code for what is on the screen: complete, and ready to run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lineas_core.errors import ConfigError
from lineas_core.models.batches import LARGEST_SEED
from lineas_core.words import counted


@dataclass(frozen=True)
class Scene:
    """What makes the texts or pictures on the screen.

    Args:
        model: the name it is loaded by.
        modality: "text" or "image".
        prompts: the rows, at least one.
        maps: (file, strength) pairs, first applied first; the strength None is the one that is
            swept.
        seed: one for all prompts, or one for each.
        strengths: the columns of a sweep. Empty: the untouched result, and beside it the steered.
        max_new_tokens: of a text.
        temperature: of a text.

    Raises:
        ConfigError: a value is out of range, or a strength is missing; the message names it.
    """

    model: str
    modality: Literal["text", "image"]
    prompts: tuple[str, ...]
    maps: tuple[tuple[str, float | None], ...] = ()
    seed: int | tuple[int, ...] = 0
    strengths: tuple[float, ...] = ()
    max_new_tokens: int = 80
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.modality not in ("text", "image"):
            raise ConfigError(f"modality is {self.modality!r}; it must be text or image.")
        if not self.prompts:
            raise ConfigError("prompts is empty; give at least one.")
        fixed = [strength for _, strength in self.maps if strength is not None]
        for number in (*fixed, *self.strengths, self.temperature):
            if not math.isfinite(number):
                raise ConfigError(f"{number} is not a finite number; strengths must be.")
        for seed in self.seeds:
            if not 0 <= seed <= LARGEST_SEED:
                raise ConfigError(f"seed is {seed}; choose 0 to {LARGEST_SEED}.")
        if isinstance(self.seed, tuple) and len(self.seed) != len(self.prompts):
            raise ConfigError(
                f"{counted(len(self.seed), 'seed')} for {counted(len(self.prompts), 'prompt')}; "
                "give one, or one for each."
            )
        if len(fixed) < len(self.maps) and not self.strengths:
            raise ConfigError("A map has no strength, and strengths is empty; give one of the two.")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, as many as were given."""
        return self.seed if isinstance(self.seed, tuple) else (self.seed,)


def snippet(scene: Scene) -> str:
    """The code for a scene of either modality."""
    return text_snippet(scene) if scene.modality == "text" else image_snippet(scene)


def text_snippet(scene: Scene) -> str:
    r"""Code that prints the completions of a scene, each behind a line that says which it is.

    The prompts run in one batch as they do on the screen. In bfloat16 a batch of another size may
    round otherwise, and then a text may part from the one shown.

    >>> print(text_snippet(Scene("smollm2", "text", ("Once",), (("a.safetensors", 0.7),))))
    import lineas_core as lc
    <BLANKLINE>
    model = lc.load_model('smollm2')
    prompts = ['Once']
    maps = [
        (lc.SteeringMap.load('a.safetensors'), 0.7),
    ]
    settings = {'max_new_tokens': 80, 'temperature': 1.0}
    <BLANKLINE>
    untouched = model.generate(prompts, seed=0, **settings)
    steered = model.generate(prompts, maps, seed=0, **settings)
    for prompt, before, after in zip(prompts, untouched, steered):
        print(f"--- {prompt} | untouched", before, sep="\n")
        print(f"--- {prompt} | steered", after, sep="\n")
    <BLANKLINE>
    """
    settings = {"max_new_tokens": scene.max_new_tokens, "temperature": scene.temperature}
    lines = [*_head(scene), f"settings = {settings!r}", ""]
    if scene.strengths:
        lines += [
            f"strengths = {list(scene.strengths)!r}",
            f"grid = model.sweep(prompts, maps, strengths, seed={_seed(scene)}, **settings)",
            "for prompt, row in zip(prompts, grid.texts):",
            "    for strength, text in zip(strengths, row):",
            '        print(f"--- {prompt} | strength {strength:g}", text, sep="\\n")',
        ]
    else:
        lines += [
            f"untouched = model.generate(prompts, seed={_seed(scene)}, **settings)",
            f"steered = model.generate(prompts, maps, seed={_seed(scene)}, **settings)",
            "for prompt, before, after in zip(prompts, untouched, steered):",
            '    print(f"--- {prompt} | untouched", before, sep="\\n")',
            '    print(f"--- {prompt} | steered", after, sep="\\n")',
        ]
    return _joined(lines)


def image_snippet(scene: Scene) -> str:
    """Code that saves the pictures of a scene in the folder where it runs.

    A sweep becomes `grid.png`; else every prompt, counted from 1, becomes `1-untouched.png` and
    `1-steered.png`.
    """
    lines = [*_head(scene), ""]
    if scene.strengths:
        lines.insert(1, "from lineas_core.grids import draw_grid")
        lines += [
            f"strengths = {list(scene.strengths)!r}",
            f"grid = model.sweep(prompts, maps, strengths, seed={_seed(scene)})",
            'draw_grid(grid).save("grid.png")',
            "# One picture of it: grid.images[row][column].save(...)",
        ]
    else:
        lines += [
            f"untouched = model.generate(prompts, seed={_seed(scene)})",
            f"steered = model.generate(prompts, maps, seed={_seed(scene)})",
            "for number, (before, after) in enumerate(zip(untouched, steered), start=1):",
            '    before.save(f"{number}-untouched.png")',
            '    after.save(f"{number}-steered.png")',
        ]
    return _joined(lines)


def _head(scene: Scene) -> list[str]:
    # repr writes any text, also one with quotes or line ends, as one literal and nothing else.
    maps = [f"    (lc.SteeringMap.load({file!r}), {strength!r})," for file, strength in scene.maps]
    return [
        "import lineas_core as lc",
        "",
        f"model = lc.load_model({scene.model!r})",
        f"prompts = {list(scene.prompts)!r}",
        *(["maps = [", *maps, "]"] if maps else ["maps = []"]),
    ]


def _seed(scene: Scene) -> str:
    return repr(scene.seed if isinstance(scene.seed, int) else list(scene.seed))


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
