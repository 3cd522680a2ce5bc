// theme.js: dark or light. A plain script in the head, so the first paint already has the right colours.

(() => {
  "use strict";
  const root = document.documentElement;
  try {
    const kept = JSON.parse(localStorage.getItem("hadal.theme"));
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {
    // Without storage the system's preference holds.
  }
})();
