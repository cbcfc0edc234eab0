"""A kernel of Jupyter that runs cells, and hears of its widgets as a page does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from lineas_core.system.home import lineas_home

ROOT = Path(__file__).parents[2]
# The kind of output that is a widget.
WIDGET = "application/vnd.jupyter.widget-view+json"


def environment() -> dict[str, str]:
    """For processes that run code of users: with the models that are converted already."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "LINEAS_HOME": str(lineas_home()),
        "HF_HUB_OFFLINE": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
    }


class Kernel:
    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    def run(self, code: str) -> str:
        """Run a cell behind those that ran; returns what it prints."""
        cell = nbformat.v4.new_code_cell(code)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return "".join(each.text for each in cell.outputs if each.output_type == "stream")

    def move(self, widget: str, **state: Any) -> None:
        """Tell the kernel that the page has changed a widget, by its id."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        session = self.client.kc.session
        message = session.msg("comm_msg", {"comm_id": widget, "data": data})
        self.client.kc.shell_channel.send(message)

    def shown(self, widget: str) -> Mapping[str, Any]:
        """What the page knows of a widget; bytes are in base64."""
        sent = self.client.widget_buffers.get(widget, {})
        return self.client.widget_state[widget] | {
            path[-1]: each["data"] for path, each in sent.items()
        }


@contextmanager
def kernel(notebook: nbformat.NotebookNode, folder: Path) -> Iterator[Kernel]:
    """A kernel in `folder` that has run the notebook's cells.

    Raises:
        CellExecutionError: a cell does.
    """
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel(env=environment(), cwd=str(folder)):
        for index, cell in enumerate(list(notebook.cells)):
            client.execute_cell(cell, index)
        yield Kernel(client)
