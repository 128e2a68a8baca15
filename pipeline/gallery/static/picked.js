// The line at the bottom that says what is selected.

import { now } from "./address.js";
import { byId, shown } from "./dom.js";
import { openSave } from "./save.js";
import { onlyWhole, selectNone, selectWhole, size, wholeCondition, whenSelected } from "./selection.js";
import { count, several } from "./words.js";

let here = 0; // rows of the condition that is shown

function show() {
  const where = now().where ?? "";
  shown(byId("picked"), size() > 0);
  byId("picked-count").textContent = `${several(size(), "image")} selected`;
  const all = byId("picked-all");
  all.textContent = `Select all ${count(here)}`;
  all.disabled = onlyWhole() && wholeCondition() === where;
  shown(all, here > 0 && now().view !== "compare");
}

/** Say how many rows the condition has that is shown. */
export function showPicked(rows) {
  here = rows;
  show();
}

whenSelected(show);
byId("picked-all").addEventListener("click", () => selectWhole(now().where ?? "", here));
byId("picked-none").addEventListener("click", () => {
  selectNone();
  byId("list").focus();
});
byId("picked-save").addEventListener("click", openSave);
