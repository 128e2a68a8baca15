// Elements, made of text only: whatever a name holds, it is never read as HTML.

/** A new element: attributes by name (`on` holds handlers, true and false add and leave out), then children. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on")
      for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

// Controls, and marks that turn the direction of text or take no room: they become their escapes.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\p{Cs}]/gu;

/** The text with what cannot be seen made visible. */
export const plain = (text) =>
  String(text).replace(UNSEEN, (char) =>
    char === "\u200d" ? char : `\\u{${char.codePointAt(0).toString(16)}}`,
  );

/** Other people's text, kept apart from ours. */
export const foreign = (text) => el("bdi", {}, plain(text));

/** Show or hide. */
export const shown = (element, visible) => {
  element.hidden = !visible;
};

/** Whether keys typed now belong to a field. */
export const isTyping = (target) =>
  Boolean(target.closest?.("input:not([type=checkbox]):not([type=range]), select, textarea"));
