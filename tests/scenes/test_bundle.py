from __future__ import annotations

import hashlib
import io
import json
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.bundles import register
from lineas_core.models.image.model import DiffusionModel
from lineas_core.scenes.bundle import (
    Bundle,
    BundleError,
    bundle_bytes,
    read_bundle,
    unpack_bundle,
    write_bundle,
)
from lineas_core.scenes.revision import model_revision
from lineas_core.scenes.scene import Scene, UsedMap
from tests.helpers.models import random_map, save_small_model
from tests.helpers.pipelines import small_sd
from tests.helpers.snippets import run_here

SITE = "unet.mid_block.attentions.0.norm"


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (9, 90, 200)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bundle(prompts: lc.PromptSet) -> Bundle:
    return Bundle(
        scene=Scene(
            "tiny",
            "text",
            ("ab", 'ß "✓"\n'),
            (UsedMap("a map (1).safetensors", None), UsedMap("ö.safetensors", -0.5)),
            seed=(1, 2**62),
            strengths=(0.0, 0.1, 1.5),
            max_new_tokens=7,
            temperature=0.25,
        ),
        maps={
            "a map (1).safetensors": random_map({"n": 5}, 0),
            "ö.safetensors": random_map({"n": 5, "m": 3}, 1),
        },
        revision="hub:a/b@0123",
        prompts=prompts,
        grid=png(),
        texts=(("one", "two"), ("\u2028", "")),
    )


