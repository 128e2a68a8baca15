// What to do about an image that failed, by the stage where it did.

const BY_STAGE = {
  fetch:
    "The next run tries it again. If it fails again: does the object still exist, and may this run read it? masklake doctor says.",
  decode:
    "The file is broken, or no image. A new version of the object is done by the next run; --retry-failed tries this one again.",
  limit:
    "It is larger than the limits of the run. Raise --max-pixels if the machine has the memory, and run again with --retry-failed.",
  predict:
    "The network failed on it. Run again with --retry-failed; if it fails again, a smaller tile side or another device may do.",
  encode: "Its mask could not be written down. Run again with --retry-failed.",
  worker:
    "It killed its worker each time, most often for want of memory. Run again with --retry-failed on a machine that has more.",
};

export const adviceFor = (stage) => BY_STAGE[stage] ?? "Run again with --retry-failed.";
