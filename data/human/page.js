
"use strict";
const at = (id) => document.getElementById(id);
const { page, progress, judged } = document.body.dataset;
const pairs = [...document.querySelectorAll("article.pair")];
const buttons = [...document.querySelectorAll("[data-verdict]")];
const keys = { 1: "first", ArrowLeft: "first", 2: "second", ArrowRight: "second", 0: "tie" };
const key = (name) => `ratings/${page}/${name}`;
let rater = "", place = 0, verdicts = {};   // place: index of the pair shown; verdicts: number on the page → [verdict, time]

function kept(name) {
  try { return localStorage.getItem(name); } catch { at("unkept").hidden = false; return null; }
}

function keep() {
  try {
    localStorage.setItem(key(rater), JSON.stringify({ place, verdicts }));
    localStorage.setItem(key(""), rater);
  } catch { at("unkept").hidden = false; }
}

const filled = (words, i) => words.replace("{i}", i).replace("{n}", pairs.length);

function begin(name) {
  rater = name;
  ({ place, verdicts } = JSON.parse(kept(key(rater)) ?? '{"place": 0, "verdicts": {}}'));
  at("begin").hidden = true;
  show(place);
}

function show(index) {
  place = Math.min(Math.max(index, 0), pairs.length);
  keep();
  const done = place === pairs.length, count = Object.keys(verdicts).length;
  pairs.forEach((pair, i) => { pair.hidden = i !== place; });
  at("verdicts").hidden = done;
  at("end").hidden = !done;
  at("place").textContent = done ? "" : filled(progress, place + 1);
  at("bar").value = count;
  at("judged").textContent = filled(judged, count);
  at("missing").hidden = count === pairs.length;
  at("download").disabled = count === 0;
  at("back").disabled = place === 0;
  buttons.forEach((b) => b.setAttribute("aria-pressed", b.dataset.verdict === verdicts[place + 1]?.[0]));
  (done ? at("end") : pairs[place]).focus({ preventScroll: true });   // so that Enter does not press the last button again
  scrollTo(0, 0);
}

function judge(verdict) {
  verdicts[place + 1] = [verdict, new Date().toISOString()];
  show(place + 1);
}

function askName() {
  for (const part of [at("verdicts"), at("end"), ...pairs]) part.hidden = true;
  at("begin").hidden = false;
  at("place").textContent = "";
  at("bar").value = 0;
  rater = at("name").value = "";
  at("name").focus();
}

function crc32(text) {   // as zlib's: it tells whoever reads the table that a line was changed by a slip
  let c = ~0;
  for (const byte of new TextEncoder().encode(text)) {
    c ^= byte;
    for (let bit = 0; bit < 8; bit++) c = (c >>> 1) ^ (c & 1 ? 0xedb88320 : 0);
  }
  return (~c >>> 0).toString(16).padStart(8, "0");
}

function table() {
  const lines = ["page,pair,verdict,rater,judged_at,check"];
  for (const [number, [verdict, time]] of Object.entries(verdicts)) {
    const cells = [page, number, verdict, rater, time];
    const check = crc32(cells.join("\n"));
    cells[3] = `"${rater.replaceAll('"', '""')}"`;
    lines.push([...cells, check].join(","));
  }
  return lines.join("\r\n") + "\r\n";
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = `ratings-${page}-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

at("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("name").value.replace(/\p{C}/gu, "").normalize("NFC").trim();
  if (name) begin(name);
});
buttons.forEach((b) => b.addEventListener("click", () => judge(b.dataset.verdict)));
at("back").addEventListener("click", () => show(place - 1));
at("last").addEventListener("click", () => show(place - 1));
at("on").addEventListener("click", () => show(place + 1));
at("missing").addEventListener("click", () => show(pairs.findIndex((_, i) => !verdicts[i + 1])));
at("download").addEventListener("click", download);
at("other").addEventListener("click", askName);
document.addEventListener("keydown", (event) => {
  if (!rater || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;   // a held key is one verdict
  if (event.key === "Backspace") show(place - 1);
  else if (place === pairs.length) return;
  else if (keys[event.key]) judge(keys[event.key]);
  else if (event.key === "Enter" && event.target.tagName !== "BUTTON") show(place + 1);
  else return;
  event.preventDefault();
});

const last = kept(key(""));
if (last) begin(last); else askName();
