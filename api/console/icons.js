// Drawn for this page, 20 × 20, in the colour of the text around them.
import { html } from "./dom.js";

const PATHS = {
  spark: "M10 2.5l1.9 5.1 5.1 1.9-5.1 1.9L10 16.5l-1.9-5.1L3 9.5l5.1-1.9z",
  list: "M7 5h10M7 10h10M7 15h10M3 5h.01M3 10h.01M3 15h.01",
  stack: "M10 3l7 3.5-7 3.5-7-3.5zM3 10l7 3.5 7-3.5M3 13.5L10 17l7-3.5",
  pulse: "M2.5 10h3.5l2-5.5 4 11 2-5.5h3.5",
  chart: "M3.5 16.5h13M5.5 13.5v-3M10 13.5v-8M14.5 13.5V8",
  bell: "M5 8.5a5 5 0 0110 0c0 4 1.5 5 1.5 5h-13S5 12.5 5 8.5M8.3 16.5a2 2 0 003.4 0",
  tools: "M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4",
  sun: "M10 6.5a3.5 3.5 0 100 7 3.5 3.5 0 000-7M10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M4.3 15.7l1.1-1.1M14.6 5.4l1.1-1.1",
  moon: "M16.5 11.8A7 7 0 018.2 3.5a7 7 0 108.3 8.3z",
  auto: "M10 3a7 7 0 100 14 7 7 0 000-14M10 3v14M10 7l5.6-1.7M10 12.5l6.5-1",
  globe: "M10 3a7 7 0 100 14 7 7 0 000-14M3 10h14M10 3c2 2 2.8 4.3 2.8 7S12 15 10 17c-2-2-2.8-4.3-2.8-7S8 5 10 3",
  exit: "M12 4.5V3.5H4v13h8v-1M8 10h9M14 7l3 3-3 3",
  book: "M4 3.5h9.5a2 2 0 012 2v11H6a2 2 0 01-2-2zM4 14.5a2 2 0 012-2h9.5",
  copy: "M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3",
  check: "M4 10.5l4 4 8-9",
  close: "M5 5l10 10M15 5L5 15",
  retry: "M15.5 10a5.5 5.5 0 11-1.7-4M15.5 3.5V7H12",
  stop: "M6 6h8v8H6z",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.8 10.5h7.4L14.5 6M8.5 9v4.5M11.5 9v4.5",
  play: "M6.5 4.5l9 5.5-9 5.5z",
  pause: "M7 5v10M13 5v10",
  warn: "M10 3.5l7 12.5H3zM10 8.5v3.5M10 14h.01",
  chat: "M3.5 4.5h13v9h-7l-3.5 3v-3h-2.5z",
  gift: "M3.5 8h13v3h-13zM4.5 11v5.5h11V11M10 8v8.5M10 8S8.5 3.5 6.3 4.3C4.5 5 6 8 10 8M10 8s1.5-4.5 3.7-3.7C15.5 5 14 8 10 8",
  help: "M10 3a7 7 0 100 14 7 7 0 000-14M8 8.2a2 2 0 113 1.7c-.6.4-1 .8-1 1.6M10 14h.01",
  tag: "M3.5 3.5h6l7 7-6 6-7-7zM7 7h.01",
  eye: "M2.5 10S5 5 10 5s7.5 5 7.5 5-2.5 5-7.5 5-7.5-5-7.5-5M10 8a2 2 0 100 4 2 2 0 000-4",
  back: "M12 5l-5 5 5 5",
  next: "M8 5l5 5-5 5",
  plus: "M10 4v12M4 10h12",
  download: "M10 3v9M6.5 9L10 12.5 13.5 9M4 16.5h12",
};

export const Icon = ({ name, size = 20 }) => html`
  <svg class="icon" width=${size} height=${size} viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="1.6"
    stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;

export const Mark = ({ size = 32 }) => html`<img class="mark" src="/console/mark.svg" width=${size} height=${size} alt="" />`;
