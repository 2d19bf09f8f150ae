// A browser's way through the application, against a real server: the first
// account, a repository, a target, the wizard, a job and its proof, an undo, a
// server killed in mid-job, a hostile name, and the accessibility of every page.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { hostile, Server, Simulators } from "./server.mjs";

const shots = join(import.meta.dirname, "../.shots");
mkdirSync(shots, { recursive: true });
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const server = new Server();
await server.start();
const sims = new Simulators();
await sims.start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
context.setDefaultTimeout(30_000);
const page = await context.newPage();
const complaints = [];
page.on("console", (m) => { if (m.type() === "error" && !/Failed to load resource|ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY/.test(m.text())) complaints.push(m.text()); });
page.on("pageerror", (e) => complaints.push(String(e)));
page.on("dialog", (d) => { complaints.push(`a dialog: ${d.message()}`); void d.dismiss(); });
page.on("request", (r) => { if (!r.url().startsWith(server.url) && !r.url().startsWith("data:")) complaints.push(`a request to ${r.url()}`); });

const step = (what) => console.log(`- ${what}`);
const link = (name) => page.getByRole("navigation").getByRole("link", { name, exact: true });
const button = (name) => page.getByRole("button", { name, exact: true });

// With ASCEND_IMAGES the pages are pictured for the documentation, in both
// appearances, on a screen and on a telephone.
const images = process.env.ASCEND_IMAGES;

async function picture(name) {
  if (!images || /phone|dark|^review-/.test(name)) return;
  const was = await page.evaluate(() => document.documentElement.dataset.theme);
  for (const [kind, width, height] of [["desktop", 1280, 800], ["phone", 360, 740]]) {
    await page.setViewportSize({ width, height });
    for (const look of ["light", "dark"]) {
      await page.evaluate((v) => { document.documentElement.dataset.theme = v; scrollTo(0, 0); }, look);
      await page.waitForTimeout(150);
      await page.screenshot({ path: join(images, `${name}-${kind}-${look}.jpg`), type: "jpeg", quality: 55 });
    }
  }
  await page.setViewportSize({ width: 1280, height: 860 });
  await page.evaluate((v) => { document.documentElement.dataset.theme = v; }, was);
}

