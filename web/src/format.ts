// Numbers and times as people read them.

const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** bytes: 1536 → "1.50 KiB". */
export function bytes(n: number | undefined): string {
  if (n === undefined || !Number.isFinite(n)) return "–";
  let u = 0;
  while (Math.abs(n) >= 1024 && u < units.length - 1) {
    n /= 1024;
    u++;
  }
  return u === 0 ? `${n} B` : `${n.toPrecision(3)} ${units[u]}`;
}

/** seconds: 3725 → "1 h 2 min". */
export function seconds(s: number): string {
  if (!Number.isFinite(s) || s < 0) return "–";
  if (s < 1) return "less than a second";
  s = Math.round(s);
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  const h = Math.floor(s / 3600);
  const m = Math.round((s % 3600) / 60);
  return m ? `${h} h ${m} min` : `${h} h`;
}

/** between: the time from one moment to another, or to now. */
export function between(from: string | undefined, to?: string): string {
  if (!from) return "–";
  return seconds((new Date(to ?? Date.now()).getTime() - new Date(from).getTime()) / 1000);
}

/** time in the reader's zone; never "Invalid Date". */
export function time(t: string | undefined): string {
  if (!t) return "–";
  const d = new Date(t);
  return Number.isNaN(d.getTime()) || d.getFullYear() < 2 ? "–" : d.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** left: what is left until a moment. */
export function left(eta: string | undefined, now = Date.now()): string {
  if (!eta) return "";
  const s = (new Date(eta).getTime() - now) / 1000;
  return s > 0 ? `${seconds(s)} left` : "";
}

/**
 * visible makes the characters of a name that would change the text around it
 * (control characters, those that turn the direction) seen instead of obeyed.
 */
export function visible(s: string | undefined): string {
  return (s ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (c) => `\\u${c.codePointAt(0)!.toString(16).padStart(4, "0")}`);
}

/** multiline is visible for a text of several lines, as an error with its hint. */
export function multiline(s: string | undefined): string {
  return (s ?? "").split("\n").map(visible).join("\n");
}

const names: Record<string, string> = {
  vmware: "VMware vCenter", cloudstack: "Apache CloudStack", hyperv: "Microsoft Hyper-V", aws: "AWS EC2", azure: "Microsoft Azure", nutanix: "Nutanix AHV", local: "Folder on the server", "": "unknown",
};

/** platform in words. */
export function platform(p: string | undefined): string {
  return names[p ?? ""] ?? p ?? "unknown";
}
