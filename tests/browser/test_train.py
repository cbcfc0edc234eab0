"""The train tab: prompts in, training watched, left, found again, stopped, killed, and used."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import lineas_core as lc
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.tabs.train.sites import DEFAULT
from lineas_core.training.state import TrainState
from tests.browser.parts import (
    MARKS,
    Visitor,
    file,
    go_to,
    on_rack,
    row_of,
    serious,
    slider,
    sources,
    unfold,
    upload,
    upload_a_few,
)
from tests.helpers.app import Server
from tests.helpers.waiting import wait_for

pytestmark = MARKS


@pytest.fixture
def train(page: Page) -> Page:
    """A page on the train tab, with the first prompt set in the table."""
    go_to(page, "Train")
    expect(cell(page, 1, 0)).to_have_text("a tiger")
    return page


def cell(page: Page, line: int, column: int) -> Locator:
    """A cell of the table of prompts; lines are counted from 1, as the table shows them."""
    return page.get_by_test_id(f"cell-{line - 1}-{column}")


def write_into(page: Page, line: int, column: int, text: str) -> None:
    cell(page, line, column).dblclick()
    editor = cell(page, line, column).locator("textarea")
    # Gradio focuses it a frame later; keys before that are lost, or come after the old text.
    expect(editor).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
    expect(editor).to_have_value(text)
    page.keyboard.press("Enter")
    # A chosen cell also holds the button of its menu.
    expect(cell(page, line, column)).to_contain_text(text)


def choose_text(page: Page) -> None:
    """Steer text, which puts the first set of text prompts into the table."""
    page.get_by_role("radio", name="Text").check()
    expect(page.locator("#set-concept textarea")).to_have_value("football")


def start(page: Page, steps: int) -> None:
    unfold(page, "settings")
    page.locator("#steps input").fill(str(steps))
    page.locator("#train").click()
    expect(page.locator("#cancel")).to_be_enabled()


def ended(page: Page, status: str) -> Locator:
    """The line of a job that has ended so."""
    line = page.locator(f"#progress [data-status={status}]")
    expect(line).to_be_visible()
    return line


def test_a_set_is_chosen_a_cell_edited_and_a_duplicate_marked(train: Page) -> None:
    counts = train.locator("#counts")
    expect(counts).to_contain_text("32 / 32 source · 32 / 32 target")
    train.get_by_label("Prompt set").click()
    train.get_by_role("option", name="Emoji: watercolor").click()
    expect(cell(train, 1, 1)).to_contain_text("watercolor")
    expect(train.locator("#set-concept textarea")).to_have_value("watercolor")

    other = cell(train, 3, 0).inner_text().strip()
    expect(cell(train, 1, 2)).to_have_text("")
    write_into(train, 1, 0, other)
    expect(cell(train, 3, 2)).to_have_text(re.compile("source: repeats source line 1;"))
    expect(counts).to_contain_text("marked")
    write_into(train, 1, 0, "a quiet volcano")
    expect(cell(train, 3, 2)).to_have_text("")


def test_a_csv_is_uploaded(train: Page) -> None:
    lines = [f"a {thing},a {thing} in fog" for thing in ("fox", "boat", "tower", "lamp", "fox")]
    upload(train, file("fog.csv", "\n".join(["source,target", *lines])))
    expect(cell(train, 2, 1)).to_have_text("a boat in fog")
    expect(train.locator("#counts")).to_contain_text("5 / 32 source · 5 / 32 target")
    expect(cell(train, 5, 2)).to_have_text(re.compile("source: repeats source line 1;"))


def test_a_bad_file_is_listed_and_the_next_one_trains_under_its_own_name(train: Page) -> None:
    styled = [f"a {thing},a {thing} in gold" for thing in ("fox", "boat", "tower", "lamp")]
    answers = "goal,target\n" + "".join(f"Ask for {n},Sure here is {n}\n" for n in "abcd")
    upload(train, file("bad.json", '{"source": ['), file("behaviors.csv", answers))
    for side, option in (("from", "goal: “Ask for a”"), ("to", "target: “Sure here is a”")):
        column = train.locator(f"#{side}-column")
        column.locator("input").click()
        column.get_by_role("option", name=option).click()
    train.locator("#use-columns").click()
    expect(cell(train, 4, 1)).to_have_text("Sure here is d")
    expect(train.locator("#set-name textarea")).to_have_value("behaviors")
    expect(train.locator("#columns")).to_be_hidden()
    upload_again = file("bad.json", '{"source": [')
    picker = train.locator("#prompt-files input[type=file]")
    picker.set_input_files([upload_again])
    report = train.locator("#upload-said")
    expect(report).to_contain_text("bad.json was not read")
    assert serious(train) == []
    expect(train.locator("#set-name textarea")).to_have_value("behaviors")
    pair = [line.split(",") for line in styled]
    told = {
        "title": "Gold rush",
        "concept": "gold leaf",
        "source": [a for a, _ in pair],
        "target": [b for _, b in pair],
    }
    picker.set_input_files([file("gold.json", json.dumps(told))])
    expect(report).to_contain_text("gold.json: 4 source, 4 target.")
    expect(train.locator("#set-name textarea")).to_have_value("Gold rush")
    expect(train.locator("#set-concept textarea")).to_have_value("gold leaf")
    expect(cell(train, 1, 1)).to_have_text("a fox in gold")
    expect(train.get_by_label("Prompt set")).to_have_value("The prompts below (not saved)")
    start(train, 4)
    ended(train, "done")
    expect(train.locator("#recent")).to_contain_text("Gold rush")
    expect(train.locator(".rack-name span").first).to_have_text("Gold rush")
    go_to(train, "Library")
    expect(train.locator("#library-maps")).to_contain_text("Gold rush")
    go_to(train, "Images")
    slider(train, "Gold rush").focus()
    train.keyboard.press("End")
    score = train.locator("#pictures [data-mix='Gold rush 1.00'] .ls-scores span").first
    expect(score).to_have_attribute("title", "CLIPScore with “gold leaf”")


def test_two_text_files_are_uploaded(train: Page) -> None:
    upload(
        train,
        file("source.txt", "a fox\na boat\na tower\na lamp\n"),
        file("target.txt", "a fox at night\na boat at night\na tower at night\na lamp at night\n"),
    )
    expect(cell(train, 4, 1)).to_have_text("a lamp at night")
    expect(cell(train, 4, 0)).to_have_text("a lamp")
    expect(train.locator("#counts")).to_contain_text("4 / 32 source · 4 / 32 target")


def test_lines_are_pasted(train: Page) -> None:
    unfold(train, "uploads")
    for side, ending in (("source", ""), ("target", " in snow")):
        lines = [f"a {thing}{ending}" for thing in ("fox", "boat", "tower", "lamp")]
        train.get_by_label("Or paste lines, CSV or JSON").fill("\n".join(lines))
        train.locator(f"#paste-{side}").click()
        expect(train.locator("#counts")).to_contain_text(f"4 / 32 {side}")
    expect(cell(train, 2, 0)).to_have_text("a boat")
    expect(cell(train, 2, 1)).to_have_text("a boat in snow")


def test_prompts_are_written_saved_found_and_downloaded(train: Page, visitor: Visitor) -> None:
    choose_text(train)
    unfold(train, "writer")
    train.locator("#idea textarea").fill("volcanoes")
    train.locator("#write").click()
    counts = train.locator("#counts")
    expect(counts).to_contain_text("Writing…")
    # They stream in; a few are enough here.
    expect(counts).to_have_text(re.compile(r"([4-9]|\d\d) / 32 source · ([4-9]|\d\d) / 32 target"))
    train.locator("#stop-writing").click()
    expect(train.locator("#set-name textarea")).to_have_value("volcanoes")
    source, target = (cell(train, 1, column).inner_text().strip() for column in (0, 1))
    assert source
    assert re.search("volcan|lava|erupt|magma|ash", target, re.IGNORECASE), target

    train.locator("#save-set").click()
    expect(train.locator("#set-said")).to_contain_text("Saved as 'volcanoes'.")
    train.locator("#download-set").click()
    files = train.locator("#set-files a.download-link")
    expect(files).to_have_count(2)
    texts = []
    for n in range(2):
        with train.expect_download() as download:
            files.nth(n).click()
        texts.append(download.value.path().read_text(encoding="utf-8-sig"))
    saved = json.loads(texts[0])
    assert (saved["source"][0], saved["target"][0]) == (source, target)
    assert next(csv.DictReader(io.StringIO(texts[1])))["source"] == source

    again = visitor.open()
    go_to(again, "Train")
    expect(cell(again, 1, 0)).to_have_text("a tiger")
    choose_text(again)
    again.get_by_label("Prompt set").click()
    again.get_by_role("option", name="volcanoes (yours)").click()
    expect(cell(again, 1, 1)).to_have_text(target)
    again.close()


def test_sites_are_named_counted_and_trained_at(train: Page, server: Server) -> None:
    unfold(train, "settings")
    field, said = train.locator("#sites input"), train.locator("#sites-said")
    # The page has drawn pictures, so the image model is in memory.
    expect(field).to_have_value(DEFAULT[0])
    expect(said).to_have_text(re.compile(r"\d+ sites: \S+, \S+, …"))
    field.click()
    train.get_by_role("option", name="attention_norm").click()
    expect(said).to_contain_text("transformer_blocks.0.norm1")

    choose_text(train)
    expect(field).to_have_value(DEFAULT[0])
    expect(train.locator("#rate input")).to_have_attribute("placeholder", "3")
    upload_a_few(train, "text")
    field.fill("")
    field.press_sequentially(r"model\.layers\.[34]\.input_layernorm")
    field.press("Enter")
    # One step is enough to see where the map is.
    train.locator("#steps input").fill("1")
    train.locator("#train").click()
    ended(train, "done")
    chosen = [f"model.layers.{n}.input_layernorm" for n in (3, 4)]
    expect(said).to_have_text(f"2 sites: {', '.join(chosen)}")
    newest = max(server.home.glob("maps/*.safetensors"), key=lambda path: path.stat().st_mtime)
    assert list(lc.SteeringMap.load(newest).sites) == chosen
    expect(field).to_have_value(r"model\.layers\.[34]\.input_layernorm")

    # It is said while one types, before anything is chosen.
    field.fill("")
    field.press_sequentially(r"lm_head|(")
    expect(said).to_contain_text("'lm_head|(', which is not a regular expression")
    field.press("Backspace")
    field.press("Backspace")
    expect(said).to_have_text("1 site: lm_head")
    assert serious(train) == []


def test_training_is_watched_left_found_again_cancelled_and_tried_again(
    train: Page, visitor: Visitor
) -> None:
    start(train, 400)
    live = train.locator("#live [data-step]")
    expect(live).to_have_attribute("data-step", re.compile("[1-9]"))
    step = int(live.get_attribute("data-step") or 0)
    untouched, steered = sources(train.locator("#live img"))
    assert untouched
    expect(train.locator("#live img").nth(1)).not_to_have_attribute("src", steered)
    assert int(live.get_attribute("data-step") or 0) > step
    expect(train.locator("#live .ls-spark")).to_have_count(2)
    expect(train.locator("#progress")).to_have_text(re.compile(r"Step \d+ of 400 · .* left"))
    job = train.locator("#progress [data-job]").get_attribute("data-job")
    address = train.url
    assert address.endswith(f"?job={job}")
    train.close()

    found = visitor.open(address.rpartition("/")[2])
    expect(found.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")
    expect(found.locator(f"#progress [data-job='{job}']")).to_contain_text("of 400")
    found.locator("#cancel").click()
    expect(ended(found, "cancelled")).to_contain_text("The map reached so far is kept.")
    expect(found.locator("#train")).to_be_enabled()
    expect(found.locator("#health strong")).to_be_visible()
    assert "Emoji: pixel art" not in on_rack(found)
    found.locator("#keep").click()
    expect(found.locator(".rack-name span").first).to_have_text("Emoji: pixel art")
    go_to(found, "Train")

    film = found.locator("#film")
    expect(film).to_be_visible()
    with found.expect_download() as download:
        film.click()
    assert download.value.path().read_bytes().startswith(b"GIF89a")

    found.locator("#retry").click()
    other = found.locator(f"#progress [data-status=running]:not([data-job='{job}'])")
    expect(other).to_be_visible()
    expect(found.locator("#recent")).to_contain_text("tried again")
    # One that is cancelled before its first step has no map.
    expect(found.locator("#progress")).to_have_text(re.compile(r"Step [1-9]\d* of 400"))
    found.locator("#cancel").click()
    ended(found, "cancelled")
    expect(found.locator("#stage-picture img")).to_have_count(2)
    found.close()


def test_a_finished_map_comes_onto_the_rack_and_steers(train: Page) -> None:
    upload_a_few(train, "image")
    train.locator("#set-name textarea").fill("My pixels")
    start(train, 8)
    handle = train.locator(".rack-row").first.get_by_role("slider")
    handle.hover()
    train.mouse.down()
    moving = handle.element_handle()
    expect(ended(train, "done")).to_contain_text("It is on the rack now")
    assert moving.evaluate("slider => slider.isConnected"), "drawn anew under the hand"
    train.mouse.up()
    expect(train.locator(".rack-name span").first).to_have_text("My pixels")
    expect(train.locator(".rack-row").nth(1).get_by_role("slider")).to_be_focused()
    expect(row_of(train, "My pixels").get_by_role("switch")).to_be_checked()
    expect(train.locator("#stage-said [data-strength]")).to_be_visible()
    assert serious(train) == []
    go_to(train, "Images")
    slider(train, "My pixels").focus()
    train.keyboard.press("Home")
    shown = train.locator("#pictures [data-mix='My pixels 0.00'] img")
    expect(shown).to_have_count(4)
    untouched = sources(shown)
    slider(train, "My pixels").focus()
    train.keyboard.press("End")
    shown = train.locator("#pictures [data-mix='My pixels 1.00'] img")
    expect(shown).to_have_count(4)
    assert set(sources(shown)).isdisjoint(untouched)


STEPS = 24


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def test_what_was_mended_at_the_start_is_told_once(browser: Browser, other_server: Server) -> None:
    other_server.stop()
    (other_server.home / "studio.db").write_bytes(b"no database at all" * 500)
    other_server.start()
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    visitor = Visitor(context, other_server.url)
    page = visitor.open()
    told = page.locator(".toast-body")
    expect(told).to_contain_text("The database …/studio.db was damaged")
    expect(told).to_contain_text("The damaged file is kept as …/studio-damaged-")
    assert str(other_server.home) not in told.inner_text()
    page.close()
    page = visitor.open()
    expect(page.locator("#pictures img").first).to_be_visible()
    expect(page.locator(".toast-body")).to_have_count(0)
    assert visitor.errors == []
    context.close()


def test_a_killed_training_goes_on_to_the_identical_map(
    browser: Browser, other_server: Server
) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    visitor = Visitor(context, other_server.url)
    page = visitor.open()
    go_to(page, "Train")
    expect(cell(page, 1, 0)).to_have_text("a tiger")
    prompts = upload_a_few(page, "image")
    start(page, STEPS)
    job = wait_for(lambda: page.locator("#progress [data-job]").get_attribute("data-job"))
    page.wait_for_url("**/?job=*")
    address = page.url.rpartition("/")[2]
    checkpoint = JobFiles(other_server.home).checkpoint(job)
    wait_for(checkpoint.exists)
    page.close()
    other_server.stop(signal.SIGKILL)
    done = len(TrainState.load(checkpoint).losses)
    assert 0 < done < STEPS
    assert not list(other_server.home.glob("maps/*.safetensors"))

    other_server.start()
    page = visitor.open(address)
    expect(ended(page, "done")).to_contain_text(f"{STEPS} steps")
    context.close()
    assert visitor.errors == []

    (path,) = other_server.home.glob("maps/*.safetensors")
    model = lc.load_model("emoji-onestep", device="cpu")
    config = lc.TrainConfig.for_model(model, steps=STEPS)
    undisturbed = lc.train(model, prompts, config).map
    assert comparable(lc.SteeringMap.load(path)) == comparable(undisturbed)


def comparable(smap: lc.SteeringMap) -> str:
    """The map's digest, but for its name, the time when it was made, and its calibration."""
    info = replace(smap.info, created="", name="", calibration=())
    return replace(smap, info=info).digest()


