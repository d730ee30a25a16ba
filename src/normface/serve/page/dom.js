// Elements from data. Text is only ever text: nothing a person or a server sends is read as HTML.

export const find = (selector, root = document) => root.querySelector(selector);

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, properties = {}, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "left") element.style.left = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...children);

export const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;

export function fault(error) {
  return make("p", { class: "fault", role: "alert" }, error.message ?? String(error));
}

// Runs a form's work, its button busy meanwhile, and puts what it gives, or the error, where the answer goes.
export function answers(form, place, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = find("button:not([type=button])", form);
    button.disabled = true;
    place.setAttribute("aria-busy", "true");
    try {
      fill(place, ...(await work()));
    } catch (error) {
      fill(place, fault(error));
    } finally {
      button.disabled = false;
      place.removeAttribute("aria-busy");
    }
  });
}
