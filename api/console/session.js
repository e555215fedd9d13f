// Who is signed in: the key, for this tab only, and what it may do.
const STORED = "smarttextgen.key";

let current = sessionStorage.getItem(STORED);
const listeners = new Set();
const kept = new Map();

export const key = () => current;

export function signIn(secret) {
  current = secret;
  sessionStorage.setItem(STORED, secret);
}

// `reason`: "rejected" where the API refused the key, else "asked". What views remembered goes too.
export function signOut(reason) {
  if (current === null) return;
  current = null;
  sessionStorage.removeItem(STORED);
  kept.clear();
  for (const listener of listeners) listener(reason);
}

export function onSignOut(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// What a view wants to find again when one comes back to it; gone with the key.
export const keep = (name, value) => kept.set(name, value);
export const recall = (name, initial) => (kept.has(name) ? kept.get(name) : initial);
