// One image, large: with its mask, its attention, what the table says of it, and its neighbours.

import { addressOf, go, leave, now } from "./address.js";
import { Attention } from "./attention.js";
import { classToggles, off } from "./classes.js";
import { byId, el, foreign, plain } from "./dom.js";
import { attentionTable, facts, raw } from "./facts.js";
import { fadeBox } from "./fadebox.js";
import { failedBody } from "./failed.js";
import { focusCard, PAGE } from "./list.js";
import { notice } from "./notice.js";
import { loadImage, loadMask, orSay } from "./picture.js";
import { drawMask } from "./pixels.js";
import { isSelected, select } from "./selection.js";
import { isAbort, json, Lost, path } from "./server.js";
import { panel, stage } from "./stage.js";
import { coloursOf } from "./table.js";
import { count } from "./words.js";
import { Zoom } from "./zoom.js";

const SIDE = 1600; // pixels
const MOST_SIDE = 4096; // of what is zoomed
const dialog = byId("large");
let open = null; // { key, close, redraw, attention, zoom, previous, next }

/** Show, change or close what is open, as the state says. */
export async function showLarge() {
  const { image, other } = now();
  if (other) {
    close();
    return;
  }
  if (!image) {
    close();
    if (dialog.open) dialog.close();
    return;
  }
  if (open?.key === image) {
    open.redraw?.();
    open.attention?.show();
    open.zoom?.show();
    return;
  }
  close();
  const ending = new AbortController();
  open = { key: image, close: () => ending.abort() };
  if (!dialog.open) {
    dialog.replaceChildren(head(el("span", {}, "…")));
    dialog.showModal();
  }
  try {
    await fill(open, ending.signal);
  } catch (error) {
    if (isAbort(error) || ending.signal.aborted) return;
    if (error instanceof Lost) {
      open = null;
      return;
    }
    dialog.replaceChildren(
      head("Not there"),
      notice("This image cannot be shown", [plain(error.message)], { alarm: true }),
    );
  }
}

function close() {
  open?.close();
  open = null;
}

/** Whether one image is open, and `step(±1)` goes to a neighbour. */
export function step(by) {
  const key = by < 0 ? open?.previous : open?.next;
  if (key) go({ image: key.key, page: key.page, at: null }, { replace: true });
}

async function fill(mine, signal) {
  const { where, sort } = now();
  const row = await json(path("api/row", { key: mine.key }), signal);
  row.key ??= mine.key;
  const focus = dialog.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const around = el("span", { class: "where" });
  const steps = { previous: stepButton("previous", "‹ Previous", -1), next: stepButton("next", "Next ›", 1) };
  const body = row.status === "ok" ? good(mine, row, signal) : failedBody(row, signal, keys());
  dialog.replaceChildren(head(foreign(row.name), steps.previous, around, steps.next, tickBox(row)), body);
  (
    dialog.querySelector(`[data-focus="${focus}"]:not(:disabled)`) ??
    dialog.querySelector("[data-focus=close]")
  ).focus();
  dialog.scrollTop = 0;
  mine.attention?.show();
  mine.zoom?.show();
  await showAround(mine, around, steps, { where, sort }, signal);
}

/** The head of the dialog: a name, whatever else, and a button that closes it. */
export function head(name, ...others) {
  const shut = el("button", { type: "button", "data-focus": "close", on: { click: closeLarge } }, "Close");
  return el("div", { class: "head" }, el("h2", { id: "large-name", class: "name" }, name), others, shut);
}

const NOTHING_OPEN = { image: null, other: null, at: null, block: null, head: null, off: null, zoom: null };

/** Close what is open, and give the keyboard back to its card. */
function closeLarge() {
  const { image, page = null, fade = null } = now();
  leave({ ...NOTHING_OPEN, page, fade });
  setTimeout(() => focusCard(image), 50); // once the list is shown again
}

const stepButton = (name, label, by) =>
  el(
    "button",
    { type: "button", class: "quiet", "data-focus": name, disabled: true, on: { click: () => step(by) } },
    label,
  );

function tickBox(row) {
  const where = now().where ?? "";
  const box = el("input", {
    type: "checkbox",
    "data-focus": "select",
    checked: isSelected(row, where),
    on: { change: () => select([row], where, box.checked) },
  });
  return el("label", { class: "one" }, box, "Select");
}

async function showAround(mine, around, steps, { where, sort }, signal) {
  const found = await json(path("api/neighbours", { key: mine.key, where, sort }), signal);
  const at = found.position; // from 0; null if the condition leaves the image out
  const neighbour = (key, place) => key && { key, page: pageOf(place) };
  mine.previous = neighbour(found.previous, at - 1);
  mine.next = neighbour(found.next, at + 1);
  steps.previous.disabled = !mine.previous;
  steps.next.disabled = !mine.next;
  around.textContent = at == null ? "not in this condition" : `${count(at + 1)} of ${count(found.count)}`;
}

