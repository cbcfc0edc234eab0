// The page's one scene: models, prompts, seeds, tokens and the rack (in rack.js, whose scope this
// file shares). Every view carries in `data-drawn` what it was drawn from, written by the server
// with the answer; whether it is current is asked by comparing the two, and remembered nowhere.
const SESSION = "lineas-session";
const VIEWS = { image: ["#pictures", "release"], text: ["#pair", "submit"] };
// Lists of maps, by tab: the event that has them read again.
const LISTS = { compare: "edit", understand: "like", library: "select" };
const screen = { tab: "image", arrived: false, asked: {}, askedAt: 0, fields: {
  image: { prompts: "", seed: 0 }, text: { prompts: "", seed: 0, tokens: 0 },
} };

// As `question_of` in views.py writes it.
function question(kind) {
  const model = local.models[kind], { prompts, seed, tokens } = screen.fields[kind];
  const rows = local.state.rows.filter((row) => known(row.id)?.model === model);
  const solo = rows.filter((row) => row.id === local.state.solo);
  const heard = solo.length ? solo : rows.filter((row) => row.on);
  return [model, prompts, Number(seed), Number(tokens ?? 0),
    heard.map((row) => [row.id, row.strength, Boolean(row.inverse)])];
}

// In what a view differs from the scene, in words; "" where it is current.
function difference(view) {
  const was = JSON.parse(view.dataset.drawn), now = question(view.dataset.kind);
  const parts = ["another model", "other prompts", "another seed", "another length"];
  for (const [n, words] of parts.entries()) if (was[n] !== now[n]) return words;
  const names = (maps) => JSON.stringify(maps.map(([id, , inverse]) => [id, inverse]));
  if (names(was[4]) !== names(now[4])) return "other maps";
  // A strength that is swept has no value.
  const same = was[4].every(([, strength], n) => strength === null || strength === now[4][n][1]);
  return same ? "" : "other strengths";
}

const onScreen = (kind) => Boolean(document.querySelector(VIEWS[kind][0])?.offsetParent);

function ask(kind, event) {
  screen.asked[kind] = JSON.stringify(question(kind));
  screen.askedAt = performance.now();
  trigger(event);
}

// A click on Show asks even for what is current. It also takes the focus off a field that was
// edited, which asks by itself: the two are one question.
function askAgain(kind) {
  const same = screen.asked[kind] === JSON.stringify(question(kind));
  if (!same || performance.now() - screen.askedAt > 500) ask(kind, VIEWS[kind][1]);
}

// A hand on the rack: pictures answer to input and release; texts, which take seconds, to release.
function answerTo(event) {
  if (onScreen("text")) {
    if (event === "release") ask("text", "submit");
  } else if (onScreen("image") && event) ask("image", event);
}

// What is on the screen and not current is asked for, unless that was the last question: its answer
// is on its way, was an error or was stopped. A view that is not on the screen follows when its tab
// is opened. A field that was just emptied is being written in: only a click on Show asks for it.
function follow(also) {
  if (!screen.arrived) return;
  for (const [kind, [place, event]] of Object.entries(VIEWS)) {
    if (!onScreen(kind) && also !== kind) continue;
    if (!String(screen.fields[kind].prompts).trim()) continue;
    const view = document.querySelector(`${place} [data-drawn]`);
    if (view && !difference(view)) continue;
    if (screen.asked[kind] !== JSON.stringify(question(kind))) ask(kind, event);
  }
}

// What is expensive is not made anew by itself: it says that it is of another scene.
function mark() {
  for (const view of document.querySelectorAll("[data-drawn][data-again]")) {
    const words = difference(view), note = view.querySelector(".ls-stale");
    note.hidden = !words;
    view.classList.toggle("ls-old", Boolean(words));
    if (words) note.querySelector("span").textContent = `Made for ${words} than those set now.`
      .replace(/for another (\w+) than those set now/, "for another $1 than the one set now");
  }
}
let marking = 0;
function markSoon() {
  cancelAnimationFrame(marking);
  marking = requestAnimationFrame(mark);
}
new MutationObserver(markSoon).observe(document.body, { childList: true, subtree: true });
document.addEventListener("click", (event) => {
  const view = event.target.closest?.(".ls-again")?.closest("[data-again]");
  if (view) document.querySelector(view.dataset.again)?.click();
});

// The session, for a reload of this page, and for the next page of this browser.
function save() {
  if (!screen.arrived) return;
  const { image, text } = screen.fields;
  const rows = local.state.rows.filter((row) => known(row.id));
  const session = JSON.stringify({
    rack: { ...local.state, rows }, titles: Object.fromEntries(rows.map((row) => [row.id, known(row.id).title])),
    image_model: local.models.image, image_prompts: image.prompts, image_seed: image.seed,
    text_model: local.models.text, text_prompt: text.prompts, text_seed: text.seed, tokens: text.tokens,
    tab: screen.tab,
  });
  for (const storage of ["sessionStorage", "localStorage"]) {
    try { window[storage].setItem(SESSION, session); } catch { /* private window */ }
  }
}

function changed() {
  save();
  markSoon();
}

document.addEventListener("lineas:field", ({ detail: [kind, name, value] }) => {
  if (name === "model") {
    local.models[kind] = value;
    draw();
    publish("");
    follow();
  } else screen.fields[kind][name] = value;
  changed();
});
document.addEventListener("lineas:again", ({ detail: kind }) => askAgain(kind));
document.addEventListener("lineas:follow", () => follow());
document.addEventListener("lineas:tab", ({ detail: tab }) => {
  screen.tab = tab;
  if (tab in VIEWS && local.state.modality !== tab) {
    local.state.modality = tab;
    draw();
    publish("");
  }
  changed();
  // A tab that is opened for the first time takes a moment to be there.
  for (const wait of [0, 100, 500]) setTimeout(follow, wait);
});

// What the server says of the scene, beside the rack.
function receiveScene(patch) {
  // What was an error may have an answer now.
  if (patch.ask) screen.asked = {};
  for (const [kind, values] of Object.entries(patch.fields ?? {})) Object.assign(screen.fields[kind], values);
  if (patch.tab) {
    screen.tab = patch.tab;
    screen.arrived = true;
    for (const wait of [100, 500]) setTimeout(follow, wait);
  }
  changed();
  if (patch.tab) follow("image");
  else if (patch.state || patch.add || patch.catalog || patch.models || patch.ask) follow();
  // An answer that changes the rack may set the tab's own fields too, which this event reads: they
  // are set one after the other.
  if (patch.catalog && !patch.tab && LISTS[screen.tab]) setTimeout(() => trigger(LISTS[screen.tab]), 100);
}
