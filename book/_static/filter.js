// Search fields above tables: rows without the words are hidden. The field is made here, since fragments hold no
// controls; without scripts the whole table is shown.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".infra-filter")) {
    const field = Object.assign(document.createElement("input"), { type: "search", autocomplete: "off" });
    const label = document.createElement("label");
    label.append("Search ", field);
    const count = document.createElement("output");
    box.append(label, " ", count);
    const rows = [...box.nextElementSibling.querySelectorAll("tbody tr")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
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
    update();
    box.hidden = false;
  }
});