def zipped(files: dict[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The bundle's bytes with a modified manifest."""
    files = contents(bundle_bytes(bundle))
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return zipped({**files, "manifest.json": json.dumps(manifest).encode()})


def same(a: Bundle, b: Bundle) -> bool:
    digests = [{n: m.digest() for n, m in x.maps.items()} for x in (a, b)]
    return digests[0] == digests[1] and replace(a, maps=b.maps) == b


def test_what_is_written_is_read_back(bundle: Bundle, tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "new" / "x.zip", bundle)
    read = read_bundle(file)
    assert same(read, bundle)
    assert read.notes == ()
    assert [p.name for p in file.parent.iterdir()] == ["x.zip"]
    plain = Bundle(Scene("tiny", "text", ("ab",)), {})
    assert same(read_bundle(bundle_bytes(plain)), plain)


def test_equal_bundles_are_equal_bytes_and_any_zip_tool_reads_them(bundle: Bundle) -> None:
    data = bundle_bytes(bundle)
    reordered = replace(bundle, maps=dict(reversed(bundle.maps.items())))
    assert bundle_bytes(reordered) == data == bundle_bytes(read_bundle(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert "README.txt" in archive.namelist()


def test_a_bundle_packed_by_another_tool_is_read(bundle: Bundle) -> None:
    files = {"maps/": b"", **contents(bundle_bytes(bundle)), "notes/more.txt": b"x", "a.py": b"x"}
    read = read_bundle(zipped(files, compression=zipfile.ZIP_DEFLATED))
    assert same(read, bundle)
    assert read.notes == (
        "'notes/more.txt' is not known here and was left out.",
        "'a.py' is not known here and was left out.",
    )


def test_one_flipped_byte_is_noticed_or_changes_nothing(bundle: Bundle) -> None:
    data = bundle_bytes(bundle)
    harmless = 0
    places = random.Random(0).sample(range(len(data)), 600)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            read = read_bundle(bytes(damaged))
        except BundleError:
            continue
        # A change of unused fields, such as dates in the zip file's directory.
        assert same(read, bundle)
        harmless += 1
    assert harmless < len(places) / 5


def test_a_changed_entry_is_named(bundle: Bundle) -> None:
    files = contents(bundle_bytes(bundle))
    for name in files:
        if name != "manifest.json":
            with pytest.raises(BundleError, match="checksum") as caught:
                read_bundle(zipped({**files, name: files[name] + b" "}))
            assert str(caught.value).startswith(f"{name}: ")
            with pytest.raises(BundleError, match="it is missing"):
                read_bundle(zipped({n: d for n, d in files.items() if n != name}))


def test_another_map_with_a_mended_checksum_is_noticed(bundle: Bundle) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        digests = manifest["maps"]
        one, two = digests
        digests[one], digests[two] = digests[two], digests[one]

    with pytest.raises(BundleError, match="is not the map that manifest.json names"):
        read_bundle(changed(bundle, swap))


@pytest.mark.parametrize(
    "name",
    [
        "../x", "maps/../../x.safetensors", "/etc/x", "C:/x", "maps\\..\\x", "./x", "a//b", "a\nb",
        "maps/./x.safetensors",
    ],
)  # fmt: skip
def test_paths_that_climb_are_refused(bundle: Bundle, name: str) -> None:
    with pytest.raises(BundleError, match="named to land outside its folder"):
        read_bundle(zipped({**contents(bundle_bytes(bundle)), name: b"x"}))


def test_links_are_refused(bundle: Bundle) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        file = io.BytesIO(bundle_bytes(bundle))
        with zipfile.ZipFile(file, "a") as archive:
            info = zipfile.ZipInfo("grid.lnk")
            info.create_system, info.external_attr = 3, (kind | 0o777) << 16
            archive.writestr(info, b"/etc/passwd")
        with pytest.raises(BundleError, match=r"'grid.lnk' is a link or a device"):
            read_bundle(file.getvalue())


def test_bombs_are_refused() -> None:
    zeros = bytes(2**20)
    packed = {"compression": zipfile.ZIP_DEFLATED}
    with pytest.raises(BundleError, match="unpacks to more than 200 times its size"):
        read_bundle(zipped({"grid.png": zeros}, **packed))
    many = {f"{i}": b"" for i in range(65)}
    with pytest.raises(BundleError, match="has 65 entries; 64 are the most"):
        read_bundle(zipped(many))
    # An entry whose declared size (offset 24 in the directory) is over the limit.
    data = bytearray(zipped({"grid.png": random.Random(0).randbytes(3 * 2**20)}))
    for field in (20, 24):
        struct.pack_into("<L", data, data.rfind(b"PK\1\2") + field, 2**29)
    with pytest.raises(BundleError, match="unpacks to more than 256 MiB"):
        read_bundle(bytes(data))
    # An entry that declares less than its real size is read only up to the declared size.
    data = bytearray(zipped({"README.txt": zeros}, **packed))
    struct.pack_into("<L", data, data.rfind(b"PK\1\2") + 24, 16)
    with pytest.raises(BundleError, match=r"README.txt.* is damaged"):
        read_bundle(bytes(data))


def test_a_directory_with_more_than_it_says_is_refused() -> None:
    # The end record declares 0 entries, but zipfile uses the directory's size.
    data = bytearray(zipped({f"{i}": b"" for i in range(3000)}))
    struct.pack_into("<HH", data, data.rfind(b"PK\5\6") + 8, 0, 0)
    with pytest.raises(BundleError, match="entries; 64 are the most"):
        read_bundle(bytes(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"PK\5\6", b"PK\5\6" + bytes(18), b"PK\3\4" * 99, bytes(999), zipped({"a": b""})],
    # Give ids: the default would use the bytes, and those of a zip file contain the current time.
    ids=["empty", "magic", "short", "no-entries", "headers", "zeros", "no-manifest"],
)
def test_files_that_are_no_bundle_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        read_bundle(data)


def test_a_double_an_encrypted_and_an_oddly_packed_entry_are_refused(bundle: Bundle) -> None:
    files = contents(bundle_bytes(bundle))
    with pytest.raises(BundleError, match="'GRID.PNG' is there twice"):
        read_bundle(zipped({**files, "GRID.PNG": b""}))
    with pytest.raises(BundleError, match="packed in an unusual way"):
        read_bundle(zipped(files, compression=zipfile.ZIP_LZMA))
    data = bytearray(bundle_bytes(bundle))
    data[data.find(b"PK\1\2") + 8] |= 1
    with pytest.raises(BundleError, match=r"'manifest.json' is encrypted"):
        read_bundle(bytes(data))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2), (["scene"], []), (["scene", "modality"], "sound"),
        (["scene", "modality"], ["text"]), (["scene", "prompts"], [1]), (["scene", "prompts"], []),
        (["scene", "prompts"], ["\ud800"]), (["scene", "seed"], 1.5), (["scene", "seed"], -1),
        (["scene", "seed"], True), (["scene", "strengths"], [10**400]),
        (["scene", "strengths"], [float("nan")]), (["scene", "strengths"], "12"),
        (["scene", "maps"], [["missing.safetensors", 1]]), (["scene", "maps"], [[1, 2, 3]]),
        (["scene", "max_new_tokens"], "9"), (["maps"], []), (["files"], None), (["library"], 1),
        (["revision"], None), (["maps", "x.safetensors"], "0"),
        (["files", "../x"], "0"), (["files", 1], "0"),
    ],
)  # fmt: skip
def test_manifests_that_make_no_sense_are_refused(
    bundle: Bundle, path: list[str], value: Any
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    with pytest.raises(BundleError):
        read_bundle(changed(bundle, change))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"a":' * 20 + b"1" + b"}" * 20,
    ],
)
def test_broken_and_deep_json_is_refused(bundle: Bundle, text: bytes) -> None:
    files = contents(bundle_bytes(bundle))
    with pytest.raises(BundleError, match=r"manifest.json"):
        read_bundle(zipped({**files, "manifest.json": text}))


