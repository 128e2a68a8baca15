// What the table says of one image, as words and as JSON.

import { addressOf } from "./address.js";
import { el, foreign, plain } from "./dom.js";
import { count, decimal, moment, percent } from "./words.js";

/** The row as a list of terms. */
export function facts(row) {
  const terms = [
    ["Confidence", row.confidence == null ? null : percent(row.confidence)],
    ["Entropy", row.entropy == null ? null : decimal(row.entropy, 3)],
    ["Distance", row.distance == null ? null : `${decimal(row.distance, 1)} px`],
    ["Size", row.width ? `${count(row.width)} × ${count(row.height)} px` : null],
    ["Finished", row.finished_at ? moment(row.finished_at) : null],
    [
      "Run",
      el(
        "a",
        {
          href: addressOf({
            where: `run_id = '${row.run_id.replaceAll("'", "''")}'`,
            page: null,
            image: null,
            at: null,
            view: null,
          }),
        },
        foreign(row.run_id),
      ),
    ],
    ["Recipe", foreign(row.recipe ?? "")],
    ["Place", foreign(row.uri)],
  ];
  return el(
    "dl",
    { class: "facts" },
    terms
      .filter(([, value]) => value != null)
      .flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]),
  );
}

const NUMBERS = [
  ["entropy_normalized", "entropy", 3],
  ["effective_tokens", "effective tokens", 1],
  ["distance_rms_px", "distance, px", 1],
  ["received_max", "most received", 1],
  ["residual_ratio", "share of the signal", 3],
];

/** The attention statistics of each block and head. */
export function attentionTable(row) {
  if (!row.attention?.length) return null;
  return el(
    "details",
    { class: "raw" },
    el("summary", {}, "Attention in numbers"),
    el(
      "div",
      { class: "scroll", role: "region", tabindex: 0, "aria-label": "Attention in numbers" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["block", "head", ...NUMBERS.map(([, label]) => label)].map((label) =>
              el("th", { scope: "col" }, label),
            ),
          ),
        ),
        el(
          "tbody",
          {},
          row.attention.map((one) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, plain(one.block)),
              el("td", { class: "number" }, String(one.head)),
              NUMBERS.map(([name, , places]) => el("td", { class: "number" }, decimal(one[name], places))),
            ),
          ),
        ),
      ),
    ),
  );
}

/** The row as JSON, to read and to copy. */
export function raw(row) {
  const { key, ...columns } = row; // the key is the page's own
  const text = JSON.stringify(columns, null, 2).replace(/[\p{Cf}\p{Zl}\p{Zp}]/gu, (char) =>
    [...Array(char.length).keys()]
      .map((i) => `\\u${char.charCodeAt(i).toString(16).padStart(4, "0")}`)
      .join(""),
  );
  const state = el("span", { role: "status", class: "faint" });
  return el(
    "details",
    { class: "raw" },
    el("summary", {}, "Row as JSON"),
    el("pre", { tabindex: 0, role: "region", "aria-label": "Row as JSON" }, text),
    el(
      "button",
      {
        type: "button",
        class: "quiet",
        on: {
          click: async () => {
            await navigator.clipboard.writeText(text);
            state.textContent = " copied";
          },
        },
      },
      "Copy",
    ),
    state,
  );
}
