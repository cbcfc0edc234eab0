// The rack of maps. The page owns its state (which maps, in which order, how strong); the server
// sends patches: the maps there are, how much of each one's effect is left, whether answers come
// fast enough to be asked for while a slider moves.
const root = element.querySelector(".rack");
const local = {
  state: { modality: "image", rows: [], solo: "", beyond: false, even: true },
  catalog: [], effects: {}, live: false,
  // Maps whose tools are unfolded on a phone.
  unfolded: new Set(),
  models: { image: "emoji-onestep", text: "smollm2" },
};
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const known = (id) => local.catalog.find((map) => map.id === id);
const fits = (map) => map?.model === local.models[local.state.modality];
const shown = () => local.state.rows.filter((row) => fits(known(row.id)));
const range = () => (local.state.beyond ? [-1, 2] : [0, 1]);
// As in style.css: below this width a map takes one line.
const narrow = matchMedia("(max-width: 640px)");
narrow.addEventListener("change", () => draw());
// A pointer that is down, or a drag, which need not come with the focus. A row that is replaced
// under it would lose the drag, so what comes meanwhile is drawn when it ends.
const held = { pointer: false, drag: false, late: false };
function hold(part, on) {
  held[part] = on;
  // After the click or drop that belongs to this event.
  if (!on) setTimeout(() => { if (held.late && !held.pointer && !held.drag) draw(); });
}
root.addEventListener("pointerdown", () => hold("pointer", true));
for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => hold("pointer", false));
for (const [event, on] of [["dragstart", true], ["dragend", false], ["drop", false]]) {
  root.addEventListener(event, () => hold("drag", on), true);
}

function publish(event) {
  props.value = { from: "page", state: structuredClone(local.state) };
  changed();
  answerTo(event);
}

function move(id, by) {
  const mine = shown().map((row) => row.id);
  const to = mine.indexOf(id) + by;
  if (to < 0 || to >= mine.length) return;
  const rows = local.state.rows;
  const [a, b] = [mine[to], id].map((key) => rows.findIndex((row) => row.id === key));
  [rows[a], rows[b]] = [rows[b], rows[a]];
  draw(`[data-id="${CSS.escape(id)}"] .rack-${by < 0 ? "up" : "down"}`);
  publish("release");
}

function dropBefore(dragged, target) {
  const rows = local.state.rows;
  const from = rows.findIndex((row) => row.id === dragged);
  const to = rows.findIndex((row) => row.id === target);
  if (from < 0 || to < 0 || from === to) return;
  rows.splice(to, 0, rows.splice(from, 1)[0]);
  draw();
  publish("release");
}

// Where the handle stands at a strength of a map, and back: equal steps of it move the output by
// equal parts of its way. Both agree beyond 0 to 1, and without a calibration.
function along(map, x, from) {
  const points = local.state.even && map.calibration?.length ? map.calibration : [];
  const at = points.findIndex((point) => point[from] > x);
  if (at < 1 || x <= 0 || x >= 1) return x;
  const [a, b] = [points[at - 1], points[at]];
  return a[1 - from] + ((b[1 - from] - a[1 - from]) * (x - a[from])) / (b[from] - a[from]);
}
const toHandle = (map, strength) => along(map, strength, 0);
const toStrength = (map, handle) => along(map, handle, 1);

function percent(map, strength) {
  const [low, high] = range();
  return ((toHandle(map, clamp(strength, low, high)) - low) / (high - low)) * 100;
}

// Fills a slider's track from 0, which is not at its left end beyond 0 to 1, to the strength.
function fill(slider, map, strength) {
  const ends = [percent(map, 0), percent(map, strength)].sort((a, b) => a - b);
  slider.style.setProperty("--from", ends[0] / 100);
  slider.style.setProperty("--to", ends[1] / 100);
}

// How much of a map's effect is left beside the others, in words.
function leftover(effect) {
  const left = Math.round(effect * 100);
  const words = left > 105 ? "it works more strongly" : left >= 95 ? "it works as it does alone"
    : left >= 50 ? "it works more weakly" : left > 5 ? "the others drown most of it"
    : left >= 0 ? "the others undo it" : "the others turn it around";
  return make("p", { class: "rack-effect", title: "Its effect with the other maps on, as a share of its effect alone" },
    `Beside the others ${words} (${left}\u00a0% of its effect)`);
}

