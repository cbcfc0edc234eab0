// A short tour: once at the first visit, or by its button. Escape and "Skip" leave it.
() => {
  const STEPS = [
    ["#rack", "This is the rack", "Every row is a map: a switch, and a slider for its strength. Move the first slider and watch the pictures."],
    ["#pictures", "Pictures follow the sliders", "CLIP says how much a picture looks like the style, IMG how much of the untouched one is left."],
    ["button[role=tab]:nth-of-type(2)", "Text works the same way", "A completion without and with the maps, on the same seed, with what is measured of it."],
    ["button[role=tab]:nth-of-type(3)", "Train your own", "Choose 32 + 32 prompts, or have them written, press Train, and watch the map learn."],
  ];
  const SEEN = "lineas-tour-seen";
  const remember = () => { try { localStorage.setItem(SEEN, "1"); } catch { /* private window */ } };
  const seen = () => { try { return localStorage.getItem(SEEN); } catch { return "1"; } };
  let card, ring, at, before, watcher;
  const end = () => {
    remember();
    document.removeEventListener("keydown", keys);
    watcher?.disconnect();
    card?.remove(); ring?.remove();
    card = ring = undefined;
    before?.focus?.();
  };
  const keys = (event) => { if (event.key === "Escape") end(); };
  const place = () => {
    const box = document.querySelector(STEPS[at][0])?.getBoundingClientRect() ?? { left: 20, top: 20, width: 0, height: 0 };
    Object.assign(ring.style, {
      left: `${box.left + scrollX - 6}px`, top: `${box.top + scrollY - 6}px`,
      width: `${box.width + 12}px`, height: `${box.height + 12}px`,
    });
  };
  const show = (step) => {
    at = step;
    const [, title, text] = STEPS[step];
    watcher.disconnect();
    for (const part of [document.querySelector(STEPS[at][0]), document.body]) if (part) watcher.observe(part);
    place();
    card.querySelector("h2").textContent = title;
    card.querySelector("p").textContent = text;
    card.querySelector("small").textContent = `${step + 1} of ${STEPS.length}`;
    card.querySelector(".ls-tour-next").textContent = step + 1 < STEPS.length ? "Next" : "Done";
    card.querySelector(".ls-tour-next").focus();
  };
  const start = () => {
    if (card) end();
    before = document.activeElement;
    ring = Object.assign(document.createElement("div"), { className: "ls-tour-ring" });
    card = Object.assign(document.createElement("div"), { className: "ls-tour-card", id: "tour" });
    card.setAttribute("role", "dialog");
    card.setAttribute("aria-labelledby", "tour-title");
    card.innerHTML = '<h2 id="tour-title"></h2><p></p><div><small></small><button type="button" class="ls-tour-skip">Skip</button><button type="button" class="ls-tour-next"></button></div>';
    document.querySelector(".gradio-container").append(card);
    // Not in the page's column, which cuts off the shade at its sides.
    document.body.append(ring);
    card.querySelector(".ls-tour-skip").onclick = end;
    card.querySelector(".ls-tour-next").onclick = () => (at + 1 < STEPS.length ? show(at + 1) : end());
    document.addEventListener("keydown", keys);
    // Rows and pictures that arrive, and a window that changes its width, move what is ringed.
    watcher = new ResizeObserver(place);
    show(0);
  };
  document.querySelector("#tour-button")?.addEventListener("click", start);
  const url = new URL(location);
  if (!seen() && !url.searchParams.has("job") && !url.searchParams.has("scene")) setTimeout(start, 600);
}
