"""Complete, runnable Python code that reproduces a scene."""

from __future__ import annotations

from collections.abc import Sequence

from lineas_core.scenes.scene import Scene


def snippet(scene: Scene) -> str:
    """The code for a scene of either modality."""
    return text_snippet(scene) if scene.modality == "text" else image_snippet(scene)


def text_snippet(scene: Scene) -> str:
    r"""Code that prints the completions of a scene, each below a line that identifies it.

    The prompts run in one batch, as in the Studio. In bfloat16 another batch size may round
    differently, so the sampled text may then diverge from the one shown.

    >>> from lineas_core.scenes.scene import UsedMap
    >>> maps = (UsedMap("a.safetensors", 0.7),)
    >>> print(text_snippet(Scene("smollm2", "text", ("Once",), maps)))
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
    """Code that saves the pictures of a scene in the current folder.

    A sweep is saved as `grid.png`; otherwise each prompt, numbered from 1, is saved as
    `1-untouched.png` and `1-steered.png`.
    """
    lines = [*_head(scene), ""]
    if scene.down:
        _, second = scene.swept
        lines += [
            f"strengths = {list(scene.strengths)!r}",
            f"down = {list(scene.down)!r}",
            f"second, _ = maps[{second}]",
            "rows = []",
            "for strength in down:",
            f"    maps[{second}] = (second, strength)",
            f"    rows += model.sweep(prompts, maps, strengths, seed={scene.seeds[0]}).images",
            "labels = [f\"{second.info.name or 'second map'} {strength:g}\" for strength in down]",
            'lc.draw_grid(lc.ImageGrid(labels, strengths, rows)).save("grid.png")',
        ]
    elif scene.strengths:
        lines += [
            f"strengths = {list(scene.strengths)!r}",
            f"grid = model.sweep(prompts, maps, strengths, seed={_seed(scene)})",
            'lc.draw_grid(grid).save("grid.png")',
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
    # repr quotes any text, including quotes and newlines, so a name cannot inject code.
    maps = [
        f"    (lc.SteeringMap.load({used.name!r}){'.inverse()' if used.inverse else ''}, "
        f"{used.strength!r}),"
        for used in scene.maps
    ]
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
