// A job's life as it happens: from its event stream, and where there is none, by asking again and again.
import { useCallback, useEffect, useRef, useState } from "./dom.js";
import { get, isAbort, jobPath, send } from "./http.js";
import { createParser } from "./vendor/eventsource-parser.js";

export const ENDS = ["succeeded", "failed", "canceled", "expired"];
export const ended = (status) => ENDS.includes(status);

const MOST_FAILURES = 6;
const LONG_POLL_S = 2;
const FRAME_MS = 40;

// `text`: what each choice has so far. `via`: how it is watched now. `gone`: it does not exist any more.
export const unborn = (job = {}) => ({
  status: job.status ?? "queued",
  position: job.queue_position ?? null,
  eta: job.eta_seconds ?? null,
  attempt: job.attempt ?? 0,
  restarted: false,
  text: [],
  job: ended(job.status) ? job : null,
  via: null,
  gone: false,
});

// The state after an event of the stream.
export function advance(state, type, data) {
  switch (type) {
    case "queued":
      return { ...state, status: "queued", position: data.queue_position, eta: data.eta_seconds, text: [], job: null };
    case "started":
    case "restarted":
      return {
        ...state, status: "running", position: null, eta: null, attempt: data.attempt, text: [],
        restarted: type === "restarted" && state.status === "running", // else it was asked for: a retry
      };
    case "output": {
      const text = [...state.text];
      while (text.length <= data.index) text.push("");
      text[data.index] += data.delta;
      return { ...state, text };
    }
    default:
      return ended(type) ? whole(state, data) : state;
  }
}

// The state after the job itself was read.
function whole(state, job) {
  const { status, queue_position: position, eta_seconds: eta, attempt } = job;
  const text = attempt === state.attempt || status === "queued" ? state.text : [];
  return { ...state, status, position, eta, attempt, text, job: ended(status) ? job : null };
}

// The texts to show: of the finished job, else as far as they have come.
export function texts(state) {
  if (!state.job) return state.text;
  return state.job.choices.length ? state.job.choices.map((choice) => choice.text) : [state.job.output ?? ""];
}

const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });

// Follow a job to its end. `change(update)` gets functions from state to state; `cursor` is the last event's id, to go on
// from there. Returns the id of the last event that was seen.
export async function follow(id, change, signal, cursor = null) {
  const reader = { cursor, pause: 1000 };
  let failures = 0;
  while (!signal.aborted) {
    const before = reader.cursor;
    const next = await stream(id, change, signal, reader);
    if (next === "done") return reader.cursor;
    if (reader.cursor !== before) failures = 0;
    failures += 1;
    if (next === "poll" || failures > MOST_FAILURES) {
      await poll(id, change, signal);
      return reader.cursor;
    }
    change((state) => ({ ...state, via: "reconnecting" }));
    await sleep(Math.min(reader.pause * 2 ** (failures - 1), 15_000), signal);
  }
  return reader.cursor;
}

// One connection. "done" at the job's end, "again" where it was cut, "poll" where there is no stream to be had.
async function stream(id, change, signal, reader) {
  let response;
  try {
    const headers = { Accept: "text/event-stream" };
    if (reader.cursor !== null) headers["Last-Event-ID"] = reader.cursor;
    response = await send("GET", jobPath(id, "/stream"), { headers, signal });
  } catch (error) {
    if (isAbort(error)) return "done";
    return error.status === 0 ? "again" : "poll";
  }
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) return "poll";
  change((state) => ({ ...state, via: "stream" }));
  let outcome = null;
  const parser = createParser({
    onRetry: (pause) => { reader.pause = pause; },
    onEvent: ({ event, data, id: number }) => {
      if (outcome) return;
      const content = JSON.parse(data);
      if (number !== undefined) reader.cursor = number;
      if (event === "error") outcome = afterError(content.error.code, change);
      else change((state) => advance(state, event, content));
      if (ended(event)) outcome = "done";
    },
  });
  try {
    await read(response.body, parser, () => outcome !== null);
  } catch {
    if (signal.aborted) return "done";
  }
  return outcome ?? "again";
}

async function read(body, parser, enough) {
  const chunks = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await chunks.read();
      if (done) return;
      parser.feed(value);
      if (enough()) return;
    }
  } finally {
    chunks.cancel().catch(() => {});
  }
}

function afterError(code, change) {
  if (code === "not_found") {
    change((state) => ({ ...state, gone: true, via: null }));
    return "done";
  }
  return code === "stream_gone" ? "poll" : "again";
}

// Long polls, short enough that the place in the queue is seen to move.
async function poll(id, change, signal) {
  let failures = 0;
  let wait = LONG_POLL_S;
  while (!signal.aborted) {
    const began = Date.now();
    try {
      const job = await get(jobPath(id), { query: { wait }, signal });
      failures = 0;
      change((state) => ({ ...whole(state, job), via: "poll" }));
      if (ended(job.status)) return;
    } catch (error) {
      if (isAbort(error) || error.status === 401) return;
      if (error.status === 404 || error.status === 410) {
        change((state) => ({ ...state, gone: true, via: null }));
        return;
      }
      if (error.status === 422) wait = 0; // this deployment does not wait so long
      failures += 1;
      change((state) => ({ ...state, via: "reconnecting" }));
    }
    const left = failures ? Math.min(1000 * 2 ** failures, 15_000) : 1000 - (Date.now() - began);
    if (left > 0) await sleep(left, signal);
  }
}

// The state of a job that is being watched, and a function that watches it anew (after a retry) from its next event on.
// One job a component: give it the job's id as its key.
export function useLive(id, known) {
  const [state, setState] = useState(() => unborn(known));
  const [life, setLife] = useState(0);
  const cursor = useRef(null);
  useEffect(() => {
    if (!id || (life === 0 && ended(known?.status))) {
      setState(unborn(known));
      return undefined;
    }
    const abort = new AbortController();
    let current = unborn(life ? {} : known);
    let timer = 0;
    const show = () => {
      timer = 0;
      setState(current);
    };
    show();
    const change = (update) => {
      if (abort.signal.aborted) return;
      current = update(current);
      timer ||= setTimeout(show, FRAME_MS); // deltas may come by the hundred a second
    };
    follow(id, change, abort.signal, cursor.current).then((last) => { cursor.current = last; });
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [id, life]);
  return [state, useCallback(() => setLife((n) => n + 1), [])];
}
