// The layers of a picture: the image itself, its mask, values in colours; and why one is missing.

import { drawHeat, drawMask, valuesOf } from "./pixels.js";
import { HEAT } from "./colours.js";
import { el, plain } from "./dom.js";
import { isAbort, path, picture, Refused } from "./server.js";

const WHY = {
  403: "no access to the source",
  404: "source gone",
  409: "source changed since",
  413: "source too large",
  422: "source not readable",
};

/** Load one picture into each <img>; resolves to the headers of the answer. */
export async function loadImage(imgs, url, signal) {
  const { blob, headers } = await picture(url, signal);
  const address = URL.createObjectURL(blob);
  // All of them, before the address goes: one that fails must not take it from the others.
  const shown = await Promise.allSettled(
    [imgs].flat().map((img) => {
      img.src = address;
      return img.decode();
    }),
  );
  URL.revokeObjectURL(address);
  const failed = shown.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
  return headers;
}

/** Load class ids and draw them; resolves to the values, to draw them again. */
export async function loadMask(canvas, key, side, colours, off, signal) {
  const values = await valuesOf((await picture(path("image/mask", { key, side }), signal)).blob);
  drawMask(canvas, values, colours, off);
  return values;
}

/** Load values 0 to 255 and draw them in colours; resolves to the headers of the answer. */
export async function loadHeat(canvas, url, signal) {
  const { blob, headers } = await picture(url, signal);
  drawHeat(canvas, await valuesOf(blob), HEAT);
  return headers;
}

/** A box that says why there is no picture. */
function gone(error, low = false) {
  const title = error instanceof Refused ? (WHY[error.status] ?? "not available") : "not available";
  return el(
    "span",
    { class: low ? "gone low" : "gone", title: plain(error.message) },
    el("span", {}, title),
    low ? null : el("span", {}, plain(error.message)),
  );
}

/** What a layer's loading came to: true, or false once a box in `place` says why not. Aborts are thrown. */
export async function orSay(place, loading, low = false) {
  try {
    await loading;
    return true;
  } catch (error) {
    if (isAbort(error)) throw error;
    place.append(gone(error, low));
    return false;
  }
}
