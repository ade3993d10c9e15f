"use strict";
// The page can be read without this: it sorts and filters the overview, and unfolds what is folded for the printer.
for (const table of document.querySelectorAll("table.overview")) {
  const rows = [...table.tBodies[0].rows];
  const number = (text) => Number(text.replaceAll(",", ""));
  table.tHead.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = heading.ariaSort === "ascending" || (heading.ariaSort === null && heading.className === "number");
      table.querySelectorAll("thead th").forEach((each) => { each.ariaSort = null; });
      heading.ariaSort = falling ? "descending" : "ascending";
      const read = (row) => row.cells[column].textContent;
      const compare = heading.className === "number"
        ? (a, b) => number(read(a)) - number(read(b))
        : (a, b) => read(a).localeCompare(read(b), undefined, { numeric: true });
      rows.sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows);
    });
  });
  const filter = table.closest("section").querySelector(".filter");
  const [search, verdict, count] = ["input", "select", "output"].map((name) => filter.querySelector(name));
  filter.hidden = false;
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const isWanted = !verdict.value || row.cells[0].textContent === verdict.value;
      row.hidden = !(isWanted && words.every((word) => text.includes(word)));
    }
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
}
const open = () => {
  for (const id of [location.hash.slice(1)].filter(Boolean)) {
    const target = document.getElementById(decodeURIComponent(id));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
};
addEventListener("hashchange", open);
open();
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const each of unfolded) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of unfolded) each.open = false;
});
