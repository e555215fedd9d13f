// Who is called back: endpoints, their secrets, and what was delivered.
import { html, useState } from "../dom.js";
import { ago, moment, number } from "../format.js";
import { go, href, say, usePolled } from "../hooks.js";
import { call, get, post } from "../http.js";
import { t } from "../i18n.js";
import { Button, Copy, Dialog, Empty, Failure, Field, Loading, Pager, Segmented, attempt, useConfirm, usePages } from "../ui.js";
import { NotYet, missing } from "./notyet.js";

const EVENTS = ["job.started", "job.output", "job.succeeded", "job.failed", "job.canceled", "job.expired", "batch.completed"];
const USUAL = EVENTS.filter((name) => name !== "job.output");
const STATES = { pending: "queued", delivered: "succeeded", failed: "failed" };
const DEFAULT = "default"; // the endpoint of the jobs that name a url of their own

const path = (id, rest = "") => `/api/webhooks/${encodeURIComponent(id)}${rest}`;

export function Webhooks({ rest: [open] }) {
  const { data, error, loading, refresh } = usePolled((signal) => get("/api/webhooks", { signal }), [], () => 10_000);
  const [making, setMaking] = useState(false);
  const [secret, setSecret] = useState(null);
  const made = (endpoint) => {
    setMaking(false);
    setSecret(endpoint);
    refresh();
  };
  const own = data?.data.filter((endpoint) => endpoint.id !== DEFAULT) ?? [];
  return html`
    <div class="view-head view-head-do"><div><h1>${t("nav.webhooks")}</h1><p class="lead">${t("webhooks.lead")}</p></div>
      ${data && html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>${t("webhooks.new")}<//>`}</div>
    ${missing(error) ? html`<${NotYet} icon="bell" />` : error && html`<${Failure} error=${error} retry=${refresh} />`}
    ${loading ? html`<${Loading} rows=${3} />` : data && html`
      <ul class="card rows">
        ${own.map((endpoint) => html`<${Endpoint} key=${endpoint.id} endpoint=${endpoint} />`)}
        <${Endpoint} endpoint=${{ id: DEFAULT, url: null, events: [], status: "enabled", description: "" }} />
      </ul>
      ${own.length === 0 && html`<div class="card"><${Empty} icon="bell" title=${t("webhooks.empty")}>${t("webhooks.empty.text")}<//></div>`}`}
    ${making && html`<${NewEndpoint} onClose=${() => setMaking(false)} onMade=${made} />`}
    ${secret && html`<${Secret} endpoint=${secret} onClose=${() => setSecret(null)} />`}
    ${open && html`<${EndpointDrawer} key=${open} id=${open} onSecret=${setSecret} onClose=${() => { go("webhooks"); refresh(); }} />`}`;
}

const stateOf = (endpoint) => html`
  <span class=${`badge badge-${endpoint.status === "enabled" ? "succeeded" : "canceled"}`}>${t(`word.${endpoint.status}`)}</span>`;

const Endpoint = ({ endpoint }) => html`
  <li class="row">${stateOf(endpoint)}
    <div class="row-main"><a class="row-link" href=${href("webhooks", endpoint.id)}>${endpoint.url ?? t("webhooks.default")}</a>
      <p class="row-meta"><span>${endpoint.id === DEFAULT ? t("webhooks.default.text") : endpoint.description || endpoint.events.join(", ")}</span>
        ${endpoint.disabled_reason && html`<span>${endpoint.disabled_reason}</span>`}</p></div></li>`;

function NewEndpoint({ onClose, onMade }) {
  const [url, setUrl] = useState("https://");
  const [description, setDescription] = useState("");
  const [events, setEvents] = useState(USUAL);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const make = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      onMade(await post("/api/webhooks", { body: { url, events, ...(description ? { description } : {}) } }));
    } catch (wrong) {
      setError(wrong);
      setBusy(false);
    }
  };
  const toggle = (name) => setEvents((all) => (all.includes(name) ? all.filter((other) => other !== name) : [...all, name]));
  return html`
    <${Dialog} title=${t("webhooks.new")} onClose=${onClose} actions=${html`
      <${Button} onClick=${onClose}>${t("do.back")}<//><${Button} kind="primary" busy=${busy} disabled=${!events.length} onClick=${make}>${t("webhooks.make")}<//>`}>
      <form onSubmit=${make} novalidate>
        <${Field} id="hook-url" label=${t("webhooks.url")} hint=${t("webhooks.url.hint")} error=${error?.param === "url" ? error.message : null}>
          <input id="hook-url" type="url" value=${url} autocomplete="off" aria-describedby="hook-url-hint" onInput=${(event) => setUrl(event.target.value)} /><//>
        <${Field} id="hook-text" label=${t("webhooks.description")}>
          <input id="hook-text" type="text" value=${description} onInput=${(event) => setDescription(event.target.value)} /><//>
        <fieldset class="ticks"><legend>${t("webhooks.events")}</legend>${EVENTS.map((name) => html`
          <label key=${name} class="tick"><input type="checkbox" checked=${events.includes(name)} onChange=${() => toggle(name)} /> <code>${name}</code></label>`)}</fieldset>
        ${error && error.param !== "url" && html`<${Failure} error=${error} />`}
        <button type="submit" hidden></button>
      </form>
    <//>`;
}

const Secret = ({ endpoint, onClose }) => html`
  <${Dialog} title=${t("webhooks.secret")} onClose=${onClose} actions=${html`<${Button} kind="primary" onClick=${onClose}>${t("do.done")}<//>`}>
    <p>${t("webhooks.secret.text")}</p>
    <div class="secret-shown"><code>${endpoint.secret}</code><${Copy} text=${endpoint.secret} /></div>
  <//>`;

