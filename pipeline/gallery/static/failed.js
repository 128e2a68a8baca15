// One image that failed, large: where and why, what to do, and its source if it can be read.

import { adviceFor } from "./advice.js";
import { el, foreign, plain } from "./dom.js";
import { facts, raw } from "./facts.js";
import { notice } from "./notice.js";
import { loadImage, orSay } from "./picture.js";
import { path } from "./server.js";
import { panel, shape, stage } from "./stage.js";

const SIDE = 1600; // pixels

/** The inside of the dialog; `keys` says which keys there are. */
export function failedBody(row, signal, keys) {
  const { stage: where, type, message } = row.error ?? {};
  const photo = stage(row.width ?? 4, row.height ?? 3);
  const first = panel("The source, if it can be read", photo);
  const img = el("img", { alt: "" });
  const loading = loadImage(img, path("image/source", { key: row.key, side: SIDE }), signal).then(() => {
    shape(photo, img.naturalWidth, img.naturalHeight);
    photo.prepend(img);
  });
  orSay(photo, loading).then(
    (seen) => {
      if (!seen) shape(photo, 5, 1);
    },
    () => {}, // closed meanwhile
  );
  return el(
    "div",
    { class: "inside" },
    el(
      "div",
      {},
      notice(
        `Failed: ${plain(where ?? "unknown stage")}`,
        [
          el("p", {}, el("b", {}, plain(type ?? "")), " ", foreign(message ?? "")),
          el("p", {}, el("b", {}, "What to do. "), adviceFor(where)),
        ],
        { alarm: true },
      ),
      el("div", { class: "panels raw" }, first.figure),
      raw(row),
      keys,
    ),
    el("div", { class: "side" }, facts(row)),
  );
}
