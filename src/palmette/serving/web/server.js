// How pages ask the server.

export const KEY = "palmette-api-key"; // in the session storage

/** Why a request was not answered. */
export class Refusal extends Error {
  constructor(message, { status, code, field, request, wait } = {}) {
    super(message);
    Object.assign(this, { status, code, field, request, wait });
  }
}

export const address = (path) => new URL(path, document.baseURI).href;

export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let response, text;
  try {
    response = await fetch(address(path), { ...options, headers });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(`The server cannot be reached: ${error.message}`);
  }
  const found = parsed(text);
  if (response.ok && found !== undefined) return found;
  const { error, request_id: request } = found ?? {};
  const wait = response.headers.get("Retry-After");
  throw new Refusal(error?.message ?? `The server answered ${response.status} ${response.statusText}, and no JSON that this page knows.`, {
    status: response.status,
    code: error?.code,
    field: error?.field,
    request,
    wait,
  });
}

/** The JSON of a text; undefined where it is none (a proxy's page of errors). */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
