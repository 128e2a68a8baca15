// The form: each field is a part of the condition.

import { now } from "./address.js";
import { conditionOf, fieldsOf, NUMBERS } from "./condition.js";
import { byId, el, plain } from "./dom.js";
import { filterBy } from "./field.js";
import { classNames, runLabel, told } from "./table.js";

const form = byId("fields");
const LABELS = {
  confidence: "Confidence, 0 to 1",
  entropy: "Entropy of the attention, 0 to 1",
  distance: "Distance it looks, pixels",
  date: "Date",
};

/** Fields for what this table has. */
export function makeFields() {
  const runs = told().runs.map((run) => [run.run_id, runLabel(run)]);
  form.replaceChildren(
    one("Name contains", el("input", { type: "search", name: "name", autocomplete: "off" })),
    one(
      "Status",
      choice("status", [
        ["", "any"],
        ["ok", "has a mask"],
        ["failed", "failed"],
      ]),
    ),
    group(
      "Share of a class, percent",
      choice(
        "class",
        classNames().map((name) => [name, plain(name)]),
        "Class",
      ),
      pair("share", { type: "number", min: 0, max: 100, step: "any", inputmode: "decimal" }),
    ),
    ...NUMBERS.map((name) =>
      group(LABELS[name], pair(name, { type: "number", min: 0, step: "any", inputmode: "decimal" })),
    ),
    one("Run", choice("run_id", [["", "any"], ...runs])),
    group(LABELS.date, pair("date", { type: "date" })),
    el("p", { class: "rest faint", id: "rest", hidden: true }),
  );
}

const one = (label, field) =>
  el("fieldset", {}, el("label", {}, el("span", { class: "label" }, label), field));
const group = (label, ...fields) => el("fieldset", {}, el("legend", {}, label), fields);
const choice = (name, options, label) =>
  el(
    "select",
    { name, "aria-label": label },
    options.map(([value, text]) => el("option", { value }, text)),
  );
const pair = (name, attributes) =>
  el(
    "span",
    { class: attributes.type === "date" ? "pair dates" : "pair" },
    el("input", { ...attributes, name: `${name}.least`, "aria-label": `${name} from`, placeholder: "from" }),
    el("span", { "aria-hidden": "true" }, "–"),
    el("input", { ...attributes, name: `${name}.most`, "aria-label": `${name} to`, placeholder: "to" }),
  );

/** Fill the fields with what a condition says. */
export function showFields(where) {
  const { fields, rest } = fieldsOf(where ?? "");
  for (const field of form.elements) {
    if (!field.name) continue;
    const found = fields[field.name];
    if (field.name === "class") {
      choose(field, fields.class ?? field.value);
      continue;
    }
    const value =
      field.name.startsWith("share.") && found ? shorter(Number(found.value) * 100) : (found?.value ?? "");
    if (field.tagName === "SELECT") choose(field, value);
    else field.value = value;
    field.dataset.sign = found?.sign ?? "";
  }
  const note = byId("rest");
  note.hidden = rest.length === 0;
  note.replaceChildren("and, as written: ", el("code", {}, plain(rest.join(" and "))));
}

function choose(field, value) {
  if (value && ![...field.options].some((option) => option.value === value))
    field.append(el("option", { value }, plain(value)));
  field.value = value;
}

/** A share in percent as few digits as say it. */
const shorter = (number) => String(Number(number.toPrecision(10)));

function apply() {
  const fields = {};
  for (const field of form.elements) {
    if (!field.name || field.value === "" || !field.validity.valid) continue;
    if (field.name === "class") {
      fields.class = field.value;
      continue;
    }
    const value = field.name.startsWith("share.") ? shorter(Number(field.value) / 100) : field.value;
    fields[field.name] = { value, sign: field.dataset.sign || undefined };
  }
  filterBy(conditionOf(fields, fieldsOf(now().where ?? "").rest));
}

form.addEventListener("change", apply);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  apply();
});
