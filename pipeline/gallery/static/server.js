// Asks the server. What it refuses comes as `Refused`; if nobody answers, the page says so and tries again.

/** An answer that says no: `message` is for people, `at` a place in the condition or null. */
export class Refused extends Error {
  constructor(status, said) {
    super(said?.error ?? `the server answered ${status}`);
    this.status = status;
    this.at = said?.at ?? null;
  }
}

/** Nobody answered. */
export class Lost extends Error {}

const lost = [];

/** Hear when nobody answers. */
export const whenLost = (listener) => lost.push(listener);

/** Whether an error only says that nobody waits for the answer any more. */
export const isAbort = (error) => error?.name === "AbortError";

/** The path with its parameters; those that are null are left out. */
export function path(name, parameters = {}) {
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters))
    if (value != null && value !== "") given.set(key, value);
  return given.size ? `${name}?${given}` : name;
}

async function answer(url, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (isAbort(error)) throw error;
    for (const listener of lost) listener();
    throw new Lost("the server does not answer");
  }
  if (response.ok) return response;
  throw new Refused(response.status, await response.json().catch(() => null));
}

export const json = async (url, signal) => (await answer(url, signal)).json();
export const text = async (url, signal) => (await answer(url, signal)).text();

/** A picture's bytes and the headers that came with them. */
export async function picture(url, signal) {
  const response = await answer(url, signal);
  return { blob: await response.blob(), headers: response.headers };
}
