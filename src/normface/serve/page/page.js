// The page: sections by the address's hash, and what each form does.

import { ask, useKey } from "/api.js";
import { answers, fault, fill, find, make } from "/dom.js";
import "/photo.js";
import { openReport } from "/report.js";
import * as show from "/show.js";

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
    const { embedded } = await import("/browser.js");
    const score = await embedded(a, b, about);
    const point = about.operating_point;
    const unchecked = about.conditions ? " Whether the certificate covers them was not checked." : "";
    return [show.verdict(point ? (score >= point.threshold ? "same" : "different") : null), show.scale(score, point), make("p", {}, `Embedded in this browser: the photographs were not sent.${unchecked}`)];
  }
  const anyway = String(find("#anyway").checked);
  const found = await ask("/v1/verify", { method: "POST", form: { a, b, prior, anyway, crops: "true" } });
  return [
    show.verdict(found.decision), show.cover(found), ...(found.decision === "undecided" ? [] : [show.probability(found)]), show.scale(found.score, found.operating_point),
    make("div", { class: "crops" }, show.crop(found.faces[0], "first"), show.crop(found.faces[1], "second")),
  ];
});

const search = find("#search-form");
answers(search, find("#ranking"), async () => {
  const [photograph] = chosen(search, "photograph").files;
  return show.ranking(await ask("/v1/search", { method: "POST", form: { photograph, crops: "true" } }));
});

const enrol = find("#enrol-form");
answers(enrol, find("#enrolled"), async () => {
  const photographs = chosen(enrol, "photographs");
  const form = { photographs: photographs.files, person: find("#person").value, consent: find("#consent").value };
  const found = await ask("/v1/people", { method: "POST", form: { ...form, anyway: String(find("#enrol-anyway").checked), crops: "true" } });
  photographs.clear();
  enrol.reset();
  await list();
  return [make("p", {}, `${found.person}: ${found.added} added.`), make("div", { class: "crops" }, ...found.faces.map((face, i) => show.crop(face, `photograph ${i + 1}`)))];
});

const PAGE = 200;  // people asked for at once

const row = (person) => make("tr", {},
  make("th", { scope: "row" }, person.name), make("td", {}, String(person.templates)),
  make("td", {}, person.enrolled.slice(0, 10)), make("td", {}, person.consent ?? "none noted"),
  make("td", {}, make("button", { type: "button", class: "danger", onclick: () => forget(person) },
    "Forget", make("span", { class: "hidden" }, ` ${person.name}`))));

async function list(after) {
  const body = find("#list tbody");
  try {
    const { people, next } = await ask(`/v1/people?limit=${PAGE}${after ? `&after=${after}` : ""}`);
    const shown = (after ? body.rows.length - 1 : 0) + people.length;  // without the row of the button
    find("#count").textContent = `(${shown.toLocaleString("en")}${next ? " shown" : ""})`;
    if (after) body.lastElementChild.remove();
    else fill(body);
    body.append(...people.map(row));
    if (next) {
      const more = make("button", { type: "button", onclick: () => list(next) }, "Show more");
      body.append(make("tr", {}, make("td", { colspan: "5" }, more)));
    }
  } catch (error) {
    fill(body, make("tr", {}, make("td", { colspan: "5" }, fault(error))));
  }
}

async function forget(person) {
  const dialog = find("#sure");
  find("#sure-head").textContent = `Forget ${person.name}?`;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "yes") return;
  try {
    const told = await ask(`/v1/people/${person.id}`, { method: "DELETE" });
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
    about = await ask("/v1/about");
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
