// Numbers and dates as people read them.

const whole = new Intl.NumberFormat("en");
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const count = (number) => whole.format(number);
export const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(1)} %`);
export const several = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const moment = (iso) => (iso ? date.format(new Date(iso)) : "–");
export const decimal = (number, places = 2) => (number == null ? "–" : Number(number).toFixed(places));

/** The last part of a path that is not empty. */
export const lastPart = (uri) => uri.split("/").filter(Boolean).at(-1) ?? uri;
