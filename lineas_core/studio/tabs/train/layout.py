"""Layout of the train tab: prompts on the left, training with live frames on the right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr

from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.components.choices import Choice
from lineas_core.studio.components.csv_button import csv_button
from lineas_core.studio.tabs.fields import method_choices
from lineas_core.studio.tabs.train.prompts import ChosenOutputs, PromptCallbacks, RemovedOutputs
from lineas_core.studio.tabs.train.sites import DEFAULT, SiteCallbacks
from lineas_core.studio.tabs.train.stage import LoadedOutputs, StageCallbacks, StageOutputs
from lineas_core.studio.tabs.train.stage_layout import lay_out_stage
from lineas_core.studio.tabs.train.style_line import StyleCallbacks
from lineas_core.studio.tabs.train.training import (
    JobOutputs,
    MethodOutputs,
    ShippedFields,
    TrainingCallbacks,
    shipped_fields,
)
from lineas_core.studio.tabs.train.uploads import PromptOutputs, UploadCallbacks, UploadedOutputs
from lineas_core.studio.tabs.train.writing import WritingCallbacks, WrittenOutputs
from lineas_core.studio.views import job_cards

# Adds the job to the address, so that the page shows it again when it is reopened.
REMEMBER_JOB = """(seen) => {
    const url = new URL(window.location);
    if (seen?.job) url.searchParams.set("job", seen.job); else return;
    window.history.replaceState(null, "", url);
    window.parent?.postMessage({ queryString: url.search.slice(1) }, "*");
}"""

# Opens the tab of the job's modality, where its map steers.
OPEN_STEERED = """() => {
    const text = document.querySelector("#progress [data-kind]")?.dataset.kind === "text";
    const name = text ? "Text" : "Images";
    const tabs = [...document.querySelectorAll("[role=tab]")];
    tabs.find((tab) => tab.textContent.trim() === name)?.click();
}"""
# Focuses the prompt field of that tab as soon as the field is visible.
FOCUS_PROMPTS = """() => {
    const focus = (tries) => {
        const field = [...document.querySelectorAll("#prompt textarea, #image-prompts textarea")]
            .find((one) => one.offsetParent);
        if (field) { field.focus(); field.select(); }
        else if (tries) setTimeout(focus, 50, tries - 1);
    };
    setTimeout(focus, 50, 40);
}"""
TAKE_FILM = "() => { setTimeout(() => document.querySelector('#reel')?.click(), 50); }"


@dataclass(frozen=True)
class TrainTab:
    """The parts of the tab that the page uses to fill it on load."""

    outputs: JobOutputs
    callbacks: TrainingCallbacks
    chosen: gr.Dropdown


def build_train_tab(
    studio: Studio, answers: Answers, key: gr.BrowserState, rack: gr.HTML
) -> TrainTab:
    """Lay out the tab and wire it."""
    prompts, uploads = PromptCallbacks(studio, answers), UploadCallbacks(answers)
    writing, styling = WritingCallbacks(studio, answers), StyleCallbacks(answers)
    training, staging = TrainingCallbacks(studio), StageCallbacks(studio, answers)
    siting = SiteCallbacks(answers)
    seen, timer = gr.JSON(visible=False), gr.Timer(1.0, active=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("## 1 · Prompts")
            with gr.Row():
                modality = gr.Radio(
                    [("Pictures", "image"), ("Text", "text")], value="image", label="What to steer",
                    elem_id="train-kind",
                )  # fmt: skip
                model = gr.Dropdown(
                    studio.model_choices("image"), label="Model", elem_id="train-model",
                    allow_custom_value=not studio.settings.demo, min_width=180,
                )  # fmt: skip
            chosen = Choice([], label="Prompt set", elem_id="prompt-set")
            known = gr.HTML(elem_id="style-line")
            styles = gr.Radio(
                [], label="Styles that it knows", visible=False, elem_id="known-styles"
            )
            with gr.Accordion("Write them for me", open=False, elem_id="writer"):
                with gr.Row(equal_height=True):
                    idea = gr.Textbox(
                        label="A concept or style, in a few words",
                        placeholder="volcanoes",
                        elem_id="idea",
                        scale=3,
                    )
                    dice = gr.Number(0, label="Seed", precision=0, min_width=80, scale=1)
                writer = gr.Dropdown(
                    studio.model_choices("text"), value="smollm2", label="Written by", elem_id="by"
                )
                with gr.Row():
                    write = gr.Button(
                        "Write 32 + 32", variant="primary", elem_id="write", size="md"
                    )
                    stop = gr.Button("Stop", elem_id="stop-writing", size="md")
            with gr.Accordion("Upload or paste", open=False, elem_id="uploads"):
                files = gr.File(
                    label="Text, CSV, JSON or YAML",
                    file_count="multiple",
                    elem_id="prompt-files",
                    height=120,
                )
                report = gr.HTML(elem_id="upload-said")
                waiting = gr.State(None)
                with gr.Group(visible=False, elem_id="columns") as panel:
                    question = gr.HTML(elem_id="columns-asked", padding=True)
                    with gr.Row():
                        of_source = gr.Dropdown([], label="From (source)", elem_id="from-column")
                        of_target = gr.Dropdown([], label="To (target)", elem_id="to-column")
                    use = gr.Button("Use these columns", size="md", elem_id="use-columns")
                # The side that the last upload or paste filled, if it filled only one.
                filled = gr.State("")
                pasted = gr.Textbox(
                    label="Or paste lines, CSV or JSON", lines=3, elem_id="paste-text"
                )
                with gr.Row():
                    into_source = gr.Button("Paste as source", elem_id="paste-source", size="md")
                    into_target = gr.Button("Paste as target", elem_id="paste-target", size="md")
            counts = gr.HTML(elem_id="counts", min_height=24)
            table = gr.Dataframe(
                headers=["From (source)", "To (target)", "Note"],
                datatype="str",
                type="array",
                interactive=True,
                static_columns=[2],
                # Less than 100% in total, because the row numbers have a width of their own.
                column_widths=["34%", "34%", "17%"],
                wrap=True,
                max_height=420,
                show_row_numbers=True,
                label="Prompts",
                show_label=False,
                elem_id="prompt-table",
            )
            with gr.Row():
                name = gr.Textbox(label="Name", elem_id="set-name", min_width=140)
                concept = gr.Textbox(
                    label="Concept", info="What the targets have", elem_id="set-concept",
                    min_width=140,
                )  # fmt: skip
            with gr.Row():
                save = gr.Button("Save as a set", size="sm", elem_id="save-set")
                share = gr.Button("Download", size="sm", elem_id="download-set")
                remove = gr.Button("Delete set", size="sm", elem_id="delete-set", min_width=90)
            restore = gr.Button(
                "Undo: bring the set back", size="sm", visible=False, elem_id="undo-set"
            )
            deleted = gr.State("")
            said = gr.HTML(elem_id="set-said")
            shared = gr.File(label="The set", visible=False, elem_id="set-files")
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("## 2 · Train")
            preview = gr.Textbox(
                label="Watch it on this prompt", elem_id="preview-prompt", max_lines=2
            )
            with gr.Accordion("Settings", open=False, elem_id="settings") as settings:
                method = gr.Dropdown(
                    method_choices(), value=DEFAULT_METHOD, label="Method", elem_id="method"
                )
                with gr.Row(elem_id="numbers") as numbers:
                    shipped = shipped_fields(studio.model_choices("image")[0][1])
                    steps = _setting("Steps", "steps", shipped.steps)
                    rate = _setting("Learning rate", "rate", shipped.rate)
                    gamma = _setting("Sparsity", "gamma", shipped.gamma)
                with gr.Row(elem_id="weights", visible=False) as weights:
                    likelihood = _setting("Likelihood", "likelihood", shipped.likelihood)
                    distance = _setting("Distance", "distance", shipped.distance)
                sites = gr.Dropdown(
                    [DEFAULT], value=DEFAULT[1], label="Sites", elem_id="sites",
                    allow_custom_value=True, info="A preset, or an expression for names of modules",
                )  # fmt: skip
                matched = gr.HTML(elem_id="sites-said")
                said_of_settings = gr.HTML(
                    job_cards.settings(DEFAULT_METHOD), elem_id="settings-said"
                )
            with gr.Row():
                train = gr.Button("Train", variant="primary", elem_id="train", size="md",
                                  min_width=120)  # fmt: skip
                cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", size="md",
                                   min_width=100)  # fmt: skip
                retry = gr.Button("Try again", visible=False, elem_id="retry", size="md",
                                  min_width=100)  # fmt: skip
            bar = gr.HTML(job_cards.progress(None), elem_id="progress", min_height=44)
            stage = lay_out_stage()
            live = gr.HTML(job_cards.live(None, None), elem_id="live")
            film = gr.Button("Film of the training", visible=False, size="sm", elem_id="film")
            # A download button serves the file that it holds when it is clicked, so a script clicks
            # this hidden one after the film has been written.
            reel = gr.DownloadButton("Film", visible="hidden", elem_id="reel")
            csv_button("training-csv", training.curves, [key, seen], "Curves (CSV)")
            health = gr.HTML(elem_id="health")
            recent = gr.HTML(elem_id="recent")
    shown = [
        *JobOutputs(
            seen=seen,
            timer=timer,
            progress=bar,
            live=live,
            health=health,
            train=train,
            cancel=cancel,
            retry=retry,
            keep=stage.keep,
            film=film,
            recent=recent,
            rack=rack,
        )
    ]
    filled_in = PromptOutputs(
        table=table,
        counts=counts,
        name=name,
        concept=concept,
        chosen=chosen,
        filled=filled,
        report=report,
        waiting=waiting,
        panel=panel,
        question=question,
        from_column=of_source,
        to_column=of_target,
    )
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    modality.input(training.models_of, modality, model, **quiet)
    modality.input(prompts.list_for_kind, [key, modality, chosen], chosen, **quiet)
    picked = ChosenOutputs(table=table, counts=counts, name=name, concept=concept, preview=preview)
    looked = {"trigger_mode": "always_last", "concurrency_id": "sliders", **quiet}
    of, told = [modality, model, concept, table], [known, styles]
    chosen.change(prompts.choose, [key, chosen], [*picked], **quiet).success(
        styling.show, of, told, **looked
    )
    gr.on([model.change, concept.blur, concept.submit], styling.show, of, told, **looked)
    styles.input(styling.choose, styles, chosen, **quiet)
    model.change(prompts.list_for_model, [key, modality, model, chosen], chosen, **quiet)
    # Choosing a set from the list discards the report of the last upload.
    chosen.input(uploads.clear, None, [*filled_in], **quiet)
    table.input(prompts.mark, table, [table, counts], trigger_mode="always_last", **quiet)
    use.click(
        uploads.answer,
        [key, modality, table, waiting, of_source, of_target],
        [*filled_in],
        **quiet,
    )
    files.upload(
        uploads.upload, [key, modality, files, table, filled],
        [*UploadedOutputs(*filled_in, files=files)], trigger_mode="multiple", **quiet,
    )  # fmt: skip
    for button, side in ((into_source, "source"), (into_target, "target")):
        button.click(
            uploads.paste,
            [key, modality, pasted, gr.State(side), table, filled],
            [*filled_in],
            **quiet,
        )
    written = WrittenOutputs(table=table, counts=counts, concept=concept, name=name, chosen=chosen)
    being_written = gr.on(
        [write.click, idea.submit],
        writing.write,
        [key, modality, idea, dice, writer],
        [*written],
        trigger_mode="once",
        **quiet,
    )
    stop.click(None, cancels=[being_written])
    save.click(prompts.save, [key, modality, name, concept, table], [chosen, said], **quiet)
    share.click(prompts.download, [key, modality, name, concept, table], shared, **quiet).then(
        prompts.show_files, None, shared, **quiet
    )
    removed = RemovedOutputs(chosen=chosen, deleted=deleted, restore=restore)
    remove.click(prompts.delete, [key, modality, chosen], [*removed], **quiet)
    restore.click(prompts.undelete, [key, modality, deleted], [chosen, restore], **quiet)

    asked = [key, modality, model, name, concept, table, preview, steps, rate, gamma, method,
             sites, likelihood, distance]  # fmt: skip
    fields = ShippedFields(
        steps=steps, rate=rate, gamma=gamma, likelihood=likelihood, distance=distance
    )
    of_method = MethodOutputs(
        numbers=numbers, weights=weights, said=said_of_settings, **fields._asdict()
    )
    method.change(training.settings_of, [method, model], [*of_method], **quiet)
    model.change(shipped_fields, [model, method], [*fields], **quiet)
    model.change(siting.reset, model, [sites, matched], **quiet)
    sites.input(siting.described, [model, sites], matched, trigger_mode="always_last", **quiet)
    # Each key, as "always_last" would answer for the first with what was typed by then.
    sites.key_up(siting.typed, model, matched, trigger_mode="multiple", **quiet)
    # A job, or the tab that was open before, may have loaded the model.
    gr.on(
        [settings.expand, seen.change],
        siting.refresh,
        [model, sites],
        [sites, matched],
        trigger_mode="always_last",
        **quiet,
    )
    train.click(training.start, asked, shown, trigger_mode="once", **quiet)
    cancel.click(training.cancel, [key, seen], shown, **quiet)
    retry.click(training.retry, [key, seen], shown, **quiet)
    timer.tick(training.poll, [key, seen], shown, trigger_mode="once", **quiet)
    seen.change(None, seen, None, js=REMEMBER_JOB)
    stage.keep.click(training.keep, [key, seen], rack, **quiet).success(
        None, None, None, js=OPEN_STEERED
    )
    stage.other.click(training.keep, [key, seen], rack, **quiet).success(
        None, None, None, js=OPEN_STEERED
    ).success(None, None, None, js=FOCUS_PROMPTS)
    loaded = LoadedOutputs(
        modality=modality,
        model=model,
        chosen=chosen,
        table=table,
        counts=counts,
        name=name,
        concept=concept,
        preview=preview,
    )
    stage.again.click(staging.prompts, [key, seen], [*loaded], **quiet)
    on_stage = StageOutputs(
        panel=stage.panel,
        strength=stage.strength,
        picture=stage.picture,
        said=stage.said,
        staged=stage.staged,
    )
    seen.change(staging.open, [key, seen, stage.staged], [*on_stage], **quiet)
    gr.on(
        [stage.staged.change, stage.strength.input],
        staging.draw,
        [key, stage.staged, stage.strength],
        [stage.picture, stage.said],
        **looked,
    )
    film.click(training.film, [key, seen], reel, **quiet).success(None, None, None, js=TAKE_FILM)
    return TrainTab(JobOutputs(*shown), training, chosen)


def _setting(label: str, elem_id: str, shown: Mapping[str, str]) -> gr.Textbox:
    """The field of a number; not gr.Number, which shows and sends 0 where it is empty."""
    return gr.Textbox(
        label=label, placeholder=shown["placeholder"], max_lines=1, max_length=20, min_width=90,
        elem_id=elem_id,
    )  # fmt: skip
