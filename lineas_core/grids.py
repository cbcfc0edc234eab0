"""Image grids: how one was made, its scores, its picture and its film."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from PIL import Image, ImageDraw, ImageFont

from lineas_core.errors import ConfigError, MapError
from lineas_core.maps import SteeringMap, Strength
from lineas_core.metrics.clip import DEFAULT_SCORER, load_scorer
from lineas_core.models.batches import in_rows
from lineas_core.models.diffusion import DiffusionModel, ImageGrid

FORMAT_VERSION = 2
# Of files without seeds, which versions before that read.
WITHOUT_SEEDS = 1
INK, PAPER, FAINT = (30, 41, 59), (255, 255, 255), (100, 116, 139)
SECONDS_A_FRAME = 0.6


@dataclass(frozen=True)
class UsedMap:
    """A map of a grid.

    Attributes:
        name: by which it is found again.
        digest: of the map as it is stored (`SteeringMap.digest`).
        strength: None where it is swept.
        inverse: whether its inverse is used.
    """

    name: str
    digest: str
    strength: float | None = None
    inverse: bool = False


@dataclass(frozen=True)
class GridRecipe:
    """All that is needed to make a grid again, as its JSON sidecar holds it.

    Attributes:
        model: the name it is loaded by.
        prompts: the rows.
        strengths: the columns.
        seed: of every row.
        maps: first applied first.
        down: the rows, where a second map is swept on the one prompt in place of several prompts.
        seeds: one for each row, where they differ; empty where `seed` is that of every row.
    """

    model: str
    prompts: tuple[str, ...]
    strengths: tuple[float, ...]
    seed: int
    maps: tuple[UsedMap, ...]
    down: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    def make(self, model: DiffusionModel, find: Callable[[str], SteeringMap]) -> ImageGrid:
        """The grid.

        Args:
            model: the one that `model` names.
            find: map name -> map.

        Raises:
            MapError: a map is not the one that the recipe was written with.
            ConfigError: a second map is swept, and there is not one prompt and two swept maps.
        """
        maps: list[tuple[SteeringMap, float | None]] = []
        for used in self.maps:
            smap = find(used.name)
            if smap.digest() != used.digest:
                raise MapError(
                    f"The map {used.name!r} is not the one this grid was made with. Put the map "
                    f"whose digest begins with {used.digest[:12]} in its place."
                )
            maps.append((smap.inverse() if used.inverse else smap, used.strength))
        if self.down:
            return self._make_crossed(model, maps)
        seed = self.seeds or self.seed
        grid = model.sweep(list(self.prompts), maps, list(self.strengths), seed=seed)
        if self.seeds:
            rows = zip(self.prompts, self.seeds, strict=True)
            return replace(grid, prompts=[f"{prompt}, seed {seed}" for prompt, seed in rows])
        return grid

    def _make_crossed(
        self, model: DiffusionModel, maps: list[tuple[SteeringMap, float | None]]
    ) -> ImageGrid:
        """The first swept map's strengths across, the second one's down."""
        swept = [i for i, (_, strength) in enumerate(maps) if strength is None]
        if len(self.prompts) != 1 or len(swept) != 2:
            raise ConfigError(
                f"{len(self.prompts)} prompts and {len(swept)} swept maps; a grid of two maps "
                "takes one prompt and two swept maps."
            )
        across = torch.tensor(self.strengths).repeat(len(self.down))
        downwards = torch.tensor(self.down).repeat_interleave(len(self.strengths))
        steer: list[tuple[SteeringMap, Strength]] = [
            (smap, 0.0 if strength is None else strength) for smap, strength in maps
        ]
        for place, strengths in zip(swept, (across, downwards), strict=True):
            steer[place] = (steer[place][0], strengths)
        images = model.generate(list(self.prompts) * len(across), steer, seed=self.seed)
        name = maps[swept[1]][0].info.name or "second map"
        labels = [f"{name} {strength:g}" for strength in self.down]
        return ImageGrid(labels, list(self.strengths), in_rows(images, len(self.strengths)))

    def to_json(self, scores: GridScores | None = None) -> str:
        """The sidecar's text; scores are for people and other programs, and not read back."""
        version = FORMAT_VERSION if self.seeds else WITHOUT_SEEDS
        contents = {"format": version, **asdict(self)}
        if not self.seeds:
            del contents["seeds"]
        if scores is not None:
            contents["scores"] = asdict(scores)
        return json.dumps(contents, indent=2)

    @classmethod
    def from_json(cls, text: str) -> GridRecipe:
        """Read a sidecar.

        Raises:
            ConfigError: it is not one, or of a newer format.
        """
        try:
            raw = json.loads(text)
            version = raw["format"]
            recipe = cls(
                model=str(raw["model"]),
                prompts=tuple(map(str, raw["prompts"])),
                strengths=tuple(map(float, raw["strengths"])),
                seed=int(raw["seed"]),
                maps=tuple(UsedMap(**used) for used in raw["maps"]),
                down=tuple(map(float, raw.get("down", ()))),
                seeds=tuple(map(int, raw.get("seeds", ()))),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"This is not the JSON file of a grid ({error!r}). Choose one that was downloaded "
                "with a grid's picture."
            ) from error
        if version not in (WITHOUT_SEEDS, FORMAT_VERSION):
            raise ConfigError(
                f"The grid's file has format {version!r}; this version reads {FORMAT_VERSION}. "
                "Update lineas_core."
            )
        return recipe


