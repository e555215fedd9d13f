// Before the first paint, so that a chosen theme does not flash: that is why this file is no module.
try {
  const theme = localStorage.getItem("smarttextgen.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is turned off: the system's theme it is.
}