function line(row) {
  const map = known(row.id);
  const [low, high] = range();
  const title = map.title;
  const soloed = local.state.solo === row.id;
  const heard = shown().some((other) => other.id === local.state.solo) ? soloed : row.on;
  const slider = make("input", {
    type: "range", min: low, max: high, step: 0.01, "aria-label": `Strength of ${title}`,
    oninput: () => set(toStrength(map, Number(slider.value)), local.live ? "input" : "", true),
    onchange: () => publish("release"),
  });
  const number = make("input", {
    type: "number", min: low, max: high, step: 0.05, "aria-label": `Strength of ${title}, as a number`,
    onchange: () => { set(clamp(Number(number.value) || 0, low, high), ""); publish("release"); },
  });
  slider.value = toHandle(map, row.strength);
  slider.setAttribute("aria-valuetext", row.strength.toFixed(2));
  number.value = row.strength.toFixed(2);
  const set = (value, event, byHandle) => {
    row.strength = Math.round(value * 1e4) / 1e4;
    if (!row.on) { row.on = true; toggle.checked = true; item.classList.remove("rack-off"); }
    // A handle that moves itself is not put elsewhere under the hand.
    if (!byHandle) slider.value = toHandle(map, value);
    slider.setAttribute("aria-valuetext", value.toFixed(2));
    number.value = value.toFixed(2);
    fill(slider, map, value);
    publish(event);
  };
  fill(slider, map, row.strength);
  const toggle = make("input", {
    type: "checkbox", role: "switch", "aria-label": `${title} on`,
    onchange: () => { row.on = toggle.checked; draw(`[data-id="${CSS.escape(row.id)}"] [role=switch]`); publish("release"); },
  });
  toggle.checked = row.on;
  const button = (name, label, text, act, pressed) => make("button", {
    type: "button", class: `rack-${name}`, "aria-label": `${label}: ${title}`, title: label,
    "aria-pressed": pressed == null ? null : String(pressed), onclick: act,
  }, text);
  const track = make("div", { class: "rack-track" }, slider);
  if (local.state.beyond) for (const end of [0, 1]) track.append(make("span", {
    class: "rack-tick", "aria-hidden": "true", style: `--share: ${percent(map, end) / 100}`,
  }, String(end)));
  if (map.recommended != null && map.recommended >= low && map.recommended <= high) {
    track.append(make("button", {
      type: "button", class: "rack-mark", style: `--share: ${percent(map, map.recommended) / 100}`,
      "aria-label": `Recommended strength of ${title}: ${map.recommended.toFixed(2)}`,
      title: `Recommended: ${map.recommended.toFixed(2)}`,
      onclick: () => { set(map.recommended, ""); publish("release"); },
    }));
  }
  const effect = local.effects[row.id];
  const unfolded = local.unfolded.has(row.id);
  const tools = make("div", { class: "rack-tools", hidden: narrow.matches && !unfolded },
    button("solo", "Solo", "S", () => {
      local.state.solo = soloed ? "" : row.id;
      draw(`[data-id="${CSS.escape(row.id)}"] .rack-solo`);
      publish("release");
    }, soloed));
  if (local.state.beyond) tools.append(button("inverse", "Inverse map", "⁻¹", () => {
    row.inverse = !row.inverse;
    draw(`[data-id="${CSS.escape(row.id)}"] .rack-inverse`);
    publish("release");
  }, Boolean(row.inverse)));
  tools.append(
    button("up", "Earlier", "↑", () => move(row.id, -1)),
    button("down", "Later", "↓", () => move(row.id, 1)),
    button("remove", "Take off the rack", "×", () => {
      local.state.rows = local.state.rows.filter((other) => other.id !== row.id);
      if (local.state.solo === row.id) local.state.solo = "";
      draw(".rack-add");
      publish("release");
    }));
  const item = make("li", {
    class: `rack-row${heard ? "" : " rack-off"}`, "data-id": row.id,
    ondragover: (event) => event.preventDefault(),
    ondrop: (event) => { event.preventDefault(); dropBefore(event.dataTransfer.getData("text/plain"), row.id); },
  });
  const grip = make("span", {
    class: "rack-grip", draggable: "true", "aria-hidden": "true", title: "Drag to reorder",
    ondragstart: (event) => event.dataTransfer.setData("text/plain", row.id),
  }, "⠿");
  const name = make("label", { class: "rack-name", title: map.concept ? `${title}: ${map.concept}` : title },
    toggle, make("span", {}, title));
  if (narrow.matches) {
    const more = make("button", {
      type: "button", class: "rack-more", "aria-label": `Tools: ${title}`, title: "Tools", "aria-expanded": String(unfolded),
      onclick: () => {
        local.unfolded[unfolded ? "delete" : "add"](row.id);
        draw(`[data-id="${CSS.escape(row.id)}"] .rack-more`);
      },
    }, "⋯");
    item.append(make("div", { class: "rack-line" }, name, track, number, more), tools);
  } else {
    item.append(make("div", { class: "rack-head" }, grip, name, tools), make("div", { class: "rack-body" }, track, number));
  }
  if (heard && effect != null) item.append(leftover(effect));
  return item;
}

