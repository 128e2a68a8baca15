// One image of the list: thumbnail with its mask, or what went wrong, and what the table says of it.

import { el, foreign, plain } from "./dom.js";
import { loadImage, loadMask, orSay } from "./picture.js";
import { whenSeen } from "./seen.js";
import { path } from "./server.js";
import { classesOf, coloursOf } from "./table.js";
import { cssColour } from "./colours.js";
import { percent } from "./words.js";

const SIDE = 256; // pixels of a thumbnail
const CLASSES = 3; // whose shares are told

/** A square that shows an image of the table once it is near the screen. */
function thumbnail(row) {
  const square = el("span", { class: "square" });
  if (row.status !== "ok") {
    square.append(failure(row.error));
    return square;
  }
  const img = el("img", { alt: "" });
  const mask = el("canvas", { class: "mask", "aria-hidden": "true" });
  square.append(mask);
  whenSeen(square, async (signal) => {
    square.replaceChildren(mask);
    const photo = orSay(
      square,
      loadImage(img, path("image/thumb", { key: row.key, side: SIDE }), signal),
      true,
    );
    const drawn = orSay(
      square,
      loadMask(mask, row.key, SIDE, coloursOf(row.recipe), undefined, signal),
      true,
    );
    const shown = photo.then((seen) => seen && square.prepend(img));
    await Promise.all([shown, drawn]); // at once: of two that are aborted neither may go unheard
  });
  return square;
}

const failure = (error) =>
  el(
    "span",
    { class: "gone" },
    el("b", {}, `failed: ${plain(error?.stage ?? "unknown")}`),
    el("span", {}, plain(error?.message ?? error?.type ?? "")),
  );

/** The largest classes of an image but its background, as a line. */
function sharesOf(row, most = CLASSES) {
  const names = new Map(classesOf(row.recipe).map(({ id, name }) => [name, id]));
  const idOf = (name) => names.get(name) ?? Number(/^class (\d+)$/.exec(name)?.[1] ?? 0); // nameless: its run's folder is gone
  return Object.entries(row.shares ?? {})
    .filter(([name, share]) => idOf(name) !== 0 && share > 0)
    .sort(([, a], [, b]) => b - a)
    .slice(0, most)
    .map(([name, share]) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.background = cssColour(coloursOf(row.recipe)[idOf(name)]);
      return el("span", {}, swatch, foreign(name), ` ${percent(share)}`);
    });
}

/** A card for the list. `handlers` has open(row) and tick(row, on, range). */
export function card(row, selected, handlers) {
  const name = plain(row.name);
  let range = false; // whether Shift is held while it is ticked
  const box = el("input", {
    type: "checkbox",
    "aria-label": `Select ${name}`,
    checked: selected,
    on: {
      keydown: (event) => {
        range = event.shiftKey;
      },
      click: (event) => {
        range ||= event.shiftKey;
        handlers.tick(row, box.checked, range);
        range = false;
      },
    },
  });
  const said =
    row.status === "ok"
      ? [
          el(
            "span",
            { class: "faint" },
            `confidence ${percent(row.confidence)} · ${row.width} × ${row.height} px`,
          ),
          sharesOf(row),
        ]
      : [el("span", { class: "faint" }, plain(row.error?.type ?? ""))];
  return el(
    "li",
    { "data-key": row.key },
    el("label", { class: "tick" }, box),
    el(
      "figure",
      {},
      el(
        "button",
        {
          type: "button",
          class: "open",
          "aria-label": `Open ${name}${row.status === "ok" ? "" : ", failed"}`,
          on: { click: () => handlers.open(row) },
        },
        thumbnail(row),
      ),
      el("figcaption", {}, el("span", { class: "name", title: plain(row.uri) }, foreign(row.name)), said),
    ),
  );
}
