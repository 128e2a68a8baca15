// The images that are selected: kept over pages, conditions and reloads of this window.
//
// Either picked one by one, or all rows of a condition but some. A row is told by its run and its image.

import { json, path, text } from "./server.js";

const KEPT = "masklake-selection";
const listeners = [];
let tableUri = "";
let whole = null; // { where, count }: all rows of a condition
let except = new Map(); // id: row, of `whole`
let picked = new Map(); // id: { image_id, run_id, uri }

const idOf = ({ run_id, image_id }) => `${run_id}/${image_id}`;
export const whenSelected = (listener) => listeners.push(listener);
export const size = () => (whole ? whole.count - except.size : 0) + picked.size;
export const wholeCondition = () => whole?.where ?? null;
export const onlyWhole = () => whole !== null && !except.size && !picked.size;

/** Whether a row that a condition shows is selected. */
export const isSelected = (row, where) =>
  picked.has(idOf(row)) || (whole !== null && whole.where === where && !except.has(idOf(row)));

/** Select rows that a condition shows, or not. */
export function select(rows, where, on) {
  for (const row of rows) {
    const [id, kept] = [idOf(row), { image_id: row.image_id, run_id: row.run_id, uri: row.uri }];
    const ofWhole = whole !== null && whole.where === where;
    if (on) {
      except.delete(id);
      if (!ofWhole) picked.set(id, kept);
    } else {
      picked.delete(id);
      if (ofWhole) except.set(id, kept);
    }
  }
  changed();
}

export function selectWhole(where, count) {
  whole = { where, count };
  except = new Map();
  picked = new Map();
  changed();
}

export function selectNone() {
  whole = null;
  except = new Map();
  picked = new Map();
  changed();
}

/** The list as CSV: `image_id,run_id,uri`. */
export async function asCsv() {
  const lines = ["image_id,run_id,uri"];
  const seen = new Set();
  if (whole) {
    const [, ...rest] = recordsOf(await text(path("api/list", { where: whole.where })));
    for (const record of rest) {
      const [image_id, run_id] = record.split(",", 2);
      const id = idOf({ image_id, run_id });
      seen.add(id);
      if (!except.has(id)) lines.push(record);
    }
  }
  for (const [id, row] of picked)
    if (!seen.has(id)) lines.push([row.image_id, row.run_id, row.uri].map(quoted).join(","));
  return `${lines.join("\r\n")}\r\n`;
}

/** The records of a CSV; a quoted value may hold line ends. */
const recordsOf = (csv) => csv.match(/(?:[^"\r\n]|"(?:[^"]|"")*")+/g) ?? [];
const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

/** Take up what this window had selected of a table before it was reloaded. */
export async function restore(uri) {
  tableUri = uri;
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    if (kept?.uri !== uri) return;
    ({ whole } = kept);
    except = new Map(kept.except);
    picked = new Map(kept.picked);
    if (whole) whole.count = (await json(path("api/rows", { where: whole.where, limit: 1 }))).count;
  } catch {
    selectNone(); // not readable, or its condition is none any more
  }
  changed();
}

function changed() {
  try {
    sessionStorage.setItem(
      KEPT,
      JSON.stringify({ uri: tableUri, whole, except: [...except], picked: [...picked] }),
    );
  } catch {
    /* larger than the browser keeps: it lasts until the reload */
  }
  for (const listener of listeners) listener();
}
