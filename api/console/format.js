// Numbers, times and durations as people read them, in the chosen language.
import { language, t } from "./i18n.js";

export const number = (value) => new Intl.NumberFormat(language()).format(value);

export const compact = (value) =>
  new Intl.NumberFormat(language(), { notation: "compact", maximumFractionDigits: 1 }).format(value);

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return t("time.ms", { n: Math.round(ms) });
  if (ms < 60_000) return t("time.s", { n: (ms / 1000).toFixed(ms < 10_000 ? 1 : 0) });
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return t("time.min", { m: minutes, s: Math.round((ms % 60_000) / 1000) });
  return t("time.h", { h: Math.floor(minutes / 60), m: minutes % 60 });
}

const STEPS = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];

export function ago(iso) {
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  if (Math.abs(seconds) < 5) return t("time.now");
  const [unit, size] = STEPS.find(([, length]) => Math.abs(seconds) >= length);
  return new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(Math.round(seconds / size), unit);
}

export const moment = (iso) =>
  new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "medium" }).format(new Date(iso));

// A day of the API is a day of UTC, wherever the reader is.
export const day = (date, style = { month: "short", day: "numeric" }) =>
  new Intl.DateTimeFormat(language(), { timeZone: "UTC", ...style }).format(new Date(`${date}T00:00:00Z`));

export const excerpt = (text, length = 160) => {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length).trimEnd()}…` : line;
};
