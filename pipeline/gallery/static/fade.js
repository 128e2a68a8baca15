// How much of the masks is seen: one slider here, one where an image is large, and a key, all the same.

import { go, listen, now } from "./address.js";

let last = 100; // what F goes back to

const percent = () => Math.min(100, Math.max(0, Math.round(Number(now().fade ?? 100)) || 0));

function show(value) {
  document.documentElement.style.setProperty("--fade", value / 100);
  for (const slider of document.querySelectorAll(".fade input")) showOn(slider, value);
}

function showOn(slider, value) {
  slider.value = value;
  slider.closest(".fade").querySelector("output").textContent = `${value} %`;
}

const set = (value) => go({ fade: value === 100 ? null : String(value) }, { replace: true });

/** Let a slider, in an element of class fade with an output, show and change it. */
export function fadesBy(slider) {
  slider.addEventListener("input", () => show(Number(slider.value)));
  slider.addEventListener("change", () => set(Number(slider.value))); // browsers bound how often an address changes
  showOn(slider, percent());
}

/** Hide the masks, or show them as before. */
export function turnFade() {
  if (percent()) {
    last = percent();
    set(0);
  } else set(last);
}

listen(() => show(percent()));
show(percent());
