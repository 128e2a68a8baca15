// Which classes are drawn: a tick box for each, with colour, name and share.

import { go, now } from "./address.js";
import { cssColour } from "./colours.js";
import { el, foreign } from "./dom.js";
import { classesOf, coloursOf } from "./table.js";
import { percent } from "./words.js";

/** The ids of the classes that are not drawn. */
export const off = () => new Set((now().off ?? "").split(",").filter(Boolean).map(Number));

/** Tick boxes for the classes of an image. */
export function classToggles(row) {
  const hidden = off();
  const toggle = (id, on) => {
    const next = off();
    if (on) next.delete(id);
    else next.add(id);
    go({ off: [...next].sort((a, b) => a - b).join(",") || null }, { replace: true });
  };
  return el(
    "fieldset",
    { class: "classes" },
    el("legend", {}, "Classes"),
    classesOf(row.recipe).map(({ id, name }) => {
      const swatch = el("span", { class: "swatch" });
      if (id !== 0) swatch.style.background = cssColour(coloursOf(row.recipe)[id]);
      const box =
        id === 0
          ? null
          : el("input", {
              type: "checkbox",
              checked: !hidden.has(id),
              "data-focus": `class${id}`,
              on: { change: () => toggle(id, box.checked) },
            });
      const share = el("span", { class: "number" }, percent(row.shares?.[name]));
      return box
        ? el("label", {}, box, swatch, foreign(name), share)
        : el("label", { class: "faint" }, "not drawn:", foreign(name), share);
    }),
  );
}
