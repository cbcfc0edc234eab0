// The rack of maps. The page owns its state (which maps, in which order, how strong); the server
// sends patches: the maps there are, how much of each one's effect is left, whether answers come
// fast enough to be asked for while a slider moves.
const root = element.querySelector(".rack");
const local = {
  state: { modality: "image", rows: [], solo: "", beyond: false },
  catalog: [], effects: {}, live: false,
  models: { image: "emoji-onestep", text: "smollm2" },
};
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const known = (id) => local.catalog.find((map) => map.id === id);
const fits = (map) => map?.model === local.models[local.state.modality];
const shown = () => local.state.rows.filter((row) => fits(known(row.id)));
const range = () => (local.state.beyond ? [-1, 2] : [0, 1]);
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

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
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

function percent(strength) {
  const [low, high] = range();
  return ((clamp(strength, low, high) - low) / (high - low)) * 100;
}

function line(row) {
  const map = known(row.id);
  const [low, high] = range();
  const title = map.title;
  const soloed = local.state.solo === row.id;
  const heard = shown().some((other) => other.id === local.state.solo) ? soloed : row.on;
  const slider = make("input", {
    type: "range", min: low, max: high, step: 0.01, "aria-label": `Strength of ${title}`,
    oninput: () => set(Number(slider.value), local.live ? "input" : ""),
    onchange: () => publish("release"),
  });
  const number = make("input", {
    type: "number", min: low, max: high, step: 0.05, "aria-label": `Strength of ${title}, as a number`,
    onchange: () => { set(clamp(Number(number.value) || 0, low, high), ""); publish("release"); },
  });
  slider.value = row.strength;
  number.value = row.strength.toFixed(2);
  const set = (value, event) => {
    row.strength = value;
    if (!row.on) { row.on = true; toggle.checked = true; item.classList.remove("rack-off"); }
    slider.value = value;
    number.value = value.toFixed(2);
    slider.style.setProperty("--at", `${percent(value)}%`);
    publish(event);
  };
  slider.style.setProperty("--at", `${percent(row.strength)}%`);
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
  if (map.recommended != null && map.recommended >= low && map.recommended <= high) {
    track.append(make("button", {
      type: "button", class: "rack-mark", style: `--share: ${percent(map.recommended) / 100}`,
      "aria-label": `Recommended strength of ${title}: ${map.recommended.toFixed(2)}`,
      title: `Recommended: ${map.recommended.toFixed(2)}`,
      onclick: () => { set(map.recommended, ""); publish("release"); },
    }));
  }
  const effect = local.effects[row.id];
  const tools = make("div", { class: "rack-tools" },
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
  },
    make("div", { class: "rack-head" },
      make("span", {
        class: "rack-grip", draggable: "true", "aria-hidden": "true", title: "Drag to reorder",
        ondragstart: (event) => event.dataTransfer.setData("text/plain", row.id),
      }, "⠿"),
      make("label", { class: "rack-name", title: map.concept ? `${title}: ${map.concept}` : title },
        toggle, make("span", {}, title)),
      tools),
    make("div", { class: "rack-body" }, track, number));
  if (heard && effect != null) {
    item.append(make("p", { class: "rack-effect" },
      `${Math.round(effect * 100)} % of its effect is left beside the others`));
  }
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
        beyond, make("span", {}, "Beyond 0 to 1"))));
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
      if (effect != null && !item.classList.contains("rack-off")) item.append(make("p", { class: "rack-effect" },
        `${Math.round(effect * 100)} % of its effect is left beside the others`));
    }
  } else if (held.pointer || held.drag) held.late = true;
  else draw();
  receiveScene(patch);
}

watch("value", receive);
draw();
receive();