/** look takes a screenshot and has the page checked for accessibility. */
async function look(name) {
  await page.waitForLoadState("networkidle").catch(() => {});
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  await picture(name);
  // As a debugger does it: the page's own policy forbids scripts from elsewhere.
  const found = await page.evaluate(async (source) => {
    (0, eval)(source);
    return (await window.axe.run(document, { resultTypes: ["violations"] })).violations;
  }, axe).catch(async () => {
    const cdp = await context.newCDPSession(page);
    await cdp.send("Runtime.evaluate", { expression: axe });
    const r = await cdp.send("Runtime.evaluate", { expression: "axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations))", awaitPromise: true, returnByValue: true });
    await cdp.detach();
    return JSON.parse(r.result.value);
  });
  const serious = found.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).slice(0, 2).join(" ")}`);
  assert.deepEqual(serious, [], `accessibility of ${name}`);
}

async function status(name, timeout = 60_000) {
  await page.locator(".badge", { hasText: new RegExp(`^${name}$`) }).first().waitFor({ timeout });
}

try {
  step("the first account");
  await page.goto(server.url);
  await page.getByLabel("One-time token").fill(server.token);
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Password").fill("correct horse battery staple");
  await look("sign-in");
  await button("Make the account").click();
  await page.getByRole("heading", { name: "Dashboard" }).waitFor();
  await look("dashboard-empty");

  step("a repository");
  await link("Repositories").click();
  await button("Add a repository").first().click();
  await page.getByLabel("Name").fill("main");
  await page.getByLabel("Folder on the server").fill(server.backups);
  await button("Add").click();
  await page.getByText("4 backups").waitFor();
  await look("repositories");

  step("a target");
  await link("Targets").click();
  await button("Add a target").first().click();
  await page.getByLabel("Name", { exact: true }).fill("lab");
  await page.getByLabel("Platform").selectOption("local");
  await page.getByLabel("dir *").fill(server.restored);
  await look("target-new");
  await button("Save").click();
  await page.getByRole("heading", { name: "lab" }).waitFor();
  await button("Check now").click();
  await page.getByRole("heading", { name: "Checks" }).waitFor();
  await look("targets");

  step("backups, and a hostile name");
  await link("Backups").click();
  await page.getByRole("button", { name: "web01" }).waitFor();
  const text = await page.locator("main").innerText();
  assert.ok(text.includes("<script>alert(1)<img src=x onerror=alert(2)> \\u202egnp.exe"), "the hostile name is shown, not obeyed");
  assert.ok(!text.includes("\u202e"), "a character that turns the text is made visible");
  await look("backups");
  await page.getByRole("button", { name: "<script>alert(1)" }).click();
  await page.getByRole("heading", { level: 1 }).waitFor();
  await look("backup-hostile");

  step("a file out of a backup");
  await link("Backups").click();
  await page.getByRole("button", { name: "letters" }).click();
  await button("Look into the system").click();
  await page.getByText("No system was found.").waitFor();
  await page.getByText("ext4").first().waitFor();
  await look("backup");
  await page.getByRole("link", { name: "Look into the disks" }).click();
  await page.getByRole("button", { name: "letters" }).click();
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "Grüße 漢.txt" }).click()]);
  assert.equal(readFileSync(await download.path(), "utf8"), "hello from the backup\n");
  await look("files");

  step("the wizard");
  let clicks = 0;
  const click = async (l) => { clicks++; await l.click(); };
  await click(link("Restore"));
  await click(page.getByRole("button", { name: "web01" }));
  await click(button("Next"));
  await page.getByRole("radio", { name: /lab/ }).waitFor();
  await look("wizard-target");
  await click(page.getByRole("radio", { name: /lab/ }));
  for (const [heading, shot] of [["Where does it go there?", "wizard-placement"], ["How large should it be?", "wizard-size"], ["What changes for the guest?", "wizard-guest"], ["Look it over", "wizard-review"]]) {
    await click(button("Next"));
    await page.getByRole("heading", { name: heading }).waitFor();
    await look(shot);
  }
  for (const box of await page.getByRole("checkbox", { name: /I accept/ }).all()) await click(box);
  await click(button("Start the restore"));
  assert.ok(clicks < 12, `${clicks} clicks`);

  step("the job and its proof");
  await page.getByRole("heading", { name: "The machine is restored" }).waitFor({ timeout: 60_000 });
  await page.getByText("read back").first().waitFor();
  await button("Verify the signature").click();
  await page.getByText("The receipt is as it was signed.").waitFor();
  await look("job-completed");
  const landed = readdirSync(join(server.restored, "web01")).find((f) => f.startsWith("web01-disk1."));
  assert.ok(landed, "the disk landed");
  execFileSync("qemu-img", ["compare", "-q", join(server.backups, "ctx-web01-20261120-020000/disk-0/backup-disk0-20261120-020000.qcow2"), join(server.restored, "web01", landed)]);

  step("undo");
  await button("Undo").first().click();
  await page.getByRole("dialog").getByRole("button", { name: "Undo" }).click();
  await status("undone");
  assert.deepEqual(readdirSync(server.restored).filter((f) => !f.startsWith(".")), [], "nothing is left");

  step("a server killed in mid-job, and the page by itself");
  await link("Settings").click();
  await page.getByLabel(/Bandwidth/).fill("40");
  await page.getByLabel("Days that jobs are kept").fill("365");
  await button("Save").click();
  await page.getByText("Saved.").waitFor();
  await look("settings");
  await link("Workers").click();
  await page.getByText("This server carries jobs out itself").waitFor();
  await look("workers");
  await link("Restore").click();
  await page.getByRole("button", { name: "big", exact: true }).click();
  await button("Next").click();
  await page.getByRole("radio", { name: /lab/ }).click();
  for (let i = 0; i < 4; i++) {
    await button("Next").click();
    await page.locator(".steps-nav li[aria-current]", { hasText: ["Placement", "Size", "Guest", "Review"][i] }).waitFor();
  }
  for (const box of await page.getByRole("checkbox", { name: /I accept/ }).all()) await box.click();
  await button("Start the restore").click();
  await page.getByText("live", { exact: true }).waitFor();
  await page.waitForFunction(() => Number(document.querySelector("main progress")?.getAttribute("value")) > 3);
  await look("job-running");
  await server.kill();
  await page.getByText("connecting again…").waitFor();
  await server.start();
  await page.getByText("live", { exact: true }).waitFor();
  await page.getByRole("heading", { name: "The machine is restored" }).waitFor({ timeout: 120_000 });

  step("cancel");
  await link("Restore").click();
  await page.getByRole("button", { name: "big", exact: true }).click();
  await button("Next").click();
  await page.getByRole("radio", { name: /lab/ }).click();
  await button("Next").click();
  await page.getByLabel("Name of the new machine").fill("big again");
  for (let i = 1; i < 4; i++) {
    await button("Next").click();
    await page.locator(".steps-nav li[aria-current]", { hasText: ["Placement", "Size", "Guest", "Review"][i] }).waitFor();
  }
  for (const box of await page.getByRole("checkbox", { name: /I accept/ }).all()) await box.click();
  await button("Start the restore").click();
  await page.getByText("live", { exact: true }).waitFor();
  await button("Cancel").click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await status("cancelled");
  assert.ok(!readdirSync(server.restored).includes("big again"), "what a cancelled job made is gone");

  step("a mapping");
  await link("Mappings").click();
  await button("Add a mapping").first().click();
  await page.getByLabel("Name", { exact: true }).fill("prod-to-dr");
  await page.getByLabel("Networks 1: from").fill("prod*");
  await page.getByLabel("Networks 1: to").fill("dr");
  await look("mapping-new");
  await button("Save").click();
  await page.getByText("1 networks").waitFor();
  await look("mappings");

  step("many at once: the plan of the whole, a failure, a retry");
  await link("Bulk restore").click();
  await button("New bulk restore").click();
  await button("Add a group").click();
  await page.getByRole("button", { name: "letters" }).click();
  await page.getByLabel("Group: letters").selectOption({ index: 0 });
  await page.getByRole("button", { name: "web01", exact: true }).click();
  await page.getByLabel("New name: letters").fill("first");
  await page.getByLabel("New name: web01").fill("second");
  await page.getByLabel("Name", { exact: true }).fill("site A");
  await page.getByLabel("Target").selectOption("lab");
  await page.getByLabel("Saved mapping").selectOption("prod-to-dr");
  await look("bulk-new");
  await button("Plan the whole").click();
  await status("planned");
  await page.getByText("2 / 2 planned").waitFor();
  for (const box of await page.getByRole("checkbox", { name: /I accept/ }).all()) await box.click();
  await look("bulk-planned");
  const letters = join(server.backups, "ctx-letters-20261120-020000");
  renameSync(letters, `${letters}.away`);
  await button("Start the run").click();
  await status("failed");
  await page.getByText("1 held back").waitFor();
  assert.ok(!readdirSync(server.restored).includes("second"), "a failed group holds the next one back");
  await look("bulk-failed");
  renameSync(`${letters}.away`, letters);
  await button("Retry what failed").click();
  await page.getByRole("dialog").getByRole("button", { name: "Retry what failed" }).click();
  await page.getByText("2 / 2 restored").waitFor({ timeout: 60_000 });
  await look("bulk-completed");
  const [report] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "Report" }).click()]);
  assert.match(readFileSync(await report.path(), "utf8"), /2 machines: 2 completed, 0 failed/);
  assert.ok(readdirSync(server.restored).includes("second"), "the second group is restored");
  await link("Bulk restore").click();
  await page.getByRole("link", { name: "site A" }).waitFor();
  await look("bulk");

  step("the wizard to the platforms");
  const me = await (await page.request.get(`${server.url}/api/v1/me`)).json();
  for (const s of sims.targets) {
    const made = await page.request.post(`${server.url}/api/v1/targets`, { data: { id: s.platform, platform: s.platform, settings: s.settings, secrets: s.secrets }, headers: { "X-CSRF-Token": me.csrf_token } });
    assert.ok(made.ok(), `${s.platform}: ${await made.text()}`);
  }
  for (const s of sims.targets) {
    await link("Dashboard").click();
    await link("Restore").click();
    await page.getByRole("button", { name: "letters" }).click();
    await button("Next").click();
    await page.getByRole("radio", { name: new RegExp(`^${s.platform}`) }).click();
    await button("Next").click();
    await page.getByRole("heading", { name: "Where does it go there?" }).waitFor();
    // What has to be chosen is: the first of what the platform offers.
    for (const box of await page.locator(".field:has(select)").all()) {
      const label = await box.locator("label").innerText();
      const select = box.locator("select");
      if ((await select.inputValue()) || !/\*|^nic|^disk\d|^datastore/.test(label)) continue;
      await select.selectOption({ index: 1 });
    }
    for (let i = 1; i < 4; i++) {
      await button("Next").click();
      await page.locator(".steps-nav li[aria-current]", { hasText: ["Placement", "Size", "Guest", "Review"][i] }).waitFor();
    }
    for (const box of await page.getByRole("checkbox", { name: /I accept/ }).all()) await box.click();
    await look(`review-${s.platform}`);
    await button("Start the restore").click();
    await page.getByRole("heading", { name: "The machine is restored" }).waitFor({ timeout: 90_000 });
    await page.getByText("Digest of the disk").waitFor();
    console.log(`  ${s.platform}: restored`);
  }

  step("a failure, a retry from the failed step, an undo");
  await sims.say("break");
  await link("Dashboard").click();
  await link("Restore").click();
  await page.getByRole("button", { name: "web01", exact: true }).click();
  await button("Next").click();
  await page.getByRole("radio", { name: /^vmware/ }).click();
  await button("Next").click();
  await page.getByLabel("Name of the new machine").fill("refused");
  await page.getByRole("checkbox", { name: "Start the machine when it is restored" }).check();
  for (const box of await page.locator(".field:has(select)").all()) {
    const label = await box.locator("label").innerText();
    const select = box.locator("select");
    if (!(await select.inputValue()) && /\*|^nic|^disk\d|^datastore/.test(label)) await select.selectOption({ index: 1 });
  }
  for (let i = 1; i < 4; i++) {
    await button("Next").click();
    await page.locator(".steps-nav li[aria-current]", { hasText: ["Placement", "Size", "Guest", "Review"][i] }).waitFor();
  }
  for (const box of await page.getByRole("checkbox", { name: /I accept/ }).all()) await box.click();
  await button("Start the restore").click();
  await page.getByRole("heading", { name: "The restore failed" }).waitFor({ timeout: 90_000 });
  await page.getByText(/not enough memory/).first().waitFor();
  await look("job-failed");
  await sims.say("mend");
  await button("Retry from the failed step").click();
  await page.getByRole("dialog").getByRole("button", { name: "Retry from the failed step" }).click();
  await page.getByRole("heading", { name: "The machine is restored" }).waitFor({ timeout: 60_000 });
  const steps = await page.locator(".step-list li").allInnerTexts();
  assert.ok(steps.some((s) => /^power on.*attempt 2/s.test(s)) && steps.filter((s) => /attempt/.test(s)).length === 1, `only the failed step was done again: ${steps}`);
  await button("Undo").first().click();
  await page.getByRole("dialog").getByRole("button", { name: "Undo" }).click();
  await status("undone");
  await page.getByText("What was made").waitFor({ state: "detached" });

  step("the other pages");
  for (const [name, heading] of [["Dashboard", "Dashboard"], ["Jobs", "Jobs"], ["Compatibility", "Compatibility"], ["Audit log", "Audit log"], ["Users", "Users"], ["API tokens", "API tokens"]]) {
    await link(name).click();
    await page.getByRole("heading", { name: heading, level: 1 }).waitFor();
    await look(name.toLowerCase().replaceAll(" ", "-"));
  }

  step("a viewer, dark, on a phone");
  await link("Users").click();
  await button("Add a user").click();
  await page.getByLabel("Name", { exact: true }).fill("vera");
  await page.getByLabel("Password").fill("another long password");
  await button("Add").click();
  await page.getByText("vera").first().waitFor();
  await page.getByLabel("Appearance").selectOption("dark");
  await look("users-dark");
  await button("Sign out").click();
  await page.getByLabel("Name").fill("vera");
  await page.getByLabel("Password").fill("another long password");
  await button("Sign in").click();
  await page.getByRole("heading", { name: "Dashboard" }).waitFor();
  assert.equal(await link("Users").count(), 0, "a viewer sees no users");
  assert.equal(await page.getByRole("link", { name: "Start a restore" }).count(), 0, "a viewer starts nothing");
  await page.setViewportSize({ width: 360, height: 740 });
  await look("dashboard-phone-dark");
  await page.getByRole("button", { name: "Menu" }).click();
  await link("Jobs").click();
  await page.getByRole("heading", { name: "Jobs", level: 1 }).waitFor();
  await look("jobs-phone-dark");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1);
  assert.ok(!wide, "the page fits a phone");

  assert.deepEqual(complaints, [], "the browser has nothing to complain of");
  console.log("all well");
} catch (e) {
  await page.screenshot({ path: join(shots, "failure.png"), fullPage: true }).catch(() => {});
  console.error(await page.locator("main").innerText().catch(() => ""));
  console.error(server.log.split("\n").slice(-15).join("\n"));
  throw e;
} finally {
  await browser.close();
  await sims.close();
  await server.close();
}
