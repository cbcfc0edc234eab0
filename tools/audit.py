"""Audit this environment: known vulnerabilities of locked packages, and licences of all packages.

    python -m tools.audit [PIP_AUDIT]

PIP_AUDIT is the pip-audit command. Without it, or if it cannot reach its data, vulnerabilities are
not checked, and the output says so. Exits with 1 on a known vulnerability or a licence that is not
allowed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
TIMEOUT = 600
# SPDX names of licences under which an Apache-licensed program may use a package unmodified.
ALLOWED = frozenset({
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0",
    "Unlicense", "Zlib",
})  # fmt: skip
# Licences of individual packages, with the reason why each is acceptable.
EXCEPTIONS = {
    "chardet": "LGPL-2.1-or-later: of an evaluation package, used unchanged and not passed on",
}
# CUDA's libraries, which torch on Linux needs; they are not redistributed, only installed.
CUDA, CUDA_LICENCE = ("nvidia-", "cuda-toolkit"), "LicenseRef-NVIDIA-Proprietary"
# Licences that these packages state in their files, but not in their metadata.
TOLD = {
    "atheris": "Apache-2.0",
    "axe-playwright-python": "MIT",
    "repeng": "MIT",
    "resvg-py": "MIT",
}
# Spellings of the licences in metadata that predates SPDX.
SPELLINGS = {
    r"apache(-| software)?( license)?,?( version)?( ?2(\.0)?)?( license)?": "Apache-2.0",
    r"(the )?mit( license)?( \(mit\))?": "MIT",
    r"(new |modified )?bsd( license)?|3-clause bsd license|bsd[ -]3[ -]clause( license)?":
        "BSD-3-Clause",
    r"isc license( \(iscl\))?|isc": "ISC",
    r"mozilla public license 2\.0 \(mpl 2\.0\)": "MPL-2.0",
    r"psfl?|psf-2\.0|python software foundation license": "PSF-2.0",
    r"nvidia proprietary software": CUDA_LICENCE,
    r"gnu lesser general public license v2 or later \(lgplv2\+\)": "LGPL-2.1-or-later",
}  # fmt: skip


@dataclass(frozen=True)
class Package:
    """An installed package and its declared licences."""

    name: str
    version: str
    licences: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Whether every declared licence is allowed, including all alternatives of an OR."""
        if self.name in EXCEPTIONS:
            return True
        if self.name.startswith(CUDA):
            return self.licences in ((), (CUDA_LICENCE,))
        return bool(self.licences) and ALLOWED.issuperset(self.licences)


def package_of(distribution: Distribution) -> Package:
    """Read a package's licences from its metadata: the expression, else classifiers, else text."""
    data = distribution.metadata
    name = re.sub(r"[-_.]+", "-", data["Name"]).lower()
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in data.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    free_text = (data.get("License") or "").strip()
    if declared := data.get("License-Expression") or TOLD.get(name):
        found = licences_in(declared)
    elif classifiers:
        found = tuple(licence for line in classifiers for licence in licences_in(line))
    else:
        # Some packages put the whole licence text here, which begins with its name.
        found = licences_in(re.split(r"\n|\s{2,}|\(http", free_text)[0]) if free_text else ()
    return Package(name, distribution.version, found)


def licences_in(expression: str) -> tuple[str, ...]:
    """The licences in an expression, as SPDX names where known.

    >>> licences_in("MPL-2.0 AND (Apache-2.0 OR MIT)")
    ('MPL-2.0', 'Apache-2.0', 'MIT')
    >>> licences_in("Apache Software License")
    ('Apache-2.0',)
    """
    whole = _spdx(expression.strip())
    if whole != expression.strip():
        return (whole,)
    # Upper case only: "or" and "and" also occur within licence names.
    parts = re.split(r"\s+(?:AND|OR)\s+", expression)
    return tuple(_spdx(part.strip(" ()")) for part in parts)


def _spdx(name: str) -> str:
    for pattern, spdx in SPELLINGS.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return spdx
    return name


def refused(packages: Iterable[Package]) -> list[str]:
    """One line per package whose licence is not allowed."""
    return [
        f"{package.name} {package.version}: {' AND '.join(package.licences) or 'no licence named'}"
        for package in packages
        if not package.allowed
    ]


def known_holes(report: str) -> tuple[list[str], list[str], int]:
    """Parse pip-audit's JSON report: vulnerabilities, skipped packages, number of checked ones."""
    holes, unknown, checked = [], [], 0
    for package in json.loads(report)["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
            continue
        checked += 1
        holes += [
            f"{package['name']} {package['version']}: {hole['id']}, mended in "
            f"{', '.join(hole['fix_versions']) or 'no version yet'}"
            for hole in package["vulns"]
        ]
    return holes, unknown, checked


def audit_lock(command: str, lock: Path) -> tuple[list[str], str]:
    """Known vulnerabilities of the locked packages, and a line on what was checked."""
    unreached = "Known holes were NOT looked for"
    try:
        done = subprocess.run(
            [command, "--requirement", lock, "--require-hashes", "--disable-pip", "--no-deps",
             "--format", "json", "--progress-spinner", "off"],
            capture_output=True, text=True, timeout=TIMEOUT,
        )  # fmt: skip
        holes, unknown, checked = known_holes(done.stdout)
    except FileNotFoundError:
        return [], f"{unreached}: there is no {command}."
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return [], f"{unreached}: pip-audit gave no report, as without a network."
    if not checked:
        return [], f"{unreached}: this machine does not reach pip-audit's data."
    rest = f" ({len(unknown)} it knows nothing of: {', '.join(unknown)})" if unknown else ""
    return holes, f"pip-audit looked at {checked} locked packages{rest}: {len(holes)} known holes."


def main(arguments: list[str] | None = None) -> int:
    """Print the audit; returns 0 if there is nothing to fix."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description=__doc__)
    parser.add_argument("pip_audit", nargs="?", default="pip-audit", help="pip-audit's command")
    command = parser.parse_args(arguments).pip_audit
    packages = sorted({package_of(found) for found in distributions()}, key=lambda p: p.name)
    for package in packages:
        print(f"{package.name} {package.version}: {' AND '.join(package.licences)}")
    holes, words = audit_lock(command, LOCK)
    bad = refused(packages)
    print(f"\n{len(packages)} packages are installed; {len(bad)} with a licence not allowed here.")
    for line in bad:
        print(f"  {line}")
    print(words)
    for line in holes:
        print(f"  {line}")
    return 1 if bad or holes else 0


if __name__ == "__main__":
    sys.exit(main())
