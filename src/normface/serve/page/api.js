// The service's requests. The key is kept in this page's memory alone.

let key = "";

export function useKey(value) {
  key = value.trim();
}

export async function ask(path, { method = "GET", form = null } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const body = form && Object.entries(form).flatMap(([name, value]) => [value].flat().map((each) => [name, each]))
    .reduce((data, [name, value]) => (data.append(name, value), data), new FormData());
  let response;
  try {
    response = await fetch(path, { method, headers, body });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const told = await response.json().catch(() => ({}));
  if (response.ok) return told;
  const wait = response.headers.get("retry-after");
  if (wait) throw new Error(`The service is busy: try again in ${wait} s.`);
  throw new Error(told.expected ? `Expected ${told.expected}, got ${told.got}; ${told.do}.` : `Status ${response.status}.`);
}
