import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { Shell } from "./shell";
import { Broken } from "./ui/broken";
import { t } from "./text";

const root = createRootRoute({ component: Shell, notFoundComponent: () => <p>{t.notFound}</p> });
const page = <P extends string>(path: P, component: ReturnType<typeof lazyRouteComponent>) => createRoute({ getParentRoute: () => root, path, component });

const tree = root.addChildren([
  page("/", lazyRouteComponent(() => import("./pages/dashboard"), "Dashboard")),
  page("/backups", lazyRouteComponent(() => import("./pages/backups"), "Backups")),
  page("/backups/$id", lazyRouteComponent(() => import("./pages/backup"), "Backup")),
  page("/backups/$id/files", lazyRouteComponent(() => import("./pages/files"), "Files")),
  page("/restore", lazyRouteComponent(() => import("./pages/wizard/index"), "Wizard")),
  page("/bulk", lazyRouteComponent(() => import("./pages/bulk/index"), "Bulk")),
  page("/bulk/$id", lazyRouteComponent(() => import("./pages/bulk/run"), "BulkRun")),
  page("/mappings", lazyRouteComponent(() => import("./pages/mappings"), "Mappings")),
  page("/jobs", lazyRouteComponent(() => import("./pages/jobs"), "Jobs")),
  page("/jobs/$id", lazyRouteComponent(() => import("./pages/job"), "Job")),
  page("/targets", lazyRouteComponent(() => import("./pages/targets"), "Targets")),
  page("/repositories", lazyRouteComponent(() => import("./pages/repositories"), "Repositories")),
  page("/workers", lazyRouteComponent(() => import("./pages/workers"), "Workers")),
  page("/rules", lazyRouteComponent(() => import("./pages/rules"), "Rules")),
  page("/audit", lazyRouteComponent(() => import("./pages/audit"), "Audit")),
  page("/users", lazyRouteComponent(() => import("./pages/users"), "Users")),
  page("/tokens", lazyRouteComponent(() => import("./pages/tokens"), "Tokens")),
  page("/settings", lazyRouteComponent(() => import("./pages/settings"), "Settings")),
]);

export const router = createRouter({ routeTree: tree, defaultErrorComponent: Broken, defaultPreload: "intent", scrollRestoration: true });

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
