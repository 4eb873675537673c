// Notes on numbers: placed beside what they explain, inside the window; Escape puts them away.
document.addEventListener("DOMContentLoaded", () => {
  const place = (tip) => {
    const note = tip.querySelector(".tip-text");
    const at = tip.getBoundingClientRect();
    note.style.right = note.style.bottom = "auto";
    const width = Math.min(320, window.innerWidth - 16);
    note.style.maxWidth = `${width}px`;
    note.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - width - 8))}px`;
    const below = at.bottom + 6;
    const height = note.offsetHeight;
    note.style.top = `${below + height > window.innerHeight ? Math.max(8, at.top - height - 6) : below}px`;
  };
  const open = (event) => {
    event.currentTarget.classList.remove("dismissed");
    place(event.currentTarget);
  };
  for (const tip of document.querySelectorAll(".tip")) {
    tip.addEventListener("mouseenter", open);
    tip.addEventListener("focus", open);
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const tip of document.querySelectorAll(".tip:hover, .tip:focus")) tip.classList.add("dismissed");
  });
  window.addEventListener("scroll", () => {
    for (const tip of document.querySelectorAll(".tip:hover, .tip:focus")) place(tip);
  }, { passive: true });
});
