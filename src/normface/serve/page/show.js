// Answers as elements: crops, the scale of cosines, the decision and its certificate in words.

import { make, percent } from "./dom.js";

export function crop(face, caption) {
  const frame = make("span", { class: "crop" }, make("img", { src: face.crop, alt: `Aligned face, ${caption}` }));
  const image = frame.firstChild;
  image.addEventListener("load", () => {
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const dots = (face.crop_landmarks ?? []).flatMap(([x, y]) =>
      ["dark", "light"].map((tone) => make("svg:circle", { cx: x + 0.5, cy: y + 0.5, r: 2.2, class: tone })));
    frame.append(make("svg:svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...dots));
  });
  const several = face.found > 1 ? ` ${face.found} faces: the one nearest the center was taken.` : "";
  return make("figure", {}, frame, make("figcaption", {}, caption + several));
}

// A cosine between −1 and 1, with the certified threshold.
export function scale(score, point) {
  const at = (cosine) => `${50 * (Math.min(1, Math.max(-1, cosine)) + 1)}%`;
  const side = (cosine) => (cosine < -0.6 ? "right" : cosine > 0.7 ? "left" : "");
  const words = `Cosine ${score.toFixed(3)} between −1 and 1` + (point ? `; threshold ${point.threshold.toFixed(3)}` : "");
  const marks = [
    make("span", { class: "end", left: "0%" }, "−1"), make("span", { class: "end last", left: "100%" }, "1"),
    make("span", { class: "bar score", left: at(score) }),
    make("span", { class: `above ${side(score)}`, left: at(score) }, `cosine ${score.toFixed(3)}`),
  ];
  if (point) {
    marks.push(make("span", { class: "bar threshold", left: at(point.threshold) }),
      make("span", { class: `below ${side(point.threshold)}`, left: at(point.threshold) }, `threshold ${point.threshold.toFixed(3)}`));
  }
  return make("div", { class: "scale", role: "img", "aria-label": words }, ...marks);
}

// `decision`: same, different, undecided, or null without a certified threshold.
export function verdict(decision) {
  const words = { same: "The same person", different: "Different people", undecided: "Undecided" };
  return make("p", { class: `answer ${decision ?? "none"}` }, words[decision] ?? "No decision: this model has no certified threshold");
}

// What the certificate does not cover, and the estimated risk of a false match.
export function cover(found) {
  const told = found.outside.map((what) => make("li", {}, what));
  const parts = [];
  if (told.length) {
    const head = found.decision === "undecided" ? "The certificate does not cover these photographs:" : "Decided although the certificate does not cover these photographs:";
    parts.push(make("div", { class: "outside", role: "note" }, make("p", {}, head), make("ul", {}, ...told)));
  }
  if (found.risk !== null && found.risk !== undefined) {
    const share = found.risk > 0.5 ? `most strangers photographed likewise (${percent(found.risk, 0)})` : `about 1 in ${Math.round(1 / Math.max(found.risk, 1e-6)).toLocaleString("en")} strangers photographed likewise`;
    parts.push(make("p", { class: "soft" }, `Estimated false match risk: ${share}.`));
  }
  return make("div", {}, ...parts);
}

export function probability(found) {
  if (found.probability === null || found.probability === undefined) {
    return make("p", {}, "How probable it is cannot be said: the certificate is not calibrated.");
  }
  return make("p", {}, inWords(found.probability, found.prior));
}

// What a probability means, in counts: of so many such pairs, so many show one person.
export function inWords(p, prior) {
  const rest = Math.min(p, 1 - p);
  const of = [100, 1000, 10000, 100000, 1000000].find((n) => rest * n >= 1) ?? 1000000;
  const count = Math.round(p * of);
  const share = rest * of < 1 ? (p > 0.5 ? `more than ${(of - 1).toLocaleString("en")}` : "fewer than 1") : count.toLocaleString("en");
  const before = prior === 0.5 ? "if one person was as likely as not before" : `if one person had probability ${percent(prior)} before`;
  return `Of ${of.toLocaleString("en")} pairs with such a cosine, ${share} show one person (${before}).`;
}

export function certificate(point) {
  if (!point) {
    return [make("p", {}, "This model has no operating point, so nothing is decided. Make one with: normface calibrate.")];
  }
  const rate = (found, of) => `${percent(found.value)} of ${found.n.toLocaleString("en")} pairs of ${of} (95 %: ${percent(found.low)} to ${percent(found.high)})`;
  const goal = point.target_far === null ? "for the best accuracy" : `for a false accept rate of ${percent(point.target_far, 3)}`;
  const each = (found) => `${percent(found.value)} (95 %: ${percent(found.low)} to ${percent(found.high)})`;
  const all = make("p", {}, `There it accepted ${rate(point.far, "different people")}, and ${rate(point.tar, "one person")}.`);
  const mean = point.tar_per_person && point.far_per_person ? [make("p", {}, `In the mean over ${point.tar_per_person.n.toLocaleString("en")} people it accepted ${each(point.tar_per_person)} of a person's own pairs, and ${each(point.far_per_person)} of their pairs with others.`)] : [];
  return [
    make("p", {}, `Two faces are taken for one person where their cosine is at least ${point.threshold.toFixed(4)}, chosen ${goal} on ${point.protocol}.`),
    // Where few people hold many of the genuine pairs, the rates per person come first, as in reports.
    ...(point.commonest_five > 1 / 3 ? [...mean, all] : [all, ...mean]),
    make("p", { class: "soft" }, "On other photographs, and for other groups of people, the rates differ."),
  ];
}

export function ranking(found) {
  const mark = (match) => (match.decision === "undecided" ? "undecided" : match.same === null ? "no decision" : match.same ? "accepted" : "not accepted");
  const rows = found.matches.map((match) => make("tr", {}, make("td", {}, String(match.rank)),
    make("th", { scope: "row" }, match.person), make("td", {}, match.score.toFixed(3)), make("td", {}, mark(match))));
  const head = ["Rank", "Name", "Cosine", "Threshold"].map((name) => make("th", { scope: "col" }, name));
  if (!rows.length) return [make("p", {}, "Nobody is enrolled.")];
  return [
    make("div", { class: "crops" }, crop(found.face, "searched for")),
    make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))),
    cover({ outside: found.face.outside, risk: found.face.risk, decision: found.matches[0].decision }),
    make("p", { class: found.search?.warning ? "outside" : "soft", role: "note" }, `${found.note[0].toUpperCase()}${found.note.slice(1)}.`),
  ];
}
