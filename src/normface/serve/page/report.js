// A report from disk. HTML goes into a frame of no origin, whose policy forbids its scripts and all requests.

import { fault, fill, make, percent } from "./dom.js";

export async function openReport(file, place) {
  if (!file) return;
  try {
    const text = await file.text();
    fill(place, ...(file.name.endsWith(".json") ? tables(JSON.parse(text)) : [framed(text, file.name)]));
  } catch (error) {
    fill(place, fault(error instanceof SyntaxError ? new Error(`${file.name} is no JSON.`) : error));
  }
}

function framed(text, name) {
  const frame = make("iframe", { src: "viewer.html", sandbox: "allow-scripts", title: name });
  frame.addEventListener("load", () => frame.contentWindow.postMessage(text, "*"), { once: true });
  return frame;
}

// A Result, or several by name.
function tables(told) {
  const results = told.metrics ? { [told.protocol]: told } : told;
  return Object.entries(results).flatMap(([name, result]) => {
    if (!result?.metrics) throw new Error("This JSON is no result of normface evaluate.");
    const rows = Object.entries(result.metrics).map(([metric, found]) => [metric, percent(found.value), `${percent(found.low)} to ${percent(found.high)}`, found.n.toLocaleString("en")]);
    const facts = Object.entries(result.facts ?? {}).map(([fact, value]) => [fact, typeof value === "object" ? JSON.stringify(value) : String(value)]);
    return [make("h3", {}, name), table(["Metric", "Found", "95 % interval", "Comparisons"], rows), make("h3", {}, "Conditions"), table(["", ""], facts)];
  });
}

function table(head, rows) {
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((cell) => make("th", { scope: "col" }, cell)))),
    make("tbody", {}, ...rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell)))))));
}
