// Asks for the page again every few seconds and puts what is new in the place of what was, so that the reader keeps the place, the
// focus and what is open. Without this the browser loads the page anew. Nothing else is done by scripts.
"use strict";
(() => {
  const EVERY = 5000;
  let main = document.querySelector("main[data-live]");
  if (!main) return;
  let paused = false;
  let asking = false;

  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.id = "pause";
  const says = document.createElement("small");
  says.id = "fresh";
  document.querySelector(".who").prepend(says, button);

  function show(text) {
    button.textContent = paused ? "Go on" : "Pause";
    says.textContent = text;
  }

  // Somebody who has written or ticked something in the page is not interrupted.
  function isInUse() {
    return [...main.querySelectorAll("input, select")].some((field) =>
      field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue,
    ) || !document.getSelection().isCollapsed;
  }

  // What has the focus, so that it can be found again in the new page.
  function nameOf(element) {
    if (!main.contains(element) || element === main) return null;
    const tag = element.tagName.toLowerCase();
    for (const name of ["id", "href", "aria-label", "name"]) {
      const value = element.getAttribute(name);
      if (value) {
        const selector = `${tag}[${name}=${CSS.escape(value)}]`;
        return [selector, [...main.querySelectorAll(selector)].indexOf(element)];
      }
    }
    return null;
  }

  function replace(fresh) {
    const focus = nameOf(document.activeElement);
    const scrolled = [...main.querySelectorAll(".wide")].map((part) => part.scrollLeft);
    main.replaceChildren(...fresh.childNodes);
    [...main.querySelectorAll(".wide")].forEach((part, place) => (part.scrollLeft = scrolled[place] || 0));
    if (focus) {
      const [selector, place] = focus;
      const same = main.querySelectorAll(selector)[place];
      if (same) same.focus({ preventScroll: true });
    }
  }

  async function refresh() {
    if (paused || asking || document.hidden || isInUse()) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("main[data-live]");
      if (!fresh) throw new Error("another page");
      if (!paused) {
        replace(fresh);
        show("live");
      }
    } catch {
      show("not reached");
    } finally {
      asking = false;
    }
  }

  button.addEventListener("click", () => {
    paused = !paused;
    show(paused ? "paused" : "live");
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  show("live");
  setInterval(refresh, EVERY);
})();
