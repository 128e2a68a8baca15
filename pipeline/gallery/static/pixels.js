// Pictures of numbers, read as numbers and drawn in colours.

const FILL = 110; // opacity of a class's area, of 255; its outline is opaque

/** The values of a grey PNG: { width, height, values }. */
export async function valuesOf(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = pen.getImageData(0, 0, width, height);
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i += 1) values[i] = data[4 * i];
  return { width, height, values };
}

/** Draw class ids: areas see-through, outlines opaque; the background and classes that are `off` not at all. */
export function drawMask(canvas, { width, height, values }, colours, off = new Set()) {
  const drawn = new ImageData(width, height);
  const reach = Math.max(width, height) > 600 ? 2 : 1; // pixels of an outline
  for (let y = 0, i = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, i += 1) {
      const id = values[i];
      if (id === 0 || off.has(id)) continue;
      const edge =
        (x >= reach && values[i - reach] !== id) ||
        (x < width - reach && values[i + reach] !== id) ||
        (y >= reach && values[i - reach * width] !== id) ||
        (y < height - reach && values[i + reach * width] !== id);
      drawn.data.set(colours[id], 4 * i);
      drawn.data[4 * i + 3] = edge ? 255 : FILL;
    }
  }
  put(canvas, drawn);
}

/** Draw values in colours from dark violet over green to yellow. */
export function drawHeat(canvas, { width, height, values }, heat) {
  const drawn = new ImageData(width, height);
  for (let i = 0; i < values.length; i += 1) {
    drawn.data.set(heat[values[i]], 4 * i);
    drawn.data[4 * i + 3] = 255;
  }
  put(canvas, drawn);
}

function put(canvas, drawn) {
  canvas.width = drawn.width;
  canvas.height = drawn.height;
  canvas.getContext("2d").putImageData(drawn, 0, 0);
}
