// The condition as text: what the form writes, and what one can go on editing; an error is shown at its place.

import { go, listen, now } from "./address.js";
import { byId, el, plain } from "./dom.js";
import { told } from "./table.js";

const field = byId("where");
const said = byId("where-error");

// At once, and later only for another condition: what is typed while the table is still read, or while
// the order changes, stays.
const show = ({ where }) => {
  field.value = where ?? "";
};
show(now());
listen((state, before) => {
  if (state.where !== before.where) show(state);
});

/** Filter by a condition. */
export function filterBy(where) {
  const text = where.trim();
  if (text === (now().where ?? "")) return;
  go({ where: text || null, page: null });
}

/** Say what is wrong with the condition, and mark the place. */
export function showError(error) {
  const where = now().where ?? "";
  field.setAttribute("aria-invalid", "true");
  said.replaceChildren(el("p", {}, plain(error.message)));
  if (error.at == null) return;
  const at = Math.min(Math.max(0, error.at), where.length);
  const length = /^\s*(?:'[^']*'?|"[^"]*"?|[\p{L}\p{N}_.]+|\S)/u.exec(where.slice(at))?.[0].length ?? 0;
  const place = length ? where.slice(at, at + length) : " end";
  said.append(
    el("code", {}, plain(where.slice(0, at)), el("mark", {}, plain(place)), plain(where.slice(at + length))),
  );
  if (document.activeElement === field && field.value === where) field.setSelectionRange(at, at + length);
}

export function showNoError() {
  field.removeAttribute("aria-invalid");
  said.replaceChildren();
}

/** List what a condition can name. */
export function showColumns() {
  const examples = [
    "confidence < 0.8",
    "status = 'failed' and stage = 'fetch'",
    "contains(lower(name), 'plate')",
  ];
  byId("where-columns").replaceChildren(
    el(
      "dl",
      {},
      told()
        .columns.filter(({ filterable }) => filterable !== false)
        .map(({ name, type, help }) =>
          el("div", {}, el("dt", {}, el("code", {}, plain(name))), el("dd", {}, plain(help || type))),
        ),
    ),
    el(
      "p",
      { class: "faint" },
      "As in ",
      examples.flatMap((one, index) => [index ? ", " : null, el("code", {}, one)]),
      ". Join them by and, or, not.",
    ),
  );
}

byId("condition").addEventListener("submit", (event) => {
  event.preventDefault();
  filterBy(field.value);
});
byId("where-clear").addEventListener("click", () => {
  field.value = "";
  filterBy("");
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    filterBy(field.value);
  }
});
