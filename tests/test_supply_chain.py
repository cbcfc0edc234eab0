"""Installed packages are the locked ones, with known licences."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lineas_core.hub.space import locked_versions
from lineas_core.models.shared.catalog import catalog
from lineas_core.system.paths import checkout
from tests.helpers.wheels import digest_of, small_wheel
from tools import audit

LOCK, WEIGHTS = checkout() / "requirements.lock", checkout() / "requirements-weights.lock"
PACKED = {name: entry.packed for name, entry in catalog().items() if entry.packed}
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def requirements(lines: list[str]) -> dict[str, Requirement]:
    bare = [line.split(" #")[0].strip() for line in lines if line[:1] not in ("#", "-")]
    found = [Requirement(line) for line in bare if line]
    return {canonicalize_name(each.name): each for each in found}


def locked(path: Path) -> dict[str, Requirement]:
    """The packages that a lock installs here; versions may differ on other Python versions."""
    entries = []
    for line in locked_versions(path.read_text("utf-8")):
        marker = None if line.startswith("-") else Requirement(line).marker
        if marker is None or marker.evaluate():
            entries.append(line)
    return requirements(entries)


def test_the_lock_has_every_pin_at_its_version() -> None:
    pins = requirements((checkout() / "requirements.txt").read_text("utf-8").splitlines())
    lock = locked(LOCK)
    assert len(pins) > 15
    assert {name: pin.specifier for name, pin in pins.items()} == {
        name: lock[name].specifier for name in pins
    }
    assert all(lock[name].marker is None for name in pins)


def test_the_lock_has_all_that_the_pins_ask_for() -> None:
    """Follow the dependencies in the installed packages' metadata, on this platform."""
    lock = locked(LOCK)
    waiting = [
        (canonicalize_name(pin.name), frozenset(pin.extras))
        for pin in requirements((checkout() / "requirements.txt").read_text().splitlines()).values()
    ]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        assert name in lock, name
        for text in Distribution.from_name(name).requires or ():
            asked = Requirement(text)
            wanted = [{"extra": extra} for extra in (*extras, "")]
            if asked.marker is None or any(asked.marker.evaluate(each) for each in wanted):
                key = canonicalize_name(asked.name)
                version = next(iter(lock[key].specifier)).version
                assert asked.specifier.contains(Version(version), prereleases=True), (name, text)
                waiting.append((key, frozenset(asked.extras)))
    assert len(seen) > 60


@pytest.mark.parametrize("name", [LOCK.name, *(packed.lock for packed in PACKED.values())])
def test_every_entry_has_a_hash_and_no_place(name: str) -> None:
    lines = (checkout() / name).read_text("utf-8").splitlines()
    entries = [n for n, line in enumerate(lines) if re.match(r"\w", line)]
    assert entries
    for number in entries:
        assert re.match(r"[\w.-]+==[\w.]+( ; .+)? \\$", lines[number]), lines[number]
        assert HASH.fullmatch(lines[number + 1]), lines[number]
    rest = set(range(len(lines))) - set(entries)
    allowed = re.compile(r"#.*|--only-binary :all:|")
    assert all(HASH.fullmatch(lines[n]) or allowed.fullmatch(lines[n]) for n in rest)
    assert not re.search(r"https?:|file:|index-url|find-links|/opt/|/tmp/", "\n".join(lines))


def test_the_weights_are_those_that_make_installs() -> None:
    [wheel] = re.findall(r"^WHEEL := (.+)$", (checkout() / "Makefile").read_text("utf-8"), re.M)
    assert list(map(str, locked(WEIGHTS).values())) == [wheel]
    installed = [name for name, packed in PACKED.items() if packed.lock == WEIGHTS.name]
    # What needs no consent is installed with the app, and the other way round.
    assert installed == [name for name, packed in PACKED.items() if not packed.terms]


def test_the_lock_of_packed_weights_has_their_packages() -> None:
    for packed in PACKED.values():
        assert list(locked(checkout() / packed.lock)) == list(packed.packages)
        assert re.fullmatch("[0-9a-f]{64}", packed.sha256)


def test_pip_installs_from_the_lock_by_hash_alone(tmp_path: Path) -> None:
    """Install a small package from a lock, with a folder as the package index."""
    wheel = small_wheel(tmp_path, "1.0")
    good, bad = digest_of(wheel), "0" * 64
    for digest, code in ((good, 0), (bad, 1)):
        lock = tmp_path / "a.lock"
        lock.write_text(f"--only-binary :all:\nsmall==1.0 \\\n    --hash=sha256:{digest}\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet",
             "--find-links", tmp_path, "--require-hashes", "-r", lock, "--target", tmp_path / "t"],
            capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr


def distribution(folder: Path, name: str, *lines: str) -> Distribution:
    info = folder / f"{name}.dist-info"
    info.mkdir()
    text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines])
    (info / "METADATA").write_text(text + "\n")
    return Distribution.at(info)


