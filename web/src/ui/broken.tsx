import type { ErrorComponentProps } from "@tanstack/react-router";
import { t } from "../text";
import { Trouble } from "./parts";

/** Broken stands in for a page that threw: what happened, and how to go on. */
export function Broken({ error, reset }: ErrorComponentProps) {
  return (
    <>
      <Trouble title={t.broken.title} error={error} />
      <p className="soft">{t.broken.text}</p>
      <div className="row">
        <button className="btn" onClick={reset}>{t.again}</button>
        <button className="btn main-action" onClick={() => location.reload()}>{t.broken.reload}</button>
      </div>
    </>
  );
}
