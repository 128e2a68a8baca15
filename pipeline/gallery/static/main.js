// The page: what the state says is shown by the part that owns it.

import { addressOf, go, listen, now } from "./address.js";
import { byId, isTyping, plain, shown } from "./dom.js";
import { fadesBy, turnFade } from "./fade.js";
import { showColumns } from "./field.js";
import { makeFields, showFields } from "./filters.js";
import { showLarge, step } from "./large.js";
import { showImages, showPairSort, showSort, whenGrown } from "./list.js";
import { watch } from "./lost.js";
import { notice } from "./notice.js";
import { showPair } from "./pair.js";
import { showPairs, showRuns } from "./pairs.js";
import { restore } from "./selection.js";
import { Lost } from "./server.js";
import { loadTable, showHead, told } from "./table.js";
import { zoom } from "./zoom.js";

const LISTED = ["where", "sort", "page", "view", "a", "b"];
const compares = () => now().view === "compare";

function show(state, before) {
  if (!told()) return;
  if (!before || LISTED.some((name) => state[name] !== before[name])) showListed();
  if (!before || ["image", "other", "off", "zoom"].some((name) => state[name] !== before[name])) showOpen();
}

function showOpen() {
  showLarge();
  showPair();
}

function showListed() {
  showFields(now().where);
  for (const [id, current] of [
    ["view-images", !compares()],
    ["view-compare", compares()],
  ]) {
    if (current) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  const other = { sort: null, page: null, image: null, other: null, at: null };
  byId("view-images").href = addressOf({ ...other, view: null, a: null, b: null }) || "?";
  byId("view-compare").href = addressOf({ ...other, view: "compare" });
  shown(byId("turn"), !compares());
  shown(byId("runs"), compares() && told().runs.length > 1);
  byId("list-title").textContent = compares() ? "Two runs compared" : "Images";
  byId("cards").classList.toggle("pairs", compares());
  if (compares()) {
    showRuns();
    showPairSort();
    showPairs();
  } else {
    showSort();
    showImages();
  }
}

async function start() {
  try {
    await loadTable();
  } catch (error) {
    if (!(error instanceof Lost))
      byId("notice").replaceChildren(
        notice("The table cannot be read", [plain(error.message)], { alarm: true }),
      );
    return;
  }
  showHead();
  showColumns();
  makeFields();
  restore(told().uri);
  show(now(), null);
}

for (const [id, state] of [
  ["view-images", () => ({ view: null, a: null, b: null, sort: null, page: null })],
  ["view-compare", () => ({ view: "compare", sort: null, page: null })],
]) {
  byId(id).addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    go(state());
  });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const isOpen = byId("large").open;
  if (event.key === "f" || event.key === "F") turnFade();
  else if (isOpen && !now().other && "+=-".includes(event.key)) zoom(event.key === "-" ? -1 : 1);
  else if (event.key === "/" && !isOpen) {
    event.preventDefault();
    byId("where").focus();
  } else if (
    isOpen &&
    (event.key === "ArrowLeft" || event.key === "ArrowRight") &&
    !event.target.closest("[type=range], [role=region]")
  ) {
    event.preventDefault();
    step(event.key === "ArrowRight" ? 1 : -1);
  }
});

const wide = matchMedia("(min-width: 901px)");
const unfold = () => {
  byId("filters").open = wide.matches;
};
wide.addEventListener("change", unfold);
unfold();
fadesBy(byId("fade"));
listen(show);
watch(start);
whenGrown(async () => {
  await loadTable();
  showHead();
  if (compares()) showPairs();
  else showImages();
});
start();
