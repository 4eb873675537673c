// Search fields above tables: rows without the words are hidden. Without scripts the whole table is shown.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".infra-filter")) {
    const field = box.querySelector("input");
    const rows = [...box.nextElementSibling.querySelectorAll("tbody tr")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const count = box.querySelector("output");
    const update = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = `${shown} of ${rows.length}`;
    };
    field.addEventListener("input", update);
    box.hidden = false;
  }
});
