// What Gradio leaves out for the keyboard: in a row of tabs one is a stop of the Tab key, and the
// arrow keys, Home and End go from one to the next.
() => {
  const tabs = (list) => [...list.querySelectorAll('[role="tab"]:not(:disabled)')];
  const rove = (list) => {
    for (const tab of tabs(list)) tab.tabIndex = tab.getAttribute("aria-selected") === "true" ? 0 : -1;
  };
  for (const list of document.querySelectorAll('[role="tablist"]')) {
    rove(list);
    new MutationObserver(() => rove(list)).observe(list, {
      attributes: true, attributeFilter: ["aria-selected"], childList: true, subtree: true,
    });
    list.addEventListener("keydown", (event) => {
      const all = tabs(list);
      const at = all.indexOf(event.target);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
      if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const tab = all[to % all.length];
      tab.click();
      tab.focus();
    });
  }
}
