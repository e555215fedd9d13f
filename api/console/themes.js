// Light, dark, or as the system says. theme.js sets it before the first paint.
const STORED = "smarttextgen.theme";
const ORDER = ["auto", "light", "dark"];

export const theme = () => document.documentElement.dataset.theme ?? "auto";

export const nextTheme = () => ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];

export function chooseTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem(STORED, name);
  } catch {
    // It holds for this page, then.
  }
}
