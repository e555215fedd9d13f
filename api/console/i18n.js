// The texts of the console. A dictionary for each language in words/; one that misses a text falls back to English.
import { en } from "./words/en.js";
import { zhHant } from "./words/zh-hant.js";

const STORED = "smarttextgen.language";
export const LANGUAGES = { en: "English", "zh-Hant": "繁體中文" };
const WORDS = { en, "zh-Hant": zhHant };

function first() {
  try {
    const chosen = localStorage.getItem(STORED);
    if (chosen in WORDS) return chosen;
  } catch {
    // Storage is turned off.
  }
  return navigator.languages.find((tag) => /^(en|zh-(hant|tw|hk|mo))\b/i.test(tag))?.startsWith("zh") ? "zh-Hant" : "en";
}

let chosen = first();
document.documentElement.lang = chosen;

export const language = () => chosen;

export function chooseLanguage(tag) {
  chosen = tag;
  document.documentElement.lang = tag;
  try {
    localStorage.setItem(STORED, tag);
  } catch {
    // It holds for this page, then.
  }
}

// A text with {names} filled in. A text that has plural forms is an object of them, chosen by `n`.
export function t(name, values = {}) {
  let text = WORDS[chosen][name] ?? en[name] ?? name;
  if (typeof text === "object" && !Array.isArray(text)) {
    text = text[new Intl.PluralRules(chosen).select(values.n)] ?? text.other;
  }
  if (Array.isArray(text)) return text;
  return text.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
}

export const known = (name) => name in en;