// Where the focus is, to be found again in a rack drawn anew.
function focused() {
  const used = document.activeElement;
  const label = root.contains(used) && used.getAttribute("aria-label");
  if (!label) return "";
  const row = used.closest("[data-id]");
  return `${row ? `[data-id="${CSS.escape(row.dataset.id)}"] ` : ""}[aria-label="${CSS.escape(label)}"]`;
}

function draw(focus) {
  held.late = false;
  focus ??= focused();
  const rows = shown();
  const list = make("ol", { class: "rack-list", "aria-label": "Maps, first applied first" }, ...rows.map(line));
  const rest = local.catalog.filter((map) => fits(map) && !rows.some((row) => row.id === map.id));
  const add = make("select", {
    class: "rack-add", "aria-label": "Add a map to the rack", disabled: rest.length === 0,
    onchange: () => {
      const map = known(add.value);
      if (!map) return;
      local.state.rows.push({ id: map.id, on: true, strength: map.recommended ?? 1, inverse: false });
      draw(`[data-id="${CSS.escape(map.id)}"] input[type=range]`);
      publish("release");
    },
  }, make("option", { value: "" }, rest.length ? "Add a map…" : "No other map"));
  for (const [label, own] of [["Yours", true], ["Shipped", false]]) {
    const maps = rest.filter((map) => map.own === own);
    if (maps.length) add.append(make("optgroup", { label },
      ...maps.map((map) => make("option", { value: map.id }, map.title))));
  }
  const beyond = make("input", { type: "checkbox", onchange: () => {
    local.state.beyond = beyond.checked;
    if (!beyond.checked) for (const row of local.state.rows) {
      row.strength = clamp(row.strength, 0, 1);
      row.inverse = false;
    }
    draw(".rack-beyond input");
    publish("release");
  } });
  beyond.checked = local.state.beyond;
  const even = make("input", { type: "checkbox", onchange: () => {
    local.state.even = even.checked;
    draw(".rack-even input");
    publish("");
  } });
  even.checked = local.state.even;
  const reset = make("button", { type: "button", class: "rack-reset", disabled: rows.length === 0, onclick: () => {
    for (const row of rows) {
      row.strength = known(row.id).recommended ?? 1;
      row.on = row === rows[0];
      row.inverse = false;
    }
    local.state.solo = "";
    draw(".rack-reset");
    publish("release");
  } }, "Reset");
  root.replaceChildren(
    rows.length ? list : make("p", { class: "rack-empty" },
      local.catalog.length ? "No map is on the rack. Add one, or train your own." : "Loading the maps…"),
    make("div", { class: "rack-foot" }, add, reset,
      make("label", { class: "rack-beyond", title: "Negative strengths, up to twice the map, and its inverse" },
        beyond, make("span", {}, "Beyond 0 to 1")),
      make("label", { class: "rack-beyond rack-even", title: "Equal steps of a slider change the output equally; the number stays the strength" },
        even, make("span", {}, "Even slider"))));
  if (focus) root.querySelector(focus)?.focus();
}

function receive() {
  const patch = props.value;
  if (!patch || patch.from !== "server") return;
  const busy = held.pointer || held.drag || root.contains(document.activeElement);
  for (const part of ["catalog", "effects", "live"]) if (patch[part] !== undefined) local[part] = patch[part];
  if (patch.models) Object.assign(local.models, patch.models);
  if (patch.state) Object.assign(local.state, patch.state);
  for (const id of patch.add ?? []) {
    const map = known(id);
    if (!map) continue;
    // A new map is shown, unless the tab on the screen is of the other kind.
    if (!(screen.tab in VIEWS)) local.state.modality = map.modality;
    for (const row of local.state.rows) if (known(row.id)?.modality === map.modality) row.on = false;
    local.state.rows = [{ id, on: true, strength: map.recommended ?? 1, inverse: false },
      ...local.state.rows.filter((row) => row.id !== id)];
  }
  // A map that is gone keeps its place, unseen: it may be brought back.
  publish("");
  // A row that is being used is not drawn anew under the hand that uses it.
  if (busy && !patch.state && !patch.add && !patch.catalog && !patch.models) {
    for (const item of root.querySelectorAll(".rack-row")) {
      const effect = local.effects[item.dataset.id];
      item.querySelector(".rack-effect")?.remove();
      if (effect != null && !item.classList.contains("rack-off")) item.append(leftover(effect));
    }
  } else if (held.pointer || held.drag) held.late = true;
  else draw();
  receiveScene(patch);
}

watch("value", receive);
draw();
receive();
