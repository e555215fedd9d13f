// The public HTTP API, with the person's key. Nothing else in the console sends requests.
import * as session from "./session.js";

// What went wrong, as the API says it. `status` 0: no answer at all.
export class ApiError extends Error {
  constructor(status, { code, message, param = null }, retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

export const isAbort = (error) => error?.name === "AbortError";

// A key that a header cannot carry is wrong before it is sent.
export const sendable = (key) => /^[\x21-\x7e]{1,256}$/.test(key);

function address(path, query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== "") parameters.set(name, value);
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

async function failure(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  try {
    return new ApiError(response.status, (await response.json()).error, retryAfter);
  } catch {
    return new ApiError(response.status, { code: "http_error", message: `HTTP ${response.status}` }, retryAfter);
  }
}

// A response with status 2xx. Throws ApiError; a 401 also signs out, unless a `key` that is being tried was given.
export async function send(method, path, { body, query, headers = {}, signal, key } = {}) {
  const used = key ?? session.key();
  const all = { ...(used ? { "X-API-Key": used } : {}), ...headers };
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path, query), {
      method, headers: all, signal, cache: "no-store", credentials: "omit", redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(0, { code: "network", message: String(error?.message ?? error) });
  }
  if (response.ok) return response;
  const wrong = await failure(response);
  if (wrong.status === 401 && key === undefined && used === session.key()) session.signOut("rejected");
  throw wrong;
}

// The body of an answer; null where it has none.
export async function call(method, path, options) {
  const response = await send(method, path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, options) => call("GET", path, options);
export const post = (path, options) => call("POST", path, options);

// A name for one submit: sent twice by a flaky network, it is one job. (randomUUID is not there on plain http.)
export function idempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const jobPath = (id, rest = "") => `/api/jobs/${encodeURIComponent(id)}${rest}`;
