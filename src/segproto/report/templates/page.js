"use strict";
// The page of a report: its patches and its probe.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const node of document.querySelectorAll("img[data-patch]")) {
    const known = data.prototypes[node.dataset.patch];
    if (known && known.patch) node.src = known.patch;
    else node.replaceWith(Object.assign(document.createElement("div"), { className: "nopatch" }));
  }
  for (const node of document.querySelectorAll("[data-also]")) {
    const pictures = data.prototypes[node.dataset.also].also;
    node.append(...pictures.map((src) => Object.assign(document.createElement("img"), { src, alt: "" })));
  }
  const root = document.querySelector(".probe");
  if (root && data.images.length) segprotoProbe(root, data);
})();
