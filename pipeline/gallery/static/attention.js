// Where an image's network looks: what the table keeps of it, and, computed on demand, what any place looks at.

import { go, now } from "./address.js";
import { el, plain } from "./dom.js";
import { loadHeat, orSay } from "./picture.js";
import { isAbort, json, Lost, path } from "./server.js";
import { panel, placeOf, putCross, stage } from "./stage.js";
import { percent } from "./words.js";

const STEP = 16; // pixels that an arrow key moves before the tokens are known

/** The attention of one image that is open. `photo` is its stage; `signal` ends with the image. */
export class Attention {
  constructor(row, photo, signal) {
    this.row = row;
    this.photo = photo;
    this.signal = signal;
    this.blocks = null; // once they are computed
    this.asking = null; // the promise of them
    this.drawing = { received: null, looks: null }; // what aborts each that is being drawn
    this.drawn = { received: "", looks: "" };
    this.received = panel("Attention received", stage(row.width, row.height, { class: "asks" }));
    this.looks = panel("Where the place looks", stage(row.width, row.height, { class: "asks" }));
    this.looks.figure.hidden = true;
    this.state = el("p", { role: "status" });
    this.choosers = el("div", { class: "choose", hidden: true });
    this.ask = el(
      "button",
      { type: "button", "data-focus": "ask", on: { click: () => this.point(this.place()) } },
      "Ask where a place looks",
    );
    this.controls = el(
      "div",
      {},
      el("h3", {}, "Attention"),
      el("p", { class: "faint" }, "Point at a place of the image, or move there by its arrow keys."),
      this.ask,
      this.state,
      this.choosers,
    );
    for (const made of [photo, this.received.stage, this.looks.stage]) this.listen(made);
    this.showStored();
  }

