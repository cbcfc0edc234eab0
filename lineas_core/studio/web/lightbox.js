// One picture, enlarged: any picture of a result opens it. Arrow keys go to its neighbours, Escape
// or a click beside it closes it, and the focus goes back to where it was.
() => {
  if (document.querySelector(".ls-lightbox")) return;
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const button = (name, label, text, act) => {
    const node = make("button", { type: "button", class: `ls-lightbox-${name}`, "aria-label": label }, text);
    node.addEventListener("click", act);
    return node;
  };
  const picture = make("img", { alt: "" });
  const words = make("p", { role: "status" });
  const back = button("back", "Picture before", "‹", () => step(-1));
  const on = button("on", "Next picture", "›", () => step(1));
  const box = make("dialog", { class: "ls-lightbox", "aria-label": "Enlarged picture" },
    make("figure", {}, picture, make("figcaption", {}, words,
      make("div", {}, back, on, button("save", "Save as PNG", "Save as PNG", save),
        button("close", "Close", "Close", () => box.close())))));
  document.body.append(box);
  let all = [], at = 0, opener;

  function show() {
    const image = all[at].querySelector("img");
    picture.src = image.src;
    picture.alt = image.alt;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    // Whole multiples, so that each pixel of a small picture is a square of the same size; few
    // pixels are shown as they are, for blurred ones look like more than there is.
    const room = Math.min((innerWidth - 48) / width, (innerHeight - 150) / height);
    const factor = room >= 1 ? Math.floor(room) : room;
    picture.style.width = `${width * factor}px`;
    picture.style.imageRendering = factor > 1 && width <= 128 ? "pixelated" : "auto";
    words.textContent = `${image.alt} · ${width} × ${height} pixels${all.length > 1 ? ` · ${at + 1} of ${all.length}` : ""}`;
    back.disabled = at === 0;
    on.disabled = at === all.length - 1;
  }
  function step(by) {
    if (!all[at + by]) return;
    at += by;
    show();
  }
  function save() {
    const canvas = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
    canvas.getContext("2d").drawImage(picture, 0, 0);
    canvas.toBlob((data) => {
      const link = make("a", { href: URL.createObjectURL(data), download: `${picture.alt.replace(/[^\p{L}\p{N}.]+/gu, "-").slice(0, 80) || "picture"}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, "image/png");
  }
  document.addEventListener("click", (event) => {
    const asked = event.target.closest?.(".ls-enlarge");
    if (!asked) return;
    const group = asked.closest(".ls-pictures, .ls-grid, .ls-frames, .pins") ?? asked.parentElement;
    all = [...group.querySelectorAll(".ls-enlarge")];
    at = all.indexOf(asked);
    opener = { group: group.closest("[id]")?.id, at, node: asked };
    show();
    box.showModal();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("close", () => {
    // The result may have been drawn anew meanwhile.
    const node = opener?.node.isConnected ? opener.node
      : document.getElementById(opener?.group)?.querySelectorAll(".ls-enlarge")[opener.at];
    node?.focus();
  });
}
