import { Link, Outlet, useNavigate } from "@tanstack/react-router";
import { Archive, Cpu, Database, FileClock, Gauge, KeyRound, LayoutGrid, ListChecks, LogOut, Menu, Layers, RotateCcw, Route, Server, Settings, Users } from "lucide-react";
import { useEffect, useState } from "react";
import { may, useMe, useSignOut } from "./session";
import { t } from "./text";
import { setTheme, theme } from "./theme";

const items = [
  { to: "/", label: t.nav.dashboard, icon: Gauge, role: "viewer" },
  { to: "/backups", label: t.nav.backups, icon: Archive, role: "viewer" },
  { to: "/restore", label: t.nav.restore, icon: RotateCcw, role: "operator" },
  { to: "/bulk", label: t.nav.bulk, icon: Layers, role: "viewer" },
  { to: "/jobs", label: t.nav.jobs, icon: ListChecks, role: "viewer" },
  { to: "/targets", label: t.nav.targets, icon: Server, role: "viewer" },
  { to: "/mappings", label: t.nav.mappings, icon: Route, role: "viewer" },
  { to: "/repositories", label: t.nav.repositories, icon: Database, role: "viewer" },
  { to: "/workers", label: t.nav.workers, icon: Cpu, role: "viewer" },
  { to: "/rules", label: t.nav.rules, icon: LayoutGrid, role: "viewer" },
  { to: "/audit", label: t.nav.audit, icon: FileClock, role: "admin" },
  { to: "/users", label: t.nav.users, icon: Users, role: "admin" },
  { to: "/tokens", label: t.nav.tokens, icon: KeyRound, role: "viewer" },
  { to: "/settings", label: t.nav.settings, icon: Settings, role: "admin" },
] as const;

export function Shell() {
  const me = useMe();
  const signOut = useSignOut();
  const go = useNavigate();
  const [open, setOpen] = useState(false);
  const [look, setLook] = useState(theme());
  const [online, setOnline] = useState(navigator.onLine);
  useEffect(() => {
    const on = () => setOnline(navigator.onLine);
    addEventListener("online", on);
    addEventListener("offline", on);
    return () => {
      removeEventListener("online", on);
      removeEventListener("offline", on);
    };
  }, []);
  const brand = (
    <Link to="/" className="brand"><img src="/icon.svg" alt="" width={26} height={26} />{t.product}</Link>
  );
  return (
    <div className="shell">
      <a className="skip" href="#content">{t.skip}</a>
      <div className="topbar">
        <button className="btn plain" aria-label={t.menu} aria-expanded={open} onClick={() => setOpen(!open)}><Menu size={20} aria-hidden /></button>
        {brand}
      </div>
      <nav className="side" data-open={open} aria-label={t.menu} onClick={() => setOpen(false)}>
        {brand}
        {items.filter((i) => may(me, i.role)).map((i) => (
          <Link key={i.to} to={i.to} className="item" activeOptions={{ exact: i.to === "/" }}>
            <i.icon size={18} aria-hidden />{i.label}
          </Link>
        ))}
        <div className="foot" onClick={(e) => e.stopPropagation()}>
          <span className="small soft break">{me.name} · {me.role}</span>
          <label className="sr" htmlFor="look">{t.theme.label}</label>
          <select id="look" value={look} onChange={(e) => { setTheme(e.target.value); setLook(e.target.value); }}>
            <option value="system">{t.theme.system}</option>
            <option value="light">{t.theme.light}</option>
            <option value="dark">{t.theme.dark}</option>
          </select>
          <button className="btn" onClick={() => void go({ to: "/" }).then(signOut)}><LogOut size={16} aria-hidden />{t.signOut}</button>
        </div>
      </nav>
      <main className="main" id="content" tabIndex={-1}>
        {!online && <div className="note warn" role="status">{t.offline}</div>}
        <Outlet />
      </main>
    </div>
  );
}
