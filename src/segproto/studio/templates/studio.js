"use strict";
// The page: one image under one or two probes, edits with undo, and what is being written.
(() => {
  const { find, make, say, ask, send, address, percent, signed, guarded, showJob, typing, inPlace } = talk;
  const roots = [...document.querySelectorAll(".probe")];
  let models = [], probes = [], state = null, key = null, region = null, whole = null, wanted = 0, place = null, ready = false;

  // Looking.

  const layers = (side, told) => {
    const at = { side, region: told.region.join(","), r: talk.revision() };
    const url = (name) => address(`layer/${name}/${told.key}`, at);
    const image = { ...told, photo: address(`layer/photo/${told.key}`, { region: at.region }), truth: told.known ? url("truth") : null };
    if (!told.large) for (const name of ["prediction", "edges", "uncertainty", "runner", "winner"]) image[name] = url(name);
    return image;
  };
  const loaded = (url) => new Promise((resolve) => {
    const picture = new Image();
    picture.onload = picture.onerror = resolve;
    picture.src = url;
  });

  // Shows a part of an image on every side; stay: the same place, seen anew.
  const look = guarded(async (image, part, stay = false) => {
    const mine = ++wanted;
    const slow = setTimeout(() => { find("#look-note").textContent = "looking \u2026"; find("#look").setAttribute("aria-busy", "true"); }, 500);
    const answers = await Promise.all(models.map(async (_, side) => {
      const more = part ? { side, region: part.join(",") } : { side };
      const told = layers(side, await ask(`probe/${image}`, more));
      await Promise.all([told.photo, told.edges, told[probes[side].view()]].filter(Boolean).map(loaded));
      return told;
    })).finally(() => { clearTimeout(slow); if (mine === wanted) find("#look").removeAttribute("aria-busy"); });
    if (mine !== wanted) return;
    [key, region, whole] = [image, answers[0].region, answers[0].whole];
    find(".sides").hidden = false;
    answers.forEach((told, side) => probes[side].replace(told, stay));
    if (!stay) probes.slice(1).forEach((probe) => probe.moveTo(...probes[0].at()));  // the same spot on all sides
    find("#look-title").textContent = answers[0].name;
    const zoom = whole[1] / (region[3] - region[1]);
    const part_ = zoom > 1.005 ? `, ${zoom.toFixed(1)} times enlarged` : "";
    find("#look-note").textContent = `${whole[1]} \u00d7 ${whole[0]} pixels${part_}` + (answers[0].large ? ": zoom in to see what the model says there" : "");
    wall.mark(key);
    sessionStorage.setItem("segproto-look", JSON.stringify([key, region]));
  });
  const open = (image, box = null) => {
    if (!box) return look(image, null);
    const margin = 4 * Math.max(box[2] - box[0], box[3] - box[1]);
    return look(image, null).then(() => zoomTo(Math.max(1, Math.min(4, whole[1] / margin)), (box[0] + box[2]) / 2, (box[1] + box[3]) / 2));
  };

  // A part of the image, so many times enlarged, around a place; as wide for its height as the image.
  function zoomTo(times, y, x) {
    if (!whole) return undefined;
    const most = Math.max(1, Math.min(...whole) / 16), zoom = Math.max(1, Math.min(most, times));
    const [height, width] = whole.map((side) => Math.max(1, Math.round(side / zoom)));
    const top = Math.round(Math.max(0, Math.min(whole[0] - height, y - height / 2)));
    const left = Math.round(Math.max(0, Math.min(whole[1] - width, x - width / 2)));
    return look(key, [top, left, top + height, left + width], true);
  }
  const times = () => whole[1] / (region[3] - region[1]);
  const middle = () => [(region[0] + region[2]) / 2, (region[1] + region[3]) / 2];

  function move(down, across, share = 0.4) {
    const [y, x] = middle();
    return zoomTo(times(), y + down * share * (region[2] - region[0]), x + across * share * (region[3] - region[1]));
  }

  function zooming(stage) {
    let pending = null, start = null, dragging = false;
    stage.addEventListener("wheel", (event) => {
      if (!whole) return;
      event.preventDefault();
      const box = stage.getBoundingClientRect(), down = (event.clientY - box.top) / box.height, across = (event.clientX - box.left) / box.width;
      const y = region[0] + down * (region[2] - region[0]), x = region[1] + across * (region[3] - region[1]);
      pending = { y, x, down, across, factor: (pending ? pending.factor : 1) * Math.exp(-event.deltaY / 400) };
      clearTimeout(zooming.timer);
      zooming.timer = setTimeout(() => {
        const zoom = Math.max(1, times() * pending.factor), [height, width] = whole.map((side) => side / zoom);
        zoomTo(zoom, pending.y + (0.5 - pending.down) * height, pending.x + (0.5 - pending.across) * width);
        pending = null;
      }, 120);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && region && times() > 1.005) start = event; });
    window.addEventListener("pointermove", (event) => {
      if (!start || (!dragging && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) < 6)) return;
      dragging = true;
      stage.classList.add("dragging");
    });
    window.addEventListener("pointerup", (event) => {
      if (start && dragging) {
        const box = stage.getBoundingClientRect();
        move(-(event.clientY - start.clientY) / box.height, -(event.clientX - start.clientX) / box.width, 1);
        setTimeout(() => { dragging = false; stage.classList.remove("dragging"); });
      }
      start = null;
    });
    return () => dragging;
  }

  // Asking.

  const hooksOf = (side) => ({
    heat: (unit, image) => ask(`heat/${image.key}`, { side, region: image.region.join(","), unit }).then((value) => value.levels, (error) => { say(error.message); return ""; }),
    picked: (unit) => { if (side === 0) panel.choose(unit); },
    moved: (row, column) => probes.forEach((probe, other) => { if (other !== side) probe.moveTo(row, column); }),
    extra: (p, isChosen) => (side === 0 ? panel.near(p, isChosen) : []),
    busy: zooming(roots[side].querySelector(".stage")),
  });

  // Editing.

  function told(value) {
    state = value;
    talk.renew();
    const steps = state.steps.map((step, i) => {
      const now = i === state.at, change = i && step.miou !== null && state.steps[i - 1].miou !== null ? `mIoU ${signed(step.miou - state.steps[i - 1].miou)}` : "";
      const button = make("button", { type: "button", className: i > state.at ? "undone" : "", textContent: step.words });
      if (now) button.setAttribute("aria-current", "step");
      button.addEventListener("click", () => go(i));
      return make("li", {}, button, " ", make("small", { textContent: change }));
    });
    if (steps.length > 1) find("#earlier").hidden = true;
    find("#steps").start = 0;
    find("#steps").replaceChildren(...(steps.length > 1 ? steps : []));
    find("#edits-none").hidden = steps.length > 1;
    find("#undo").disabled = state.at === 0;
    find("#redo").disabled = state.at === state.steps.length - 1;
    const form = find("#apply");
    if (form) form.querySelector("button").disabled = state.at === 0;
    sessionStorage.setItem("segproto-edits", JSON.stringify({ model: place, at: state.at, steps: state.steps.slice(1) }));
    panel.edited(state.edits);
  }

  async function after(value) {
    told(value);
    say("");
    await Promise.all([key && look(key, region, true), score()]);
    if (ready && models[0].validation === null) wall.fill(await ask("wall"));
  }
  // Sends an edit; a model with very many prototypes takes its time.
  const changing = (path, body) => inPlace(async () => {
    const slow = setTimeout(() => say("Working out masks and scores \u2026", true), 700);
    return after(await send(path, body).finally(() => clearTimeout(slow)));
  });
  const act = guarded((action) => changing("edit", action));
  const go = guarded((to) => changing("go", { to }));

  const score = guarded(async () => {
    if (!ready || models[0].validation !== null) return;
    const at = talk.revision(), { before, after: now } = await ask("scores");
    if (at !== talk.revision()) return;
    find("#miou").textContent = `mIoU ${percent(now.miou, 2)} %`;
    find("#gain").textContent = state.at ? `${signed(now.miou - before.miou)} by ${state.at} edit${state.at > 1 ? "s" : ""}` : models[0].own ? "against the model's own answers" : `on ${models[0].images} images`;
    const rows = now.per_class.map((row, i) => [row.name, before.per_class[i].iou, row.iou]);
    rows.push(["mean (mIoU)", before.miou, now.miou], ["pixel accuracy", before.accuracy, now.accuracy]);
    find("#classes tbody").replaceChildren(...rows.map(([name, old, fresh]) => {
      const change = old === null || fresh === null ? null : fresh - old;
      const kind = change === null || Math.abs(change) < 5e-5 ? "" : change > 0 ? "better" : "worse";
      return make("tr", {}, ...[name, percent(old, 2), percent(fresh, 2), change === null ? "\u2013" : signed(change)].map((text, i) => make("td", { textContent: text, className: i === 3 ? kind : "" })));
    }));
    find("#classes").hidden = false;
    document.body.dataset.scored = String(at);
  });

  // Writing.

  const forget = guarded(async (p) => {
    await send("forget", { prototype: p, name: find("#name").value || null });
    await watch();
    find("#job").scrollIntoView({ block: "center" });  // its bar lies below what was pressed
  });
  async function watch() {
    const { job } = await ask("state").catch((error) => { say(error.message, error.stays); return { job: null }; });
    showJob(job, watch);
  }

  // Own images.

  const bring = guarded(async (file) => {
    say(`Reading ${file.name} \u2026`);
    const content = await file.arrayBuffer().catch(() => { throw new Error(`${file.name} cannot be read: is it a folder, or was it moved?`); });
    const got = await send("upload", new Blob([content]), { name: file.name });
    say(got.note);
    await open(got.key);
  });
  function receiving() {
    find("#file").addEventListener("change", (event) => { if (event.target.files[0]) bring(event.target.files[0]); event.target.value = ""; });
    window.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
    window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
    window.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      if (event.dataTransfer.files[0]) bring(event.dataTransfer.files[0]); else say("Drop a picture file.");
    });
    window.addEventListener("paste", (event) => { const file = event.clipboardData.files[0]; if (file) bring(file); });
  }

  function keys() {
    window.addEventListener("keydown", (event) => {
      if (typing(event)) return;
      const command = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
      if (command && (letter === "z" || letter === "y")) {
        event.preventDefault();
        const to = state.at + (letter === "y" || event.shiftKey ? 1 : -1);
        if (to >= 0 && to < state.steps.length) go(to);
      } else if (!command && whole && ["+", "=", "-", "0"].includes(event.key)) {
        zoomTo(event.key === "0" ? 1 : event.key === "-" ? times() / 1.6 : times() * 1.6, ...middle());
      }
    });
    for (const node of document.querySelectorAll("[data-zoom]")) node.addEventListener("click", () => {
      if (whole) zoomTo({ in: times() * 1.6, out: times() / 1.6, whole: 1 }[node.dataset.zoom], ...middle());
    });
    for (const node of document.querySelectorAll("[data-move]")) node.addEventListener("click", () => { if (whole) move(...node.dataset.move.split(",").map(Number)); });
    find("#take-up").addEventListener("click", guarded(() => changing("restore", { earlier: true })));
    find("#undo").addEventListener("click", () => go(state.at - 1));
    find("#redo").addEventListener("click", () => go(state.at + 1));
    find("#stop").addEventListener("click", guarded(async () => { await send("stop", {}); watch(); }));
    const form = find("#apply");
    if (form) form.addEventListener("submit", guarded(async (event) => {
      event.preventDefault();
      await send("apply", { name: find("#name").value || null }).finally(watch);  // also what is being written instead
      find("#name").value = "";
    }));
  }

  // Beginning: the page stands while validation images are still looked at.

  async function waiting() {
    const { looked } = await ask("state"), [mine] = looked;
    ready = looked.every((one) => one.done === one.total || one.failed);
    const bar = find("#looking"), done = looked.reduce((sum, one) => sum + one.done, 0), total = looked.reduce((sum, one) => sum + one.total, 0);
    bar.hidden = ready; bar.max = total || 1; bar.value = done;
    find("#wall-note").textContent = ready ? "" : `looking at the validation images: ${done} of ${total}`;
    if (mine.failed) models[0].validation = mine.failed;
    if (!ready) { setTimeout(guarded(waiting), 300); return; }
    if (models[0].validation !== null) {
      find("#wall-note").textContent = `No validation images (${models[0].validation}). Open an image of your own.`;
      return;
    }
    const rows = wall.fill(await ask("wall"));
    if (!key && rows.length) await open(String(rows[0][0].index));
    told(await ask("state"));
    await score();
    if (models[0].images < models[0].every) say(`Scores are over ${models[0].images} of the ${models[0].every} validation images, spread over the set.`);
    document.body.dataset.ready = "1";
  }

  guarded(async () => {
    receiving(); keys();
    models = await Promise.all(roots.map((_, side) => ask("model", { side })));
    wall.start(models[0], open);
    panel.start(models[0], { act, open, forget, closed: () => probes[0].choose(null) });
    document.querySelectorAll(".side-name").forEach((node, side) => { node.textContent = models[side].name; });
    const saved = JSON.parse(sessionStorage.getItem("segproto-edits") || "{}");
    const value = await send("restore", saved).catch((error) => { say(`Your edits could not be taken up again: ${error.message}`); return send("restore", {}); });
    place = value.model;
    find("#earlier").hidden = !value.earlier;
    find("#earlier-words").textContent = `The studio that ended before had ${value.earlier} edit${value.earlier > 1 ? "s" : ""} in force.`;
    models.forEach((model, side) => {
      model.prototypes.forEach((known, p) => {
        known.also = Array.from({ length: known.further }, (_, i) => address(`patch/${p}`, { side, number: i + 1 }));
        if (known.patch) known.patch = address(known.patch, { side });
      });
      probes[side] = segprotoProbe(roots[side], { ...model, images: [] }, hooksOf(side));
    });
    told(value);
    watch();
    const [before, part] = JSON.parse(sessionStorage.getItem("segproto-look") || "[null, null]");
    if (before !== null) await look(before, part);
    await waiting();
  })();
})();
