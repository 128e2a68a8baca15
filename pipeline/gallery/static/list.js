// The page of images that the state asks for: the rows of a condition in their order.

import { go, now } from "./address.js";
import { card } from "./card.js";
import { byId, el, plain, shown } from "./dom.js";
import { filterBy, showError, showNoError } from "./field.js";
import { notice } from "./notice.js";
import { showPages } from "./pager.js";
import { showPicked } from "./picked.js";
import { forgetAll } from "./seen.js";
import { isSelected, select, whenSelected } from "./selection.js";
import { isAbort, json, Lost, path, Refused } from "./server.js";
import { classNames, told } from "./table.js";
import { count, several } from "./words.js";

export const PAGE = 60; // images

const cards = byId("cards");
const AGAIN = 1500; // milliseconds until a table is asked again that is still being read
let asking = null; // aborts the question that is open
let rows = []; // shown
let grown = () => {}; // what happens when more of the table may have been read

/** Hear when more of a table that is still being read may be there. */
export const whenGrown = (listener) => {
  grown = listener;
};
let anchor = null; // index of the row that was ticked last

export const where = () => now().where ?? "";
export const page = () => Math.max(1, Math.round(Number(now().page)) || 1);

/** Show what `ask(signal)` returns, { count, rows }, as cards that `make(row)` returns. */
export async function showList(ask, make, unit) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  cards.setAttribute("aria-busy", "true");
  const told = setTimeout(() => {
    byId("count").textContent = "looking…";
  }, 400);
  try {
    const found = await ask(signal);
    showNoError();
    fill(found, make, unit);
    if (found.reading)
      setTimeout(() => {
        if (!signal.aborted) grown();
      }, AGAIN);
  } catch (error) {
    if (isAbort(error) || error instanceof Lost) return;
    fill({ count: 0, rows: [] }, make, unit);
    showPicked(0);
    const marked = error instanceof Refused && error.status === 400 && where();
    if (marked) showError(error);
    byId("notice").replaceChildren(
      notice(
        marked ? "Nothing is shown: the condition has an error" : "This cannot be shown",
        marked ? ["It is marked above."] : [plain(error.message)],
        { alarm: true, action: where() ? ["Clear the condition", () => filterBy("")] : null },
      ),
    );
  } finally {
    clearTimeout(told);
    if (!signal.aborted) cards.removeAttribute("aria-busy");
  }
}

function fill(found, make, unit) {
  forgetAll();
  byId("notice").replaceChildren();
  cards.replaceChildren(...found.rows.map(make));
  const last = Math.max(1, Math.ceil(found.count / PAGE));
  const first = (page() - 1) * PAGE;
  const of =
    several(found.count, unit) +
    (found.reading ? ` so far: ${found.reading.done} of ${found.reading.total} files are read` : "");
  byId("count").textContent =
    found.rows.length && last > 1 ? `${count(first + 1)}–${count(first + found.rows.length)} of ${of}` : of;
  showPages(Math.min(page(), last), last);
  if (!found.rows.length) byId("notice").replaceChildren(nothing(found.count, unit));
  else if (unit === "image" && !told().ok) byId("notice").replaceChildren(onlyFailures());
}

function nothing(all, unit) {
  if (all)
    return notice("This page is past the end", [`There are ${several(all, unit)}.`], {
      action: ["First page", () => go({ page: null })],
    });
  if (where())
    return notice("No image fulfils the condition", ["Nothing in the table is like that."], {
      action: ["Clear the condition", () => filterBy("")],
    });
  if (unit === "image") {
    return notice("The table is empty", [
      "No run has committed a row yet. masklake segment SOURCE --table writes some; then load this page again.",
    ]);
  }
  return notice("The runs have no image in common", [
    "Two runs can be compared where both gave a mask to the same image.",
  ]);
}

const onlyFailures = () =>
  notice(
    "Not one image got a mask",
    [
      "Every one of them failed. Most often it is the source's access, or files that are no images: open one to see what to do.",
    ],
    { alarm: true },
  );

// ---------------------------------------------------------------- images

/** Show the page of images. */
export async function showImages() {
  const { sort } = now();
  const wanted = { where: where(), sort, limit: PAGE, offset: (page() - 1) * PAGE };
  anchor = null;
  await showList(
    async (signal) => {
      const found = await json(path("api/rows", wanted), signal);
      rows = found.rows;
      showPicked(found.count);
      return found;
    },
    (row) => card(row, isSelected(row, where()), { open, tick }),
    "image",
  );
}

const open = (row) => go({ image: row.key }, { over: true });

function tick(row, on, range) {
  const at = rows.indexOf(row);
  const from = range && anchor !== null ? anchor : at;
  anchor = at;
  select(rows.slice(Math.min(from, at), Math.max(from, at) + 1), where(), on);
}

function showTicks() {
  for (const [index, item] of [...cards.children].entries()) {
    const box = item.querySelector(".tick input");
    if (box && rows[index]) box.checked = isSelected(rows[index], where());
  }
}

/** Give the keyboard back to a card, if it is on this page. */
export function focusCard(key) {
  [...cards.children]
    .find((item) => item.dataset.key === key)
    ?.querySelector(".open")
    .focus();
}

// ---------------------------------------------------------------- order

const SORTS = [
  ["finished_at", "date"],
  ["confidence", "confidence"],
  ["entropy", "entropy"],
  ["distance", "distance"],
  ["name", "name"],
  ["uri", "place"],
  ["status", "status"],
  ["run_id", "run"],
  ["width", "width"],
  ["size_bytes", "file size"],
];
const DEFAULT = "-finished_at";

/** Offer the orders of images; of pairs there are two. */
export function showPairSort() {
  offer([
    ["uri", "place"],
    ["-differs", "difference"],
  ]);
  byId("sort").value = now().sort === "-differs" ? "-differs" : "uri";
}

const offer = (sorts) =>
  byId("sort").replaceChildren(...sorts.map(([value, label]) => el("option", { value }, label)));

export function showSort() {
  const shares = classNames().map((name) => [
    `share['${name.replaceAll("'", "''")}']`,
    `share of ${plain(name)}`,
  ]);
  offer([...SORTS, ...shares]);
  const sort = now().sort ?? DEFAULT;
  const column = sort.replace(/^-/, "");
  const field = byId("sort");
  if (![...field.options].some(({ value }) => value === column))
    field.append(el("option", { value: column }, plain(column)));
  field.value = column;
  byId("turn").textContent = sort.startsWith("-") ? "↓ Descending" : "↑ Ascending";
}

const sortBy = (sort) => go({ sort: sort === DEFAULT ? null : sort, page: null });
const descends = () => (now().sort ?? DEFAULT).startsWith("-");

byId("sort").addEventListener("change", ({ target: { value } }) => {
  if (now().view === "compare") go({ sort: value === "uri" ? null : value, page: null });
  else sortBy(value === "finished_at" ? DEFAULT : value);
});
byId("turn").addEventListener("click", () => {
  const column = byId("sort").value;
  sortBy(descends() ? column : `-${column}`);
});

// ---------------------------------------------------------------- keyboard

/** Move among cards by arrow keys: from one button or tick box to the same of another. */
cards.addEventListener("keydown", (event) => {
  const item = event.target.closest("li");
  if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
  const columns = getComputedStyle(cards).gridTemplateColumns.split(" ").length;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  const next = by && cards.children[[...cards.children].indexOf(item) + by];
  if (!next) return;
  event.preventDefault();
  next.querySelector(event.target.matches("input") ? ".tick input" : ".open").focus();
});

whenSelected(showTicks);
