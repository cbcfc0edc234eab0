from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lineas_core as lc
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import Store, StoreError
from tests.helpers.models import random_map
from tests.studio.storage.test_store import HEALTH, Clock

WIDTHS = {"layers.0.norm": 4, "layers.1.norm": 3}


def labelled(seed: int, **info: object) -> lc.SteeringMap:
    named = {"model": "m", "method": "lineas", "name": f"map {seed}", **info}
    return lc.SteeringMap(random_map(WIDTHS, seed).sites, lc.MapInfo(**named))  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(tmp_path / "studio.db", clock=clock)
    yield store
    store.close()


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "gallery"
    labelled(100, model="smollm2").save(folder / "shipped-night.safetensors")
    labelled(101, model="emoji-onestep").save(folder / "shipped-pixels.safetensors")
    entries = [
        {"id": "shipped-night", "title": "Night", "concept": "night", "recommended": 0.8,
         "prompts": "night", "tags": ["mood"]},
        {"id": "shipped-pixels", "title": "Pixels", "concept": "pixel art", "recommended": 0.5},
        {"id": "missing", "title": "Not there"},
        {"title": "No id"},
    ]  # fmt: skip
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def library(store: Store, tmp_path: Path, gallery: Path, clock: Clock) -> Library:
    return Library(store, tmp_path / "maps", gallery=gallery, clock=clock)


def same(a: lc.SteeringMap, b: lc.SteeringMap) -> bool:
    return a.info == b.info and all(
        torch.equal(x, y) for s in a.sites for x, y in zip(a.sites[s], b.sites[s], strict=True)
    )


def test_a_map_is_kept_with_all_that_is_known_of_it(
    library: Library, prompts: lc.PromptSet, tmp_path: Path
) -> None:
    smap = labelled(1, config={"seed": 7, "steps": 3}, concept="letters")
    row = library.add_map(
        "ada", smap, title="  My  map ", prompts=prompts, health=HEALTH, recommended=0.6,
        losses=[2.0, 1.0], tags=[" a ", "a", "", "b c"],
    )  # fmt: skip
    assert library.row(row.id, "ada") == row
    assert same(library.map(row.id, "ada"), smap)
    assert (row.title, row.tags, row.seed, row.losses) == ("My map", ("a", "b c"), 7, (2.0, 1.0))
    assert (row.model, row.method, row.concept) == ("m", "lineas", "letters")
    assert (row.modality, row.digest, row.support) == ("text", smap.digest(), smap.support())
    assert (row.health, row.prompts, row.recommended) == (HEALTH, prompts, 0.6)
    files = {f"{row.id}.safetensors", f"{row.id}.json"}
    assert {p.name for p in (tmp_path / "maps").iterdir()} == files
    assert same(lc.SteeringMap.load(library.file(row.id, "ada")), smap)


def test_a_map_tells_its_kind_where_no_prompts_do(library: Library) -> None:
    for sites, model, modality in (
        (("transformer.h.0.ln_1",), "some/gpt", "text"),
        (("transformer.transformer_blocks.0.norm1",), "some/flux", "image"),
        (("unet.conv_norm_out",), "some/sd", "image"),
        (("a",), "emoji-onestep", "image"),
        (("a",), "smollm2", "text"),
    ):
        smap = random_map(dict.fromkeys(sites, 2), 0)
        kept = lc.SteeringMap(smap.sites, replace(smap.info, model=model))
        assert library.add_map("ada", kept).modality == modality


@pytest.mark.parametrize("seed", [2**63, "1", 1.5, None, True])
def test_a_seed_that_no_run_has_is_not_kept(library: Library, seed: Any) -> None:
    smap = random_map({"layer": 4}, 0)
    told = replace(smap, info=replace(smap.info, config={"seed": seed}))
    assert library.add_map("ann", told).seed is None


def test_maps_are_found_by_words_model_and_kind(library: Library, prompts: lc.PromptSet) -> None:
    first = library.add_map("ada", labelled(1), title="Ärger and Joy", tags=["Mood"])
    second = library.add_map("ada", labelled(2, model="other", concept="Soccer"), title="Ball")
    picture = replace(prompts, modality="image")
    third = library.add_map("ada", labelled(3, method="caa"), title="Picture", prompts=picture)

    def found(**asked: object) -> list[str]:
        return [row.title for row in library.maps("ada", **asked)]  # type: ignore[arg-type]

    own = [third.title, second.title, first.title]
    assert found() == [*own, "Night", "Pixels"]
    assert found(include_gallery=False) == own
    for search, titles in (
        ("ÄRGER", [first.title]), ("mood", [first.title, "Night"]), ("soccer", [second.title]),
        ("OTHER", [second.title]), ("caa", [third.title]), ("joy mood", [first.title]),
        ("joy soccer", []), ("pixel ART", ["Pixels"]), ("%", []),
    ):  # fmt: skip
        assert found(search=search) == titles
    assert found(model="m") == [third.title, first.title]
    assert found(modality="image") == [third.title, "Pixels"]


