// The API's client: generated types, one instance, and what every answer has in
// common.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Problem = Schemas["Problem"];

let csrf = "";

/** setCSRF keeps the token that changing requests must carry. */
export function setCSRF(token: string | undefined) {
  csrf = token ?? "";
}

export const api = createClient<paths>({ credentials: "same-origin" });

api.use({
  onRequest({ request }) {
    if (csrf && request.method !== "GET") request.headers.set("X-CSRF-Token", csrf);
    return request;
  },
});

/** ApiError is a problem document of the server, or what stood in for one. */
export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail || problem.title);
  }
}

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** take gives an answer's data, or throws its problem. */
export async function take<T>(answer: Promise<Answer<T>>): Promise<T> {
  let a: Answer<T>;
  try {
    a = await answer;
  } catch {
    throw new ApiError({ type: "about:blank", title: "No answer", status: 0, code: "no-answer", detail: "The server does not answer.", hint: "Check that it runs and that this machine reaches it. The page goes on by itself." });
  }
  if (a.error !== undefined) {
    const p = a.error as Partial<Problem>;
    throw new ApiError({ type: "about:blank", title: a.response.statusText, status: a.response.status, code: "unknown", detail: `The server answered ${a.response.status}.`, ...p });
  }
  return a.data as T;
}
