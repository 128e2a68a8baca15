// Colours of classes and of attention, as on the page of a run.

// Okabe and Ito's, which everyone tells apart, for classes whose own colour is a grey, as photographs are.
const VIVID = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [213, 94, 0],
  [204, 121, 167],
  [240, 228, 66],
];
// Nine colours of viridis (van der Walt and Smith); the rest is interpolated.
const VIRIDIS = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];

/** The [red, green, blue] of each class id of a recipe. */
export function classColours(classes) {
  const colours = Array.from({ length: 256 }, (_, id) => VIVID[id % VIVID.length]);
  for (const { id, colour } of classes) {
    const own = /^#([\da-f]{2})([\da-f]{2})([\da-f]{2})$/i
      .exec(colour ?? "")
      ?.slice(1)
      .map((hex) => parseInt(hex, 16));
    if (own && Math.max(...own) - Math.min(...own) >= 32) colours[id] = own;
  }
  return colours;
}

export const cssColour = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** The [red, green, blue] of each value 0 to 255. */
export const HEAT = Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((from, channel) =>
    Math.round(from + (VIRIDIS[low + 1][channel] - from) * (place - low)),
  );
});
