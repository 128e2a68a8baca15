// The slider that fades the masks, where an image is large.

import { el } from "./dom.js";
import { fadesBy } from "./fade.js";

export function fadeBox() {
  const slider = el("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 5,
    "data-focus": "fade",
    "aria-label": "Mask",
  });
  const box = el(
    "div",
    { class: "one fade" },
    el("b", {}, "Mask"),
    slider,
    el("output", {}),
    el("span", { class: "faint" }, "or ", el("kbd", {}, "F")),
  );
  fadesBy(slider);
  return box;
}
