// How the service is: its health, and each model's queue with a short memory of its length.
import { html, useEffect, useState } from "../dom.js";
import { number } from "../format.js";
import { usePolled } from "../hooks.js";
import { get } from "../http.js";
import { t } from "../i18n.js";
import { Empty, Failure, Loading, Tile } from "../ui.js";

const EVERY_MS = 2000;
const REMEMBERED = 60;

export function Queue() {
  const health = usePolled((signal) => get("/health", { signal }), [], () => EVERY_MS);
  const models = usePolled((signal) => get("/api/models", { signal }), [], () => EVERY_MS);
  const [past, setPast] = useState({});
  useEffect(() => {
    if (!models.data) return;
    setPast((before) => Object.fromEntries(models.data.data.map((model) => [
      model.name, [...(before[model.name] ?? []), model.queue_length].slice(-REMEMBERED),
    ])));
  }, [models.data]);
  const service = health.data;
  const word = (name) => t(`word.${name}`);
  return html`
    <div class="view-head"><div class="title"><h1>${t("nav.queue")}</h1>${service && html`<span class="note">${service.environment}</span>`}</div><p class="lead">${t("queue.lead")}</p></div>
    ${(health.error || models.error) && html`<${Failure} error=${health.error ?? models.error} retry=${() => { health.refresh(); models.refresh(); }} />`}
    ${service ? html`
      <dl class="tiles tiles-card">
        <${Tile} label=${t("queue.service")} value=${html`<span class=${`dot dot-${service.status}`} aria-hidden="true"></span> ${t(`health.${service.status}`)}`} />
        <${Tile} label=${t("queue.waiting")} value=${number(service.queue_length)} />
        <${Tile} label=${t("queue.workers")} value=${number(service.workers)} />
        ${service.couriers !== undefined && html`<${Tile} label=${t("queue.couriers")} value=${number(service.couriers)} />`}
        <${Tile} label=${t("queue.redis")} value=${word(service.redis_status)} />
        <${Tile} label=${t("queue.cache")} value=${word(service.cache_status)} />
      </dl>` : !health.error && html`<${Loading} rows=${1} />`}
    <h2>${t("queue.models")}</h2>
    ${models.data ? html`
      <ul class="models">${models.data.data.map((model) => html`<${Model} key=${model.name} model=${model} past=${past[model.name] ?? []} />`)}</ul>
      ${models.data.data.length === 0 && html`<${Empty} icon="pulse" title=${t("queue.none")} />`}` : !models.error && html`<${Loading} />`}`;
}

const Model = ({ model, past }) => html`
  <li class="card model">
    <div class="model-head"><h3>${model.name}</h3>
      <span class=${`badge badge-${model.status === "ready" ? "succeeded" : "failed"}`}>${t(`word.${model.status}`)}</span>
      ${model.default && html`<span class="note">${t("queue.default")}</span>`}</div>
    <div class="model-now"><p><strong>${number(model.queue_length)}</strong> ${t("queue.waiting.here", { n: model.queue_length })}</p>
      <${Spark} values=${past} label=${t("queue.past", { n: number(Math.max(0, ...past)) })} /></div>
    <p class="row-meta"><span>${t("queue.workers.n", { n: model.workers })}</span>
      ${model.context_length && html`<span>${t("queue.context", { n: number(model.context_length) })}</span>`}
      ${[model.engine, model.device, model.dtype].filter((word) => word && word !== "none").map((word) => html`<span key=${word}>${word}</span>`)}</p>
    ${model.status !== "ready" && html`<p class="field-hint">${t("queue.noworker")}</p>`}
  </li>`;

// The queue's length since the view was opened, as a small line.
function Spark({ values, label }) {
  const width = 180;
  const height = 36;
  const most = Math.max(4, ...values);
  const x = (index) => width - (values.length - 1 - index) * (width / (REMEMBERED - 1));
  const y = (value) => height - 2 - (value / most) * (height - 4);
  const line = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return html`
    <svg class="spark" viewBox=${`0 0 ${width} ${height}`} width=${width} height=${height} role="img" aria-label=${label}>
      <line x1="0" x2=${width} y1=${height - 2} y2=${height - 2} class="spark-ground" />
      ${values.length > 1 && html`<polyline points=${line} class="spark-line" />`}
    </svg>`;
}
