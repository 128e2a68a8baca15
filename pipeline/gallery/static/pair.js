// One image as two runs saw it, large, and the pixels in which they differ.

import { now } from "./address.js";
import { classToggles, off } from "./classes.js";
import { byId, el, foreign, plain } from "./dom.js";
import { facts } from "./facts.js";
import { fadeBox } from "./fadebox.js";
import { head } from "./large.js";
import { notice } from "./notice.js";
import { sayDiffers } from "./pairs.js";
import { loadImage, loadMask, orSay } from "./picture.js";
import { drawMask } from "./pixels.js";
import { isAbort, json, Lost, path } from "./server.js";
import { panel, stage } from "./stage.js";
import { coloursOf } from "./table.js";

const SIDE = 1600; // pixels
const dialog = byId("large");
let open = null; // { name, close, redraws }

/** Show, change or let go of the pair, as the state says. */
export async function showPair() {
  const { image, other } = now();
  const name = other && image ? `${image}\n${other}` : null;
  if (open?.name === name) {
    open?.redraws.forEach((redraw) => redraw());
    return;
  }
  open?.close();
  open = null;
  if (!name) return;
  const ending = new AbortController();
  open = { name, close: () => ending.abort(), redraws: [] };
  if (!dialog.open) {
    dialog.replaceChildren(head("…"));
    dialog.showModal();
  }
  try {
    await fill(open, image, other, ending.signal);
  } catch (error) {
    if (isAbort(error)) return;
    if (error instanceof Lost) {
      open = null;
      return;
    }
    dialog.replaceChildren(
      head("Not there"),
      notice("These cannot be compared", [plain(error.message)], { alarm: true }),
    );
  }
}

async function fill(mine, image, other, signal) {
  const rows = await Promise.all([image, other].map((key) => json(path("api/row", { key }), signal)));
  const [a, b] = rows.map((row, index) => ({ ...row, key: [image, other][index] }));
  const panels = [
    ["Run A", a],
    ["Run B", b],
    ["Where they differ", null],
  ].map(([title, row]) => {
    const made = panel(title, stage(a.width, a.height));
    if (row) made.line.append(foreign(row.run_id));
    return made;
  });
  const photos = panels.map(() => el("img", { alt: "" }));
  dialog.replaceChildren(
    head(foreign(a.name)),
    el(
      "div",
      { class: "inside wide" },
      el(
        "div",
        { class: "panels" },
        panels.map(({ figure }) => figure),
      ),
      el(
        "div",
        { class: "side" },
        fadeBox(),
        classToggles(a),
        ...[
          ["Run A", a],
          ["Run B", b],
        ].map(([title, row]) => el("section", {}, el("h3", {}, title), facts(row))),
      ),
    ),
  );
  dialog.querySelector("[data-focus=close]").focus();
  await draw(mine, a, b, panels, photos, signal);
}

async function draw(mine, a, b, panels, photos, signal) {
  const masks = [a, b].map((row, index) => {
    const canvas = el("canvas", { class: "mask", "aria-hidden": "true" });
    panels[index].stage.append(canvas);
    return orSay(
      panels[index].stage,
      loadMask(canvas, row.key, SIDE, coloursOf(row.recipe), off(), signal).then((values) => {
        mine.redraws.push(() => drawMask(canvas, values, coloursOf(row.recipe), off()));
        mine.redraws.at(-1)();
      }),
      true,
    );
  });
  const difference = el("img", { alt: "", class: "difference" });
  const differs = loadImage(
    difference,
    path("image/difference", { a: a.key, b: b.key, side: SIDE }),
    signal,
  ).then((headers) => {
    panels[2].stage.append(difference);
    const share = headers.get("X-Differs");
    panels[2].line.textContent = sayDiffers(share === null || share === "" ? null : Number(share));
  });
  const seen = loadImage(photos, path("image/source", { key: a.key, side: SIDE }), signal).then(() => {
    panels.forEach(({ stage: made }, index) => {
      made.prepend(photos[index]);
    });
    photos[2].classList.add("dim");
  });
  await Promise.all([...masks, orSay(panels[2].stage, differs, true), orSay(panels[0].stage, seen, true)]);
}
