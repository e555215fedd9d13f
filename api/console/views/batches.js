// Many prompts at once: the list with how far each has come, a new one, and one of them in a drawer.
import { html, useState } from "../dom.js";
import { ago, excerpt, moment, number } from "../format.js";
import { go, href, say, usePolled } from "../hooks.js";
import { call, get, idempotencyKey, post, send } from "../http.js";
import { t } from "../i18n.js";
import { Badge, Bar, Button, Copy, Dialog, Empty, Failure, Field, Loading, Pager, attempt, useConfirm, usePages } from "../ui.js";
import { modeName } from "./jobs.js";
import { NotYet, missing } from "./notyet.js";

const KINDS = ["succeeded", "failed", "canceled", "expired", "running", "queued"];
const LIVELY_MS = 1500;
const CALM_MS = 8000;
const PAGE = 20;
const RESULTS = 100;

const goingOn = (batch) => ["in_progress", "canceling"].includes(batch.status);
const path = (id, rest = "") => `/api/batches/${encodeURIComponent(id)}${rest}`;
const endedOf = ({ total, queued, running }) => total - queued - running;

export function Batches({ rest: [open] }) {
  const pages = usePages([]);
  const { data, error, loading, refresh } = usePolled(
    (signal) => get("/api/batches", { query: { limit: PAGE, cursor: pages.cursor }, signal }), [pages.cursor],
    (page) => (page?.data.some(goingOn) ? LIVELY_MS : CALM_MS),
  );
  const [making, setMaking] = useState(false);
  return html`
    <div class="view-head view-head-do"><div><h1>${t("nav.batches")}</h1><p class="lead">${t("batches.lead")}</p></div>
      <${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>${t("batches.new")}<//></div>
    ${missing(error) ? html`<${NotYet} icon="stack" />` : error && html`<${Failure} error=${error} retry=${refresh} />`}
    ${loading ? html`<${Loading} rows=${4} />` : data?.data.length ? html`
      <ul class="card rows">${data.data.map((batch) => html`
        <li key=${batch.id} class="row"><${State} batch=${batch} />
          <div class="row-main"><a class="row-link" href=${href("batches", batch.id)}>${t("batches.name", { n: number(batch.counts.total) })}</a>
            <${Progress} batch=${batch} />
            <p class="row-meta"><code>${batch.id}</code><time datetime=${batch.created_at} title=${moment(batch.created_at)}>${ago(batch.created_at)}</time></p></div>
        </li>`)}</ul>` : data && html`<div class="card"><${Empty} icon="stack" title=${t("batches.empty")}>${t("batches.empty.text")}<//></div>`}
    <${Pager} page=${pages.page} more=${data?.has_more} onBack=${pages.back} onNext=${() => pages.next(data.next_cursor)} />
    ${making && html`<${NewBatch} onClose=${() => setMaking(false)} onMade=${(batch) => { setMaking(false); refresh(); go("batches", batch.id); }} />`}
    ${open && html`<${BatchDrawer} key=${open} id=${open} onClose=${() => { go("batches"); refresh(); }} />`}`;
}

const State = ({ batch }) => html`
  <span class=${`badge badge-${{ in_progress: "running", canceling: "queued", completed: "succeeded", canceled: "canceled" }[batch.status]}`}>
    ${t(`batch.${batch.status}`)}</span>`;

function Progress({ batch }) {
  const { counts } = batch;
  const parts = KINDS.map((kind) => ({ kind, count: counts[kind] }));
  const text = t("batches.progress", { n: number(endedOf(counts)), total: number(counts.total) });
  return html`<div class="progress"><${Bar} parts=${parts} total=${counts.total} label=${text} /><span>${text}</span></div>`;
}

function NewBatch({ onClose, onMade }) {
  const modes = usePolled((signal) => get("/api/modes", { signal }), []);
  const [lines, setLines] = useState("");
  const [mode, setMode] = useState("");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const prompts = lines.split("\n").map((line) => line.trim()).filter(Boolean);
  const make = async (event) => {
    event.preventDefault();
    if (!prompts.length || busy) return;
    setBusy(true);
    setError(null);
    try {
      onMade(await post("/api/generate_batch", {
        body: mode ? { prompts, mode } : { prompts }, headers: { "Idempotency-Key": idempotencyKey() },
      }));
    } catch (wrong) {
      setError(wrong);
      setBusy(false);
    }
  };
  return html`
    <${Dialog} title=${t("batches.new")} onClose=${onClose} actions=${html`
      <${Button} onClick=${onClose}>${t("do.back")}<//>
      <${Button} kind="primary" busy=${busy} disabled=${!prompts.length} onClick=${make}>${t("batches.make", { n: prompts.length })}<//>`}>
      <form onSubmit=${make} onKeyDown=${(event) => event.key === "Enter" && event.ctrlKey && make(event)}>
        <${Field} id="prompts" label=${t("batches.prompts")} hint=${t("batches.prompts.hint")}>
          <textarea id="prompts" rows="8" value=${lines} aria-describedby="prompts-hint" onInput=${(event) => setLines(event.target.value)}></textarea><//>
        <${Field} id="batch-mode" label=${t("playground.mode")}>
          <select id="batch-mode" value=${mode} onChange=${(event) => setMode(event.target.value)}>
            <option value="">${t("option.default")}</option>
            ${modes.data?.data.map((item) => html`<option key=${item.name} value=${item.name}>${modeName(item.name)}</option>`)}</select><//>
        ${error && html`<${Failure} error=${error} />`}
      </form>
    <//>`;
}

