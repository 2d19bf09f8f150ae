import { Dialog, DialogBackdrop, DialogPanel, DialogTitle } from "@headlessui/react";
import { type ReactNode, useState } from "react";
import { t } from "../text";
import { Trouble } from "./parts";

export function Modal({ open, close, title, children }: { open: boolean; close: () => void; title: string; children: ReactNode }) {
  return (
    <Dialog open={open} onClose={close}>
      <DialogBackdrop className="dialog-back" />
      <div className="dialog-hold">
        <DialogPanel className="dialog">
          <DialogTitle as="h2">{title}</DialogTitle>
          {children}
        </DialogPanel>
      </div>
    </Dialog>
  );
}

/** Ask is a button whose action is asked about first; a failure stays in sight. */
export function Ask({ label, ask, run, danger = true, icon }: { label: string; ask: string; run: () => Promise<unknown>; danger?: boolean; icon?: ReactNode }) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const go = async () => {
    setBusy(true);
    setError(undefined);
    try {
      await run();
      setOpen(false);
    } catch (e) {
      setError(e);
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <button className={`btn ${danger ? "danger" : ""}`} onClick={() => setOpen(true)}>{icon}{label}</button>
      <Modal open={open} close={() => setOpen(false)} title={label}>
        <p>{ask}</p>
        <Trouble error={error} />
        <div className="foot">
          <button className="btn" onClick={() => setOpen(false)}>{t.close}</button>
          <button className="btn main-action" disabled={busy} onClick={() => void go()}>{label}</button>
        </div>
      </Modal>
    </>
  );
}
