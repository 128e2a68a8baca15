// Says that the server is gone, and tries again until it is back.

import { byId, shown } from "./dom.js";
import { whenLost } from "./server.js";

const EVERY = [1, 2, 4, 8]; // seconds between tries; the last one on and on
let tries = null; // how many so far, while it is gone

/** Call `back()` once the server answers again. */
export function watch(back) {
  whenLost(() => {
    if (tries !== null) return;
    tries = 0;
    byId("lost").textContent =
      "The server does not answer: was masklake view ended? Start it again with the same port; this page tries again by itself.";
    shown(byId("lost"), true);
    wait(back);
  });
}

function wait(back) {
  const seconds = EVERY[Math.min(tries, EVERY.length - 1)];
  tries += 1;
  setTimeout(async () => {
    const answers = await fetch("api/table").then(
      () => true,
      () => false,
    );
    if (!answers) {
      wait(back);
      return;
    }
    tries = null;
    shown(byId("lost"), false);
    back();
  }, 1000 * seconds);
}
