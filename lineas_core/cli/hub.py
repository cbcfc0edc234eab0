"""`lineas push | install | search | deploy`: maps and the Studio on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson, MapFile, NewMapFile, Repository
from lineas_core.cli.terminal import show


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (push, install, search, deploy):
        app.command()(command)


def push(
    file: MapFile,
    repo: Repository,
    public: Annotated[bool, typer.Option("--public", help="Let everyone see it.")] = False,
    title: Annotated[str, typer.Option(help="Title of the card.")] = "",
    license: Annotated[
        str, typer.Option(help="Licence of the map or its prompts, such as apache-2.0.")
    ] = "",
    dataset: Annotated[
        list[str] | None, typer.Option(help="Data set on the Hub that the prompts come from.")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch; main by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Upload a map and its card with your own login (`hf auth login`)."""
    from lineas_core.maps.steering_map import SteeringMap

    url = SteeringMap.load(file).push_to_hub(
        repo,
        private=not public,
        revision=revision or None,
        title=title,
        license=license,
        datasets=dataset or (),
    )
    show({"url": url}, as_json)


def install(
    repo: Repository,
    output: NewMapFile,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "",
    file: Annotated[str, typer.Option(help="The map's name there; the card's by default.")] = "",
    digest: Annotated[str, typer.Option(help="The map's digest, if you know it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Download a map and verify it against its card."""
    from dataclasses import asdict

    from lineas_core.maps.steering_map import SteeringMap

    smap = SteeringMap.from_pretrained(
        repo, revision=revision or None, filename=file or None, digest=digest or None
    )
    smap.save(output)
    show({"map": str(output), **asdict(smap.origin), "digest": smap.digest()}, as_json)


def search(
    model: Annotated[
        str, typer.Argument(help="Short name or hub id of a model; all by default.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List maps on the Hub for a model, most downloaded first."""
    from dataclasses import asdict

    from lineas_core.hub.search import find_maps

    show([asdict(found) for found in find_maps(model)], as_json)


def deploy(
    space: Annotated[str, typer.Argument(help="USER/SPACE on the Hugging Face Hub.")],
    to: Annotated[
        Path | None, typer.Option(help="Only prepare the Space's files here; upload nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you can open it.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Limit what visitors may do.")] = False,
    hardware: Annotated[
        str,
        typer.Option(
            help="Hardware of the Space, such as cpu-upgrade, t4-small, or zero-a10g for ZeroGPU; "
            "with a GPU, torch comes with CUDA. By default an existing Space keeps its own, and a "
            "new one has no GPU."
        ),
    ] = "",
    bucket: Annotated[
        str,
        typer.Option(
            help="NAME of a storage bucket, created if needed, that keeps what is made in the "
            "Space when it restarts."
        ),
    ] = "",
    preload: Annotated[
        list[str] | None,
        typer.Option(
            help="Model of the catalogue that is downloaded while the Space is built, not at its "
            "first use; may be given several times."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prepare the Studio as a Hugging Face Space, and upload it."""
    from huggingface_hub import get_token

    from lineas_core.hub.deploy import upload_space
    from lineas_core.hub.preload import preload_items
    from lineas_core.hub.space import prepare_space, space_hardware

    chosen = space_hardware(hardware) if hardware else None
    items = preload_items(preload or (), token=get_token())
    if to is not None:
        files = prepare_space(to, space, hardware=chosen, preload=items)
        show({"folder": str(to), "files": len(files)}, as_json)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare_space(Path(folder), space, hardware=chosen, preload=items)
        url = upload_space(
            Path(folder),
            space,
            token=get_token(),
            private=private,
            demo=demo,
            hardware=chosen,
            bucket=bucket,
        )
    show({"url": url}, as_json)
