import { describe, expect, it } from "vitest";
import { keep, maxLines, type Line } from "./api/live";
import { bytes, left, multiline, platform, seconds, time, visible } from "./format";
import { document, dropGroup, move, newDraft, newGroup, toggle } from "./pages/bulk/document";
import { read } from "./pages/receipt";
import { put } from "./pages/wizard/placement";
import { tone } from "./ui/parts";

describe("numbers", () => {
  it("are read with three digits", () => {
    expect([0, 1, 1023, 1024, 1536, 1 << 30, 2.5 * 1024 ** 4, undefined, NaN].map((n) => bytes(n))).toEqual(["0 B", "1 B", "1023 B", "1.00 KiB", "1.50 KiB", "1.00 GiB", "2.50 TiB", "–", "–"]);
  });
  it("of time", () => {
    expect([0.2, 59, 60, 61, 3600, 3725, -1, Infinity].map(seconds)).toEqual(["less than a second", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 2 min", "–", "–"]);
    expect(time("nonsense")).toBe("–");
    expect(time("0001-01-01T00:00:00Z")).toBe("–");
    expect(left("2026-01-01T00:01:00Z", Date.parse("2026-01-01T00:00:00Z"))).toBe("1 min left");
    expect(left("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:01:00Z"))).toBe("");
  });
});

describe("names", () => {
  it("do not turn the text around them", () => {
    expect(visible("a\u202egnp.exe\u0000\n")).toBe("a\\u202egnp.exe\\u0000\\u000a");
    expect(visible("Größe 漢 <script>")).toBe("Größe 漢 <script>");
    expect(visible(undefined)).toBe("");
    expect(multiline("no room\nhint: a\u202eb")).toBe("no room\nhint: a\\u202eb");
  });
  it("of platforms", () => {
    expect([platform("aws"), platform(undefined), platform("other")]).toEqual(["AWS EC2", "unknown", "other"]);
  });
});

describe("a log", () => {
  const line = (seq: number): Line => ({ seq, time: "", level: "info", text: String(seq) });
  it("holds each line once and a bounded number", () => {
    let lines: Line[] = [];
    for (let i = 1; i <= maxLines + 50; i++) lines = keep(keep(lines, line(i)), line(i));
    expect(lines.length).toBe(maxLines);
    expect(lines[0]!.seq).toBe(51);
    expect(keep(lines, line(3))).toBe(lines);
  });
});

describe("a mapping", () => {
  it("has one entry for each name", () => {
    expect(put([{ from: "nic0", to: "a" }, { from: "nic1", to: "b" }], "nic0", "c")).toEqual([{ from: "nic1", to: "b" }, { from: "nic0", to: "c" }]);
    expect(put([{ from: "nic0", to: "a" }], "nic0", "")).toEqual([]);
    expect(put(null, "nic0", "a")).toEqual([{ from: "nic0", to: "a" }]);
  });
});

describe("a receipt", () => {
  it("is found in what the server sends", () => {
    const r = { disks: [{ index: 0, digest: "b3d1:00" }] };
    expect(read(JSON.stringify({ payload: btoa(JSON.stringify(r)) }))).toEqual(r);
    expect(read({ receipt: r })).toEqual(r);
    expect(read("{")).toBeNull();
  });
});

it("every status has a tone", () => {
  expect(["completed", "failed", "rolled_back", "running", "uploading", "pending", "undone"].map(tone)).toEqual(["good", "bad", "bad", "live", "live", "", ""]);
});

describe("a bulk restore", () => {
  const draft = () => {
    let d = newDraft();
    for (const vm of ["a", "b", "c"]) d = toggle(d, { id: vm, vm });
    return { ...d, target: "lab", groups: [newGroup(1), { ...newGroup(2), is: "address", timeout: "5m", wait: "10s", carryOn: true }], picks: d.picks.map((p) => (p.vm === "c" ? { ...p, group: 1, name: "c2" } : p)) };
  };
  it("is a document with its groups in order", () => {
    expect(document(draft())).toEqual({
      version: 1, name: "bulk restore", defaults: { target: "lab" }, limits: { concurrency: 4 },
      groups: [{ name: "group 1", machines: [{ backup: "a" }, { backup: "b" }] }, { name: "group 2", machines: [{ backup: "c", name: "c2" }], until: { is: "address", timeout: "5m" }, wait: "10s", on_failure: "continue" }],
    });
  });
  it("takes backups in and out, moves them, and drops groups without losing any", () => {
    const d = draft();
    expect(move(d, "b", -1).picks.map((p) => p.vm)).toEqual(["b", "a", "c"]);
    expect(move(d, "c", -1)).toBe(d);
    expect(toggle(d, { id: "a", vm: "a" }).picks.map((p) => p.vm)).toEqual(["b", "c"]);
    expect(dropGroup(d, 1).picks.map((p) => p.group)).toEqual([0, 0, 0]);
    expect(dropGroup(d, 0).picks.map((p) => p.group)).toEqual([0, 0, 0]);
    expect(document({ ...d, picks: [] }).groups).toEqual([]);
  });
});
