// The list of maps in the library. The server sends patches: the rows, what is known of how each
// looks, what was deleted and came back. The page tells which maps are ticked, and what is asked
// of one of them: to be put on the rack, deleted, or brought back.
const root = element.querySelector(".map-list");
const local = { rows: null, chosen: [], glances: {}, gone: [] };

function publish(event, more = {}) {
  props.value = { from: "page", chosen: [...local.chosen], ...more };
  if (event) trigger(event);
}

// A letter on a colour of its own, where there is no picture.
function look(row) {
  const glance = local.glances[row.id];
  if (glance?.image) return make("img", { class: "map-look", src: glance.image, alt: "" });
  let hue = 0;
  for (const letter of row.title) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  // Drawn by the style sheet: the letter is no part of what the row says.
  return make("span", { class: "map-look", "aria-hidden": "true", style: `--hue: ${hue}`,
    "data-letter": [...(row.concept || row.title)][0].toUpperCase() });
}

function line(row) {
  const tick = make("input", {
    type: "checkbox",
    onchange: () => {
      local.chosen = local.chosen.filter((id) => id !== row.id);
      if (tick.checked) local.chosen.push(row.id);
      publish("input");
    },
  });
  tick.checked = local.chosen.includes(row.id);
  const text = make("span", { class: "map-words" },
    make("b", { title: row.title }, row.title), make("small", {}, ` · ${row.said}`));
  const glance = local.glances[row.id];
  if (glance?.text) text.append(make("q", {}, glance.text));
  const add = make("button", {
    type: "button", "aria-label": `Add to the rack: ${row.title}`,
    onclick: () => {
      publish("select", { id: row.id });
      add.textContent = "On the rack";
      setTimeout(() => { add.textContent = "Add to rack"; }, 2000);
    },
  }, "Add to rack");
  const tools = make("span", { class: "map-tools" }, add);
  if (row.own) tools.append(make("button", {
    type: "button", class: "map-delete", "aria-label": `Delete: ${row.title}`,
    onclick: () => publish("delete", { id: row.id }),
  }, "Delete"));
  return make("li", { "data-id": row.id }, make("label", {}, tick, look(row), text), tools);
}

function ghost(gone) {
  return make("li", { class: "map-gone", "data-gone": gone.id, role: "status" },
    make("span", {}, "Deleted ", make("b", { title: gone.title }, gone.title)),
    make("button", {
      type: "button", "aria-label": `Undo: bring ${gone.title} back`,
      onclick: () => publish("undo", { id: gone.id }),
    }, "Undo"));
}

function draw() {
  const used = root.contains(document.activeElement) && document.activeElement;
  const label = used && used.getAttribute("aria-label");
  const ticked = used && used.type === "checkbox" && used.closest("[data-id]")?.dataset.id;
  if (!local.rows) return;
  const items = local.rows.map(line);
  // Where each was, if its neighbour is there still.
  for (const gone of [...local.gone].reverse()) {
    const after = items.findIndex((item) => item.dataset.id === gone.after);
    items.splice(after + 1, 0, ghost(gone));
  }
  root.replaceChildren(items.length
    ? make("ul", { "aria-label": "Maps" }, ...items)
    : make("p", { class: "ls-hint" }, "No map is found. Search for other words, train one, or import one."));
  const focus = ticked ? `[data-id="${CSS.escape(ticked)}"] input` : label && `[aria-label="${CSS.escape(label)}"]`;
  if (focus) root.querySelector(focus)?.focus();
}

function receive() {
  const patch = props.value;
  if (!patch || patch.from !== "server") return;
  // Drawn anew with the next rows; what the hand held is gone then, and undo takes the focus.
  const asked = root.contains(document.activeElement) || document.activeElement === document.body;
  let focus = "";
  for (const gone of patch.gone ?? []) {
    const at = (local.rows ?? []).findIndex((row) => row.id === gone.id);
    local.gone.push({ ...gone, after: local.rows?.[at - 1]?.id });
    local.rows = (local.rows ?? []).filter((row) => row.id !== gone.id);
    local.chosen = local.chosen.filter((id) => id !== gone.id);
    if (asked) focus = `[data-gone="${CSS.escape(gone.id)}"] button`;
  }
  for (const id of patch.back ?? []) {
    local.gone = local.gone.filter((gone) => gone.id !== id);
    local.returned = id;
  }
  if (patch.rows) local.rows = patch.rows;
  if (patch.chosen) local.chosen = patch.chosen;
  if (patch.glances) Object.assign(local.glances, patch.glances);
  draw();
  if (patch.rows && local.returned) {
    focus = `[data-id="${CSS.escape(local.returned)}"] input`;
    local.returned = "";
  }
  if (focus) root.querySelector(focus)?.focus();
  publish("");
}

watch("value", receive);
receive();
