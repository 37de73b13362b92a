
"use strict";
(() => {
  const tables = [...document.querySelectorAll("table")];
  const nothing = "–";

  // --- sorting: numbers before texts, what is missing and what is invalid always last ---
  const keyOf = (row, column) => {
    const cell = row.cells[column], text = cell.textContent.trim();
    const invalid = row.classList.contains("invalid") ? 1 : 0;
    if (cell.dataset.v !== undefined) return [invalid, 0, Number(cell.dataset.v)];
    return text === "" || text === nothing ? [invalid, 2, 0] : [invalid, 1, text.toLowerCase()];
  };
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const sort = (head) => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row) => [keyOf(row, column), row]);
    keyed.sort(([a], [b]) => a[0] - b[0] || a[1] - b[1] || sign * order(a[2], b[2]));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    body.append(...keyed.map(([, row]) => row));
  };
  for (const table of tables) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button"), title = head.querySelector(".title");
      button.type = "button";
      button.append(...title.childNodes);
      title.replaceWith(button);
      button.addEventListener("click", () => sort(head));
    }
  }

  // --- filtering: every row is about one model; what a model may be found by stands in the columns marked so ---
  const nameOf = (row) => row.querySelector("th").textContent;
  const found = new Map();
  const rows = tables.flatMap((table) => [...table.tBodies[0].rows]).map((row) => [row, nameOf(row)]);
  for (const [, name] of rows) found.set(name, name.toLowerCase());
  for (const table of tables) {
    const columns = [...table.tHead.rows[0].cells].filter((h) => "find" in h.dataset).map((h) => h.cellIndex);
    for (const row of columns.length ? table.tBodies[0].rows : []) {
      const words = columns.map((c) => row.cells[c].textContent.toLowerCase());
      found.set(nameOf(row), [found.get(nameOf(row)), ...words].join(" "));
    }
  }
  const form = document.querySelector("form");
  if (!form) return;
  const input = form.querySelector("input"), output = form.querySelector("output");
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set([...found].filter(([, text]) => words.every((w) => text.includes(w))).map(([name]) => name));
    for (const [row, name] of rows) row.hidden = !shown.has(name);
    output.value = words.length ? `${shown.size} of ${found.size} models` : "";
  };
  input.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
})();
