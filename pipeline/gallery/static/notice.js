// A box that says why there is nothing to see, and what to do.

import { el } from "./dom.js";

/** A notice with a title, lines (text or elements), and a button [label, handler] if there is something to do. */
export function notice(title, lines, { alarm = false, action = null } = {}) {
  return el(
    "div",
    { class: alarm ? "note alarm" : "note", role: alarm ? "alert" : "status" },
    el("h3", {}, title),
    lines.map((line) => (line instanceof Node && line.nodeName === "P" ? line : el("p", {}, line))),
    action && el("button", { type: "button", on: { click: action[1] } }, action[0]),
  );
}
