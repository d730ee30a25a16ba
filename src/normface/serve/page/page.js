// The page: sections by the address's hash, and what each form does.

import { ask, useKey } from "./api.js";
import { answers, fault, fill, find, make } from "./dom.js";
import "./photo.js";
import { openReport } from "./report.js";
import * as show from "./show.js";

let about = null;

function turn() {
  const here = ["people", "report"].find((name) => location.hash === `#${name}`) ?? "compare";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== here;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${here}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (here === "people" && about?.gallery) list();
}

const chosen = (form, name) => {
  const input = find(`photo-input[name=${name}]`, form);
  if (!input.files.length) throw new Error(`Choose: ${input.getAttribute("label").toLowerCase()}.`);
  return input;
};

const compare = find("#verify-form");
answers(compare, find("#verdict"), async () => {
  const [a, b] = ["a", "b"].map((name) => chosen(compare, name).files[0]);
  const prior = find("#prior").value;
  if (find("#browser").checked) {
    const { embedded } = await import("./browser.js");
    const score = await embedded(a, b, about);
    const point = about.operating_point;
    const unchecked = about.conditions ? " Whether the certificate covers them was not checked." : "";
    return [show.verdict(point ? (score >= point.threshold ? "same" : "different") : null), show.scale(score, point), make("p", {}, `Embedded in this browser: the photographs were not sent.${unchecked}`)];
  }
  const anyway = String(find("#anyway").checked);
  const found = await ask("v1/verify", { method: "POST", form: { a, b, prior, anyway, crops: "true" } });
  return [
    show.verdict(found.decision), show.cover(found), ...(found.decision === "undecided" ? [] : [show.probability(found)]), show.scale(found.score, found.operating_point),
    make("div", { class: "crops" }, show.crop(found.faces[0], "first"), show.crop(found.faces[1], "second")),
  ];
});

const search = find("#search-form");
answers(search, find("#ranking"), async () => {
  const [photograph] = chosen(search, "photograph").files;
  return show.ranking(await ask("v1/search", { method: "POST", form: { photograph, crops: "true" } }));
});

const enrol = find("#enrol-form");
answers(enrol, find("#enrolled"), async () => {
  const photographs = chosen(enrol, "photographs");
  const form = { photographs: photographs.files, person: find("#person").value, consent: find("#consent").value };
  const told = { anyway: "#enrol-anyway", same_person: "#enrol-same", twin: "#enrol-twin" };
  for (const [name, box] of Object.entries(told)) form[name] = String(find(box).checked);
  const found = await ask("v1/people", { method: "POST", form: { ...form, crops: "true" } });
  photographs.clear();
  enrol.reset();
  await list();
  const again = found.duplicates ? ` ${found.duplicates} enrolled before.` : "";
  const warnings = found.warnings.map((warning) => make("p", {}, warning));
  return [make("p", {}, `${found.person}: ${found.added} added.${again}`), ...warnings, make("div", { class: "crops" }, ...found.faces.map((face, i) => show.crop(face, `photograph ${i + 1}`)))];
});

const PAGE = 200;  // people asked for at once
let listing = 0;  // the last list that was asked for: answers for those before it come too late

const row = (person) => make("tr", {},
  make("th", { scope: "row" }, person.name), make("td", {}, String(person.templates)),
  make("td", {}, person.enrolled.slice(0, 10)), make("td", {}, person.consent ?? "none noted"),
  make("td", {}, make("button", { type: "button", class: "danger", onclick: () => forget(person) },
    "Forget", make("span", { class: "hidden" }, ` ${person.name}`))));

// The first page of people, or the one after the person `after`.
async function list(after = null) {
  const body = find("#list tbody");
  const mine = after ? listing : ++listing;
  const asked = new URLSearchParams({ limit: PAGE, q: find("#filter").value.trim(), ...(after && { after }) });
  try {
    const { people, next } = await ask(`v1/people?${asked}`);
    if (mine !== listing) return;
    if (after) body.lastElementChild.remove();
    else fill(body);
    body.append(...people.map(row));
    find("#count").textContent = `(${body.rows.length.toLocaleString("en")}${next ? " shown" : ""})`;
    if (next) body.append(more(next));
  } catch (error) {
    if (mine === listing) fill(body, make("tr", {}, make("td", { colspan: "5" }, fault(error))));
  }
}

// The row that asks for the next page when it is pressed, or scrolled into view.
function more(next) {
  const button = make("button", { type: "button", onclick: () => (button.disabled = true, list(next)) }, "Show more");
  new IntersectionObserver(([seen], watch) => seen.isIntersecting && (watch.disconnect(), button.click()), { rootMargin: "400px" }).observe(button);
  return make("tr", {}, make("td", { colspan: "5" }, button));
}

find("#filter").addEventListener("input", () => list());

async function forget(person) {
  const dialog = find("#sure");
  find("#sure-head").textContent = `Forget ${person.name}?`;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "yes") return;
  try {
    const told = await ask(`v1/people/${person.id}`, { method: "DELETE" });
    fill(find("#enrolled"), make("p", {}, `${told.person} is forgotten.`));
  } catch (error) {
    fill(find("#enrolled"), fault(error));
  }
  await list();
}

find("#report-file").addEventListener("change", (event) => openReport(event.target.files[0], find("#report-view")));

find("#key-form").addEventListener("submit", (event) => event.preventDefault());
find("#key").addEventListener("change", (event) => {
  useKey(event.target.value);
  find("#key-state").textContent = event.target.value ? "used until this page is closed" : "";
  turn();
});

async function start() {
  try {
    about = await ask("v1/about");
  } catch (error) {
    return void fill(find("#about"), fault(error));
  }
  find("#key-form").hidden = !about.keys;
  find("#people-link").hidden = !about.gallery;
  find("#browser-label").hidden = !about.browser;
  find("#about").textContent = `normface ${about.version} · model ${about.model} (${about.model_sha256.slice(0, 12)}…)`;
  fill(find("#certificate div"), ...show.certificate(about.operating_point));
  turn();
}

addEventListener("hashchange", turn);
turn();
start();
