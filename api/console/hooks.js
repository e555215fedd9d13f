// What views have in common: the place in the address, data that refreshes itself, news for the person.
import { useCallback, useEffect, useRef, useState } from "./dom.js";
import { isAbort } from "./http.js";
import * as session from "./session.js";

const place = () => location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);

// The parts of the address after #/.
export function useRoute() {
  const [parts, setParts] = useState(place);
  useEffect(() => {
    const moved = () => setParts(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return parts;
}

export const go = (...parts) => {
  location.hash = `#/${parts.map(encodeURIComponent).join("/")}`;
};

export const href = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

// `load(signal)` now, again every `every(data)` milliseconds while the page is looked at, and when `wanted` changes.
// What is there stays until the next has come, so that nothing jumps; after a failure too, with the error beside it.
export function usePolled(load, wanted, every) {
  const [state, setState] = useState({ data: null, error: null, loading: true });
  const [round, setRound] = useState(0);
  const latest = useRef({});
  latest.current = { load, every };
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    let failures = 0;
    const look = async () => {
      if (document.hidden) return; // visibilitychange looks again
      let data = null;
      try {
        data = await latest.current.load(abort.signal);
        failures = 0;
        setState({ data, error: null, loading: false });
      } catch (error) {
        if (isAbort(error)) return;
        failures += 1;
        setState((before) => ({ data: before.data, error, loading: false }));
        if (error.status >= 400 && error.status < 500 && error.status !== 429) return;
      }
      const pause = failures ? Math.min(2000 * 2 ** failures, 30_000) : latest.current.every?.(data);
      if (pause && !abort.signal.aborted) timer = setTimeout(look, pause);
    };
    const shown = () => {
      clearTimeout(timer);
      if (!document.hidden) look();
    };
    look();
    document.addEventListener("visibilitychange", shown);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [...wanted, round]);
  return { ...state, refresh: useCallback(() => setRound((n) => n + 1), []) };
}

// State that is still there when one comes back to the view.
export function useKept(name, initial) {
  const [value, setValue] = useState(() => session.recall(name, initial));
  const set = useCallback((next) => {
    setValue((before) => {
      const after = typeof next === "function" ? next(before) : next;
      session.keep(name, after);
      return after;
    });
  }, [name]);
  return [value, set];
}

let tell = () => {};

// A short message at the edge of the page. `kind`: "good" or "bad".
export const say = (text, kind = "good") => tell({ text, kind, id: Math.random() });

export function useNews() {
  const [news, setNews] = useState([]);
  tell = (item) => {
    setNews((all) => [...all.slice(-2), item]);
    setTimeout(() => setNews((all) => all.filter((other) => other.id !== item.id)), item.kind === "bad" ? 9000 : 4000);
  };
  return [news, (id) => setNews((all) => all.filter((other) => other.id !== id))];
}