// One that just started may be asked for by its id where the list is not there yet.
function BatchDrawer({ id, onClose }) {
  const { data, error, refresh } = usePolled((signal) => get(path(id), { signal }), [id], (batch) => (batch && goingOn(batch) ? LIVELY_MS : 0));
  const [dialog, ask] = useConfirm();
  const cancel = () => attempt(async () => {
    await post(path(id, "/cancel"));
    refresh();
  });
  const remove = () => ask({
    title: t("batches.delete.title"), text: t("batches.delete.text"), yes: t("do.delete"),
    act: async () => {
      if (!await attempt(() => call("DELETE", path(id)))) return;
      say(t("batches.deleted"));
      onClose();
    },
  });
  return html`
    <${Dialog} title=${t("batches.title")} kind="drawer" onClose=${onClose}>
      ${error ? html`<${Failure} error=${error} retry=${refresh} />` : !data ? html`<${Loading} rows=${6} />` : html`
        <header class="live-head"><${State} batch=${data} /><code class="id push">${id}</code><${Copy} icon text=${id} /></header>
        <${Progress} batch=${data} />
        <ul class="counts">${KINDS.map((kind) => data.counts[kind] > 0 && html`
          <li key=${kind}><${Badge} status=${kind} /> <strong>${number(data.counts[kind])}</strong></li>`)}</ul>
        <footer class="live-foot">
          ${data.status === "in_progress" && data.urls.cancel && html`<${Button} small icon="stop" onClick=${cancel}>${t("do.cancel")}<//>`}
          ${data.urls.results && html`<${Download} id=${id} />`}
          <span class="push"></span>
          ${data.urls.results && html`<${Button} small kind="ghost" icon="trash" onClick=${remove}>${t("do.delete")}<//>`}
        </footer>
        ${data.jobs && html`
          <h3>${t("nav.jobs")}</h3>
          <ul class="rows rows-small">${data.jobs.slice(0, RESULTS).map((job, index) => html`
            <li key=${job.id} class="row"><${Badge} status=${job.status} /><div class="row-main">
              <a class="row-link" href=${href("jobs", job.id)}>${data.inputs ? excerpt(data.inputs[index], 90) : job.custom_id ?? job.id}</a>
              ${data.outputs?.[index] && html`<p class="row-meta">${excerpt(data.outputs[index], 120)}</p>`}</div></li>`)}</ul>
          ${data.jobs.length > RESULTS && html`<p class="field-hint">${t("batches.first", { n: RESULTS })}</p>`}`}`}
      ${dialog}
    <//>`;
}

// All results so far, as a file. They come in pages, and need the key: no plain link could fetch them.
function Download({ id }) {
  const [busy, setBusy] = useState(false);
  const fetchAll = async () => {
    setBusy(true);
    await attempt(async () => {
      const pages = [];
      for (let cursor; ;) {
        const response = await send("GET", path(id, "/results"), { query: { cursor, limit: 1000 } });
        const text = await response.text();
        const next = response.headers.get("X-Next-Cursor");
        pages.push(text);
        if (!text || next === cursor || !next) break;
        cursor = next;
      }
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(pages, { type: "application/x-ndjson" }));
      link.download = `${id}.jsonl`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
    setBusy(false);
  };
  return html`<${Button} small icon="download" busy=${busy} onClick=${fetchAll}>${t("batches.download")}<//>`;
}