const pageOf = (place) => {
  const page = Math.floor(place / PAGE) + 1;
  return page > 1 ? String(page) : null;
};

// ---------------------------------------------------------------- an image with a mask

function good(mine, row, signal) {
  const photo = stage(row.width, row.height, {
    class: "asks",
    tabindex: 0,
    role: "application",
    "data-focus": "photo",
    "aria-label": "Image with its mask. Arrow keys move over its tokens and ask where each looks.",
  });
  const sharpen = () => draw(MOST_SIDE);
  const zoom = (mine.zoom = new Zoom(photo, row, Math.max(row.width, row.height) > SIDE ? sharpen : null));
  const first = panel("Image and mask", zoom.window);
  const draw = (side) => drawPhoto(mine, row, photo, first.line, side, signal).catch(() => {}); // closed meanwhile
  const attention = (mine.attention = new Attention(row, photo, signal));
  draw(SIDE);
  const side = el(
    "div",
    { class: "side" },
    fadeBox(),
    zoom.controls,
    classToggles(row),
    attention.controls,
    scale(),
    facts(row),
    links(row, signal),
  );
  return el(
    "div",
    { class: "inside" },
    el(
      "div",
      {},
      el(
        "div",
        { class: "panels one-large" },
        first.figure,
        attention.received.figure,
        attention.looks.figure,
      ),
      attentionTable(row),
      raw(row),
      keys(),
    ),
    side,
  );
}

async function drawPhoto(mine, row, photo, line, side, signal) {
  const before = photo.querySelectorAll("img, canvas, .gone");
  const img = el("img", { alt: "" });
  const canvas = el("canvas", { class: "mask", "aria-hidden": "true" });
  photo.prepend(canvas);
  const loading = loadImage(img, path("image/source", { key: row.key, side }), signal).then(
    (headers) => {
      photo.prepend(img);
      const brighter = Number(headers.get("X-Brighter") ?? 1);
      if (brighter > 1) line.textContent = `shown ${brighter} × brighter`;
    },
  );
  const colours = coloursOf(row.recipe);
  const drawing = loadMask(canvas, row.key, side, colours, off(), signal).then((values) => {
    mine.redraw = () => drawMask(canvas, values, colours, off());
    mine.redraw();
  });
  await Promise.all([orSay(photo, loading, true), orSay(photo, drawing, true)]);
  for (const old of before) old.remove();
}

const scale = () =>
  el(
    "p",
    { class: "scale" },
    "attention: low",
    el("span", { class: "heat", role: "img", "aria-label": "dark violet over green to yellow" }),
    "high",
  );

const keys = () =>
  el(
    "p",
    { class: "keys" },
    ...[
      ["←", "→", " other images · on the image: arrow keys move the place · "],
      ["F", " mask · "],
      ["+", "−", " zoom · "],
      ["Esc", " close"],
    ].flatMap((part) => part.map((one, index) => (index < part.length - 1 ? el("kbd", {}, one) : one))),
  );

function links(row, signal) {
  const made = el(
    "p",
    {},
    el(
      "a",
      {
        href: addressOf({
          ...NOTHING_OPEN,
          where: `image_id = '${row.image_id.replaceAll("'", "''")}'`,
          page: null,
          view: null,
        }),
      },
      "This image in all runs",
    ),
  );
  addComparisons(made, row, signal).catch(() => {}); // the rest of the page says it
  return made;
}

async function addComparisons(made, row, signal) {
  const wanted = { where: `image_id = '${row.image_id.replaceAll("'", "''")}' and status = 'ok'`, limit: 20 };
  const { rows } = await json(path("api/rows", wanted), signal);
  for (const one of rows.filter(({ run_id }) => run_id !== row.run_id)) {
    const state = {
      ...NOTHING_OPEN,
      view: "compare",
      a: row.run_id,
      b: one.run_id,
      image: row.key,
      other: one.key,
    };
    made.append(el("br"), el("a", { href: addressOf(state) }, "Compare with ", foreign(one.run_id)));
  }
}

// ---------------------------------------------------------------- how it is closed

dialog.addEventListener("cancel", (event) => {
  event.preventDefault();
  closeLarge();
});
dialog.addEventListener("close", () => {
  if (now().image) closeLarge(); // a browser may insist
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog && !inside(event)) closeLarge();
});

function inside({ clientX, clientY }) {
  const box = dialog.getBoundingClientRect();
  return clientX >= box.left && clientX <= box.right && clientY >= box.top && clientY <= box.bottom;
}