@pytest.mark.parametrize(
    ("entry", "data", "message"),
    [
        ("grid.png", b"GIF89a", "it is no PNG picture"),
        ("grid.png", png()[:60], "it is no PNG picture"),
        ("prompts.json", b'{"source": ["a"], "target": []}', "give 4 or more"),
        ("prompts.json", b"[1]", "in place of an object"),
        ("texts.json", b'{"a": 1}', "no list of rows"),
        ("texts.json", b'["ab"]', "no list of rows"),
        ("texts.json", b"[" * 17 + b"]" * 17, "nested deeper than 16 levels"),
        ("maps/ö.safetensors", b"\x00" * 99, "not a readable safetensors file"),
    ],
)
def test_files_in_a_bundle_are_checked(
    bundle: Bundle, entry: str, data: bytes, message: str
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][entry] = hashlib.sha256(data).hexdigest()

    files = {**contents(changed(bundle, change)), entry: data}
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(zipped(files))
    assert "/tmp" not in str(caught.value)


def test_a_picture_that_would_fill_the_memory_is_refused_unread(bundle: Bundle) -> None:
    data = bytearray(png())
    struct.pack_into(">2L", data, 16, 2**31 - 1, 2**31 - 1)
    with pytest.raises(BundleError, match=r"grid.png has 2147483647 x 2147483647 pixels"):
        read_bundle(bundle_bytes(replace(bundle, grid=bytes(data))))


def test_one_name_in_two_spellings_is_there_twice(bundle: Bundle) -> None:
    files = contents(bundle_bytes(bundle))
    with pytest.raises(BundleError, match="is there twice"):
        read_bundle(zipped({**files, "maps/o\u0308.safetensors": b"x"}))


def test_messages_do_not_tell_where_files_are(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for call in (
        lambda: read_bundle(tmp_path / "none.zip"),
        lambda: read_bundle(tmp_path),
        lambda: write_bundle(tmp_path / "file" / "x.zip", bundle),
        lambda: unpack_bundle(bundle, tmp_path / "file"),
    ):
        with pytest.raises(BundleError) as caught:
            call()
        assert str(tmp_path) not in str(caught.value)


def test_what_cannot_be_read_back_is_not_written(bundle: Bundle, tmp_path: Path) -> None:
    smap = next(iter(bundle.maps.values()))
    with pytest.raises(BundleError, match=r"'../x.safetensors' cannot go into a bundle"):
        Bundle(bundle.scene, {**bundle.maps, "../x.safetensors": smap})
    with pytest.raises(BundleError, match="which is not among the maps"):
        Bundle(bundle.scene, {})
    used = (UsedMap("x.safetensors", None), UsedMap("x.safetensors", None))
    crossed = Scene("m", "image", ("ab",), used, strengths=(0.0, 1.0), down=(0.0, 1.0))
    inverse = Scene("m", "image", ("ab",), (UsedMap("x.safetensors", 1.0, inverse=True),))
    for scene in (crossed, inverse):
        with pytest.raises(BundleError, match="cannot hold a grid of two maps, nor the inverse"):
            Bundle(scene, {"x.safetensors": smap})
    crowd = {f"{i}.safetensors": smap for i in range(64)}
    with pytest.raises(BundleError, match="would hold 70 files"):
        bundle_bytes(replace(bundle, maps={**bundle.maps, **crowd}, prompts=None))
    with pytest.raises(BundleError, match="Cannot read"):
        read_bundle(tmp_path / "missing.zip")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="Cannot write the bundle"):
        write_bundle(tmp_path / "file" / "x.zip", bundle)


