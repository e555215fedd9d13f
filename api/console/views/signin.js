// The door: a key, looked at by the API before it is taken.
import { html, useEffect, useRef, useState } from "../dom.js";
import { usePolled } from "../hooks.js";
import { get, sendable } from "../http.js";
import { t } from "../i18n.js";
import { Mark } from "../icons.js";
import { Button, IconButton } from "../ui.js";

// What a key may do. Throws ApiError where the API does not know it, or does not answer.
export async function abilities(key) {
  await get("/api/modes", { key });
  const may = (path) => get(path, { key, query: { limit: 1 } }).then(() => true, refused);
  const [generate, admin] = await Promise.all([
    may("/api/jobs"),
    get("/api/admin/queues", { key }).then(() => true, refused),
  ]);
  return { generate, admin };
}

function refused(error) {
  if (error.status === 403 || error.status === 404) return false;
  throw error;
}

export function SignIn({ notice, onEnter, tools }) {
  const [key, setKey] = useState("");
  const [shown, setShown] = useState(false);
  const [busy, setBusy] = useState(false);
  const [wrong, setWrong] = useState(notice);
  const field = useRef(null);
  const health = usePolled((signal) => get("/health", { signal, key: "" }), [], () => 10_000);
  useEffect(() => {
    document.title = "SmartTextGen";
    field.current.focus();
  }, []);
  const enter = async (event) => {
    event.preventDefault();
    const secret = key.trim();
    setBusy(true);
    setWrong(null);
    try {
      if (!sendable(secret)) throw { status: 401 };
      onEnter(secret, await abilities(secret));
    } catch (error) {
      setWrong(error.status === 401 ? "signin.wrong" : error.status === 0 ? "error.0" : "signin.failed");
      setBusy(false);
      field.current.select();
    }
  };
  return html`
    <div class="door">
      <div class="door-tools">${tools}</div>
      <main class="door-card">
        <${Mark} size=${48} />
        <h1>SmartTextGen</h1>
        <p class="lead">${t("signin.lead")}</p>
        <form onSubmit=${enter} novalidate>
          <label for="key">${t("signin.key")}</label>
          <div class="secret">
            <input id="key" ref=${field} type=${shown ? "text" : "password"} value=${key} autocomplete="off" spellcheck=${false}
              autocapitalize="off" placeholder="stg_…" aria-invalid=${wrong ? "true" : undefined}
              aria-describedby="key-note" onInput=${(event) => setKey(event.target.value)} />
            <${IconButton} icon="eye" label=${t(shown ? "signin.hide" : "signin.show")} aria-pressed=${shown ? "true" : "false"}
              onClick=${() => setShown(!shown)} />
          </div>
          <p id="key-note" class=${wrong ? "field-error" : "field-hint"} role=${wrong ? "alert" : undefined}>
            ${t(wrong ?? "signin.note")}</p>
          <${Button} type="submit" kind="primary" class="wide" busy=${busy} disabled=${!key.trim()}>${t("signin.enter")}<//>
        </form>
        <p class="door-health">${health.error ? t("health.unreachable") : health.data && html`
          <span class=${`dot dot-${health.data.status}`} aria-hidden="true"></span>
          ${t(`health.${health.data.status}`)} · ${health.data.model} · <a href="/apidocs">${t("apidocs")}</a>`}</p>
      </main>
    </div>`;
}
