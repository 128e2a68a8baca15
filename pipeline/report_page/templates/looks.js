"use strict";
// Where a place of an image looks: one row of softmax(q·k/√d), from the queries and keys that the page carries.
const looks = (() => {
  const data = JSON.parse(document.getElementById("tokens")?.textContent ?? "null");
  const select = document.getElementById("head");
  const told = document.getElementById("looks-told");
  const unpacked = new WeakMap(); // of each head that was asked
  let now = null; // the image in the dialog, what lies over it, and the place that is asked

  const numbers = (text, Kind) => new Kind(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);

  const unpack = (head) => {
    if (!unpacked.has(head)) {
      const Kind = head.bits === 8 ? Int8Array : Int16Array;
      unpacked.set(head, {
        q: numbers(head.q, Kind), k: numbers(head.k, Kind),
        qs: numbers(head.qs, Float32Array), ks: numbers(head.ks, Float32Array),
      });
    }
    return unpacked.get(head);
  };

  // The weights that a token gives to each of its tile; they sum to 1.
  const row = (head, token) => {
    const { q, k, qs, ks } = unpack(head);
    const width = k.length / ks.length;
    const query = q.subarray(token * width, (token + 1) * width);
    const scores = Float64Array.from(ks, (scale, other) => {
      let product = 0;
      for (let d = 0; d < width; d += 1) product += query[d] * k[other * width + d];
      return product * scale * qs[token];
    });
    const most = scores.reduce((a, b) => Math.max(a, b));
    const weights = scores.map((score) => Math.exp(score - most));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  };

  const colour = (value) => {
    const at = value * (data.colours.length - 1);
    const low = Math.min(Math.floor(at), data.colours.length - 2);
    return data.colours[low].map((one, channel) => one + (at - low) * (data.colours[low + 1][channel] - one));
  };

  const paint = (canvas, weights, [rows, columns]) => {
    canvas.width = columns;
    canvas.height = rows;
    // By the scale of the map beside it: log(1 + times as much as if it looked everywhere alike).
    const shades = weights.map((weight) => Math.log1p(weight * weights.length));
    const most = shades.reduce((a, b) => Math.max(a, b));
    const pixels = new ImageData(columns, rows);
    shades.forEach((shade, token) => {
      pixels.data.set([...colour(shade / most), 90 + 120 * shade / most], 4 * token);
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  };

  // Puts an element at (x, y) of the image, so many of its pixels wide and high.
  const lay = (element, x, y, width, height) => {
    element.style.left = `${100 * x / now.width}%`;
    element.style.top = `${100 * y / now.height}%`;
    element.style.width = `${100 * width / now.width}%`;
    element.style.height = `${100 * height / now.height}%`;
    element.hidden = false;
  };

  const sides = (tile) => [tile.stride * tile.grid[1], tile.stride * tile.grid[0]]; // width, height

  const single = (tile) => sides(tile)[0] >= now.width && sides(tile)[1] >= now.height; // all of the image

  // The tile that a place lies in; of several, the one whose middle is nearest.
  const tileAt = (x, y) => {
    const away = (tile) => {
      const [width, height] = sides(tile);
      return Math.hypot(x - tile.corner[1] - width / 2, y - tile.corner[0] - height / 2);
    };
    const block = now.choices[select.selectedIndex].block;
    return now.tiles
      .filter((tile) => tile.block === block)
      .filter((tile) => x >= tile.corner[1] && x < tile.corner[1] + sides(tile)[0])
      .filter((tile) => y >= tile.corner[0] && y < tile.corner[0] + sides(tile)[1])
      .sort((a, b) => away(a) - away(b))[0];
  };

  const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

  const place = (tile, token) => {
    const x = tile.corner[1] + tile.stride * (token % tile.grid[1]);
    const y = tile.corner[0] + tile.stride * Math.floor(token / tile.grid[1]);
    return { x, y, text: `x ${x} to ${x + tile.stride - 1}, y ${y} to ${y + tile.stride - 1}` };
  };

  const describe = (tile, token, weights) => {
    const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a]);
    let half = 0;
    for (let sum = 0; sum < 0.5; half += 1) sum += weights[order[half]];
    const itself = order[0] === token ? "itself" : `the place at ${place(tile, order[0]).text}`;
    return `The place at ${place(tile, token).text} looks most at ${itself} (${percent(weights[order[0]])}). ` +
      `Half of its attention is on ${half.toLocaleString("en")} of the ${weights.length.toLocaleString("en")} ` +
      `places${single(tile) ? "" : " of its tile, which is framed"}.`;
  };

  const mark = (tile, token) => {
    const { x, y } = place(tile, token);
    for (const layer of now.layers) {
      lay(layer.mark, x, y, tile.stride, tile.stride);
      if (single(tile)) layer.frame.hidden = true;
      else lay(layer.frame, tile.corner[1], tile.corner[0], ...sides(tile));
    }
  };

  // Shows where the place at these pixels of the image looks.
  const ask = (x, y) => {
    const tile = tileAt(x, y);
    if (!tile) {
      told.textContent = "Only what is within a frame can be asked.";
      return false;
    }
    const token = Math.floor((y - tile.corner[0]) / tile.stride) * tile.grid[1] +
      Math.floor((x - tile.corner[1]) / tile.stride);
    const weights = row(tile.heads[now.choices[select.selectedIndex].head], token);
    Object.assign(now, { x, y, tile, token, weights });
    const { heat } = now.layers[0];
    paint(heat, weights, tile.grid);
    lay(heat, tile.corner[1], tile.corner[0], ...sides(tile));
    now.layers[0].over.parentElement.classList.add("asked");
    mark(tile, token);
    told.textContent = describe(tile, token, weights);
    return true;
  };

  const point = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const within = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
    told.setAttribute("aria-live", "off"); // a moving mouse is not read out
    ask(
      within((event.clientX - box.left) / box.width, now.width),
      within((event.clientY - box.top) / box.height, now.height),
    );
  };

  const middle = (tile) => [
    Math.min(now.width - 1, tile.corner[1] + sides(tile)[0] / 2),
    Math.min(now.height - 1, tile.corner[0] + sides(tile)[1] / 2),
  ];

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = (event) => {
    const [dx, dy] = STEPS[event.key] ?? [];
    if (dx === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // beside the image they go to other images
    told.setAttribute("aria-live", "polite");
    if (!now.tile) {
      ask(...middle(now.tiles[0]));
      return;
    }
    const at = place(now.tile, now.token);
    const x = at.x + (dx + 0.5) * now.tile.stride;
    const y = at.y + (dy + 0.5) * now.tile.stride;
    if (x >= 0 && y >= 0 && at.x + dx * now.tile.stride < now.width && at.y + dy * now.tile.stride < now.height) {
      if (tileAt(x, y)) ask(x, y);
    }
  };

  const element = (name, kind) => {
    const made = document.createElement(name);
    made.className = kind;
    made.hidden = true;
    return made;
  };

  // What lies over a picture that fills its box from top to bottom; a wide one from side to side, too.
  const over = (stack, width, height) => {
    const layer = { over: element("div", "over"), heat: element("canvas", "heat") };
    Object.assign(layer, { frame: element("div", "frame"), mark: element("div", "mark") });
    layer.over.style.inset = `0 ${50 - 50 * width / Math.max(width, height)}%`;
    layer.over.hidden = false;
    layer.over.append(layer.heat, layer.frame, layer.mark);
    stack.append(layer.over);
    return layer;
  };

  const frames = (layer) => {
    for (const tile of now.tiles) {
      const frame = layer.over.insertBefore(element("div", "frame askable"), layer.heat);
      lay(frame, tile.corner[1], tile.corner[0], ...sides(tile));
    }
  };

  select?.addEventListener("change", () => {
    told.setAttribute("aria-live", "polite");
    if (now?.tile) ask(now.x, now.y);
  });

  return {
    // What is asked now, for whoever looks from outside.
    get now() { return now; },

    // Lets the image in the dialog be asked, if the page has its tokens.
    show(key, width, height, stacks) {
      const found = data?.images[key];
      const asking = document.getElementById("asking");
      now = null;
      if (!asking) return;
      asking.hidden = document.getElementById("looks-keys").hidden = !found;
      if (!found) return;
      const choices = found.tiles
        .filter((tile, at, all) => all.findIndex((one) => one.block === tile.block) === at)
        .flatMap((tile) => tile.heads.map((_, head) => ({ block: tile.block, head })));
      const before = select.value;
      select.replaceChildren(...choices.map(({ block, head }) => new Option(`${block}, head ${head}`)));
      document.getElementById("head-label").hidden = choices.length === 1;
      select.value = choices.some(({ block, head }) => `${block}, head ${head}` === before)
        ? before : select.options[0].value;
      now = { width, height, tiles: found.tiles, whole: found.whole, choices };
      now.layers = stacks.map((stack) => over(stack, width, height));
      const [{ over: image }] = now.layers;
      image.tabIndex = 0;
      image.setAttribute("role", "application");
      image.setAttribute("aria-label", "Image: the arrow keys move over its places, and each tells where it looks");
      image.addEventListener("pointermove", point);
      image.addEventListener("pointerdown", point);
      image.addEventListener("keydown", step);
      if (!found.whole) frames(now.layers[0]);
      told.textContent = "Point at a place of the image.";
    },
  };
})();
