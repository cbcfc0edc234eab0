// Two pictures on top of each other; how much of the first is seen is a range input, which a
// pointer, a finger and the arrow keys move alike.
const frame = element.querySelector(".ls-before-after");
const [before, after] = frame.querySelectorAll("img");
const bar = frame.querySelector("input");
function divide() {
  frame.style.setProperty("--at", `${bar.value}%`);
  bar.setAttribute("aria-valuetext", `${bar.value} % untouched, ${100 - bar.value} % steered`);
}
function show() {
  const pictures = props.value;
  frame.hidden = !pictures;
  if (pictures) [before.src, after.src] = [pictures.before, pictures.after];
}
bar.addEventListener("input", divide);
watch("value", show);
divide();
show();
