// Stacked bars over days, drawn as SVG in the page's own colours. The table beside it has the same numbers.
import { html, useLayoutEffect, useRef, useState } from "../dom.js";
import { compact, day, number } from "../format.js";
import { t } from "../i18n.js";

const HEIGHT = 260;
const MARGIN = { top: 12, right: 8, bottom: 28, left: 52 };
const LABEL_PX = 64;

// The steps of an axis from 0 to at least `most`: 1, 2 or 5 times a power of ten.
function ticks(most) {
  const rough = Math.max(most, 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= rough) * power);
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, index) => index * step);
}

// `series`: [{name, of: {day: value}}], drawn from the ground up.
export function Plot({ days, series, unit }) {
  const box = useRef(null);
  const [width, setWidth] = useState(720);
  const [chosen, setChosen] = useState(null);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.max(280, entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const totals = days.map((date) => series.reduce((sum, { of }) => sum + (of[date] ?? 0), 0));
  const steps = ticks(Math.max(...totals));
  const most = steps.at(-1) || 1;
  const room = (width - MARGIN.left - MARGIN.right) / days.length;
  const bar = Math.min(36, room * 0.72);
  const ground = HEIGHT - MARGIN.bottom;
  const tall = (value) => (value / most) * (ground - MARGIN.top);
  const left = (index) => MARGIN.left + index * room + (room - bar) / 2;
  const every = Math.max(1, Math.ceil(LABEL_PX / room));
  const at = Math.min(chosen ?? days.length - 1, days.length - 1);

  const keys = (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!move) return;
    event.preventDefault();
    setChosen(Math.min(days.length - 1, Math.max(0, at + move)));
  };
  const point = (event) => {
    const x = event.clientX - box.current.getBoundingClientRect().left - MARGIN.left;
    setChosen(Math.min(days.length - 1, Math.max(0, Math.floor(x / room))));
  };
  return html`
    <div class="plot-says" aria-hidden="true"><strong>${day(days[at], { dateStyle: "medium" })}</strong>
      <span>${number(totals[at])} ${unit}</span></div>
    <div class="plot" ref=${box} role="slider" tabindex="0" onKeyDown=${keys} onPointerMove=${point} onPointerDown=${point}
      aria-label=${t("plot.label", { unit, first: day(days[0]), last: day(days.at(-1)) })} aria-valuemin="0"
      aria-valuemax=${days.length - 1} aria-valuenow=${at} aria-valuetext=${`${day(days[at], { dateStyle: "medium" })}: ${number(totals[at])} ${unit}`}>
      <svg width="100%" height=${HEIGHT} aria-hidden="true" focusable="false">
        ${steps.map((step) => html`
          <g key=${step}><line class="plot-line" x1=${MARGIN.left} x2=${width - MARGIN.right} y1=${ground - tall(step)} y2=${ground - tall(step)} />
            <text class="plot-text" x=${MARGIN.left - 8} y=${ground - tall(step)} text-anchor="end" dominant-baseline="central">${compact(step)}</text></g>`)}
        <rect class="plot-at" x=${MARGIN.left + at * room} y=${MARGIN.top} width=${room} height=${ground - MARGIN.top} rx="4" />
        ${days.map((date, index) => {
          let top = ground;
          return html`<g key=${date}>
            ${series.map(({ name, of }, which) => {
              const high = tall(of[date] ?? 0);
              top -= high;
              return high > 0 && html`<rect key=${name} class=${`series-${which}`} x=${left(index)} y=${top} width=${bar} height=${high} rx=${Math.min(2, high / 2)} />`;
            })}
            ${(days.length - 1 - index) % every === 0 && html`
              <text class="plot-text" x=${Math.min(left(index) + bar / 2, width - 22)} y=${ground + 18} text-anchor="middle">${day(date)}</text>`}
          </g>`;
        })}
      </svg>
    </div>
    <ul class="legend">${series.map(({ name, of }, which) => html`
      <li key=${name}><span class=${`swatch series-${which}`} aria-hidden="true"></span>${name}
        <span class="legend-value">${number(of[days[at]] ?? 0)}</span></li>`)}</ul>`;
}
