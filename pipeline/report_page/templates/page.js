// Fades the masks by a slider or a key, and shows an image large. The page is whole without it.
(() => {
  const slider = document.getElementById("fade");
  if (!slider) return;
  const value = document.getElementById("fade-value");
  const dialog = document.getElementById("large");
  const buttons = [...document.querySelectorAll("button.large")];
  let last = 100; // what F goes back to
  let at = 0; // the image that is shown large

  const fade = (percent) => {
    slider.value = percent;
    value.textContent = `${percent} %`;
    document.documentElement.style.setProperty("--fade", percent / 100);
  };

  const show = (index) => {
    at = (index + buttons.length) % buttons.length;
    const button = buttons[at];
    const caption = button.closest("figure").querySelector("figcaption");
    const name = caption.querySelector(".name").cloneNode(true);
    document.getElementById("large-name").replaceChildren(...name.childNodes);
    const stacks = [...button.children].map((one) => one.cloneNode(true));
    document.getElementById("large-images").replaceChildren(...stacks);
    const [width, height] = [Number(button.dataset.width), Number(button.dataset.height)];
    for (const stack of stacks) stack.style.aspectRatio = Math.max(1, width / height); // wide ones need no square
    looks.show(button.dataset.key, width, height, stacks);
    document.getElementById("large-text").textContent =
      [...caption.querySelectorAll(":scope > span:not(.name)")].map((one) => one.textContent).join(" — ");
    if (!dialog.open) dialog.showModal();
  };

  slider.addEventListener("input", () => fade(Number(slider.value)));
  buttons.forEach((button, index) => button.addEventListener("click", () => show(index)));
  document.getElementById("before").addEventListener("click", () => show(at - 1));
  document.getElementById("after").addEventListener("click", () => show(at + 1));
  dialog.addEventListener("close", () => buttons[at].focus());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.localName === "select") return;
    if (event.key === "f" || event.key === "F") {
      const now = Number(slider.value);
      if (now) last = now;
      fade(now ? 0 : last);
    } else if (dialog.open && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      show(at + (event.key === "ArrowRight" ? 1 : -1));
    }
  });
})();