@dataclass(frozen=True)
class GridScores:
    """Scores of every cell of a grid; those of two scorers do not compare.

    Attributes:
        scorer: the CLIP they come from.
        style: the text of CLIPScore.
        clip: `clip[row][column]`, CLIPScore.
        image: `image[row][column]`, IMGScore against strength 0 of the same row.
    """

    scorer: str
    style: str
    clip: list[list[float]]
    image: list[list[float]]


def score_grid(
    grid: ImageGrid,
    style: str,
    *,
    scorer: str = DEFAULT_SCORER,
    device: str = "auto",
    crossed: bool = False,
) -> GridScores:
    """CLIPScore and IMGScore of every cell.

    Args:
        grid: one of its strengths must be 0.
        style: what steered images should look like.
        crossed: the rows are strengths of a second map, so that all cells compare with the first
            row's.
        scorer: see `clip_score`.
        device: see `clip_score`.

    Raises:
        ConfigError: the grid has no column of strength 0, or the style is empty.
        ModelError: the scorer cannot be loaded.
    """
    if 0 not in grid.strengths:
        raise ConfigError(
            f"strengths is {grid.strengths}; IMGScore compares with strength 0, so include it."
        )
    untouched = grid.strengths.index(0)
    judge = load_scorer(scorer, device)
    cells = [image for row in grid.images for image in row]
    references = [
        (grid.images[0] if crossed else row)[untouched] for row in grid.images for _ in row
    ]
    clip, image = judge.clip_score(cells, style), judge.img_score(cells, references)
    columns = len(grid.strengths)
    return GridScores(judge.name, style, in_rows(clip, columns), in_rows(image, columns))


def draw_grid(grid: ImageGrid, scores: GridScores | None = None, cell: int = 160) -> Image.Image:
    """The grid as one picture, prompts at the left, strengths above, scores below each cell."""
    label, head, foot, gap = 190, 40, 24 if scores else 0, 10
    width = label + len(grid.strengths) * (cell + gap) + gap
    height = head + len(grid.prompts) * (cell + foot + gap) + gap
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for column, strength in enumerate(grid.strengths):
        left = label + column * (cell + gap)
        pen.text((left + cell / 2, head / 2), f"strength {strength:g}", INK, font, anchor="mm")
        for row, images in enumerate(grid.images):
            top = head + row * (cell + foot + gap)
            sheet.paste(_scaled(images[column], cell), (left, top))
            if scores:
                text = f"CLIP {scores.clip[row][column]:.2f}   IMG {scores.image[row][column]:.2f}"
                place = (left + cell / 2, top + cell + foot / 2)
                pen.text(place, text, FAINT, small, anchor="mm")
    for row, prompt in enumerate(grid.prompts):
        middle = head + row * (cell + foot + gap) + cell / 2
        text = _wrapped(prompt, pen, font, label - 2 * gap)
        pen.multiline_text((gap, middle), text, INK, font, anchor="lm", spacing=5)
    return sheet


def draw_film(grid: ImageGrid, cell: int = 160) -> bytes:
    """A looping GIF that goes through the strengths and back, the prompts side by side."""
    frames = []
    for column, strength in enumerate(grid.strengths):
        frame = Image.new("RGB", (len(grid.prompts) * cell, cell + 28), PAPER)
        for row, images in enumerate(grid.images):
            frame.paste(_scaled(images[column], cell), (row * cell, 0))
        ImageDraw.Draw(frame).text(
            (frame.width / 2, cell + 14),
            f"strength {strength:g}",
            INK,
            ImageFont.load_default(15),
            anchor="mm",
        )
        frames.append(frame)
    there_and_back = frames + frames[-2:0:-1]
    file = io.BytesIO()
    there_and_back[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=there_and_back[1:],
        duration=round(1000 * SECONDS_A_FRAME),
        loop=0,
    )
    return file.getvalue()


def _scaled(image: Image.Image, side: int) -> Image.Image:
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _wrapped(
    text: str,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """The text in lines that fit, five at most."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or pen.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines if len(lines) <= 5 else [*lines[:4], f"{lines[4]} …"])