def test_nothing_of_another_owner_is_found_or_changed(
    library: Library, prompts: lc.PromptSet
) -> None:
    kept = library.add_map("ada", labelled(1), title="Mine")
    words = library.add_prompts("ada", prompts)
    gone, gone_words = library.add_map("ada", labelled(2)), library.add_prompts("ada", prompts)
    library.delete(gone.id, "ada")
    library.delete_prompts(gone_words.id, "ada")
    assert library.map(kept.id, "ada")
    for act in (
        lambda: library.row(kept.id, "bob"),
        lambda: library.map(kept.id, "bob"),
        lambda: library.file(kept.id, "bob"),
        lambda: library.rename(kept.id, "bob", "His"),
        lambda: library.tag(kept.id, "bob", ["his"]),
        lambda: library.delete(kept.id, "bob"),
        lambda: library.undelete(gone.id, "bob"),
    ):
        with pytest.raises(lc.MapError):
            act()
    for act in (
        lambda: library.prompts(words.id, "bob"),
        lambda: library.rename_prompts(words.id, "bob", "His"),
        lambda: library.delete_prompts(words.id, "bob"),
        lambda: library.undelete_prompts(gone_words.id, "bob"),
    ):
        with pytest.raises(lc.PromptError):
            act()
    assert library.maps("bob", include_gallery=False) == []
    assert library.prompt_sets("bob") == []
    assert library.maps("ada", include_gallery=False) == [kept]
    assert library.prompt_sets("ada") == [words]
    for map_id in ("../studio", "", "no such"):
        with pytest.raises(lc.MapError, match="no map"):
            library.map(map_id, "ada")


def test_changes_are_seen_and_checked(library: Library) -> None:
    kept = library.add_map("ada", labelled(1))
    assert library.rename(kept.id, "ada", " New\nname ").title == "New name"
    assert library.tag(kept.id, "ada", ["x", "x "]).tags == ("x",)
    for title in ("", "  ", "t" * 121):
        with pytest.raises(lc.MapError, match="1 to 120"):
            library.rename(kept.id, "ada", title)
    for tags in (["t" * 41], [str(i) for i in range(13)]):
        with pytest.raises(lc.MapError, match="at most 12"):
            library.tag(kept.id, "ada", tags)
    assert library.row(kept.id, "ada").title == "New name"


def test_a_deleted_map_comes_back_until_it_is_purged(
    library: Library, clock: Clock, tmp_path: Path
) -> None:
    kept, smap = library.add_map("ada", labelled(1)), labelled(1)
    assert same(library.map(kept.id, "ada"), smap)
    library.delete(kept.id, "ada")
    with pytest.raises(lc.MapError, match="no map"):
        library.map(kept.id, "ada")
    assert library.maps("ada", include_gallery=False) == []
    assert library.purge(3600) == 0
    assert library.undelete(kept.id, "ada") == kept
    assert same(library.map(kept.id, "ada"), smap)
    library.delete(kept.id, "ada")
    clock.now += 1800
    assert library.purge(3600) == 0
    clock.now += 1800
    other = library.add_map("ada", labelled(2))
    assert library.purge(3600) == 1
    assert {p.stem for p in (tmp_path / "maps").iterdir()} == {other.id}
    with pytest.raises(lc.MapError, match="gone for good"):
        library.undelete(kept.id, "ada")


def test_prompt_sets_are_kept_renamed_deleted_and_brought_back(
    library: Library, prompts: lc.PromptSet, clock: Clock
) -> None:
    first, second = library.add_prompts("ada", prompts), library.add_prompts("ada", prompts)
    assert [row.id for row in library.prompt_sets("ada")] == [second.id, first.id]
    renamed = library.rename_prompts(first.id, "ada", "Letters")
    assert renamed.prompts == replace(prompts, title="Letters")
    library.delete_prompts(first.id, "ada")
    assert library.prompt_sets("ada") == [second]
    assert library.undelete_prompts(first.id, "ada") == renamed
    library.delete_prompts(first.id, "ada")
    for _ in range(3):
        library.purge(50)
        clock.now += 40
    library.purge(50)
    with pytest.raises(lc.PromptError, match="gone for good"):
        library.undelete_prompts(first.id, "ada")


