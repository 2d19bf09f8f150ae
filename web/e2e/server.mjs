// Starts a real server on a data folder of its own, with backups made by qemu-img.
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const program = resolve(import.meta.dirname, "../../bin/ascend");

/** hostile is a name that a page must show and never obey. */
export const hostile = `<script>alert(1)<img src=x onerror=alert(2)> \u202egnp.exe ${"x".repeat(150)}`;

export async function freePort() {
  return new Promise((done, fail) => {
    const s = createServer();
    s.once("error", fail);
    s.listen(0, "127.0.0.1", () => {
      const { port } = s.address();
      s.close(() => done(port));
    });
  });
}

/** machine writes a full backup of one disk of real random data. */
function machine(dir, name, vm, mib, platform) {
  const disk = join(dir, name, "disk-0");
  mkdirSync(disk, { recursive: true });
  const file = join(disk, "backup-disk0-20261120-020000.qcow2");
  const run = (...a) => execFileSync(a[0], a.slice(1), { stdio: ["ignore", "ignore", "inherit"] });
  run("qemu-img", "create", "-q", "-f", "qcow2", file, `${mib * 4}M`);
  for (let at = 0; at < mib; at += 16) run("qemu-io", "-f", "qcow2", "-c", `write -q -P ${(at % 200) + 1} ${at * 2}M ${Math.min(16, mib - at)}M`, file);
  writeFileSync(join(dir, name, "vm.json"), JSON.stringify({
    name: vm, platform, cpu: { sockets: 1, cores_per_socket: 2 }, memory: 2 ** 31, firmware: "bios", guest: { family: "linux", distribution: "debian", version: "12", arch: "amd64" },
    disks: [{ index: 0, size: mib * 4 * 2 ** 20, controller: "pvscsi", boot: true }], nics: [{ mac: "00:50:56:01:02:03", model: "vmxnet3", network: "VM Network" }],
  }));
}

/** fileSystem is a backup of one ext4 file system with a file in a folder. */
function fileSystem(dir, name) {
  const disk = join(dir, name, "disk-0");
  const tree = join(dir, "..", "tree");
  mkdirSync(disk, { recursive: true });
  mkdirSync(join(tree, "letters"), { recursive: true });
  writeFileSync(join(tree, "letters", "Grüße 漢.txt"), "hello from the backup\n");
  const raw = join(dir, "..", "fs.raw");
  execFileSync("/sbin/mke2fs", ["-q", "-F", "-t", "ext4", "-d", tree, raw, "16M"], { stdio: ["ignore", "ignore", "inherit"] });
  execFileSync("qemu-img", ["convert", "-O", "qcow2", raw, join(disk, "backup-disk0-20261120-020000.qcow2")]);
  writeFileSync(join(dir, name, "vm.json"), JSON.stringify({ name: "letters", platform: "cloudstack", cpu: { sockets: 1, cores_per_socket: 1 }, memory: 2 ** 30, firmware: "bios", guest: {}, disks: [{ index: 0, size: 16 * 2 ** 20 }], nics: [{ mac: "00:50:56:0a:0b:0c", network: "prod" }] }));
}

/** Simulators are the other platforms, in a process of their own. */
export class Simulators {
  async start() {
    this.child = spawn(resolve(import.meta.dirname, "../../bin/sims"), { stdio: ["pipe", "pipe", "inherit"] });
    const line = await new Promise((done, fail) => {
      let text = "";
      this.child.stdout.on("data", (b) => { text += b; if (text.includes("\n")) done(text); });
      this.child.once("exit", () => fail(new Error("the simulators do not start")));
    });
    this.targets = JSON.parse(line);
  }

  /** say has the simulators break or mend something, and waits for it. */
  async say(what) {
    const done = new Promise((r) => this.child.stdout.once("data", r));
    this.child.stdin.write(`${what}\n`);
    await done;
  }

  async close() {
    const ended = new Promise((r) => this.child.once("exit", r));
    this.child.stdin.end();
    await ended;
  }
}

export class Server {
  constructor() {
    this.dir = mkdtempSync(join(tmpdir(), "ascend-web-"));
    this.backups = join(this.dir, "backups");
    this.restored = join(this.dir, "restored");
    mkdirSync(this.restored);
    machine(this.backups, "ctx-web01-20261120-020000", "web01", 64, "vmware");
    machine(this.backups, "ctx-big-20261120-020000", "big", 512, "vmware");
    machine(this.backups, `ctx-${hostile}-20261120-020000`, hostile, 1, "hyperv");
    fileSystem(this.backups, "ctx-letters-20261120-020000");
  }

  async start() {
    this.port ??= await freePort();
    this.url = `http://127.0.0.1:${this.port}`;
    this.log = "";
    this.child = spawn(program, ["serve", "--data", join(this.dir, "data"), "--listen", `127.0.0.1:${this.port}`, "--log-format", "json"], { stdio: ["ignore", "ignore", "pipe"] });
    this.child.stderr.on("data", (b) => { this.log += b; });
    for (let i = 0; ; i++) {
      try {
        if ((await fetch(`${this.url}/readyz`)).ok) break;
      } catch {
        // not yet
      }
      if (i > 300 || this.child.exitCode !== null) throw new Error(`the server does not start: ${this.log}`);
      await new Promise((r) => setTimeout(r, 100));
    }
    this.token ??= /ascend_[A-Za-z0-9_-]+|setup_[A-Za-z0-9_-]+|^ {2}(\S{20,})$/m.exec(this.log)?.[0].trim();
  }

  /** kill ends the process as a power cut would. */
  async kill() {
    const ended = new Promise((r) => this.child.once("exit", r));
    this.child.kill("SIGKILL");
    await ended;
  }

  async close() {
    if (this.child?.exitCode === null) {
      const ended = new Promise((r) => this.child.once("exit", r));
      this.child.kill("SIGTERM");
      await ended;
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}
