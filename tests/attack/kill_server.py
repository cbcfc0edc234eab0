"""Apps to be killed: `python -m tests.attack.kill_server MODEL` imports what they need, once.

Each line on its standard input, a home and a port, forks a process that serves the app there. Its
id is said at once, and how it ended once it has.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import gradio as gr
import torch

import lineas_core as lc
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.device import preparation
from lineas_core.studio.web import page


def serve(home: Path, port: int) -> None:
    """Serve as `lineas studio` does, without the embedded model; tells the numbers of functions."""
    build = page.build_page

    def build_and_tell(studio: Studio) -> gr.Blocks:
        built = build(studio)
        numbers = {block.fn.__qualname__: n for n, block in built.fns.items() if block.fn}
        (home / "functions.json").write_text(json.dumps(numbers))
        return built

    page.build_page = build_and_tell
    preparation.needs_converting = lambda *_: False  # type: ignore[assignment]
    page.launch(home, port)


def main() -> None:
    torch.set_num_threads(1)
    lc.load_model(sys.argv[1], device="cpu")
    print("ready", flush=True)
    for line in sys.stdin:
        home, port = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                # The log of the app, which must not go among the answers here.
                os.dup2(2, 1)
                serve(Path(home), port)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
