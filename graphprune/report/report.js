// Pictures: zoom by buttons, keys and Ctrl with the wheel; move by scrolling or dragging.
for (const picture of document.querySelectorAll(".picture")) {
  const view = picture.querySelector(".view");
  const drawing = view.querySelector("svg");
  const zoom = (factor, x = view.clientWidth / 2, y = view.clientHeight / 2) => {
    const before = drawing.getBoundingClientRect().width;
    const width = factor ? Math.min(Math.max(before * factor, 60), 20000) : view.clientWidth;
    drawing.style.cssText = `width: ${width}px; min-width: 0; max-width: none`;
    view.scrollLeft = ((view.scrollLeft + x) * width) / before - x;
    view.scrollTop = ((view.scrollTop + y) * width) / before - y;
  };
  const steps = { "+": 1.25, "=": 1.25, "-": 0.8, 0: 0 };
  for (const button of picture.querySelectorAll("button")) {
    button.addEventListener("click", () => zoom(steps[button.value]));
  }
  picture.querySelector(".zoom").hidden = false;
  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || !(event.key in steps)) return;
    event.preventDefault();
    zoom(steps[event.key]);
  });
  view.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = view.getBoundingClientRect();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.left, event.clientY - box.top);
    },
    { passive: false },
  );
  view.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button || event.target.closest("a")) return;
    event.preventDefault();
    view.focus({ preventScroll: true });
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    if (!view.hasPointerCapture(event.pointerId)) return;
    view.scrollLeft -= event.movementX;
    view.scrollTop -= event.movementY;
  });
}

// A link to a group opens it.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target) target.open = true;
};
addEventListener("hashchange", open);
open();