@pytest.mark.parametrize("steps", [12, pytest.param(None, marks=pytest.mark.slow)])
def test_a_new_visitor_moves_the_slider_of_a_style_of_theirs(
    browser: Browser, tmp_path: Path, steps: int | None
) -> None:
    """With the settings as they come, that takes a laptop about two minutes."""
    began = time.monotonic()
    server = Server(tmp_path)
    server.start()
    try:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        visitor = Visitor(context, server.url)
        page = visitor.open()
        go_to(page, "Train")
        expect(cell(page, 1, 0)).to_have_text("a tiger")
        if steps is None:
            page.locator("#train").click()
        else:
            start(page, steps)
        expect(page.locator("#stage")).to_be_visible(timeout=600_000)
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            before, after = moved(page)
            assert before[0] == after[0], "the untouched picture changed"
            assert before[1] != after[1]
            print(
                f"{width} px: {time.monotonic() - began:.0f} s from a fresh home to a moved slider"
            )
            page.wait_for_url("**/?job=*")
            address = page.url.rpartition("/")[2]
            page.close()
            # On the phone the job of before is found again by its link.
            page = visitor.open(address)
        expect(page.locator("#load-prompts")).to_be_visible()
        write_into(page, 1, 0, "a quiet volcano")
        page.locator("#load-prompts").click()
        expect(cell(page, 1, 0)).to_have_text("a tiger")
        expect(page.locator("#set-name textarea")).to_have_value("Emoji: pixel art")
        page.locator("#other-prompts").click()
        expect(page.locator("#image-prompts textarea")).to_be_focused()
        expect(page.locator(".rack-name span").first).to_have_text("Emoji: pixel art")
        assert visitor.errors == []
        context.close()
    finally:
        server.stop()


def moved(page: Page) -> tuple[list[str], list[str]]:
    """The stage's two pictures before and after its slider goes from one end to the other."""
    handle = page.locator("#stage-strength input[type=range]")
    shown = page.locator("#stage-said [data-strength]")
    expect(shown).to_be_visible()
    handle.focus()
    page.keyboard.press("End")
    expect(shown).to_have_attribute("data-strength", "1.00")
    picture = page.locator("#stage-picture .ls-before-after").bounding_box()
    column = page.locator("#progress").bounding_box()
    assert picture
    assert column
    assert picture["width"] >= min(320, column["width"] - 1)
    before = sources(page.locator("#stage-picture img"))
    page.keyboard.press("Home")
    expect(shown).to_have_attribute("data-strength", "0.00")
    return before, sources(page.locator("#stage-picture img"))
