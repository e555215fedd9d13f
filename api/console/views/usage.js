// What was used: tokens or jobs a day, by model, as a plot and as a table.
import { html } from "../dom.js";
import { compact, day, number } from "../format.js";
import { href, useKept, usePolled } from "../hooks.js";
import { get } from "../http.js";
import { t } from "../i18n.js";
import { Empty, Failure, Loading, Segmented, Tile } from "../ui.js";
import { Plot } from "./plot.js";

const RANGES = [7, 30, 90];
const MEASURES = ["total_tokens", "completion_tokens", "jobs"];
const SERIES = 6; // as many as there are colours; the rest are one

export function Usage() {
  const [days, setDays] = useKept("usage.days", 30);
  const [measure, setMeasure] = useKept("usage.measure", "total_tokens");
  const { data, error, loading, refresh } = usePolled(
    (signal) => get("/api/usage", { query: { group_by: "day,model", days }, signal }), [days], () => 30_000,
  );
  const sum = (name) => data.data.reduce((total, row) => total + row[name], 0);
  return html`
    <div class="view-head"><h1>${t("nav.usage")}</h1><p class="lead">${t("usage.lead")}</p></div>
    <div class="filters">
      <${Segmented} name="days" label=${t("usage.range")} value=${days} onChange=${setDays}
        options=${RANGES.map((value) => ({ value, label: t("usage.days", { n: value }) }))} />
      <${Segmented} name="measure" label=${t("usage.measure")} value=${measure} onChange=${setMeasure}
        options=${MEASURES.map((value) => ({ value, label: t(`usage.${value}`) }))} />
    </div>
    ${error && html`<${Failure} error=${error} retry=${refresh} />`}
    ${loading ? html`<${Loading} rows=${5} />` : data && html`
      <dl class="tiles tiles-card">
        <${Tile} label=${t("usage.jobs")} value=${number(sum("jobs"))} />
        <${Tile} label=${t("usage.total_tokens")} value=${number(sum("total_tokens"))} />
        <${Tile} label=${t("took.prompt")} value=${number(sum("prompt_tokens"))} />
        <${Tile} label=${t("took.cached")} value=${number(sum("cached_tokens"))} />
        <${Tile} label=${t("took.completion")} value=${number(sum("completion_tokens"))} />
        <${Tile} label=${t("usage.average")} value=${sum("jobs") ? compact(sum("total_tokens") / sum("jobs")) : "–"} />
      </dl>
      ${data.data.length === 0 ? html`
        <div class="card"><${Empty} icon="chart" title=${t("usage.empty")}><a href=${href("playground")}>${t("usage.empty.text")}</a><//></div>` : html`
        <section class="card plot-card" aria-label=${t(`usage.${measure}`)}>
          <${Plot} days=${between(data.first_day, data.last_day)} series=${inSeries(data.data, measure)} unit=${t(`usage.${measure}`)} /></section>
        <details class="more"><summary>${t("usage.table")}</summary><${Table} rows=${data.data} /></details>`}`}`;
}

function between(first, last) {
  const days = [];
  for (let at = Date.parse(first); at <= Date.parse(last); at += 86_400_000) days.push(new Date(at).toISOString().slice(0, 10));
  return days;
}

// [{name, of: {day: value}}], the largest first.
function inSeries(rows, measure) {
  const found = new Map();
  for (const row of rows) {
    const series = found.get(row.model) ?? { name: row.model, of: {}, total: 0 };
    series.of[row.day] = (series.of[row.day] ?? 0) + row[measure];
    series.total += row[measure];
    found.set(row.model, series);
  }
  const all = [...found.values()].sort((a, b) => b.total - a.total);
  if (all.length <= SERIES) return all;
  const rest = { name: t("usage.others"), of: {}, total: 0 };
  for (const series of all.slice(SERIES - 1)) {
    for (const [date, value] of Object.entries(series.of)) rest.of[date] = (rest.of[date] ?? 0) + value;
  }
  return [...all.slice(0, SERIES - 1), rest];
}

const Table = ({ rows }) => html`
  <div class="scroll" tabindex="0" role="region" aria-label=${t("usage.table")}><table>
    <thead><tr><th scope="col">${t("usage.day")}</th><th scope="col">${t("fact.model")}</th><th scope="col" class="num">${t("usage.jobs")}</th>
      <th scope="col" class="num">${t("took.prompt")}</th><th scope="col" class="num">${t("took.cached")}</th>
      <th scope="col" class="num">${t("took.completion")}</th><th scope="col" class="num">${t("usage.total_tokens")}</th></tr></thead>
    <tbody>${[...rows].reverse().map((row) => html`
      <tr key=${`${row.day} ${row.model}`}><th scope="row">${day(row.day, { dateStyle: "medium" })}</th><td>${row.model}</td><td class="num">${number(row.jobs)}</td>
        <td class="num">${number(row.prompt_tokens)}</td><td class="num">${number(row.cached_tokens)}</td>
        <td class="num">${number(row.completion_tokens)}</td><td class="num">${number(row.total_tokens)}</td></tr>`)}</tbody>
  </table></div>`;
