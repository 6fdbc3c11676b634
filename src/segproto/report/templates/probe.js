"use strict";
// The probe: moving over an image shows which groups and prototypes decided that spot, and by how much.
// root: the element of probe.html.j2. data: classes, prototypes, groups, scales, images. hooks, all of them optional:
//   heat(unit, image): a promise of a map's bytes as base64, for maps that are not there yet ("12", "g3")
//   picked(unit): a patch or a group was chosen, or none (null); moved(row, column): the spot moved
//   extra(index, isChosen): nodes for the end of a prototype's row; busy(): true while the mouse drags the image
function segprotoProbe(root, data, hooks = {}) {
  const further = (known) => (known.also || []).map((src) => Object.assign(document.createElement("img"), { src, alt: "" }));
  const find = (name) => root.querySelector(name);
  const stage = find(".stage"), spot = find(".spot"), canvas = find("canvas");
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const hasPrototypes = data.prototypes.length > 0;
  const pictures = [...stage.querySelectorAll("img:not(.photo)")];
  for (const node of pictures) node.addEventListener("load", () => { node.style.visibility = ""; });
  let current = 0, row = 0, column = 0, view = "prediction", chosen = null;

  const number = (hundredths) => {
    const value = (hundredths / 100).toFixed(Math.abs(hundredths) < 10000 ? 2 : 0);
    return hundredths > 0 ? "+" + value : value.replace("-", "\u2212");
  };
  const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
  function largest(image) {
    if (image.largest) return image.largest;
    image.largest = 1;
    for (const list of [image.prototypes, image.groups])
      for (const flat of list) for (let i = 1; i < flat.length; i += 2) image.largest = Math.max(image.largest, Math.abs(flat[i]));
    return image.largest;
  }

  function track(hundredths) {
    const inner = make("i", { className: hundredths < 0 ? "against" : "" });
    inner.style.width = Math.max(1, (100 * Math.abs(hundredths)) / largest(data.images[current])) + "%";
    return make("div", { className: "track" }, inner);
  }

  function groupRow([index, share]) {
    const group = data.groups[index];
    const members = group.members.slice(0, 3).map(([p, w]) => `#${p} \u00d7 ${(w / 100).toFixed(2)}`).join(", ");
    const more = group.members.length > 3 ? `, and ${group.members.length - 3} more` : "";
    const text = `${data.classes[group.class].name}, group ${group.number}`;
    const name = hooks.heat ? make("button", { type: "button", className: "name", textContent: text }) : text;
    if (hooks.heat) {
      name.dataset.unit = "g" + index;
      name.setAttribute("aria-pressed", String(chosen === "g" + index));
    }
    const what = make("div", { className: "what" }, name, make("br"), make("small", { textContent: members + more }), track(share));
    return make("li", {}, what, make("div", { className: "value", textContent: number(share) }));
  }

  function prototypeRow([index, share]) {
    const known = data.prototypes[index];
    const value = make("div", { className: "value", textContent: number(share) });
    if (!known) {
      const what = make("div", { className: "what" }, `feature channel ${index}`, track(share));
      return make("li", {}, make("div", { className: "nopatch" }), what, value);
    }
    const picture = known.patch
      ? make("img", { src: known.patch, alt: "", width: 56, height: 56 })
      : make("div", { className: "nopatch" });
    const button = make("button", { type: "button", title: "Show where the image looks like this patch" }, picture);
    button.dataset.prototype = button.dataset.unit = index;
    button.setAttribute("aria-pressed", String(chosen === String(index)));
    button.setAttribute("aria-label", `Show where the image looks like prototype ${index}`);
    button.disabled = !hooks.heat && !(index in data.images[current].maps);
    const name = `${data.classes[known.class].name} #${index}`;
    const what = make("div", { className: "what" }, name, " ", make("small", { textContent: data.scales.length > 1 ? data.scales[known.scale] : "" }), track(share));
    if (known.also && known.also.length) what.append(make("span", { className: "also" }, ...further(known)));
    if (hooks.extra) what.append(...hooks.extra(index, chosen === String(index)));
    if (known.where) what.title = `training image ${known.where}`;
    return make("li", {}, button, what, value);
  }

  function fill(name, items) { find(name).replaceChildren(...items); }

  function show() {
    const image = data.images[current];
    spot.hidden = find(".why").hidden = !image.best;
    if (!image.best) return;
    const [rows, columns] = image.grid, cell = row * columns + column;
    spot.style.left = (100 * (column + 0.5)) / columns + "%";
    spot.style.top = (100 * (row + 0.5)) / rows + "%";
    const empty = (image.empty || []).includes(cell);
    for (const node of root.querySelectorAll(".why > :not(.verdict):not(.spoken)")) node.hidden = empty;
    if (empty) {
      fill(".verdict", ["No data here: the file holds no image at this spot, so there is nothing to explain."]);
      find(".spoken").textContent = "No data here.";
      return;
    }
    const best = data.classes[image.best[cell]], rival = data.classes[image.rival[cell]];
    const chip = make("span", { className: "chip" });
    chip.style.background = best.colour;
    fill(".verdict", [chip, "The model says ", make("b", { textContent: best.name })]);
    const gap = ((image.logits[cell] - image.rivals[cell]) / 100).toFixed(2);
    find(".second").textContent = `Runner-up: ${rival.name}, ${gap} behind.`;
    for (const node of root.querySelectorAll(".best")) node.textContent = best.name;
    for (const node of root.querySelectorAll(".rival")) node.textContent = rival.name;
    const shown = pairs(image.prototypes[cell]);
    if (image.groups.length) fill(".groups", pairs(image.groups[cell]).map(groupRow));
    fill(".prototypes", shown.map(prototypeRow));
    fill(".rivals", pairs(image.rival_prototypes[cell]).map(prototypeRow));
    const isOwn = ([index]) => !hasPrototypes || data.prototypes[index].class === image.best[cell];
    const total = (list) => list.reduce((sum, [, share]) => sum + share, 0);
    const own = total(shown.filter(isOwn)), other = total(shown.filter((pair) => !isOwn(pair)));
    const offset = image.offset[cell];
    find(".rest").textContent = number(image.own[cell] - own);
    if (hasPrototypes) {
      const opposed = image.logits[cell] - offset - image.own[cell] - other;
      find(".opposed").textContent = number(opposed);
      find(".against").hidden = opposed >= 0;  // what they say may also be for it, and of a memory always is
    }
    find(".constant").hidden = offset === 0;
    find(".offset").textContent = number(offset);
    find(".total").textContent = number(image.logits[cell]);
    find(".rivaltotal").textContent = number(image.rivals[cell]);
    const name = hasPrototypes && shown.length ? `prototype ${shown[0][0]}` : `channel ${shown[0][0]}`;
    find(".spoken").textContent = `${best.name}; runner-up ${rival.name}, ${gap} behind; most from ${name}, ${number(shown[0][1])}`;
  }

  // The bytes of the chosen map; a map that is fetched is painted once it is there.
  function chosenHeat(image) {
    if (chosen === null) return null;
    if (!(chosen in image.maps) && hooks.heat) {
      const unit = chosen;
      image.maps[unit] = "";
      hooks.heat(unit, image).then((bytes) => { image.maps[unit] = bytes; paint(); });
    }
    return image.maps[chosen];
  }

  function paint() {
    const image = data.images[current], context = canvas.getContext("2d");
    const heat = image.grid && chosenHeat(image);
    const seen = image[view] ? view : "photo";  // of another image there may be more to see
    for (const button of root.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === seen));
    for (const node of pictures) {
      const name = node.className, source = image[name];
      node.hidden = !source || (name === "edges" ? view === "truth" : heat || view !== name);
      if (!node.hidden && node.dataset.shown !== source) {
        node.style.visibility = "hidden";  // not that of the image before, until this one is there
        node.src = node.dataset.shown = source;
      }
    }
    canvas.hidden = !heat;
    const unit = chosen !== null && chosen[0] === "g" ? `group ${data.groups[chosen.slice(1)].number} of ${data.classes[data.groups[chosen.slice(1)].class].name}` : `prototype ${chosen}`;
    find(".note").textContent = heat
      ? `Bright: where the image looks like ${unit}. Choose it again to go back.`
      : find(".note").dataset.text;
    if (!heat) return;
    const [rows, columns] = image.grid;
    canvas.width = columns; canvas.height = rows;
    const bytes = atob(heat), pixels = context.createImageData(columns, rows);
    const stops = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
    for (let i = 0; i < bytes.length; i++) {
      const level = (bytes.charCodeAt(i) / 255) * 4, low = Math.min(3, Math.floor(level)), part = level - low;
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = stops[low][c] * (1 - part) + stops[low + 1][c] * part;
      pixels.data[4 * i + 3] = 125 + 25 * level; // level is 0..4: the photo stays visible where the image is unlike
    }
    context.putImageData(pixels, 0, 0);
  }

  function choose(index) {
    current = index;
    const image = data.images[current];
    find(".photo").src = image.photo;
    find(".photo").alt = `Image ${image.name}`;
    for (const button of root.querySelectorAll("[data-view]")) button.hidden = button.dataset.view !== "photo" && !image[button.dataset.view];
    if (image.best) [row, column] = interesting(image);
    chosen = null;
    root.querySelectorAll(".thumbs button").forEach((b, i) => b.setAttribute("aria-pressed", String(i === index)));
    paint(); show();
  }

  // Where to begin: the clearest decision for the rarest class, not the sky in the corner.
  function interesting(image) {
    const counts = {};
    const empty = new Set(image.empty || []);
    image.best.forEach((label, i) => { if (!empty.has(i)) counts[label] = (counts[label] || 0) + 1; });
    const enough = Object.keys(counts).filter((label) => counts[label] > image.best.length / 50);
    const rare = Number((enough.length ? enough : Object.keys(counts)).sort((a, b) => counts[a] - counts[b])[0]);
    let found = 0, margin = -Infinity;
    image.best.forEach((label, i) => {
      const lead = image.logits[i] - image.rivals[i];
      if (label === rare && !empty.has(i) && lead > margin) { margin = lead; found = i; }
    });
    return [Math.floor(found / image.grid[1]), found % image.grid[1]];
  }

  function point(event) {
    const box = stage.getBoundingClientRect(), [rows, columns] = data.images[current].grid || [1, 1];
    column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    show();
    if (hooks.moved) hooks.moved(row, column);
  }

  let held = false, pointer = "mouse";
  const busy = () => Boolean(hooks.busy && hooks.busy());
  stage.addEventListener("pointermove", (event) => { if (!busy() && (!held || event.buttons)) point(event); });
  stage.addEventListener("pointerdown", (event) => { pointer = event.pointerType; point(event); });
  stage.addEventListener("click", () => {
    if (busy()) return;
    held = pointer === "mouse" && !held;
    find(".held").hidden = !held;
  });
  stage.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 5 : 1, [rows, columns] = data.images[current].grid || [1, 1];
    const moves = { ArrowLeft: [0, -step], ArrowRight: [0, step], ArrowUp: [-step, 0], ArrowDown: [step, 0] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    row = Math.min(rows - 1, Math.max(0, row + moves[event.key][0]));
    column = Math.min(columns - 1, Math.max(0, column + moves[event.key][1]));
    show();
    if (hooks.moved) hooks.moved(row, column);
  });
  root.addEventListener("click", (event) => {
    const patch = event.target.closest("button[data-unit]");
    if (patch) {
      const unit = patch.dataset.unit;
      chosen = chosen === unit ? null : unit;
      paint(); show();
      if (hooks.picked) hooks.picked(chosen);
      const again = root.querySelector(`button[data-unit="${unit}"]`);
      if (again) again.focus();
      return;
    }
    const button = event.target.closest("button[data-view]");
    if (!button) return;
    view = button.dataset.view; chosen = null;
    paint(); show();
  });
  root.querySelectorAll(".thumbs button").forEach((button, i) => button.addEventListener("click", () => choose(i)));
  if (data.images.length) choose(0);
  return {
    // Shows an image in the place of the one before; stay: it is the same place, seen anew.
    replace(image, stay) {
      const before = [row, column, chosen];
      data.images = [image];
      choose(0);
      if (stay && image.grid) {
        row = Math.min(before[0], image.grid[0] - 1); column = Math.min(before[1], image.grid[1] - 1); chosen = before[2];
        paint(); show();
      }
    },
    moveTo(r, c) { if (data.images.length && data.images[0].grid) { [row, column] = [r, c]; show(); } },
    choose(unit) { chosen = unit; if (data.images.length) { paint(); show(); } },
    at: () => [row, column],
    view: () => view,
  };
}