def test_the_same_picture_comes_out_of_a_bundle(tmp_path: Path) -> None:
    small_sd().save_pretrained(tmp_path / "sd")
    painter = lc.load_model(str(tmp_path / "sd"), device="cpu")
    assert isinstance(painter, DiffusionModel)
    smap = random_map({SITE: 16}, 0, spread=3.0)
    scene = Scene(painter.id, "image", ("ab",), (UsedMap("x.safetensors", None),), 7, (0.0, 1.0))
    grid = painter.sweep(scene.prompts, [(smap, None)], scene.strengths, seed=7)
    assert grid.images[0][0] != grid.images[0][1]
    revision = model_revision(painter)
    file = write_bundle(tmp_path / "x.zip", Bundle(scene, {"x.safetensors": smap}, revision))

    read = read_bundle(file)
    again = lc.load_model(read.scene.model, device="cpu")
    assert isinstance(again, DiffusionModel)
    assert model_revision(again) == read.revision
    maps = [(read.maps[used.name], used.strength) for used in read.scene.maps]
    second = again.sweep(read.scene.prompts, maps, read.scene.strengths, seed=7)
    assert second.images == grid.images


def test_the_revision_follows_the_weights(tmp_path: Path) -> None:
    folders = [save_small_model("llama", tmp_path / name) for name in ("a", "b")]
    one, two = (lc.load_model(str(folder), device="cpu") for folder in folders)
    assert model_revision(one) == model_revision(two)
    assert model_revision(one).startswith("weights:")
    save_small_model("gpt2", folders[1])
    assert model_revision(two) != model_revision(one)
    # The layout of the hub's cache.
    commit = tmp_path / "models--some--one" / "snapshots" / ("0" * 40)
    save_small_model("llama", commit)
    cached = lc.load_model(str(commit), device="cpu")
    assert model_revision(cached) == f"hub:some/one@{'0' * 40}"


def test_a_bundle_made_and_taken_apart_in_a_terminal_runs(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path
) -> None:
    site = "model.layers.1.post_attention_layernorm"
    smap = random_map({site: 16}, 0).save(tmp_path / "x.safetensors")
    set_file = prompts.save(tmp_path / "set.json")
    app = typer.Typer()
    register(app)
    made, folder = str(tmp_path / "x.zip"), tmp_path / "out"
    options = ["--map", str(smap), "-m", tiny.id, "--device", "cpu", "--tokens", "5", "--json"]
    more = ["--strengths", "0,1", "--seed", "3", "--prompts", str(set_file)]
    done = CliRunner().invoke(app, ["bundle", "ab", "-o", made, *options, *more])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["unbundle", made, "--to", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"maps/x.safetensors", "prompts.json", "scene.py", "texts.json"}
    assert lc.PromptSet.load(folder / "prompts.json") == prompts
    grid = tiny.sweep(["ab"], [(lc.SteeringMap.load(smap), None)], [0, 1], seed=3, max_new_tokens=5)
    assert json.loads((folder / "texts.json").read_text()) == grid.texts
    printed = run_here((folder / "scene.py").read_text(), folder)
    for text in grid.texts[0]:
        assert text.split()[0] in printed
    with pytest.raises(BundleError, match="Give the name of a new folder"):
        unpack_bundle(read_bundle(made), folder)
