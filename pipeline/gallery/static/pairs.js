// Two runs side by side: the images to which both gave a mask, with the pixels in which the masks differ.

import { go, now } from "./address.js";
import { byId, el, foreign, plain } from "./dom.js";
import { PAGE, page, showList, where } from "./list.js";
import { notice } from "./notice.js";
import { showPicked } from "./picked.js";
import { loadImage, loadMask, orSay } from "./picture.js";
import { whenSeen } from "./seen.js";
import { json, path } from "./server.js";
import { coloursOf, runLabel, told } from "./table.js";
import { percent } from "./words.js";

const SIDE = 256; // pixels of a thumbnail

/** The two runs: those of the state, else the newest two. */
function runs() {
  const [newest, before] = told().runs.map(({ run_id }) => run_id);
  return { a: now().a ?? before, b: now().b ?? newest };
}

/** The colours of a run's classes. */
const coloursOfRun = (id) => coloursOf(told().runs.find(({ run_id }) => run_id === id)?.recipe);

export const sayDiffers = (differs) => {
  if (differs == null) return "";
  return differs === 0
    ? "no pixel differs"
    : `${differs < 0.001 ? "under 0.1 %" : percent(differs)} of the pixels differ`;
};

/** Offer the runs to choose from. */
export function showRuns() {
  const choose = (name, label, chosen) =>
    el(
      "label",
      {},
      label,
      el(
        "select",
        {
          "data-focus": name,
          on: { change: ({ target }) => go({ ...runs(), [name]: target.value, page: null }) },
        },
        told().runs.map((run) =>
          el("option", { value: run.run_id, selected: run.run_id === chosen }, runLabel(run)),
        ),
      ),
    );
  const { a, b } = runs();
  const focus = document.activeElement?.dataset.focus;
  byId("runs").replaceChildren(choose("a", "Run A", a), choose("b", "Run B", b));
  byId("runs").querySelector(`[data-focus="${focus}"]`)?.focus();
}

/** Show the page of pairs. */
export async function showPairs() {
  showPicked(0);
  if (told().runs.length < 2) {
    await showList(async () => ({ count: 0, rows: [] }), card, "pair");
    byId("notice").replaceChildren(
      notice("There are not two runs to compare", [
        "A second run with another model, or with other tiles, gives every image a second row.",
      ]),
    );
    return;
  }
  if (!now().a || !now().b) {
    go(runs(), { replace: true });
    return;
  } // so that the link means these two tomorrow
  const wanted = {
    ...runs(),
    where: where(),
    sort: now().sort === "-differs" ? "-differs" : null,
    limit: PAGE,
    offset: (page() - 1) * PAGE,
  };
  await showList((signal) => json(path("api/pairs", wanted), signal), card, "pair");
}

function card(pair) {
  const open = () => go({ ...runs(), image: pair.a, other: pair.b }, { over: true });
  const differs = el("span", { class: "faint" }, sayDiffers(pair.differs));
  return el(
    "li",
    { "data-key": pair.a },
    el(
      "figure",
      {},
      el(
        "button",
        { type: "button", class: "open", "aria-label": `Open ${plain(pair.name)}`, on: { click: open } },
        squares(pair),
      ),
      el(
        "figcaption",
        {},
        el("span", { class: "name", title: plain(pair.uri) }, foreign(pair.name)),
        differs,
      ),
    ),
  );
}

/** Run A, run B, and the difference, once they are near the screen. */
function squares(pair) {
  const made = Array.from({ length: 3 }, () => el("span", { class: "square" }));
  const { a, b } = runs();
  whenSeen(made[1], async (signal) => {
    for (const square of made) square.replaceChildren();
    const photos = made.map(() => el("img", { alt: "" }));
    const masks = [
      [pair.a, a],
      [pair.b, b],
    ].map(([key, run], index) => {
      const canvas = el("canvas", { class: "mask", "aria-hidden": "true" });
      made[index].append(canvas);
      return orSay(made[index], loadMask(canvas, key, SIDE, coloursOfRun(run), undefined, signal), true);
    });
    const difference = el("img", { alt: "", class: "difference" });
    const drawn = orSay(
      made[2],
      loadImage(difference, path("image/difference", { a: pair.a, b: pair.b, side: SIDE }), signal),
      true,
    );
    const seen = orSay(
      made[0],
      loadImage(photos, path("image/thumb", { key: pair.a, side: SIDE }), signal),
      true,
    );
    const shown = seen.then((ok) => ok && made.forEach((square, index) => square.prepend(photos[index])));
    const differs = drawn.then((ok) => ok && made[2].append(difference));
    await Promise.all([shown, differs, ...masks]); // at once: of those that are aborted none may go unheard
  });
  return made;
}
