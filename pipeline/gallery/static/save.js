// The dialog that saves the selection as a list, and says how its masks are exported.

import { byId, el, plain } from "./dom.js";
import { asCsv, size } from "./selection.js";
import { told } from "./table.js";
import { several } from "./words.js";

const FILE = "masklake-list.csv";
const FORMATS = ["label-studio", "coco", "png", "numpy"];

let address = null; // of the file, in this window

/** Text as one word of a shell. */
const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function showCommand() {
  const format = byId("save-format").value;
  byId("save-command").textContent =
    `masklake export ${word(told().uri)} OUT --format ${format} --list ${FILE}`;
}

export async function openSave() {
  const formats = told().formats?.length ? told().formats : FORMATS; // none: masklake[export] is not here
  const first = formats.includes("label-studio") ? "label-studio" : formats[0];
  byId("save-format").replaceChildren(
    ...formats.map((name) => el("option", { selected: name === first }, plain(name))),
  );
  byId("save-what").textContent = `${several(size(), "image")} selected.`;
  const file = byId("save-file");
  if (address) URL.revokeObjectURL(address);
  file.removeAttribute("href");
  showCommand();
  byId("save").showModal();
  byId("save-state").textContent = "gathering the list…";
  try {
    address = URL.createObjectURL(new Blob([await asCsv()], { type: "text/csv" }));
    file.href = address;
    byId("save-state").textContent = "";
  } catch (error) {
    byId("save-state").textContent = plain(error.message);
  }
}

byId("save-format").addEventListener("change", showCommand);
byId("save-file").addEventListener("click", () => {
  byId("save-state").textContent = "saved where this browser saves files";
});
byId("save-copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("save-command").textContent);
  byId("save-state").textContent = "command copied";
});
