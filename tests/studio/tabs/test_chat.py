from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from lineas_core.errors import PromptError
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.shared.catalog import catalog
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.conversation import MAX_TURNS
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.device.preparation import Preparation
from lineas_core.studio.tabs.texts.chat import ChatCallbacks
from tests.helpers.studio import ANN, answers_of, rack

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def talker(studio: Studio, writer: str) -> LanguageModel:
    """The small model with a chat template, as the Studio has it."""
    model = studio.model_cache.get(writer)
    assert isinstance(model, LanguageModel)
    model.tokenizer.chat_template = TEMPLATE
    return model


def test_a_conversation_is_what_the_template_writes(talker: LanguageModel) -> None:
    said = [{"role": "user", "content": "ab"}]
    assert talker.chats
    # The tokenizer of the small model adds no special tokens, so the text is the same prompt.
    written = "<bos>[user]ab[assistant]"
    assert talker.generate([said], seed=3, max_new_tokens=9) == talker.generate(
        [written], seed=3, max_new_tokens=9
    )


def test_a_template_is_not_headed_by_a_second_special_token(smollm2: LanguageModel) -> None:
    said = [{"role": "user", "content": "Hello"}]
    text = smollm2.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    wanted = smollm2.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert smollm2.encode(said, 0) == wanted


def test_what_is_no_conversation_is_refused_by_number(talker: LanguageModel) -> None:
    with pytest.raises(PromptError, match=r"Prompt 2 .*\"role\" and \"content\""):
        talker.generate(["ab", [{"role": "user"}]], max_new_tokens=2)
    talker.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(PromptError, match="no such role"):
        talker.generate([[{"role": "user", "content": "ab"}]], max_new_tokens=2)
    talker.tokenizer.chat_template = None
    with pytest.raises(PromptError, match="no chat template"):
        talker.generate([[{"role": "user", "content": "ab"}]], max_new_tokens=2)


def test_each_side_goes_on_from_its_own_answers_at_the_strength_of_the_moment(
    studio: Studio, talker: LanguageModel, writer: str, words: str
) -> None:
    chats, smap = (
        ChatCallbacks(studio, answers_of(studio)),
        studio.library.map(words, owner_of(ANN)),
    )
    turns: object = []
    history: list[list[dict[str, str]]] = [[], []]
    for question, strength in (("ab", 1.0), ("cd", 0.3)):
        *_, (turns, shown, field) = chats.ask(
            ANN, writer, rack((words, strength)), turns, question, 5, 8
        )
        wanted = []
        for side, steer in ((0, []), (1, [(smap, strength)])):
            history[side].append({"role": "user", "content": question})
            wanted += talker.generate([history[side]], steer, seed=5, max_new_tokens=8)
            history[side].append({"role": "assistant", "content": wanted[-1]})
        last = turns[-1]  # type: ignore[index]
        assert [last["untouched"], last["steered"]] == wanted
        assert last["maps"] == f"Map 2 {strength:.2f}"
        assert field == ""
    assert shown.count("ls-question") == 2
    found = list(chats.again(ANN, writer, rack(), turns, "half a word", 5, 8))
    assert found[-1][2] == "half a word"
    again = found[-1][0]
    assert again[0] == turns[0]  # type: ignore[index]
    # No map is on, but the steered side has read the steered first answer.
    assert again[1]["steered"] == talker.generate([history[1][:-1]], seed=5, max_new_tokens=8)[0]
    left, _, question = chats.undo(again)
    assert (len(left), question) == (1, "cd")


def test_mistakes_in_a_chat_become_messages(
    studio: Studio, talker: LanguageModel, writer: str
) -> None:
    chats = ChatCallbacks(studio, answers_of(studio))
    turn = {"question": "a", "untouched": "b", "steered": "c", "maps": ""}
    for chat, question, message in (
        ([], "  ", "empty"),
        ([], "a" * 4001, "4001 characters"),
        ([turn] * MAX_TURNS, "ab", f"{MAX_TURNS} questions"),
        ([{"role": "user"}], "ab", "chat is not a list of turns"),
    ):
        with pytest.raises(gr.Error, match=message):
            list(chats.ask(ANN, writer, rack(), chat, question, 0, 5))
    with pytest.raises(gr.Error, match="ask one first"):
        list(chats.again(ANN, writer, rack(), [], "", 0, 5))
    talker.tokenizer.chat_template = None
    with pytest.raises(gr.Error, match="has no chat template"):
        list(chats.ask(ANN, writer, rack(), [], "ab", 0, 5))


@pytest.mark.thorough
@pytest.mark.embedded
def test_the_first_text_on_a_fresh_home_says_what_it_waits_for(tmp_path: Path) -> None:
    from lineas_core.studio.access.settings import Settings
    from lineas_core.studio.tabs.texts.callbacks import TextCallbacks

    studio = Studio(Settings(home=tmp_path), environment={})
    studio.preparation.start()
    try:
        shown = list(
            TextCallbacks(studio, answers_of(studio)).compare(ANN, "smollm2", rack(), "Once", 0, 2)
        )
        assert "made ready" in shown[0]
        assert "ls-fill" in shown[0]
        assert "data-side" in shown[-1]
        later = list(
            TextCallbacks(studio, answers_of(studio)).compare(ANN, "smollm2", rack(), "Once", 0, 2)
        )
        assert not any("made ready" in html for html in later)
    finally:
        studio.close()


@pytest.mark.embedded
def test_a_conversion_that_fails_ends_the_waiting_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A file stands where the folder of converted models is to be.
    (tmp_path / "models").write_text("in the way")
    preparation = Preparation(catalog()["smollm2"], tmp_path)
    preparation.start()
    assert list(preparation.waits("another model")) == []
    assert all(0 < state.share < 1 for state in preparation.waits("smollm2"))
    assert list(preparation.waits("smollm2")) == []
    assert "smollm2 is not ready" in caplog.text


@pytest.mark.embedded
def test_an_app_that_stops_takes_its_conversion_along(tmp_path: Path) -> None:
    preparation = Preparation(catalog()["smollm2"], tmp_path)
    preparation.start()
    preparation.stop()
    assert list(preparation.waits("smollm2")) == []
    assert not (tmp_path / "models" / "smollm2").exists()
