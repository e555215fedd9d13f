// One job as it lives: where it is, the text so far, what it took, and what can be done with it.
import { html, useEffect, useRef, useState } from "../dom.js";
import { duration, number } from "../format.js";
import { say } from "../hooks.js";
import { call, jobPath, post } from "../http.js";
import { t } from "../i18n.js";
import { Icon } from "../icons.js";
import { ended, texts, useLive } from "../live.js";
import { Badge, Button, Copy, Failure, Tile, attempt, useConfirm } from "../ui.js";

const READ_ALOUD_MS = 2000;

// `known`: the job, or the receipt of its submit. `onDeleted`: what to do when it is gone by the person's own hand.
export function LiveJob({ known, onDeleted, onChange }) {
  const [state, again] = useLive(known.id, known);
  const [stopping, setStopping] = useState(Boolean(known.cancel_requested));
  const [dialog, ask] = useConfirm();
  const done = ended(state.status);
  const before = useRef(state.status);
  useEffect(() => {
    if (done) setStopping(false);
    if (before.current !== state.status) onChange?.();
    before.current = state.status;
  }, [state.status]);

  const cancel = () => attempt(async () => {
    setStopping(true);
    try {
      const job = await post(jobPath(known.id, "/cancel"));
      if (ended(job.status)) say(t("job.canceled"));
    } catch (error) {
      setStopping(false);
      throw error;
    }
  });
  const retry = () => attempt(async () => {
    await post(jobPath(known.id, "/retry"));
    again();
  }, t("job.retried"));
  const remove = () => ask({
    title: t("job.delete.title"), text: t("job.delete.text"), yes: t("do.delete"),
    act: async () => {
      if (await attempt(() => call("DELETE", jobPath(known.id)))) onDeleted?.();
    },
  });

  if (state.gone) return html`<${Failure} error=${{ status: 410, code: "job_gone", message: known.id }} />`;
  const shown = texts(state);
  return html`
    <div class="live" data-status=${state.status} data-via=${state.via ?? "none"}>
      <header class="live-head">
        <${Badge} status=${state.status} />
        ${state.attempt > 1 && html`<span class="note">${t("job.attempt", { n: state.attempt })}</span>`}
        ${state.job?.cached && html`<span class="note">${t("job.cached")}</span>`}
        <code class="id push" title=${known.id}>${known.id}</code>
        <${Copy} icon text=${known.id} label=${t("job.copyid")} />
      </header>
      <${Life} state=${state} />
      <${Answer} state=${state} shown=${shown} />
      ${state.job?.error && html`<${Failure} error=${{ status: 200, ...state.job.error }} />`}
      <${Took} job=${state.job} />
      <footer class="live-foot">
        ${!done && html`<${Button} icon="stop" small busy=${stopping} onClick=${cancel}>${t(stopping ? "job.stopping" : "do.cancel")}<//>`}
        ${done && state.status !== "succeeded" && html`<${Button} icon="retry" small onClick=${retry}>${t("do.retry")}<//>`}
        ${shown.length > 0 && shown[0] !== "" && html`<${Copy} text=${shown.join("\n\n")} label=${t("job.copytext")} />`}
        <span class="push"></span>
        ${onDeleted && html`<${Button} kind="ghost" icon="trash" small onClick=${remove}>${t("do.delete")}<//>`}
      </footer>
      ${dialog}
    </div>`;
}

// Waiting, running, ended: which of them, and for how long.
function Life({ state }) {
  const done = ended(state.status);
  const { job } = state;
  const ran = state.status !== "queued" && (!done || job?.started_at);
  const steps = [
    { name: t("status.queued"), at: state.status === "queued" ? "now" : "done", text: job ? duration(job.queue_time_ms) : "" },
    { name: t("status.running"), at: state.status === "running" ? "now" : ran ? "done" : "none", text: job?.started_at ? duration(job.execution_time_ms) : "" },
    { name: done ? t(`status.${state.status}`) : t("status.end"), at: done ? `done end-${state.status}` : "none", text: "" },
  ];
  return html`
    <ol class="life">${steps.map((step) => html`
      <li key=${step.name} class=${`life-${step.at}`} aria-current=${step.at === "now" ? "step" : undefined}>
        <span class="life-dot" aria-hidden="true"></span>
        <span class="life-name">${step.name}</span> <span class="life-time">${step.text}</span></li>`)}</ol>
    <p class="life-says" role="status">${says(state)}</p>`;
}

// The place in the queue, and the estimate in seconds where there is one.
export function inLine(position, eta) {
  const place = t("live.position", { n: number(position) });
  if (eta === null) return place;
  return place + (eta < 1 ? t("live.eta.soon") : t("live.eta", { time: duration(eta * 1000) }));
}

function says(state) {
  if (state.via === "reconnecting") return t("live.reconnecting");
  if (state.status === "queued") {
    return state.position === null ? t("live.soon") : inLine(state.position, state.eta);
  }
  if (state.status === "running") return t(state.restarted ? "live.restarted" : state.via === "poll" ? "live.polling" : "live.running");
  return t(`live.${state.status}`);
}

function Answer({ state, shown }) {
  const running = state.status === "running";
  const many = shown.length > 1;
  return html`
    <div class="output" aria-busy=${running ? "true" : "false"} data-testid="output">
      ${shown.map((text, index) => html`
        <div key=${index} class="choice">
          ${many && html`<p class="choice-name">${t("job.choice", { n: index + 1 })}</p>`}
          <div class="text">${text}${running && html`<span class="caret" aria-hidden="true"></span>`}</div>
        </div>`)}
      ${shown.length === 0 && html`<div class="text text-none">${running ? html`<span class="caret" aria-hidden="true"></span>`
        : state.status === "queued" ? t("live.waiting") : ended(state.status) ? t("job.nothing") : ""}</div>`}
    </div>
    <${ReadAloud} text=${shown[0] ?? ""} running=${running} />`;
}

// For screen readers: new words every other second, and not every letter as it comes.
function ReadAloud({ text, running }) {
  const [lines, setLines] = useState([]);
  const said = useRef(0);
  const latest = useRef(text);
  latest.current = text;
  useEffect(() => {
    if (text.length < said.current) {
      said.current = 0;
      setLines([]);
    }
  }, [text.length < said.current]);
  useEffect(() => {
    if (!running) return undefined;
    const tell = (all) => {
      const fresh = latest.current.slice(said.current);
      const end = all ? fresh.length : fresh.search(/\s\S*$/);
      if (end <= 0) return;
      said.current += end;
      setLines((before) => [...before.slice(-5), fresh.slice(0, end)]);
    };
    const timer = setInterval(tell, READ_ALOUD_MS);
    return () => {
      clearInterval(timer);
      setTimeout(() => tell(true), 100); // the whole text is there then
    };
  }, [running]);
  return html`<div class="sr-only" role="log" aria-live="polite">${lines.map((line, index) => html`<p key=${index}>${line}</p>`)}</div>`;
}

function Took({ job }) {
  const usage = job?.usage;
  const seconds = (job?.execution_time_ms ?? 0) / 1000;
  const speed = usage?.completion_tokens && seconds > 0 ? usage.completion_tokens / seconds : null;
  const value = (number_) => (number_ === undefined ? "–" : number(number_));
  return html`
    <dl class="tiles">
      <${Tile} label=${t("took.prompt")} value=${value(usage?.prompt_tokens)} />
      ${usage?.cached_tokens > 0 && html`<${Tile} label=${t("took.cached")} value=${number(usage.cached_tokens)} />`}
      <${Tile} label=${t("took.completion")} value=${value(usage?.completion_tokens)} />
      <${Tile} label=${t("took.waited")} value=${duration(job?.queue_time_ms)} />
      <${Tile} label=${t("took.ran")} value=${duration(job?.execution_time_ms)} />
      <${Tile} label=${t("took.speed")} value=${speed === null ? "–" : t("took.per_s", { n: number(Math.round(speed)) })} />
    </dl>`;
}
