"""`lineas deploy`: the Studio as a Hugging Face Space."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson
from lineas_core.cli.terminal import show


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(deploy)


def deploy(
    space: Annotated[str, typer.Argument(help="USER/SPACE on the Hugging Face Hub.")],
    to: Annotated[
        Path | None, typer.Option(help="Only prepare the Space's files here; upload nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you can open it.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Limit what visitors may do.")] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="For hardware with a GPU, or ZeroGPU: torch with CUDA.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prepare the Studio as a Hugging Face Space, and upload it."""
    from huggingface_hub import get_token

    from lineas_core.hub.space import prepare_space, upload_space

    if to is not None:
        files = prepare_space(to, gpu=gpu)
        show({"folder": str(to), "files": len(files)}, as_json)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare_space(Path(folder), gpu=gpu)
        url = upload_space(
            Path(folder), space, token=get_token(), private=private, demo=demo, gpu=gpu
        )
    show({"url": url}, as_json)
