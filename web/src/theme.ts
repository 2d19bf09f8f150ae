// The appearance: light, dark, or the system's. It is kept in the browser.
const key = "ascend-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

export function theme(): string {
  try {
    return localStorage.getItem(key) ?? "system";
  } catch {
    return "system"; // storage is switched off
  }
}

export function setTheme(v: string) {
  try {
    localStorage.setItem(key, v);
  } catch {
    // kept until the page is left
  }
  apply(v);
}

function apply(v: string) {
  document.documentElement.dataset.theme = v === "system" ? (dark.matches ? "dark" : "light") : v;
}

export function followTheme() {
  apply(theme());
  dark.addEventListener("change", () => apply(theme()));
}
