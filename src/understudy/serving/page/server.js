// What the page asks the server. The token stays in this tab: sessionStorage, or memory without it.

const PATIENCE = 5000; // milliseconds
const KEY = `understudy token of ${new URL(".", document.baseURI).pathname}`;
let token = stored();

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasToken = () => token !== "";

export function setToken(value) {
  token = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch { /* no storage: the token lives as long as the page */ }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export async function status() {
  return (await answer("status")).json();
}

export async function chooseOperatingPoint(name) {
  return (await answer("operating-point", { method: "PUT", body: JSON.stringify({ name }) })).json();
}

export async function resetWatch(toTraffic) {
  await answer("watch/reset", { method: "POST", body: JSON.stringify({ to_traffic: toTraffic }) });
}

export async function latestImage(requestId) {
  return (await answer(`latest/${encodeURIComponent(requestId)}.png`, { method: "GET", guarded: true })).blob();
}

async function answer(path, { method = "GET", body, guarded = method !== "GET" } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (guarded && token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, {
    method, body, headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE),
  });
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  try {
    return String((await response.json()).error);
  } catch {
    return `status ${response.status}`;
  }
}
