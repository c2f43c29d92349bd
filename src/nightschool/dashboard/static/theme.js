// Runs before anything is drawn, so that a page never flashes in the other colours. No module: modules run later.
(function () {
  var kept = null;
  try {
    kept = localStorage.getItem("nightschool-theme");
  } catch {
    // Storage may be forbidden; then the system's choice holds.
  }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
