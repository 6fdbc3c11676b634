"use strict";
// The graph of groups: prototypes on the left, groups on the right, lines as thick as the weights.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const box = document.getElementById("graph"), pick = document.getElementById("graph-class");
  if (!box || !pick) return;
  const name = "http://www.w3.org/2000/svg";
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS(name, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const SIDE = 52, ROW = 66, LEFT = 6, RIGHT = 250, WIDTH = 366;

  function draw(label) {
    const groups = data.groups.map((group, index) => ({ ...group, index })).filter((group) => group.class === label);
    const first = {};
    for (const group of groups) for (const [p, w] of group.members) if (!(p in first) || w > first[p].w) first[p] = { w, group: group.number };
    const prototypes = Object.keys(first).map(Number).sort((a, b) => first[a].group - first[b].group || first[b].w - first[a].w);
    const rows = Math.max(prototypes.length, groups.length, 1), height = rows * ROW + 8;
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "group", "aria-label": `Groups of ${data.classes[label].name}` });
    const middle = (i, count) => 4 + (height - 8) * (i + 0.5) / count;
    const at = Object.fromEntries(prototypes.map((p, i) => [p, middle(i, prototypes.length)]));
    const edges = [];
    const text = (x, y, words, kind) => make("text", { x, y, class: kind }, document.createTextNode(words));
    groups.forEach((group, i) => {
      const y1 = middle(i, groups.length);
      for (const [p, w] of group.members) {
        const y0 = at[p], x0 = LEFT + SIDE + 52, bend = (RIGHT - x0) / 2;
        const line = make("path", { class: "edge", d: `M${x0} ${y0} C${x0 + bend} ${y0} ${RIGHT - bend} ${y1} ${RIGHT} ${y1}`, "stroke-width": (0.6 + w / 9).toFixed(1) });
        line.append(make("title", {}, document.createTextNode(`#${p} in group ${group.number}: ${(w / 100).toFixed(2)}`)));
        const weight = (w / 100).toFixed(2);
        const here = text(x0 - 2, y0 + 22, weight, "weight here"), there = text(RIGHT - 32, y1 - 8, weight, "weight there");
        edges.push({ line, here, there, p, g: group.index });
        svg.append(line, here, there);
      }
    });
    // Following a prototype, its weights stand at the groups; following a group, at the prototypes.
    const follow = (node, keep, label) => {
      const on = () => edges.forEach((edge) => {
        edge.line.classList.toggle("strong", keep(edge));
        edge.line.classList.toggle("faint", !keep(edge));
        edge[label].classList.toggle("shown", keep(edge));
      });
      const off = () => edges.forEach((edge) => [edge.line, edge[label]].forEach((part) => part.classList.remove("strong", "faint", "shown")));
      for (const kind of ["pointerenter", "focus"]) node.addEventListener(kind, on);
      for (const kind of ["pointerleave", "blur"]) node.addEventListener(kind, off);
    };
    for (const p of prototypes) {
      const known = data.prototypes[p], y = at[p];
      const weights = groups.flatMap((g) => g.members.filter(([q]) => q === p).map(([, w]) => `${(w / 100).toFixed(2)} in group ${g.number}`));
      const node = make("g", { class: "node", tabindex: 0, role: "img", "aria-label": `Prototype ${p}: ${weights.join(", ")}` });
      node.append(make("rect", { x: LEFT, y: y - SIDE / 2, width: SIDE, height: SIDE, rx: 5, class: "blank" }));
      if (known.patch) node.append(make("image", { href: known.patch, x: LEFT, y: y - SIDE / 2, width: SIDE, height: SIDE }));
      node.append(text(LEFT + SIDE + 7, y - 1, `#${p}`, "name"), text(LEFT + SIDE + 7, y + 13, data.scales.length > 1 ? `scale ${known.scale + 1}` : "", "note"));
      follow(node, (edge) => edge.p === p, "there");
      svg.append(node);
    }
    groups.forEach((group, i) => {
      const y = middle(i, groups.length), members = group.members.map(([p, w]) => `#${p} ${(w / 100).toFixed(2)}`).join(", ") || "no members";
      const node = make("g", { class: "node", tabindex: 0, role: "img", "aria-label": `Group ${group.number}, weight ${(group.readout / 100).toFixed(2)}: ${members}` });
      node.append(make("rect", { x: RIGHT, y: y - 25, width: 110, height: 50, rx: 8, class: "group" }));
      node.append(text(RIGHT + 12, y - 3, `group ${group.number}`, "name"));
      node.append(text(RIGHT + 12, y + 14, group.members.length ? `weight ${(group.readout / 100).toFixed(2)}` : "no members", "note"));
      follow(node, (edge) => edge.g === group.index, "here");
      svg.append(node);
    });
    box.replaceChildren(svg);
  }
  pick.addEventListener("change", () => draw(Number(pick.value)));
  draw(Number(pick.value));
})();
