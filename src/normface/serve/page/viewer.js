// Shows the HTML that the page hands over, once. Scripts in it do not run: this document's policy allows but this file.
addEventListener("message", (event) => {
  if (event.source !== parent) return;
  const given = new DOMParser().parseFromString(event.data, "text/html");
  given.querySelectorAll("script, base, meta[http-equiv]").forEach((element) => element.remove());
  document.documentElement.replaceChildren(document.adoptNode(given.head), document.adoptNode(given.body));
}, { once: true });
