"use strict";
// How the page talks to the studio; what several scripts share.
const talk = (() => {
  const remembered = sessionStorage.getItem("segproto-session");
  const session = remembered || crypto.randomUUID();
  sessionStorage.setItem("segproto-session", session);
  let revision = 0, quiet = null;
  const find = (selector) => document.querySelector(selector);

  function make(tag, props = {}, ...children) {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  // A line for the person; without words it goes away.
  function say(words) {
    clearTimeout(quiet);
    find("#say").textContent = words || "";
    find("#say").hidden = !words;
    if (words) quiet = setTimeout(() => say(""), 12000);
  }

  function address(path, more = {}) {
    return `${path}?${new URLSearchParams({ s: session, ...more })}`;
  }

  async function answer(request) {
    let response;
    try {
      response = await request;
    } catch {
      throw new Error("The studio does not answer: it has ended. Start it again; your edits are kept in this tab.");
    }
    const value = await response.json().catch(() => ({ error: response.statusText }));
    if (!response.ok) throw new Error(value.error || response.statusText);
    return value;
  }

  const ask = (path, more) => answer(fetch(address(path, more)));
  const send = (path, body, more) =>
    answer(fetch(address(path, more), { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body), headers: { "X-Segproto": "studio" } }));
  const percent = (value, digits = 1) => (value === null || value === undefined ? "\u2013" : (100 * value).toFixed(digits));
  const signed = (value, digits = 2) => {
    const text = (100 * value).toFixed(digits);
    return Number(text) === 0 ? (0).toFixed(digits) : value > 0 ? "+" + text : text.replace("-", "\u2212");
  };
  // Runs something for the person and says what went wrong.
  const guarded = (work) => async (...values) => {
    try {
      return await work(...values);
    } catch (error) {
      say(error.message);
      return undefined;
    }
  };
  return { find, make, say, ask, send, address, percent, signed, guarded, renew: () => ++revision, revision: () => revision };
})();
