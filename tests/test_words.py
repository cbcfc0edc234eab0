"""Messages that contain a number or a field name."""

from __future__ import annotations

import pytest

from lineas_core.errors import ConfigError
from lineas_core.prompts.files import read_prompt_file
from lineas_core.studio.answers.fields import whole
from lineas_core.system.words import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 maps"), (1, "1 map"), (2, "2 maps"), (21, "21 maps")]
)
def test_a_noun_agrees_with_its_count(count: int, words: str) -> None:
    assert counted(count, "map") == words


def test_an_empty_field_is_told_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="The field seed is empty; write a whole number in it"):
        whole("seed", None)


def test_a_file_whose_name_says_its_side_is_not_asked_for_it() -> None:
    read = read_prompt_file("foxes-target.txt", b"a fox\na vixen\n")
    assert read.target == ("a fox", "a vixen")
    assert "which side" not in " ".join(read.notes)
    assert "which side" in " ".join(read_prompt_file("foxes.txt", b"a fox\na vixen\n").notes)
