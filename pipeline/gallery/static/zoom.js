// How large the open image is shown: the whole of it in its window, or a part, several times as large.

import { go, now } from "./address.js";
import { el } from "./dom.js";
import { shape } from "./stage.js";

const LEVELS = [1, 2, 4, 8, 16]; // times as large as the whole image in its window

const level = () => (LEVELS.includes(Number(now().zoom)) ? Number(now().zoom) : 1);

/** Show the open image a step larger, or smaller. */
export function zoom(by) {
  const next = LEVELS[LEVELS.indexOf(level()) + by];
  if (next) go({ zoom: next === 1 ? null : String(next) }, { replace: true });
}

/** A window on a stage of { width, height } pixels; `sharpen` is called once it is shown larger. */
export class Zoom {
  constructor(photo, { width, height }, sharpen) {
    this.photo = photo;
    this.size = { width, height };
    this.sharpen = sharpen;
    this.shown = 1;
    this.window = el("div", { class: "window" }, photo);
    shape(this.window, width || 1, height || 1);
    photo.style.maxWidth = "none";
    this.window.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return; // a pinch of a touchpad has it, too
        event.preventDefault();
        zoom(event.deltaY < 0 ? 1 : -1);
      },
      { passive: false },
    );
    const button = (label, name, by) =>
      el(
        "button",
        { type: "button", class: "quiet", "data-focus": name, "aria-label": name, on: { click: () => zoom(by) } },
        label,
      );
    this.less = button("−", "Zoom out", -1);
    this.more = button("+", "Zoom in", 1);
    this.told = el("output", {}, "whole");
    this.controls = el("div", { class: "one zoom" }, el("b", {}, "Zoom"), this.less, this.told, this.more);
    this.less.disabled = true;
  }

  /** Show it as large as the state says, with the same place in the middle: the one that is asked about. */
  show() {
    const to = level();
    if (to === this.shown) return;
    const middle = this.middle();
    this.shown = to;
    this.photo.style.width = `${100 * to}%`;
    this.window.classList.toggle("zoomed", to > 1);
    this.window.scrollLeft = middle.x * this.window.scrollWidth - this.window.clientWidth / 2;
    this.window.scrollTop = middle.y * this.window.scrollHeight - this.window.clientHeight / 2;
    this.told.textContent = to > 1 ? `${to} ×` : "whole";
    this.less.disabled = to === LEVELS[0];
    this.more.disabled = to === LEVELS.at(-1);
    if (to > 1) this.sharpen?.();
    this.sharpen = null;
  }

  middle() {
    const [y, x] = (now().at ?? "").split(",").map(Number);
    if (this.shown === 1 && now().at)
      return { y: (y + 0.5) / this.size.height, x: (x + 0.5) / this.size.width };
    const { scrollLeft, scrollTop, clientWidth, clientHeight, scrollWidth, scrollHeight } = this.window;
    return { y: (scrollTop + clientHeight / 2) / scrollHeight, x: (scrollLeft + clientWidth / 2) / scrollWidth };
  }
}
