"""Other steering libraries, as their own code reads and applies vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def repeng() -> Any:
    # repeng requires NumPy below 2 only for one annotation, whose type NumPy 2 removed.
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(np, "float_"):
            patch.setattr(np, "float_", np.float64, raising=False)
        return pytest.importorskip("repeng")
