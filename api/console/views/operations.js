// For administrators: queues, workers, and jobs that were set aside.
import { html } from "../dom.js";
import { ago, moment, number } from "../format.js";
import { usePolled } from "../hooks.js";
import { get, post } from "../http.js";
import { t } from "../i18n.js";
import { Button, Empty, Failure, Loading, attempt, useConfirm } from "../ui.js";

const EVERY_MS = 3000;

const queuePath = (model, rest) => `/api/admin/queues/${model.split("/").map(encodeURIComponent).join("/")}/${rest}`;

export function Operations() {
  const [dialog, ask] = useConfirm();
  return html`
    <div class="view-head"><h1>${t("nav.operations")}</h1><p class="lead">${t("operations.lead")}</p></div>
    <${Section} title=${t("operations.queues")} path="/api/admin/queues" none="operations.noqueues" row=${(queue, refresh) => html`
      <${QueueRow} key=${queue.model} queue=${queue} refresh=${refresh} ask=${ask} />`} />
    <${Section} title=${t("operations.workers")} path="/api/admin/workers" none="operations.noworkers" row=${(worker, refresh) => html`
      <${WorkerRow} key=${worker.id} worker=${worker} refresh=${refresh} ask=${ask} />`} />
    <${Section} title=${t("operations.dead")} path="/api/admin/dead_letters" none="operations.nodead" row=${(letter, refresh) => html`
      <${LetterRow} key=${letter.id} letter=${letter} refresh=${refresh} />`} />
    ${dialog}`;
}

function Section({ title, path, none, row }) {
  const { data, error, loading, refresh } = usePolled((signal) => get(path, { signal }), [], () => EVERY_MS);
  return html`
    <section><h2>${title}</h2>
      ${error && html`<${Failure} error=${error} retry=${refresh} />`}
      ${loading ? html`<${Loading} rows=${2} />` : data?.data.length ? html`<ul class="card rows">${data.data.map((item) => row(item, refresh))}</ul>`
        : data && html`<div class="card"><${Empty} small icon="check" title=${t(none)} /></div>`}</section>`;
}

function QueueRow({ queue, refresh, ask }) {
  const act = (verb, good) => attempt(async () => {
    const answer = await post(queuePath(queue.model, verb));
    refresh();
    return answer;
  }, good);
  const purge = () => ask({
    title: t("operations.purge.title", { model: queue.model }), text: t("operations.purge.text", { n: queue.length }),
    yes: t("operations.purge"), act: () => act("purge", t("operations.purged")),
  });
  const turn = queue.paused ? { verb: "resume", icon: "play" } : { verb: "pause", icon: "pause" };
  return html`
    <li class="row"><span class=${`badge badge-${queue.paused ? "queued" : "succeeded"}`}>${t(queue.paused ? "operations.paused" : "operations.open")}</span>
      <div class="row-main"><p class="row-name">${queue.model}</p>
        <p class="row-meta"><span>${t("operations.length", { n: queue.length })}</span><span>${t("queue.workers.n", { n: queue.workers })}</span>
          <span>${t("operations.slots", { n: queue.slots })}</span></p></div>
      <div class="row-do"><${Button} small icon=${turn.icon} onClick=${() => act(turn.verb)}>${t(`operations.${turn.verb}`)}<//>
        <${Button} small icon="trash" disabled=${queue.length === 0} onClick=${purge}>${t("operations.purge")}<//></div></li>`;
}

function WorkerRow({ worker, refresh, ask }) {
  const drain = () => ask({
    title: t("operations.drain.title", { id: worker.id }), text: t("operations.drain.text"), yes: t("operations.drain"),
    act: () => attempt(async () => {
      await post(`/api/admin/workers/${encodeURIComponent(worker.id)}/drain`);
      refresh();
    }, t("operations.drained")),
  });
  return html`
  <li class="row"><span class=${`badge badge-${worker.state === "ready" ? "succeeded" : "queued"}`}>${t(`word.${worker.state}`)}</span>
    <div class="row-main"><p class="row-name">${worker.id}</p>
      <p class="row-meta"><span>${worker.model}</span><span>${worker.engine}</span><span>${worker.device}</span><span>${worker.host} · ${worker.pid}</span></p></div>
    <div class="row-do"><p class="row-fact">${t("operations.load", { n: number(worker.jobs), slots: number(worker.slots) })}</p>
      ${worker.state === "ready" && html`<${Button} small icon="exit" onClick=${drain}>${t("operations.drain")}<//>`}</div></li>`;
}

function LetterRow({ letter, refresh }) {
  const requeue = () => attempt(async () => {
    await post(letter.urls.requeue);
    refresh();
  }, t("operations.requeued"));
  return html`
    <li class="row"><span class="badge badge-failed">${letter.error?.code ?? t("status.failed")}</span>
      <div class="row-main"><p class="row-name"><code>${letter.id}</code></p>
        <p class="row-meta"><span>${letter.tenant}</span><span>${letter.model}</span><time datetime=${letter.convicted_at} title=${moment(letter.convicted_at)}>${ago(letter.convicted_at)}</time>
          <span>${t("job.attempt", { n: letter.attempt })}</span></p></div>
      <div class="row-do"><${Button} small icon="retry" onClick=${requeue}>${t("operations.requeue")}<//></div></li>`;
}
