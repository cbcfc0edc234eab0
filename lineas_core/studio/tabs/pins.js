// Results that are kept to be compared with later ones: what was seen, and the scene that made it.
// They lie in this browser's own storage, and nowhere else.
const root = element.querySelector(".pins");
const { kind, source } = root.dataset;
const STORE = `lineas-pins-${kind}`, MOST = 12, SIDE = 256;
let beside = -1;
let pins = [];
try { pins = JSON.parse(localStorage.getItem(STORE) ?? "[]"); } catch { /* private window, or damaged */ }
pins = (Array.isArray(pins) ? pins : []).filter((pin) => pin?.scene && Array.isArray(pin.items)).slice(0, MOST);

// Small pictures as they are, large ones at 256 pixels: storage holds a few megabytes.
function small(image) {
  if (image.naturalWidth <= SIDE) return image.src;
  const canvas = make("canvas", { width: SIDE, height: Math.round(SIDE * image.naturalHeight / image.naturalWidth) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/webp", 0.85);
}

// What is on the screen now; null where nothing is, or it is not whole yet.
function current() {
  const result = document.querySelector(`#${source} [data-made]`);
  if (!result || result.querySelector(".ls-caret")) return null;
  const items = kind === "image"
    ? [...result.querySelectorAll("figure")].map((figure) => ({
      src: small(figure.querySelector("img")), text: figure.querySelector("figcaption").firstChild.textContent }))
    : [...result.querySelectorAll("article")].map((card) => ({
      title: card.querySelector("h3").textContent, text: card.querySelector("p").textContent }));
  const label = kind === "image" ? result.querySelector("figure")?.dataset.mix : items.at(-1)?.title;
  return items.length ? { scene: JSON.parse(result.dataset.made), items, label } : null;
}

function said(words) { root.querySelector(".pins-said").textContent = words; }

function keep(next, words) {
  try { localStorage.setItem(STORE, JSON.stringify(next)); } catch {
    return said("There is no room left in this browser's storage. Remove a pin, and pin again.");
  }
  pins = next;
  draw();
  said(words);
}

function show(items) {
  return make("div", { class: `pins-items pins-${kind}` }, ...items.map((item) => {
    if (kind === "text") return make("blockquote", {}, make("b", {}, item.title), make("p", {}, item.text));
    if (!String(item.src).startsWith("data:image/")) return "";
    return make("button", { type: "button", class: "ls-enlarge", "aria-label": `Enlarge: ${item.text}` },
      make("img", { src: item.src, alt: item.text, title: item.text }));
  }));
}

function card(pin, n) {
  const button = (label, act, pressed) => make("button", {
    type: "button", "aria-label": `${label}: ${pin.label}, seed ${pin.scene.seed}`, "aria-pressed": pressed, onclick: act }, label);
  return make("li", {}, make("b", { title: pin.label }, pin.label),
    make("small", {}, `seed ${pin.scene.seed} · ${pin.scene.model}`), show(pin.items),
    make("div", { class: "pins-tools" },
      button("Show again", () => { props.value = { from: "page", scene: pin.scene }; trigger("select"); }),
      button("Beside now", () => { beside = beside === n ? -1 : n; draw(); root.querySelector(`li:nth-child(${n + 1}) [aria-pressed]`)?.focus(); }, String(beside === n)),
      button("Remove", () => { beside = -1; keep(pins.filter((other) => other !== pin), "Removed."); root.querySelector(".pins-add").focus(); })));
}

function compared() {
  const now = beside >= 0 && current();
  return now ? make("div", { class: "pins-beside" },
    make("section", {}, make("h4", {}, `Pinned: ${pins[beside].label}, seed ${pins[beside].scene.seed}`), show(pins[beside].items)),
    make("section", {}, make("h4", {}, `Now: ${now.label}, seed ${now.scene.seed}`), show(now.items))) : "";
}

function draw() {
  root.replaceChildren(
    make("div", { class: "pins-head" },
      make("button", { type: "button", class: "pins-add", onclick: () => {
        const now = current();
        if (!now) return said("There is nothing whole to pin yet.");
        if (pins.length >= MOST) return said(`${MOST} are pinned, which is the most. Remove one first.`);
        if (beside >= 0) beside += 1;
        keep([now, ...pins], "Pinned.");
        root.querySelector(".pins-add").focus();
      } }, "Pin this result"),
      make("span", { class: "pins-said", role: "status" }, pins.length ? "" : "Keeps it here, in this browser, to compare with later ones.")),
    compared(),
    pins.length ? make("ol", { "aria-label": "Pinned results" }, ...pins.map(card)) : "");
}

draw();
const result = document.getElementById(source);
if (result) new MutationObserver(() => {
  const old = root.querySelector(".pins-beside");
  const next = old && compared();
  if (next) old.replaceWith(next);
}).observe(result, { childList: true, subtree: true });
