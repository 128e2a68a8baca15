// Which page of the list: links, so that a page opens in another window, too.

import { addressOf, go } from "./address.js";
import { byId, el, shown } from "./dom.js";
import { count } from "./words.js";

function step(label, page, enabled) {
  if (!enabled) return null;
  return el(
    "a",
    {
      href: addressOf({ page: page > 1 ? page : null }),
      on: {
        click: (event) => {
          if (plainClick(event)) {
            event.preventDefault();
            turnTo(page);
          }
        },
      },
    },
    label,
  );
}

const plainClick = (event) =>
  event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;

function turnTo(page) {
  go({ page: page > 1 ? String(page) : null });
  byId("list").focus({ preventScroll: true });
  byId("list").scrollIntoView();
}

/** Show the steps between pages; nothing if there is one page. */
export function showPages(page, last) {
  const nav = byId("pages");
  shown(nav, last > 1);
  const field = el("input", {
    type: "number",
    min: 1,
    max: last,
    value: page,
    "aria-label": "Page",
    on: { change: () => turnTo(Math.min(last, Math.max(1, Math.round(Number(field.value)) || 1))) },
  });
  nav.replaceChildren(
    ...[
      step("« First", 1, page > 1),
      step("‹ Previous", page - 1, page > 1),
      el("span", {}, "page ", field, ` of ${count(last)}`),
      step("Next ›", page + 1, page < last),
      step("Last »", last, page < last),
    ].filter(Boolean),
  );
}
