// A place for layers of one image, all of its form; and a cross at one place of it.

import { el } from "./dom.js";

const HEIGHT = 0.76; // of the window, at most

/** A stage for an image of so many pixels. */
export function stage(width, height, attributes = {}) {
  const made = el("div", { ...attributes, class: `stage ${attributes.class ?? ""}` });
  shape(made, width || 1, height || 1);
  return made;
}

/** Give a stage the form of an image. */
export function shape(made, width, height) {
  made.style.aspectRatio = `${width} / ${height}`;
  made.style.maxWidth = `${(100 * HEIGHT * width) / height}vh`;
}

/** A stage with its title and a line below it. */
export function panel(title, made) {
  const line = el("span", { class: "faint" });
  return {
    figure: el("figure", {}, el("figcaption", {}, el("b", {}, title), line), made),
    stage: made,
    line,
  };
}

/** Where in the image a pointer is: { y, x } in whole pixels. */
export function placeOf(event, made, { width, height }) {
  const box = made.getBoundingClientRect();
  const within = (at, length) => Math.min(length - 1, Math.max(0, Math.floor(at * length)));
  return {
    y: within((event.clientY - box.top) / box.height, height),
    x: within((event.clientX - box.left) / box.width, width),
  };
}

/** Put the cross on { top, left, side }, in pixels of the image. */
export function putCross(made, { width, height }, { top, left, side }) {
  let cross = made.querySelector(".cross");
  if (!cross) made.append((cross = el("div", { class: "cross", "aria-hidden": "true" })));
  cross.style.top = `${(100 * top) / height}%`;
  cross.style.left = `${(100 * left) / width}%`;
  cross.style.width = `${(100 * side) / width}%`;
  cross.style.height = `${(100 * side) / height}%`;
}
