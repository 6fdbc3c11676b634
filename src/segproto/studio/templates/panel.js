"use strict";
// What is known of one prototype or group, and what can be done with it.
const panel = (() => {
  const { find, make, say, ask, percent, signed, guarded, address } = talk;
  let model = null, edits = null, act = () => {}, open = () => {}, forget = () => {}, unit = null;
  const name = (p) => `${model.classes[model.prototypes[p].class].name} #${p}`;
  const groupName = (g) => `${model.classes[model.groups[g].class].name}, group ${model.groups[g].number}`;
  const isOff = (p) => edits.drop.includes(p);
  const button = (text, work, more = {}) => {
    const node = make("button", { type: "button", textContent: text, ...more });
    node.addEventListener("click", work);
    return node;
  };

  function bar(text, value, largest, digits = 2) {
    const inner = make("i", { className: value < 0 ? "against" : "" });
    inner.style.width = Math.max(1, (100 * Math.abs(value)) / (largest || 1)) + "%";
    const shown = value.toFixed(digits).replace("-", "\u2212");
    return make("li", {}, make("span", {}, text), make("div", { className: "track" }, inner), make("span", { className: "value", textContent: shown }));
  }

  function groupsOf(p) {
    const rows = [];
    model.groups.forEach((group, g) => { for (const [q, w] of group.members) if (q === p) rows.push([g, w / 100]); });
    return rows;
  }

  function actsOf(p) {
    const merged = edits.merge.find(([from]) => from === p);
    const acts = make("div", { className: "acts" });
    acts.append(isOff(p)
      ? button("Switch on again", () => act({ kind: "keep", prototype: p }), { className: "main", id: "switch" })
      : button("Switch off", () => act({ kind: "drop", prototype: p }), { className: "main", id: "switch" }));
    if (merged) acts.append(button(`Part from #${merged[1]}`, () => act({ kind: "part", prototype: p })));
    if (model.forgets && model.prototypes[p].source) acts.append(button("Forget this patch", () => forget(p), { id: "forget", title: "A short training after which no prototype of the class stands for it" }));
    return acts;
  }

  function forbids(p) {
    return groupsOf(p).map(([g, w]) => {
      const off = edits.forbid.some(([h, q]) => h === g && q === p);
      const kind = off ? "allow" : "forbid";
      const does = button(off ? "Allow" : "Forbid", () => act({ kind, group: g, prototype: p }));
      return make("li", {}, button(groupName(g), () => choose("g" + g)), make("span", { textContent: `weight ${w.toFixed(2)}` }), does);
    });
  }

  async function prototype(p) {
    const known = model.prototypes[p];
    const where = known.where ? `From training image ${known.where}.` : "Where it came from is unknown.";
    const picture = make("img", { className: "patch", alt: `The training image around prototype ${p}`, src: address(`context/${p}`) });
    const note = make("p", { className: "hint", textContent: where });
    picture.addEventListener("error", () => {
      if (picture.dataset.second) { picture.hidden = true; return; }
      picture.dataset.second = "1";
      note.textContent = `${where} The training image is not there to show more of it.`;
      if (known.patch) picture.src = known.patch; else picture.hidden = true;
    });
    const left = make("div", {}, picture, note);
    const middle = make("div", {}, make("h3", { textContent: "Do" }), actsOf(p));
    if (model.groups.length) middle.append(make("h3", { textContent: "In groups" }), make("ul", { className: "bars groups-of" }, ...forbids(p)));
    if (!known.used) middle.append(make("p", { className: "hint", textContent: "Nothing reads it: no weight leads to it." }));
    const fed = make("ul", { className: "bars" }), less = make("p", { id: "without", textContent: "\u2026" });
    middle.append(make("h3", { textContent: "Feeds" }), fed, make("h3", { textContent: "Without it" }), less);
    const fires = make("ul", { className: "fires" });
    const right = make("div", {}, make("h3", { textContent: "Fires most in" }), fires);
    find("#ask-body").replaceChildren(make("div", { className: "cards" }, left, middle, right));
    const about = await ask(`about/${p}`);
    if (unit !== String(p)) return;
    const most = Math.max(...about.feeds.map(([, w]) => Math.abs(w)), 0);
    fed.replaceChildren(...about.feeds.map(([c, w]) => bar(model.classes[c].name, w, most)));
    fires.replaceChildren(...about.fires.map(fireOf));
    if (!about.fires.length) fires.replaceWith(make("p", { className: "hint", textContent: "There are no validation images to look in." }));
    if (about.alike.length) middle.append(make("h3", { textContent: "Merge into" }), mergeInto(p, about.alike));
    less.textContent = await ask(`without/${p}`).then(
      ({ before, after }) => isOff(p) ? "It is switched off." : `mIoU ${percent(after.miou, 2)} % instead of ${percent(before.miou, 2)} % (${signed(after.miou - before.miou)}).` + changes(before, after),
      (error) => error.message,
    );
  }

  function changes(before, after) {
    const rows = after.per_class.map((row, i) => [row.name, row.iou === null || before.per_class[i].iou === null ? 0 : row.iou - before.per_class[i].iou]);
    const most = rows.filter(([, d]) => Math.abs(d) >= 0.0005).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 3);
    return most.length ? ` Most: ${most.map(([n, d]) => `${n} ${signed(d, 1)}`).join(", ")}.` : "";
  }

  function mergeInto(p, alike) {
    const pick = make("select", { id: "into" }, ...alike.map(([q, d]) => make("option", { value: q, textContent: `${name(q)}, distance ${d.toFixed(3)}` })));
    pick.setAttribute("aria-label", "Prototype to merge into");
    return make("div", { className: "acts" }, pick, button("Merge", () => act({ kind: "merge", prototype: p, into: Number(pick.value) })));
  }

  function fireOf({ index, name: image, activation, box, truth }) {
    const picture = make("img", { src: address(`fire/${index}`, { region: box.join(",") }), alt: "", loading: "lazy" });
    const node = button("", () => open(String(index), box), { title: image });
    node.append(picture, `${activation.toFixed(2)}${truth ? `, in ${truth}` : ""}`);
    return make("li", {}, node);
  }

  function group(g) {
    const known = model.groups[g], found = edits.reweight.find(([h]) => h === g);
    const factor = make("input", { type: "number", min: 0, max: 1000, step: "any", value: found ? found[1] : 1, id: "factor" });
    const set = make("form", { className: "acts" }, make("label", {}, "Counts times ", factor), make("button", { className: "main", textContent: "Set" }));
    set.noValidate = true;
    set.addEventListener("submit", (event) => {
      event.preventDefault();
      const times = factor.valueAsNumber;  // of what is no number: NaN
      if (times >= 0 && times <= 1000) act({ kind: "reweight", group: g, factor: times }); else say("A group counts 0 to 1000 times: give a number.");
    });
    const most = Math.max(...known.members.map(([, w]) => w), 1);
    const rows = known.members.map(([p, w]) => bar(button(name(p), () => choose(String(p))), w / 100, most / 100));
    const middle = make("div", {}, make("h3", { textContent: "Do" }), set);
    middle.append(make("p", { className: "hint", textContent: `Its readout weight in ${model.classes[known.class].name} is ${(known.readout / 100).toFixed(2)}. 0 switches the group off.` }));
    find("#ask-body").replaceChildren(make("div", { className: "cards" }, middle, make("div", {}, make("h3", { textContent: "Its prototypes" }), make("ul", { className: "bars" }, ...rows))));
  }

  const choose = guarded(async (wanted) => {
    unit = wanted;
    find("#ask").hidden = wanted === null || model.locked !== null;
    if (find("#ask").hidden) return;
    const isGroup = wanted[0] === "g", number = Number(wanted.replace("g", ""));
    find("#ask-title").textContent = isGroup ? groupName(number) : `${name(number)}${isOff(number) ? ", switched off" : ""}`;
    if (isGroup) group(number); else await prototype(number);
  });

  function start(known, hooks) {
    model = known; ({ act, open, forget } = hooks);
    find("#ask-close").addEventListener("click", () => { choose(null); hooks.closed(); });
  }
  // What stands at the end of a prototype's row beside the image: whether it is off, and of the chosen one what to do.
  function near(p, isChosen) {
    const nodes = edits && isOff(p) ? [make("span", { className: "off", textContent: "off " })] : [];
    if (!isChosen || !edits) return nodes;
    const toggle = button(isOff(p) ? "Switch on" : "Switch off", () => act({ kind: isOff(p) ? "keep" : "drop", prototype: p }));
    const more = button("More", () => { find("#ask").scrollIntoView(); find("#ask-title").focus(); });
    return [...nodes, make("div", { className: "near" }, toggle, more)];
  }
  return { start, choose, near, edited(value) { edits = value; if (unit !== null) choose(unit); } };
})();
