// One's jobs: the list with its filters, and one of them in a drawer.
import { html, useState } from "../dom.js";
import { ago, duration, excerpt, moment, number } from "../format.js";
import { go, href, say, useKept, usePolled } from "../hooks.js";
import { get, jobPath, post } from "../http.js";
import { known, t } from "../i18n.js";
import { ENDS, ended } from "../live.js";
import { Badge, Button, Dialog, Empty, Failure, Loading, Pager, Segmented, attempt, usePages } from "../ui.js";
import { LiveJob, inLine } from "./livejob.js";

const STATUSES = ["", "queued", "running", ...ENDS];
const PAGE = 20;
const LIVELY_MS = 2000;
const CALM_MS = 8000;

export const modeName = (mode) => (known(`mode.${mode}`) ? t(`mode.${mode}`) : mode);

export function Jobs({ rest: [open] }) {
  const [filters, setFilters] = useKept("jobs.filters", { status: "", mode: "", user_id: "" });
  const set = (name, value) => setFilters((before) => ({ ...before, [name]: value }));
  const modes = usePolled((signal) => get("/api/modes", { signal }), []);
  const wanted = [filters.status, filters.mode, filters.user_id];
  const pages = usePages(wanted);
  const { data, error, loading, refresh } = usePolled(
    (signal) => get("/api/jobs", { query: { ...filters, limit: PAGE, cursor: pages.cursor }, signal }),
    [...wanted, pages.cursor],
    (page) => (page?.data.some((job) => !ended(job.status)) ? LIVELY_MS : CALM_MS),
  );
  const filtered = wanted.some(Boolean);
  return html`
    <div class="view-head"><h1>${t("nav.jobs")}</h1><p class="lead">${t("jobs.lead")}</p></div>
    <div class="filters">
      <${Segmented} name="status" label=${t("jobs.status")} value=${filters.status} onChange=${(value) => set("status", value)}
        options=${STATUSES.map((status) => ({ value: status, label: t(status ? `status.${status}` : "jobs.all") }))} />
      <select aria-label=${t("playground.mode")} value=${filters.mode} onChange=${(event) => set("mode", event.target.value)}>
        <option value="">${t("jobs.allmodes")}</option>
        ${modes.data?.data.map((mode) => html`<option key=${mode.name} value=${mode.name}>${modeName(mode.name)}</option>`)}
      </select>
      <input type="search" aria-label=${t("option.user_id")} placeholder=${t("option.user_id")} value=${filters.user_id}
        onChange=${(event) => set("user_id", event.target.value.trim())} />
    </div>
    ${error && html`<${Failure} error=${error} retry=${refresh} />`}
    ${loading ? html`<${Loading} rows=${5} />` : data?.data.length ? html`
      <ul class="card rows">${data.data.map((job) => html`<${JobRow} key=${job.id} job=${job} onChange=${refresh} />`)}</ul>` : data && html`
      <div class="card"><${Empty} icon="list" title=${t(filtered ? "jobs.none" : "jobs.empty")}>
        ${filtered ? t("jobs.none.text") : html`<a href=${href("playground")}>${t("jobs.empty.text")}</a>`}<//></div>`}
    <${Pager} page=${pages.page} more=${data?.has_more} onBack=${pages.back} onNext=${() => pages.next(data.next_cursor)} />
    ${open && html`<${JobDrawer} key=${open} id=${open} onClose=${() => { go("jobs"); refresh(); }} />`}`;
}

export function JobRow({ job, onChange }) {
  const [busy, setBusy] = useState(false);
  const act = (path, good) => async () => {
    setBusy(true);
    await attempt(() => post(jobPath(job.id, path)), good);
    setBusy(false);
    onChange();
  };
  return html`
    <li class="row">
      <${Badge} status=${job.status} />
      <div class="row-main">
        <a class="row-link" href=${href("jobs", job.id)}>${excerpt(asked(job))}</a>
        <p class="row-meta"><span>${modeName(job.mode)}</span>
          <time datetime=${job.created_at} title=${moment(job.created_at)}>${ago(job.created_at)}</time>
          <span>${facts(job)}</span>${job.user_id && html`<span>${job.user_id}</span>`}</p>
      </div>
      <div class="row-do">
        ${!ended(job.status) && html`<${Button} small icon="stop" busy=${busy || job.cancel_requested} onClick=${act("/cancel")}
          aria-label=${t("jobs.cancel", { text: excerpt(asked(job), 40) })}>${t("do.cancel")}<//>`}
        ${ended(job.status) && job.status !== "succeeded" && html`<${Button} small icon="retry" busy=${busy}
          onClick=${act("/retry", t("job.retried"))} aria-label=${t("jobs.retry", { text: excerpt(asked(job), 40) })}>${t("do.retry")}<//>`}
      </div>
    </li>`;
}

// A prompt of token ids has no text.
const asked = (job) => job.input_token_ids ? t("job.token_ids", { n: job.input_token_ids.length }) : job.input;

function facts(job) {
  if (job.status === "queued" && job.queue_position !== null) return inLine(job.queue_position, job.eta_seconds);
  if (!ended(job.status)) return job.attempt > 1 ? t("job.attempt", { n: job.attempt }) : "";
  if (!job.started_at && !job.cached) return ""; // it never ran
  const tokens = job.cached ? t("job.cached") : t("jobs.tokens", { n: job.usage?.total_tokens ?? 0 });
  return `${tokens} · ${duration((job.queue_time_ms ?? 0) + (job.execution_time_ms ?? 0))}`;
}

export function JobDrawer({ id, onClose }) {
  const { data, error, refresh } = usePolled((signal) => get(jobPath(id), { signal }), [id]);
  const deleted = () => {
    say(t("job.deleted"));
    onClose();
  };
  return html`
    <${Dialog} title=${t("job.title")} kind="drawer" onClose=${onClose}>
      ${error ? html`<${Failure} error=${error} retry=${refresh} />` : !data ? html`<${Loading} rows=${6} />` : html`
        <h3>${t("job.input")}</h3>
        <div class="text quote">${asked(data)}</div>
        <h3>${t("job.output")}</h3>
        <${LiveJob} known=${data} onDeleted=${deleted} onChange=${refresh} />
        ${data.history.length > 0 && html`
          <details class="more" open><summary>${t("job.history", { n: data.history.length })}</summary>
            <ol class="turns">${data.history.map((turn, index) => html`
              <li key=${index}><div class="text turn-in">${turn.input}</div><div class="text turn-out">${turn.output}</div></li>`)}</ol></details>`}
        <details class="more"><summary>${t("job.details")}</summary><${Details} job=${data} /></details>`}
    <//>`;
}

function Details({ job }) {
  const rows = [
    ["mode", modeName(job.mode)], ["model", job.model], ["priority", t(`priority.${job.priority}`)], ["attempt", job.attempt],
    ["user_id", job.user_id], ["batch_id", job.batch_id], ["custom_id", job.custom_id],
    ["created_at", job.created_at && moment(job.created_at)], ["started_at", job.started_at && moment(job.started_at)],
    ["finished_at", job.finished_at && moment(job.finished_at)], ["expires_at", job.expires_at && moment(job.expires_at)],
    ["finish_reason", job.choices.map((choice) => choice.finish_reason).join(", ")],
    ["cached_tokens", job.usage && number(job.usage.cached_tokens)], ["system_fingerprint", job.system_fingerprint],
    ["webhook_status", job.webhook_status],
    ...Object.entries(job.metadata).map(([name, value]) => [`metadata.${name}`, value]),
  ];
  return html`<dl class="facts">${rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => html`
    <div key=${name}><dt>${known(`fact.${name}`) ? t(`fact.${name}`) : name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
