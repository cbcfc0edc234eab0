"""Which device is used is said with its reason; a card that cannot be used is named."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from lineas_core.system import devices
from lineas_core.system.devices import NvidiaCard, choose_device, describe_device, why_unused

# As nvidia-smi -q begins.
REPORT = """
==============NVSMI LOG==============

Timestamp                                 : Sat Nov 29 12:00:00 2025
Driver Version                            : 470.82.01
CUDA Version                              : 11.4

Attached GPUs                             : 1
GPU 00000000:00:1E.0
    Product Name                          : Tesla T4
"""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    devices._warn_of_unused_card.cache_clear()


def command(folder: Path, text: str, code: int = 0) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!{sys.executable}\nimport sys\nprint({text!r})\nsys.exit({code})\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("no_gpu")
def test_a_card_with_too_old_a_driver_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    command(tmp_path, REPORT)
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto") == choose_device("auto") == torch.device("cpu")
    [warning] = caplog.messages
    assert "470.82.01 of the Tesla T4 runs CUDA 11.4" in warning
    assert "Update the driver" in warning
    assert describe_device() == f"cpu: {warning.removeprefix('The CPU is used: ')}"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("text", "code"), [("No devices were found", 6), ("nonsense", 0)])
def test_without_a_card_nothing_is_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
    code: int,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_device() == "cpu: no NVIDIA driver answers here"
    command(tmp_path, text, code)
    assert choose_device("auto").type == "cpu"
    assert describe_device() == "cpu: no NVIDIA driver answers here"
    assert caplog.messages == []


def test_every_reason_says_what_to_do() -> None:
    card = NvidiaCard("Tesla T4", "580.95", "13.0")
    assert "built for CPUs, and the Tesla T4 is not used. Install" in why_unused(card, None)
    assert "CUDA_VISIBLE_DEVICES" in why_unused(card, "13.2")
    assert "CUDA_VISIBLE_DEVICES" in why_unused(NvidiaCard("Tesla T4", "580.95", "N/A"), "13.2")


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory = "NVIDIA L4", 24 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert describe_device() == "cuda, NVIDIA L4 with 24 GiB"
