// Measures the application in Chromium on this machine: the first page's compressed
// JavaScript and first contentful paint, how long a click takes to be drawn, and
// the page's memory over an hour's worth of events, told as quickly as they are read.
import { createServer } from "node:http";
import { readFileSync, statSync } from "node:fs";
import { extname, join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { chromium } from "playwright-core";

const dist = resolve(import.meta.dirname, "../../internal/webui/dist");
const types = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html" };
const job = (percent) => ({
  id: "01JBENCH", status: "uploading", rolled_back: false, backup: { repository: "/r", id: "b", vm: "big" }, target: { name: "lab", platform: "vmware" }, name: "big", percent, done: percent * 1e8, total: 1e10, rate: 1e8,
  keep_on_failure: true, created: "2026-01-01T00:00:00Z", steps: Array.from({ length: 10_000 }, (_, i) => ({ name: `step ${i}`, kind: "transfer", order: i, stage: 0, status: i < 50 ? "completed" : "running", attempt: 1, done: 1, total: 100, rate: 0 })), role: "operator",
});
const row = (i) => ({ id: `b${i}`, repository: "r", backup: `b${i}`, vm: `machine-${i}`, origin: "vmware", type: "full", layout: "ctx", created: "2026-01-01T00:00:00Z", disks: 2, size: 1e10, bytes: 1e9 });
const answers = {
  "/api/v1/me": { id: "u", name: "ada", role: "admin", csrf_token: "x" },
  "/api/v1/summary": { jobs: { completed: 7 }, running: 1, rate: 1e8, rates: Array.from({ length: 360 }, (_, i) => ({ time: new Date(Date.now() - (360 - i) * 10_000).toISOString(), rate: 1e8 + i * 1e5 })), backups: { vmware: 5000, aws: 5000 }, repositories: 1, targets: 1, asked: "2026-01-01T00:00:00Z" },
  "/api/v1/jobs/01JBENCH/resources": { items: [] }, "/api/v1/jobs/01JBENCH/plan": { changes: [] },
};
let stream;
let sent = 0;
const server = createServer((q, r) => {
  const url = new URL(q.url, "http://x");
  if (url.pathname.endsWith("/stream")) {
    r.writeHead(200, { "Content-Type": "text/event-stream" });
    r.write(": hello\n\n");
    stream = r;
    return;
  }
  if (url.pathname.startsWith("/api/")) {
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const a = answers[url.pathname] ?? (url.pathname === "/api/v1/jobs/01JBENCH" ? job(1) : url.pathname === "/api/v1/backups" ? { items: Array.from({ length: 100 }, (_, i) => row(from + i)), next: from < 9900 ? String(from + 100) : undefined } : { items: [] });
    r.writeHead(200, { "Content-Type": "application/json" });
    return r.end(JSON.stringify(a));
  }
  let file = join(dist, url.pathname);
  try {
    if (!statSync(file).isFile()) throw new Error("no file");
  } catch {
    file = join(dist, "index.html");
  }
  r.writeHead(200, { "Content-Type": types[extname(file)] ?? "application/octet-stream", "Content-Encoding": "gzip" });
  r.end(gzipSync(readFileSync(file)));
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const url = `http://127.0.0.1:${server.address().port}`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--enable-precise-memory-info", "--js-flags=--expose-gc"] });
const median = (l) => l.sort((a, b) => a - b)[Math.floor(l.length / 2)];
const out = {};
try {
  // The first page, five times with an empty cache.
  const paints = [];
  for (let i = 0; i < 5; i++) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
    const page = await context.newPage();
    await page.goto(url);
    await page.getByRole("heading", { name: "Dashboard" }).waitFor();
    paints.push(await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN));
    if (i === 0) {
      const scripts = await page.evaluate(() => performance.getEntriesByType("resource").filter((e) => e.name.endsWith(".js")).map((e) => new URL(e.name).pathname));
      out["first page, compressed JavaScript (KB)"] = Math.round(scripts.reduce((n, s) => n + gzipSync(readFileSync(join(dist, s))).length, 0) / 1000);
    }
    await context.close();
  }
  out["first contentful paint, median of 5 (ms)"] = Math.round(median(paints));

  // A click until what it changes is drawn, by the browser's own event timing.
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 } })).newPage();
  await page.goto(url);
  await page.getByRole("heading", { name: "Dashboard" }).waitFor();
  await page.evaluate(() => {
    window.delays = {}; // by interaction: one click is several events
    new PerformanceObserver((l) => { for (const e of l.getEntries()) if (e.interactionId) window.delays[e.interactionId] = Math.max(window.delays[e.interactionId] ?? 0, e.duration); }).observe({ type: "event", buffered: true, durationThreshold: 16 });
  });
  const nav = page.getByRole("navigation");
  let clicks = 1;
  for (let i = 0; i < 5; i++) for (const name of ["Backups", "Jobs", "Targets", "Mappings", "Dashboard"]) {
    await nav.getByRole("link", { name, exact: true }).click();
    await page.getByRole("heading", { name, level: 1 }).waitFor();
    clicks++;
  }
  await nav.getByRole("link", { name: "Backups", exact: true }).click();
  const box = page.getByRole("region", { name: "Backups" });
  await box.waitFor();
  const from = Date.now();
  for (let i = 0; i < 200; i++) await box.evaluate((b) => { b.scrollTop += 4000; return new Promise((r) => requestAnimationFrame(r)); });
  out["10,000 backups: a frame of scrolling (ms)"] = Math.round((Date.now() - from) / 200);
  out["rows drawn of 10,000"] = await box.locator("tbody tr").count();
  const delays = await page.evaluate(() => Object.values(window.delays));
  out["slowest interaction (ms; what is below 16 does not count)"] = Math.round(Math.max(0, ...delays));
  out["interactions above 16 ms"] = `${delays.length} of ${clicks}`;

  // An hour of a job: 3600 states of 10,000 steps would be told once a second; the
  // states are told here as they are read, each with two lines of the log.
  await page.goto(`${url}/jobs/01JBENCH`);
  await page.getByText("live", { exact: true }).waitFor();
  const client = await page.context().newCDPSession(page);
  const heap = async () => {
    await client.send("HeapProfiler.collectGarbage");
    return (await client.send("Runtime.getHeapUsage")).usedSize / 1e6;
  };
  const states = Number(process.env.EVENTS ?? 3600);
  const marks = [];
  const light = JSON.stringify({ ...job(1), steps: job(1).steps.slice(0, 40) });
  for (let i = 1; i <= states; i++) {
    for (let k = 0; k < 2; k++) stream.write(`id: ${++sent}\nevent: log\ndata: ${JSON.stringify({ seq: sent, time: "2026-01-01T00:00:00Z", job: "01JBENCH", level: "info", text: `line ${sent} of a long log, as long as lines are` })}\n\n`);
    stream.write(`event: job\ndata: ${light.replace('"percent":1', `"percent":${(i / states) * 99}`)}\n\n`);
    if (i % (states / 6) === 0) {
      await page.waitForFunction((n) => [...document.querySelectorAll(".log div")].at(-1)?.textContent?.includes(`line ${n} `), sent, { timeout: 120_000 });
      marks.push(Math.round((await heap()) * 10) / 10);
    }
  }
  out["heap after each sixth of an hour's events (MB)"] = marks.join(", ");
  out["lines of the log kept"] = await page.locator(".log div").count();
  // The log fills up to its bound in the first third; after that the page may not grow.
  const grown = marks[5] - marks[2];
  out["growth over the second half hour (MB)"] = Math.round(grown * 10) / 10;
  if (grown > 5) process.exitCode = 1;
  if (out["first page, compressed JavaScript (KB)"] > 300) process.exitCode = 1;
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
for (const [k, v] of Object.entries(out)) console.log(`${k.padEnd(62)}${v}`);
