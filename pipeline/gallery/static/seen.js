// Loads what is near the screen, a few at once; what leaves the screen before it came is no longer asked for.

import { isAbort } from "./server.js";

const AT_ONCE = 6;
const MARGIN = "300px 0px";

const jobs = new Map(); // element: { load, abort, waits }
let running = 0;

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const job = jobs.get(target);
      if (!job) continue;
      job.waits = isIntersecting;
      if (!isIntersecting) job.abort?.abort();
    }
    next();
  },
  { rootMargin: MARGIN },
);

/** Call `load(signal)` once an element is near the screen; again if it left before the end and comes back. */
export function whenSeen(element, load) {
  jobs.set(element, { load, abort: null, waits: false });
  observer.observe(element);
}

/** Forget all elements, and stop what is being loaded for them. */
export function forgetAll() {
  observer.disconnect();
  for (const { abort } of jobs.values()) abort?.abort();
  jobs.clear();
}

function next() {
  for (const [element, job] of jobs) {
    if (running >= AT_ONCE) return;
    if (job.waits && !job.abort) start(element, job);
  }
}

async function start(element, job) {
  running += 1;
  job.abort = new AbortController();
  try {
    await job.load(job.abort.signal);
    done(element);
  } catch (error) {
    job.abort = null;
    if (!isAbort(error)) done(element); // it said so itself
  } finally {
    running -= 1;
    next();
  }
}

function done(element) {
  observer.unobserve(element);
  jobs.delete(element);
}
