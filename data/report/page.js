"use strict";
document.documentElement.classList.add("js");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function compared(a, b) {   // numbers before texts; what is not known comes last, whichever way the column is sorted
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
}

function sort(head) {
  const place = head.cellIndex, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending" || (head.classList.contains("n") && !head.hasAttribute("aria-sort"));
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[place].dataset.v;
  const [held, none] = [[], []];
  for (const row of body.rows) (value(row) === "" ? none : held).push(row);
  held.sort((a, b) => compared(value(a), value(b)) * (down ? -1 : 1));
  body.append(...held, ...none);
}

for (const button of all("th button")) button.addEventListener("click", () => sort(button.parentElement));

for (const box of all("[data-shows]")) {
  box.addEventListener("change", () => {
    for (const line of all(`[data-run="${box.dataset.shows}"]`)) line.toggleAttribute("hidden", !box.checked);
  });
}

const shown = document.getElementById("cards");
if (shown) {
  const search = document.getElementById("search"), found = document.getElementById("found");
  const cards = all("article", shown).map((card) => [card, card.textContent.toLowerCase()]);
  const look = () => {
    const words = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const [card, text] of cards) {
      const hit = words.every((word) => text.includes(word));
      card.classList.toggle("hit", hit);
      hits += hit;
    }
    shown.classList.toggle("searching", words.length > 0);
    found.textContent = words.length ? `${hits} of ${cards.length} samples` : "";
  };
  search.addEventListener("input", look);
  look();   // a browser may keep what was typed over a reload
  for (const choice of all("[name=colour]")) {
    const choose = () => { if (choice.checked) shown.dataset.colour = choice.value; };
    choice.addEventListener("change", choose);
    choose();
  }
}

addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });
