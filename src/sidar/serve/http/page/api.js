// Traffic with the server: addresses, the key, errors in words.
const STORED = "sidar-key";

/** Beside page/, wherever a proxy or a mount puts it. */
export const address = (path) => new URL(`../${path}`, import.meta.url);

/** The API key of this tab; empty = none. It is forgotten when the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(STORED) ?? "",
  set: (value) =>
    value ? sessionStorage.setItem(STORED, value) : sessionStorage.removeItem(STORED),
};

/** An answer that is no answer: `status` 0 = the server did not answer at all. */
export class Refused extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

async function reply(path, options = {}) {
  const headers = {
    ...options.headers,
    ...(key.get() && { Authorization: `Bearer ${key.get()}` }),
  };
  const answer = await fetch(address(path), { ...options, headers }).catch(() => {
    throw new Refused("The server does not answer.", 0);
  });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Refused(body.error ?? `The server answered ${answer.status}.`, answer.status);
}

/** GET `path?…` as JSON; empty and missing values are left out. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const tail = given.length ? `?${new URLSearchParams(given)}` : "";
  return (await reply(`${path}${tail}`)).json();
}

/** GET `path` as bytes. */
export const bytes = async (path) => (await reply(path)).blob();

/** POST `body` as JSON. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await reply(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}
