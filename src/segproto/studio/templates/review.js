"use strict";
// Suspicious labels: one after the other, what a person decides about each, and the masks with the decisions.
(() => {
  const { find, make, say, ask, send, address, guarded, showJob, typing } = talk;
  const PAGE = 60;
  let list = { rows: [], classes: [] }, state = { decisions: {}, revision: 0, undo: false }, current = null, whole = false, most = PAGE, shown = [];

  const decided = (row) => state.decisions[row.key];
  const place = (key) => list.rows.findIndex((row) => row.key === key);
  const matches = (row) => {
    const which = find("#which").value, label = find("#by-label").value;
    return (!label || row.label === label) && (!which || (which === "decided") === Boolean(decided(row)));
  };
  const chip = (name) => {
    const node = make("i", { className: "chip" });
    node.style.background = (list.classes.find((c) => c.name === name) || { colour: "none" }).colour;
    return node;
  };
  const verdictWords = (verdict, row) => ({ accept: "becomes void", dismiss: `stays ${row.label}`, correct: `becomes ${verdict.to}` })[verdict.verdict];

  // The list.

  function tiles() {
    shown = list.rows.filter(matches);
    const at = shown.findIndex((row) => row.key === current);
    if (at >= most) most = at + PAGE;
    const box = find("#tiles"), scrolled = box.scrollTop;
    box.replaceChildren(...shown.slice(0, most).map((row) => {
      const verdict = decided(row);
      const words = make("span", {}, chip(row.label), make("b", { textContent: row.label }), ` \u2192 `, chip(row.suggested), row.suggested);
      const note = make("span", { className: verdict ? "state" : "", textContent: verdict ? verdictWords(verdict, row) : `${row.score.toFixed(2)}, ${row.image}` });
      const button = make("button", { type: "button", title: row.image }, make("img", { src: address(`region/${row.key}`, { how: "small", at: list.stamp }), alt: "", loading: "lazy" }), words, note);
      button.dataset.key = row.key;
      button.setAttribute("aria-pressed", String(row.key === current));
      button.addEventListener("click", () => { show(row.key); find("#card").scrollIntoView({ block: "nearest" }); });
      return make("li", {}, button);
    }));
    box.scrollTop = scrolled;
    find("#more").hidden = shown.length <= most;
    const total = list.rows.length, open = list.rows.filter((row) => !decided(row)).length;
    find("#list-note").textContent = total ? `${shown.length} of ${total} regions in ${list.images} ${list.split === "train" ? "training" : "validation"} images` : "";
    find("#tally").textContent = total ? `${total - open} of ${total}` : "";
    find("#tally-note").textContent = total ? "decided" : "";
  }

  function show(key) {
    const row = list.rows[place(key)];
    current = row ? key : null;
    find("#card").hidden = !row;
    find("#none").hidden = Boolean(row) || !list.rows.length;
    if (!row) {
      find("#none").textContent = list.rows.length ? (find("#which").value === "open" ? "Every region of this choice is decided." : "No region is of this choice.") : "";
      tiles();
      return;
    }
    const at = shown.findIndex((other) => other.key === key);
    find("#question").replaceChildren(`${place(key) + 1}. `, chip(row.label), row.label, ", rather ", chip(row.suggested), row.suggested, "?");
    find("#facts").textContent = `${row.image}, ${row.place}; ${row.pixels.toLocaleString("en")} pixels; contradicted by ${row.score.toFixed(2)}`;
    const verdict = decided(row);
    find("#verdict").hidden = !verdict;
    find("#verdict").textContent = verdict ? `Decided: the region ${verdictWords(verdict, row)}.` : "";
    find("#to").value = String(list.classes.findIndex((c) => c.name === ((verdict && verdict.to) || row.suggested)));
    find("#previous").disabled = at === 0 || !shown.length;
    find("#next").disabled = at === shown.length - 1;
    photo(row);
    reasons(row);
    for (const button of document.querySelectorAll("#tiles button")) button.setAttribute("aria-pressed", String(button.dataset.key === key));
    const tile = document.querySelector('#tiles [aria-pressed="true"]'), box = find("#tiles");
    if (tile) {
      const [a, b] = [tile.getBoundingClientRect(), box.getBoundingClientRect()];
      if (a.top < b.top || a.bottom > b.bottom) box.scrollTop += a.top - b.top - 8;
    }
    sessionStorage.setItem("segproto-region", key);
  }

  const pictureOf = (row) => address(`region/${row.key}`, { how: whole ? "whole" : "part", at: list.stamp });
  function photo(row) {
    const picture = find("#photo"), note = find("#photo-note");
    note.textContent = whole ? "the whole image; the region is bright and outlined" : "the region, outlined, and what is around it";
    picture.alt = `${row.image}: the region labelled ${row.label}, outlined`;
    picture.onerror = () => why(picture.src, note);
    picture.src = pictureOf(row);
    const next = shown[shown.findIndex((other) => other.key === row.key) + 1];
    if (next) new Image().src = pictureOf(next);
    find("#whole").setAttribute("aria-pressed", String(whole));
    find("#photo-box").setAttribute("aria-label", whole ? "Show the region" : "Show the whole image");
  }
  // What the studio says of a picture that it cannot give.
  const why = (url, note) => fetch(url).then((answer) => answer.json()).then((value) => { note.textContent = value.error; }, () => { note.textContent = "The picture cannot be had: the studio does not answer."; });

  function reasons(row) {
    const kind = (name, title, words) => {
      if (!words.length) return [];
      const rows = words.map((text, i) => {
        const picture = make("img", { src: address(`reason/${row.key}/${name}/${i}`, { at: list.stamp }), alt: "", loading: "lazy" });
        picture.addEventListener("error", () => { picture.hidden = true; });
        return make("li", {}, picture, text);
      });
      return [make("h3", { textContent: title }), make("ul", { className: "because" }, ...rows)];
    };
    const nodes = [
      ...kind("patches", `Training patches that say ${row.suggested}`, row.patches),
      ...kind("prototypes", `Prototypes that say ${row.suggested}, not ${row.label}`, row.prototypes),
    ];
    if (!nodes.length) nodes.push(make("p", { className: "hint", textContent: "Reasons were written down for the first regions of the list only." }));
    else if (!list.prototypes) nodes.push(make("p", { className: "hint", textContent: "A black box has no prototypes to blame." }));
    find("#reasons").replaceChildren(...nodes);
  }

  // Deciding.

  function told(value) {
    state = value;
    find("#undo").disabled = !state.undo;
    const verdicts = Object.values(state.decisions), count = (verdict) => verdicts.filter((one) => one.verdict === verdict).length;
    const [voided, corrected, kept] = ["accept", "correct", "dismiss"].map(count);
    const elsewhere = state.elsewhere ? ` ${state.elsewhere} of these decisions ${state.elsewhere > 1 ? "are" : "is"} about regions that this list does not hold; they count, too.` : "";
    find("#counts").textContent = verdicts.length ? `Decided: ${voided} void, ${corrected} corrected, ${kept} kept.${elsewhere}` : "Nothing is decided yet.";
    const busy = state.job && state.job.state === "running";
    find("#write-form button").disabled = !(voided + corrected) || busy;
    find("#find").disabled = busy;
    find(state.job && state.job.kind === "review" ? "#looking" : "#writing").append(find("#job"));
    showJob(state.job, watch);
  }

  const decide = guarded(async (verdict) => {
    const key = current;
    if (key === null) return;
    const to = verdict === "correct" ? list.classes[Number(find("#to").value)].name : null;
    const at = shown.findIndex((row) => row.key === key), later = shown.slice(at + 1).find((row) => !decided(row)) || shown.find((row) => row.key !== key && !decided(row));
    told(await send("review/decide", { key, verdict, to }));
    say("");
    if (current !== key) { tiles(); return; }
    const next = later || (find("#which").value ? null : shown[at]);
    current = next ? next.key : null;
    tiles();
    show(current);
    find("#card").focus({ preventScroll: true });
    if (matchMedia("(max-width: 760px)").matches) find("#card").scrollIntoView({ block: "start" });
  });
  const undo = guarded(async () => {
    const value = await send("review/undo", { revision: state.revision }).catch(async (error) => { await refresh(); throw error; });
    told(value);
    const row = list.rows[place(value.undone)];
    say(row ? "" : "Taken back: a decision about a region that this list does not hold.");
    if (row && !matches(row)) find("#which").value = "";
    if (row) current = row.key;
    tiles();
    show(current);
  });
  function go(by) {
    const at = shown.findIndex((row) => row.key === current), row = shown[at + by];
    if (row) show(row.key);
  }
  function turn() {
    whole = !whole;
    const row = list.rows[place(current)];
    if (row) photo(row);
  }

  // Another window, or another studio on the same run, may have decided, or the list been made anew.
  async function refresh() {
    const value = await ask("review/state"), before = state;
    told(value);
    if (value.stamp !== list.stamp) { await load(); return; }
    if (value.revision === before.revision) return;
    tiles();
    show(current !== null && list.rows[place(current)] ? current : shown.length ? shown[0].key : null);
  }
  async function watch() { await refresh().catch((error) => say(error.message, error.stays)); }

  async function load() {
    list = { classes: [], ...await ask("review/list") };
    for (const name of [".with-list", "#about"]) document.querySelectorAll(name).forEach((node) => { node.hidden = !list.rows.length; });
    const labels = [...new Set(list.rows.map((row) => row.label))].sort(), label = find("#by-label").value;
    find("#by-label").replaceChildren(make("option", { value: "", textContent: "any class" }), ...labels.map((name) => make("option", { value: name, textContent: name })));
    find("#by-label").value = labels.includes(label) ? label : "";
    find("#to").replaceChildren(...list.classes.map((c, i) => make("option", { value: i, textContent: c.name })));
    find("#find").hidden = list.given || list.problem !== null;
    find("#find").textContent = list.stamp ? "Look anew" : "Look for suspicious labels";
    find("#find").className = list.stamp ? "" : "main";
    if (!list.rows.length) {
      find("#none").hidden = false;
      find("#none").textContent = list.problem || (list.stamp
        ? `No label is contradicted in ${list.images} images.`
        : `The ${list.images} training images and their masks are compared with each other: every region of a mask that patches of the other images contradict comes onto a list, with its reasons. It takes a few minutes, can be stopped, and changes nothing.`);
    }
    const before = sessionStorage.getItem("segproto-region"), row = list.rows[place(before)];
    if (row && !matches(row)) current = null; else if (row) current = before;
    tiles();
    if (list.rows.length) show(current && list.rows[place(current)] ? current : shown.length ? shown[0].key : null);
    else { current = null; find("#card").hidden = true; }
  }

  function keys() {
    const acts = { a: () => decide("accept"), d: () => decide("dismiss"), c: () => find("#to").focus(), u: undo, w: turn, ArrowLeft: () => go(-1), ArrowUp: () => go(-1), ArrowRight: () => go(1), ArrowDown: () => go(1) };
    window.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !typing(event)) { event.preventDefault(); undo(); return; }
      if (event.target.id === "to" && (event.key === "Enter" || event.key === "Escape")) {
        event.preventDefault();
        find("#card").focus({ preventScroll: true });
        if (event.key === "Enter") decide("correct");
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
      const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!act || (current === null && event.key.toLowerCase() !== "u")) return;
      event.preventDefault();
      act();
    });
    for (const name of ["accept", "dismiss", "correct"]) find(`#${name}`).addEventListener("click", () => decide(name));
    find("#previous").addEventListener("click", () => go(-1));
    find("#next").addEventListener("click", () => go(1));
    find("#whole").addEventListener("click", turn);
    find("#photo-box").addEventListener("click", turn);
    find("#undo").addEventListener("click", undo);
    find("#more").addEventListener("click", () => { most += PAGE; tiles(); });
    for (const name of ["#which", "#by-label"]) find(name).addEventListener("change", () => {
      most = PAGE;
      tiles();
      show(shown.some((row) => row.key === current) ? current : shown.length ? shown[0].key : null);
    });
    find("#find").addEventListener("click", guarded(async () => told(await send("review/find", {}))));
    find("#stop").addEventListener("click", guarded(async () => { await send("stop", {}); await refresh(); }));
    find("#write-form").addEventListener("submit", guarded(async (event) => {
      event.preventDefault();
      told(await send("review/write", { name: find("#name").value || null }));
      find("#name").value = "";
    }));
  }

  guarded(async () => {
    keys();
    let wrong = null;
    told(await ask("review/state").catch((error) => { wrong = error; return state; }));
    await load();
    if (wrong && wrong.message !== list.problem) throw wrong;
    document.body.dataset.ready = "1";
    setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 3000);
    window.addEventListener("focus", watch);
  })();
})();
