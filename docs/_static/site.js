"use strict";
// The menu of versions and the structures that turn. No request leaves the site; without scripts the pictures stay.

const here = document.currentScript.src.replace(/[^/]*$/, "");

function addVersions() {
  const versions = window.SITE_VERSIONS ?? [];
  const place = document.querySelector(".sidebar-search-container");
  if (!place || versions.length === 0) return;
  const root = new URL("../../", here);
  const [current, ...rest] = window.location.href.slice(root.href.length).split("/");
  const label = document.createElement("label");
  label.className = "versions";
  const select = document.createElement("select");
  select.setAttribute("aria-label", "Version");
  for (const version of versions) select.add(new Option(version, version, false, version === current));
  select.addEventListener("change", () => {
    window.location.href = new URL(`${select.value}/index.html`, root).href;
  });
  label.append(select);
  place.before(label);
}

function hasWebGL() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}

function turn(figure) {
  const stage = figure.querySelector(".stage");
  const { xyz, cell, chain } = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const canvas = document.createElement("div");
  canvas.style.cssText = "position:absolute;inset:0";
  stage.append(canvas);
  const viewer = $3Dmol.createViewer(canvas, { backgroundAlpha: 0 });
  viewer.addModel(xyz, "xyz");
  if (chain) {
    viewer.setStyle({}, {});
    const atoms = viewer.selectedAtoms({});
    atoms.slice(1).forEach((end, i) => {
      const share = i / atoms.length; // from blue to red
      const color = (Math.round(60 + 170 * share) << 16) | (90 << 8) | Math.round(220 - 150 * share);
      viewer.addCylinder({ start: atoms[i], end, radius: 0.3, fromCap: 2, toCap: 2, color });
    });
  } else {
    viewer.setStyle({}, { stick: { radius: 0.13 }, sphere: { scale: 0.25 } });
  }
  for (const [start, end] of cell) viewer.addLine({ start, end, color: "gray" });
  viewer.zoomTo();
  viewer.rotate(25, "y");
  viewer.rotate(15, "x");
  const { clientWidth, clientHeight } = canvas;
  viewer.zoom(Math.min(1, clientWidth / clientHeight));  // zoomTo fits the height alone
  viewer.render();
  stage.querySelector("img").hidden = true;
  stage.classList.add("turnable");
}

function addStructures() {
  const figures = document.querySelectorAll("figure.structure");
  if (figures.length === 0 || !hasWebGL()) return;
  const script = document.createElement("script");
  script.src = `${here}3Dmol-min.js`;
  script.addEventListener("load", () => figures.forEach(turn));
  document.head.append(script);
}

addVersions();
addStructures();
