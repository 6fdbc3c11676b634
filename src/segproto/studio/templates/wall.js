"use strict";
// The wall of validation images: the worst first, of one class or one confusion.
const wall = (() => {
  const { find, make, percent } = talk;
  const SHOWN = 120;
  let rows = [], classes = [], open = () => {}, current = null;

  function score(row) {
    const pair = find("#by-confusion").value, label = find("#by-class").value;
    if (pair) {
      const found = row.confusions.find(([t, p]) => `${t},${p}` === pair);
      return found ? { order: -found[2], words: `${percent(found[2])} % of it` } : null;
    }
    if (label !== "") {
      const found = row.classes.find(([c]) => c === Number(label));
      return found ? { order: found[1], words: `IoU ${percent(found[1])}` } : null;
    }
    return row.wrong === null ? { order: 1, words: "no labels" } : { order: -row.wrong, words: `${percent(row.wrong)} % wrong` };
  }

  function show() {
    const chosen = rows.map((row) => [row, score(row)]).filter(([, s]) => s).sort((a, b) => a[1].order - b[1].order);
    find("#tiles").replaceChildren(...chosen.slice(0, SHOWN).map(([row, { words }]) => {
      const picture = make("img", { src: `thumb/${row.index}`, alt: "", loading: "lazy" });
      const button = make("button", { type: "button", title: row.name }, picture, make("span", {}, make("b", { textContent: words })), make("span", { textContent: row.name }));
      button.dataset.key = row.index;
      button.setAttribute("aria-pressed", String(String(row.index) === current));
      button.addEventListener("click", () => open(String(row.index)));
      return make("li", {}, button);
    }));
    const hidden = chosen.length > SHOWN ? `, the first ${SHOWN} shown` : "";
    find("#wall-note").textContent = rows.length ? `${chosen.length} of ${rows.length}, the worst first${hidden}` : "";
    return chosen;
  }

  function fill(fresh) {
    rows = fresh;
    const pairs = {};
    for (const row of rows) for (const [t, p, share] of row.confusions) pairs[`${t},${p}`] = (pairs[`${t},${p}`] || 0) + share;
    const order = Object.keys(pairs).sort((a, b) => pairs[b] - pairs[a]).slice(0, 40);
    const before = find("#by-confusion").value;
    const option = (value, text) => make("option", { value, textContent: text });
    find("#by-confusion").replaceChildren(option("", "any mistake"), ...order.map((pair) => {
      const [t, p] = pair.split(",").map(Number);
      return option(pair, `${classes[t].name} taken for ${classes[p].name}`);
    }));
    find("#by-confusion").value = order.includes(before) ? before : "";
    return show();
  }

  function start(model, opener) {
    classes = model.classes; open = opener;
    find("#by-class").append(...classes.map((c, i) => make("option", { value: i, textContent: c.name })));
    find("#by-class").addEventListener("change", () => { find("#by-confusion").value = ""; show(); });
    find("#by-confusion").addEventListener("change", () => { find("#by-class").value = ""; show(); });
  }

  function mark(key) {
    current = key;
    for (const button of document.querySelectorAll("#tiles button")) button.setAttribute("aria-pressed", String(button.dataset.key === key));
  }
  return { start, fill, mark };
})();
