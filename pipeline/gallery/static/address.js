// What is shown is what the address says: a link or a reload shows the same, and Back goes back.

const NAMES = [
  "where",
  "sort",
  "page",
  "view",
  "a",
  "b", // what is listed
  "image",
  "other",
  "block",
  "head",
  "at",
  "off",
  "fade",
  "zoom", // what is open, and how it is looked at
];
const listeners = [];
let shown = read();
let afterBack = null; // what else changes once the browser has gone back

function read() {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(NAMES.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
}

/** The state, by name; what is absent has its default. */
export const now = () => shown;

/** The address of this page after such changes; null takes a name away. */
export function addressOf(changes, from = shown) {
  const next = { ...from, ...changes };
  const given = new URLSearchParams();
  for (const name of NAMES) if (next[name] != null && next[name] !== "") given.set(name, next[name]);
  const query = given.toString();
  return location.pathname + (query ? `?${query}` : "");
}

/** Show something else. `replace` makes no new step for Back; `over` marks what closes by going back. */
export function go(changes, { replace = false, over = false } = {}) {
  const address = addressOf(changes);
  if (address === location.pathname + location.search) return;
  if (replace) history.replaceState(history.state, "", address);
  else history.pushState({ over }, "", address);
  tell();
}

/** Close what is open: back to what it was opened from, if that is the step before. */
export function leave(changes) {
  if (!history.state?.over) {
    go(changes);
    return;
  }
  afterBack = changes;
  history.back();
}

/** Hear of each change as (now, before). */
export const listen = (listener) => listeners.push(listener);

function tell() {
  const before = shown;
  shown = read();
  for (const listener of listeners) listener(shown, before);
}

addEventListener("popstate", () => {
  if (afterBack) history.replaceState(history.state, "", addressOf(afterBack, read()));
  afterBack = null;
  tell();
});