function EndpointDrawer({ id, onClose, onSecret }) {
  const { data, error, refresh } = usePolled((signal) => get(path(id), { signal }), [id]);
  const [dialog, ask] = useConfirm();
  const [round, setRound] = useState(0);
  const own = id !== DEFAULT;
  const rotate = () => ask({
    title: t("webhooks.rotate.title"), text: t("webhooks.rotate.text"), yes: t("webhooks.rotate"),
    act: async () => {
      const endpoint = await attempt(() => post(path(id, "/rotate_secret")));
      if (endpoint) onSecret(endpoint);
    },
  });
  const show = async () => {
    const found = await attempt(() => get(path(id, "/secret")));
    if (found) onSecret(found);
  };
  const turn = () => attempt(async () => {
    await call("PATCH", path(id), { body: { status: data.status === "enabled" ? "disabled" : "enabled" } });
    refresh();
  });
  const test = () => attempt(async () => {
    await post(path(id, "/test"));
    setRound((n) => n + 1);
  }, t("webhooks.tested"));
  const remove = () => ask({
    title: t("webhooks.delete.title"), text: t("webhooks.delete.text"), yes: t("do.delete"),
    act: async () => {
      if (!await attempt(() => call("DELETE", path(id)))) return;
      say(t("webhooks.deleted"));
      onClose();
    },
  });
  return html`
    <${Dialog} title=${own ? t("webhooks.title") : t("webhooks.default")} kind="drawer" onClose=${onClose}>
      ${error ? html`<${Failure} error=${error} retry=${refresh} />` : !data ? html`<${Loading} rows=${5} />` : html`
        <header class="live-head">${stateOf(data)}<code class="id push">${id}</code></header>
        ${data.url && html`<p class="endpoint-url">${data.url}</p>`}
        ${data.description && html`<p>${data.description}</p>`}
        ${data.disabled_reason && html`<p class="field-error">${data.disabled_reason}</p>`}
        ${own && html`<ul class="tags">${data.events.map((name) => html`<li key=${name}><code>${name}</code></li>`)}</ul>`}
        <footer class="live-foot">
          ${own && html`<${Button} small icon="play" onClick=${test}>${t("webhooks.test")}<//>
            <${Button} small icon=${data.status === "enabled" ? "pause" : "play"} onClick=${turn}>${t(data.status === "enabled" ? "webhooks.disable" : "webhooks.enable")}<//>`}
          ${!own && html`<${Button} small icon="eye" onClick=${show}>${t("webhooks.showsecret")}<//>`}
          <${Button} small icon="retry" onClick=${rotate}>${t("webhooks.rotate")}<//>
          <span class="push"></span>
          ${own && html`<${Button} small kind="ghost" icon="trash" onClick=${remove}>${t("do.delete")}<//>`}
        </footer>
        <${Deliveries} key=${round} id=${id} />`}
      ${dialog}
    <//>`;
}

function Deliveries({ id }) {
  const [status, setStatus] = useState("");
  const pages = usePages([status]);
  const { data, error, loading, refresh } = usePolled(
    (signal) => get(path(id, "/deliveries"), { query: { status, cursor: pages.cursor, limit: 20 }, signal }), [status, pages.cursor],
    (page) => (page?.data.some((delivery) => delivery.status === "pending") ? 2000 : 8000),
  );
  const again = (delivery) => attempt(async () => {
    await post(path(id, `/deliveries/${encodeURIComponent(delivery.id)}/redeliver`));
    refresh();
  }, t("webhooks.redelivered"));
  return html`
    <h3>${t("webhooks.deliveries")}</h3>
    <${Segmented} name="delivery" label=${t("jobs.status")} value=${status} onChange=${setStatus}
      options=${["", ...Object.keys(STATES)].map((value) => ({ value, label: t(value ? `delivery.${value}` : "jobs.all") }))} />
    ${error && html`<${Failure} error=${error} retry=${refresh} />`}
    ${loading ? html`<${Loading} />` : data?.data.length ? html`
      <ul class="rows rows-small">${data.data.map((delivery) => html`
        <li key=${delivery.id} class="row"><span class=${`badge badge-${STATES[delivery.status]}`}>${t(`delivery.${delivery.status}`)}</span>
          <div class="row-main"><p><code>${delivery.type}</code> ${delivery.job_id && html`<a href=${href("jobs", delivery.job_id)}>${delivery.job_id}</a>`}</p>
            <p class="row-meta"><time datetime=${delivery.created_at} title=${moment(delivery.created_at)}>${ago(delivery.created_at)}</time>
              <span>${t("webhooks.attempts", { n: delivery.attempts })}</span>
              ${delivery.response_status && html`<span>HTTP ${number(delivery.response_status)}</span>`}
              ${delivery.error && html`<span>${delivery.error}</span>`}
              ${delivery.status === "pending" && delivery.next_attempt_at && html`<span>${t("webhooks.next", { when: ago(delivery.next_attempt_at) })}</span>`}</p></div>
          <div class="row-do">${delivery.status !== "pending" && html`<${Button} small icon="retry" onClick=${() => again(delivery)}>${t("webhooks.redeliver")}<//>`}</div>
        </li>`)}</ul>` : data && html`<${Empty} small icon="bell" title=${t("webhooks.nodeliveries")} />`}
    <${Pager} page=${pages.page} more=${data?.has_more} onBack=${pages.back} onNext=${() => pages.next(data.next_cursor)} />`;
}