  listen(made) {
    const point = (event) => this.point(placeOf(event, made, this.row));
    made.addEventListener("click", point);
    made.addEventListener("pointermove", (event) => {
      if (event.buttons !== 1 || event.pointerType !== "mouse" || !this.blocks) return;
      const before = JSON.stringify(this.token());
      const place = placeOf(event, made, this.row);
      if (JSON.stringify(this.token(place)) !== before) this.point(place);
    });
    made.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
        event.key
      ] ?? [0, 0];
      const start = now().at ? null : event.key === "Enter" || event.key === " ";
      if (!down && !right && !start) return;
      event.preventDefault();
      event.stopPropagation();
      const { y, x } = this.place();
      const side = now().at ? (this.block()?.stride ?? STEP) : 0; // the first key only puts the cross there
      this.point({ y: y + down * side, x: x + right * side });
      made.querySelector(".cross").scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  }

  /** The place that is asked about: the middle, unless the state has one. */
  place() {
    const [y, x] = (now().at ?? "").split(",").map(Number);
    const middle = { y: this.row.height >> 1, x: this.row.width >> 1 };
    return Number.isFinite(y) && Number.isFinite(x) ? { y, x } : middle;
  }

  point({ y, x }) {
    const clamp = (at, length) => Math.min(length - 1, Math.max(0, at));
    go({ at: `${clamp(y, this.row.height)},${clamp(x, this.row.width)}` }, { replace: true });
    this.show();
  }

  block() {
    return this.blocks?.find(({ block }) => block === now().block) ?? this.blocks?.[0];
  }

  head() {
    return Math.min(Math.max(0, Number(now().head) || 0), this.block().heads - 1);
  }

  async showStored() {
    const canvas = el("canvas", { role: "img", "aria-label": "attention received, all heads" });
    const loading = loadHeat(canvas, path("image/attention", { key: this.row.key }), this.signal);
    this.received.line.textContent = "all blocks and heads, logarithmic";
    try {
      if (await orSay(this.received.stage, loading)) this.replace(this.received, canvas, "stored");
    } catch {
      /* the image was closed */
    }
  }

  replace({ stage: made }, canvas, kind) {
    if (kind === "stored" && this.drawn.received) return; // the newer one came first
    for (const old of made.querySelectorAll("canvas, .gone")) old.remove();
    made.prepend(canvas);
  }

  /** Show what the state asks for. */
  async show() {
    const { at, block, head } = now();
    if (!at && !block && !head) return;
    this.cross();
    try {
      await (this.asking ??= this.compute());
      if (!this.blocks?.length || this.signal.aborted) return;
      this.choose();
      this.cross();
      await Promise.all([this.showReceived(), this.showLooks()]);
    } catch (error) {
      if (isAbort(error)) return;
      if (error instanceof Lost) this.asking = null;
      this.state.className = "";
      this.state.textContent = plain(error.message);
    }
  }

  async compute() {
    this.ask.disabled = true;
    this.state.className = "busy";
    this.state.textContent = "computing the attention of this image…";
    this.blocks = (await json(path("api/tokens", { key: this.row.key }), this.signal)).blocks;
    this.state.className = "";
    this.state.textContent = this.blocks.length ? "" : "This network has no attention blocks.";
    this.ask.hidden = this.blocks.length > 0;
  }

  choose() {
    const pick = (name, values, value) =>
      el(
        "label",
        {},
        `${name} `,
        el(
          "select",
          {
            "data-focus": name,
            on: {
              change: ({ target }) => {
                go({ [name.toLowerCase()]: target.value }, { replace: true });
                this.show();
              },
            },
          },
          values.map((one) =>
            el("option", { value: one, selected: String(one) === String(value) }, plain(one)),
          ),
        ),
      );
    const focused = this.choosers.contains(document.activeElement)
      ? document.activeElement.dataset.focus
      : null;
    const block = this.block();
    this.choosers.replaceChildren(
      pick(
        "Block",
        this.blocks.map((one) => one.block),
        block.block,
      ),
      pick(
        "Head",
        Array.from({ length: block.heads }, (_, head) => head),
        this.head(),
      ),
    );
    this.choosers.hidden = false;
    this.choosers.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  /** The token at the place, of the tile in whose middle it is most: { top, left, side }. */
  token({ y, x } = this.place()) {
    const block = this.block();
    if (!block) return { top: y - STEP / 2, left: x - STEP / 2, side: STEP };
    const { stride } = block;
    const off = ({ corner, grid }) =>
      Math.max(
        Math.abs(y + 0.5 - corner[0] - (grid[0] * stride) / 2),
        Math.abs(x + 0.5 - corner[1] - (grid[1] * stride) / 2),
      );
    const inside = block.tiles.filter(
      ({ corner: [top, left], grid: [rows, columns] }) =>
        y >= top && y < top + rows * stride && x >= left && x < left + columns * stride,
    );
    const [tile] = inside.sort((one, other) => off(one) - off(other));
    const [top, left] = tile?.corner ?? [0, 0];
    return {
      top: top + Math.floor((y - top) / stride) * stride,
      left: left + Math.floor((x - left) / stride) * stride,
      side: stride,
    };
  }

  cross() {
    for (const made of [this.photo, this.received.stage, this.looks.stage])
      if (now().at) putCross(made, this.row, this.token());
    this.photo.setAttribute(
      "aria-description",
      now().at ? `at ${now().at.replace(",", " down, ")} across, in pixels` : "",
    );
  }

  async showReceived() {
    const wanted = { key: this.row.key, block: this.block().block, head: this.head() };
    await this.draw(
      "received",
      this.received,
      path("image/received", wanted),
      () => `${plain(wanted.block)}, head ${wanted.head}`,
    );
  }

  async showLooks() {
    if (!now().at) return;
    this.looks.figure.hidden = false;
    const { y, x } = this.place();
    const wanted = { key: this.row.key, block: this.block().block, head: this.head(), y, x };
    await this.draw(
      "looks",
      this.looks,
      path("image/looks", wanted),
      (headers) =>
        `${plain(wanted.block)}, head ${wanted.head}, from ${y} down, ${x} across; its most: ${percent(Number(headers.get("X-Max-Weight")))}`,
    );
  }

  async draw(name, into, url, line) {
    if (this.drawn[name] === url) return;
    this.drawing[name]?.abort();
    const own = (this.drawing[name] = new AbortController());
    const canvas = el("canvas", {
      role: "img",
      "aria-label": name === "looks" ? "where the place looks" : "attention received",
    });
    const headers = await loadHeat(canvas, url, AbortSignal.any([own.signal, this.signal]));
    this.drawn[name] = url;
    this.replace(into, canvas, name);
    into.line.textContent = line(headers);
  }
}