@pytest.mark.parametrize(
    ("lines", "licences", "allowed"),
    [
        (["License-Expression: MIT OR Apache-2.0"], ("MIT", "Apache-2.0"), True),
        (["License-Expression: MPL-2.0 AND (Apache-2.0 OR MIT)"],
         ("MPL-2.0", "Apache-2.0", "MIT"), True),
        (["License-Expression: GPL-3.0-only"], ("GPL-3.0-only",), False),
        # An OR is not resolved automatically.
        (["License-Expression: MIT OR AGPL-3.0-only"], ("MIT", "AGPL-3.0-only"), False),
        (["Classifier: License :: OSI Approved", "Classifier: License :: OSI Approved :: BSD "
          "License"], ("BSD-3-Clause",), True),
        (["License: Apache 2.0"], ("Apache-2.0",), True),
        (["License: Apache License, Version 2.0"], ("Apache-2.0",), True),
        (["License: The MIT License (MIT)"], ("MIT",), True),
        (["License: all rights reserved"], ("all rights reserved",), False),
        (["License: GNU Affero General Public License v3"],
         ("GNU Affero General Public License v3",), False),
        ([], (), False),
    ],
)  # fmt: skip
def test_a_licence_is_read_from_metadata_and_judged(
    tmp_path: Path, lines: list[str], licences: tuple[str, ...], allowed: bool
) -> None:
    package = audit.package_of(distribution(tmp_path, "x", *lines))
    assert (package.licences, package.allowed) == (licences, allowed)
    assert bool(audit.refused([package])) is not allowed


def test_cudas_terms_are_for_cudas_packages_only(tmp_path: Path) -> None:
    line = f"License-Expression: {audit.CUDA_LICENCE}"
    assert audit.package_of(distribution(tmp_path, "nvidia-cublas", line)).allowed
    assert not audit.package_of(distribution(tmp_path, "other", line)).allowed
    gpl = distribution(tmp_path, "nvidia-other", "License-Expression: GPL-3.0-only")
    assert not audit.package_of(gpl).allowed


def fake_pip_audit(folder: Path, report: str) -> str:
    """A command that prints a report in pip-audit's format."""
    path = folder / "pip-audit"
    path.write_text(f"#!{sys.executable}\nprint({report!r})\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("report", "holes", "words"),
    [
        ({"dependencies": [
            {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]},
            {"name": "b", "version": "1", "vulns": []},
            {"name": "c", "skip_reason": "not found"}]},
         ["a 1: CVE-1, mended in 2"], "looked at 2 locked packages (1 it knows nothing of: c)"),
        ({"dependencies": [{"name": "c", "skip_reason": "not found"}]}, [], "does not reach"),
        ({}, [], "no report"),
    ],
)  # fmt: skip
def test_known_holes_are_told_and_a_missing_network_is_no_failure(
    tmp_path: Path, report: dict[str, object], holes: list[str], words: str
) -> None:
    command = fake_pip_audit(tmp_path, json.dumps(report))
    found, said = audit.audit_lock(command, LOCK)
    assert found == holes
    assert words in said
    assert audit.audit_lock(str(tmp_path / "nothing"), LOCK)[0] == []


def test_the_audit_passes_here_and_fails_on_a_hole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([str(tmp_path / "nothing")]) == 0
    printed = capsys.readouterr().out
    assert "torch 2." in printed
    assert "NOT looked for" in printed
    hole = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": []}]}
    command = fake_pip_audit(tmp_path, json.dumps({"dependencies": [hole]}))
    assert audit.main([command]) == 1
    assert "a 1: CVE-1, mended in no version yet" in capsys.readouterr().out


def test_the_notices_name_all_weights_and_data() -> None:
    text = (checkout() / "THIRD_PARTY_NOTICES.md").read_text("utf-8")
    named = re.findall(r"`([\w./-]+)`", text)
    folders = tuple(name for name in named if name.endswith("/"))
    data = [
        path.relative_to(checkout()).as_posix()
        for top in ("assets", "prompts", "lineas_core", "docs")
        for path in sorted((checkout() / top).rglob("*"))
        if path.is_file()
        and path.suffix not in (".py", ".pyc", ".pyi", ".typed", ".js", ".css", ".md")
    ]
    assert len(data) > 40
    assert [file for file in data if file not in named and not file.startswith(folders)] == []
    weights = {path.parent.relative_to(checkout()) for path in checkout().glob("assets/*/*")}
    assert {f"{path.as_posix()}/" for path in weights} <= set(folders)
    # Every file named in a row still exists.
    inside = [name for name in named if re.match(r"(assets|prompts|lineas_core|docs)/", name)]
    assert [name for name in inside if not (checkout() / name).exists()] == []


def test_the_notices_name_the_art_and_the_packages_with_weights() -> None:
    text = (checkout() / "THIRD_PARTY_NOTICES.md").read_text("utf-8")
    art = json.loads((checkout() / "tools" / "package.json").read_text("utf-8"))["dependencies"]
    weights = [name for packed in PACKED.values() for name in packed.packages]
    for name in (*art, *weights, "alt-profanity-check"):
        assert f"`{name}`" in text, name
    assert "Contains graphics derived from Twemoji" in text
