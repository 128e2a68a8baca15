// What the server says of the table as a whole, and the head of the page that shows it.

import { classColours } from "./colours.js";
import { byId, el, foreign, plain } from "./dom.js";
import { json } from "./server.js";
import { count, lastPart, moment } from "./words.js";

let table = null;
const colours = new Map(); // recipe: colours of its classes

/** Ask again: the newest state of the table is what is shown from now on. */
export async function loadTable() {
  table = await json("api/table");
  colours.clear();
  return table;
}

export const told = () => table;
export const classesOf = (recipe) => table.recipes.find(({ id }) => id === recipe)?.classes ?? [];

export function coloursOf(recipe) {
  if (!colours.has(recipe)) colours.set(recipe, classColours(classesOf(recipe)));
  return colours.get(recipe);
}

/** The names of the classes of all recipes, but for the first of each: the background. */
export const classNames = () => [
  ...new Set(
    table.recipes.flatMap(({ classes }) => classes.filter(({ id }) => id !== 0).map(({ name }) => name)),
  ),
];

/** A run as a line of a list. */
export const runLabel = (run) =>
  plain(
    [run.run_id, run.began ? moment(run.began) : null, run.model?.split("/").at(-1)]
      .filter(Boolean)
      .join(" · "),
  );

export function showHead() {
  const name = plain(lastPart(table.uri));
  document.title = `${name} · masklake`;
  byId("table-name").replaceChildren(foreign(lastPart(table.uri)));
  byId("table-uri").replaceChildren(foreign(table.uri));
  const counts = [
    ["Rows", table.rows],
    ["Masks", table.ok],
    ["Failed", table.failed],
    ["Runs", table.runs.length],
  ];
  byId("table-counts").replaceChildren(
    ...counts.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", {}, count(value)))),
  );
}