def test_the_gallery_is_for_all_to_see_and_for_none_to_change(library: Library) -> None:
    for owner in ("ada", "bob"):
        night, pixels = library.maps(owner)
        assert (night.owner, night.recommended, night.tags) == ("gallery", 0.8, ("mood",))
        assert night.prompts == lc.PromptSet.load("night")
        assert (night.modality, pixels.modality) == ("text", "image")
        assert library.map("shipped-night", owner).digest() == night.digest
    for act in (
        lambda: library.rename("shipped-night", "ada", "Mine"),
        lambda: library.tag("shipped-night", "ada", []),
        lambda: library.delete("shipped-night", "ada"),
        lambda: library.undelete("shipped-night", "ada"),
        lambda: library.delete("shipped-night", "gallery"),
    ):
        with pytest.raises(lc.MapError, match="cannot be changed"):
            act()


@pytest.mark.parametrize("index", [None, "junk", "[1]", '{"a": 1}', "3"])
def test_a_gallery_that_is_absent_or_damaged_is_empty(
    store: Store, tmp_path: Path, index: str | None
) -> None:
    (tmp_path / "odd").mkdir()
    if index is not None:
        (tmp_path / "odd" / "index.json").write_text(index)
    for folder in (None, tmp_path / "absent", tmp_path / "odd"):
        assert Library(store, tmp_path / "maps", gallery=folder).maps("ada") == []


def test_another_file_in_a_maps_place_is_noticed(library: Library) -> None:
    kept = library.add_map("ada", labelled(1))
    path = library.file(kept.id, "ada")
    labelled(2).save(path)
    with pytest.raises(lc.MapError, match=f"begins with {kept.digest[:12]}"):
        library.map(kept.id, "ada")
    path.unlink()
    with pytest.raises(lc.MapError, match="no map file"):
        library.map(kept.id, "ada")


def test_no_file_is_left_without_its_row(library: Library, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        library.add_map("ada", labelled(1), job="no such job")
    assert list((tmp_path / "maps").iterdir()) == []


def test_a_record_follows_its_row_and_gives_it_back(
    library: Library, store: Store, tmp_path: Path, prompts: lc.PromptSet
) -> None:
    first = library.add_map("ada", labelled(1), prompts=prompts, health=HEALTH, losses=[1 / 3])
    library.rename(first.id, "ada", "New name")
    library.tag(first.id, "ada", ["x"])
    second = library.add_map("ada", labelled(2))
    library.delete(second.id, "ada")
    rows = [store.map(row.id) for row in (first, second)]
    # An older version wrote none.
    (tmp_path / "maps" / f"{first.id}.json").unlink()
    assert library.rescan() == []
    for row in (first, second):
        store.remove_map(row.id)
    assert sorted(library.rescan(), key=lambda row: row.id) == sorted(
        rows, key=lambda row: row.id if row else ""
    )
    assert [row.title for row in library.maps("ada", include_gallery=False)] == ["New name"]
    assert library.undelete(second.id, "ada").title == second.title
    assert library.maps("bob", include_gallery=False) == []


def test_what_a_dying_process_leaves_in_the_folder_goes(library: Library, tmp_path: Path) -> None:
    kept = library.add_map("ada", labelled(1))
    folder = tmp_path / "maps"
    (folder / ".half.safetensors.0.partial").write_bytes(b"half")
    (folder / "nothing.json").write_text("{}")
    assert library.rescan() == []
    assert {p.name for p in folder.iterdir()} == {f"{kept.id}.safetensors", f"{kept.id}.json"}


def test_files_without_a_row_get_one_that_nobody_sees(
    library: Library, store: Store, tmp_path: Path
) -> None:
    kept = library.add_map("ada", labelled(1))
    labelled(2).save(tmp_path / "maps" / "night-20260102-030405.safetensors")
    (tmp_path / "maps" / "junk.safetensors").write_bytes(b"junk")
    (found,) = library.rescan()
    assert (found.id, found.owner, found.title) == ("night-20260102-030405", "", "map 2")
    assert library.rescan() == []
    assert library.maps("ada", include_gallery=False) == [kept]
    assert store.map(found.id) == found


def test_maps_are_read_once_while_they_are_in_use(library: Library) -> None:
    kept = [library.add_map("ada", labelled(i)) for i in range(34)]
    first = library.map(kept[0].id, "ada")
    assert library.map(kept[0].id, "ada") is first
    for row in kept[1:]:
        library.map(row.id, "ada")
    assert library.map(kept[0].id, "ada") is not first
