// The list of maps found on the Hub. The server sends what it found, and when an install has ended;
// the page asks for one to be installed.
const root = element.querySelector(".hub-list");
const local = { rows: null, words: "", busy: "" };

function line(row) {
  const name = row.repo.split("/").pop();
  const get = make("button", {
    type: "button", "aria-label": `Get ${row.repo}`, disabled: local.busy !== "",
    onclick: () => {
      local.busy = row.repo;
      draw();
      props.value = { from: "page", repo: row.repo };
      trigger("select");
    },
  }, local.busy === row.repo ? "Getting…" : "Get");
  return make("li", {},
    make("span", { class: "map-words" },
      make("b", { title: row.repo }, name), make("small", {}, ` · ${row.said}`)),
    make("span", { class: "map-tools" }, get));
}

function draw() {
  if (!local.rows) return;
  root.replaceChildren(make("p", { class: "ls-hint", role: "status" }, local.words));
  if (local.rows.length) {
    root.append(make("ul", { "aria-label": "Maps on the Hub" }, ...local.rows.map(line)));
  }
}

function receive() {
  const patch = props.value;
  if (!patch || patch.from !== "server") return;
  if (patch.rows) Object.assign(local, { rows: patch.rows, words: patch.words });
  const held = patch.done && local.busy;
  local.busy = "";
  draw();
  // The button that was pressed was disabled meanwhile, and lost the focus.
  if (held) root.querySelector(`[aria-label="${CSS.escape(`Get ${held}`)}"]`)?.focus();
}

watch("value", receive);
receive();
