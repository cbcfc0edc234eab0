"""Import and export in the library tab: map files, bundles, snippets, links."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import MapError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import ImageGrid
from lineas_core.scenes.bundle import Bundle, read_bundle, write_bundle
from lineas_core.scenes.drawing import draw_grid
from lineas_core.scenes.scene import Scene
from lineas_core.scenes.snippet import snippet
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.ledger import size_of_map
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import lines_of, whole
from lineas_core.studio.app import Studio
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState, Slot, patch
from lineas_core.studio.rack.screen import Screen, scene_of
from lineas_core.studio.storage.map_extras import extras_of, file_name, told_by
from lineas_core.studio.storage.store import MapRow
from lineas_core.studio.tabs.library.formats import OTHERS, OWN, read_other, write_as
from lineas_core.studio.tabs.library.map_list import first_of
from lineas_core.system.words import counted

MAX_IMPORT = 64 * 2**20


class ImportedOutputs(NamedTuple):
    """Outputs of an import: its message, the rack, and the fields of the imported scene."""

    said: Any
    rack: Any
    image_model: Any
    image_prompts: Any
    image_seed: Any
    text_model: Any
    text_prompt: Any
    text_seed: Any
    tokens: Any


class SharingCallbacks:
    """Callbacks of import and export.

    Args:
        studio: gives access to the maps.
        answers: generates the results that the screen shows.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio = studio
        self._pictures, self._texts = answers.pictures, answers.texts

    @with_messages
    def export(self, key: str, chosen: Sequence[str], format: str = OWN) -> Any:
        """Write the chosen maps to files, in a format of `FORMATS`."""
        owner = owner_of(key)
        first_of(chosen)
        self._studio.limits.admit(owner)
        # Whoever lists a map twice wants one file of it.
        maps = list(dict.fromkeys(chosen))
        size = sum(self._studio.library.file(map_id, owner).stat().st_size for map_id in maps)
        files: dict[str, Path] = {}
        with self._studio.ledger.download(owner, size) as folder:
            for map_id in maps:
                row = self._studio.library.row(map_id, owner)
                smap = self._studio.library.map(map_id, owner)
                if format == OWN:
                    path = folder / file_name(row.title, files)
                    smap.save(path, extras_of(row))
                else:
                    models = self._studio.model_cache
                    path = write_as(format, smap, row.title, folder, models, files)
                files[path.name] = path
        return gr.update(value=[str(path) for path in files.values()], visible=True)

    @with_messages
    def take_in(self, key: str, files: Sequence[str] | None, model: str = "") -> ImportedOutputs:
        """Import map files and bundles; a bundle also sets the rack and fields to its scene.

        Other programs' files become maps of `model`.
        """
        owner, scene = owner_of(key), None
        self._studio.limits.admit(owner)
        rows: list[MapRow] = []
        notes: list[str] = []
        for file in dict.fromkeys(files or ()):
            path = Path(file)
            self._studio.ledger.check_share(owner, path.stat().st_size)
            if path.stat().st_size > MAX_IMPORT:
                raise MapError(f"{path.name} is larger than {MAX_IMPORT // 2**20} MiB.")
            if path.suffix == ".zip":
                bundle = read_bundle(path)
                self._studio.model_cache.check(bundle.scene.model)
                notes += bundle.notes
                rows, scene = self._unpack(owner, bundle), bundle.scene
            elif path.suffix.lower() in OTHERS:
                self._studio.model_cache.check(model)
                smap = read_other(path, model)
                rows.append(self._add(owner, smap))
                notes += smap.info.config["notes"]
            else:
                smap = SteeringMap.load(path)
                told, refused = told_by(path)
                row = self._add(owner, smap, **told)
                rows.append(row)
                notes += [f"{row.title}: {note}" for note in refused]
        notes.append(f"{counted(len(rows), 'map')} {'is' if len(rows) == 1 else 'are'} in.")
        if scene is not None and scene.strengths:
            swept = ", ".join(f"{strength:g}" for strength in scene.strengths)
            notes.append(f"It sweeps the strengths {swept}; the grid buttons show a sweep.")
        if scene is not None and len(set(scene.seeds)) > 1:
            notes.append(f"It has a seed for each prompt; the screen shows seed {scene.seeds[0]}.")
        words = '<p class="ls-hint" role="status">' + "<br>".join(map(escape, notes)) + "</p>"
        if scene is None:
            added = [row.id for row in rows[:1]]
            news = patch(rows=self._studio.library.maps(owner), add=added)
            return unchanged(ImportedOutputs)._replace(said=words, rack=news)
        return self._scene(owner, scene, rows)._replace(said=words)

    @with_messages
    def bundle(self, key: str, *screen: Any) -> Any:
        """Write a zip file with the screen's result and everything needed to reproduce it."""
        owner = owner_of(key)
        shown, mix, prompts = self._screen(owner, screen)
        scene, maps = scene_of(shown, mix, prompts)
        grid, texts = self._result(scene, mix)
        bundle = Bundle(
            scene,
            maps,
            revision=self._studio.revision(scene.model),
            prompts=mix.rows[0].prompts if mix.rows else None,
            grid=grid,
            texts=texts,
        )
        size = sum(map(size_of_map, maps.values()))
        with self._studio.ledger.download(owner, size) as folder:
            path = write_bundle(folder / "scene.zip", bundle)
        return gr.update(value=[str(path)], visible=True)

    @with_messages
    def code(self, key: str, *screen: Any) -> tuple[str, Any]:
        """Python code that reproduces what is on the screen, and the map files that it loads."""
        owner = owner_of(key)
        shown, mix, prompts = self._screen(owner, screen)
        scene, maps = scene_of(shown, mix, prompts)
        size = sum(map(size_of_map, maps.values()))
        with self._studio.ledger.download(owner, size) as folder:
            files = [str(smap.save(folder / name)) for name, smap in maps.items()]
        return snippet(scene), gr.update(value=files, visible=bool(files))

    @with_messages
    def link(self, key: str, *screen: Any) -> str:
        """The screen encoded as the query string of a URL."""
        owner = owner_of(key)
        shown, _, _ = self._screen(owner, screen)
        return f"?scene={shown.named(self._studio.library.maps(owner)).to_link()}"

    def _add(self, owner: str, smap: SteeringMap, **told: Any) -> MapRow:
        """Add a map to the library, which may take more room than the file that it came in."""
        with self._studio.ledger.keeping(owner, size_of_map(smap)):
            return self._studio.library.add_map(owner, smap, **told)

    def _unpack(self, owner: str, bundle: Bundle) -> list[MapRow]:
        """Add the bundle's maps to the library, unless already there; their rows in scene order."""
        known = {row.digest: row for row in self._studio.library.maps(owner)}
        # All of them or none: half a bundle shows nothing.
        new = [smap for smap in bundle.maps.values() if smap.digest() not in known]
        self._studio.ledger.check_share(owner, sum(map(size_of_map, new)))
        rows: list[MapRow] = []
        for used in bundle.scene.maps:
            smap = bundle.maps[used.name]
            row = known.get(smap.digest()) or self._add(
                owner, smap, prompts=bundle.prompts if not rows else None
            )
            known[row.digest] = row
            rows.append(row)
        return rows

    def _scene(self, owner: str, scene: Scene, rows: Sequence[MapRow]) -> ImportedOutputs:
        """Outputs that set the rack and the fields of the scene's tab."""
        slots = tuple(
            Slot(row.id, True, 1.0 if used.strength is None else used.strength)
            for row, used in zip(rows, scene.maps, strict=True)
        )
        news = patch(
            rows=self._studio.library.maps(owner),
            state=RackState(slots, modality=scene.modality),
            models={scene.modality: scene.model},
            fields={
                scene.modality: {
                    "prompts": "\n".join(scene.prompts),
                    "seed": scene.seeds[0],
                    **({} if scene.modality == "image" else {"tokens": scene.max_new_tokens}),
                }
            },
            ask=True,
        )
        outputs, prompts, seed = (
            unchanged(ImportedOutputs),
            "\n".join(scene.prompts),
            scene.seeds[0],
        )
        if scene.modality == "image":
            return outputs._replace(
                rack=news, image_model=scene.model, image_prompts=prompts, image_seed=seed
            )
        return outputs._replace(
            rack=news,
            text_model=scene.model,
            text_prompt=prompts,
            text_seed=seed,
            tokens=scene.max_new_tokens,
        )

    def _result(
        self, scene: Scene, mix: Mix
    ) -> tuple[bytes | None, tuple[tuple[str, ...], ...] | None]:
        """The result of the scene: its grid as a PNG, or its texts."""
        seed, prompts = scene.seeds[0], list(scene.prompts)
        if scene.modality == "text":
            pair = self._texts.whole_pair(mix, scene.model, prompts[0], seed, scene.max_new_tokens)
            return None, (tuple(pair),)
        look = self._pictures.look(mix, scene.model, prompts, seed)
        rows = [[before, after] for before, after in zip(look.before, look.after, strict=True)]
        file = io.BytesIO()
        draw_grid(ImageGrid(prompts, [0.0, 1.0], rows)).save(file, "PNG")
        return file.getvalue(), None

    def _screen(self, owner: str, screen: Sequence[Any]) -> tuple[Screen, Mix, list[str]]:
        rack, *rest = screen
        shown = Screen(RackState.from_page(rack), *rest)
        shown = replace(
            shown,
            image_seed=whole("seed", shown.image_seed),
            text_seed=whole("seed", shown.text_seed),
            tokens=whole("tokens", shown.tokens),
        )
        mix = self._studio.mix(owner, shown.rack, shown.model)
        image = shown.rack.modality == "image"
        return shown, mix, lines_of(shown.image_prompts) if image else [shown.text_prompt]
