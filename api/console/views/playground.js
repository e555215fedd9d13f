// Try a prompt: what to ask, how, and the answer as it comes.
import { html, useEffect, useRef, useState } from "../dom.js";
import { number } from "../format.js";
import { say, useKept, usePolled } from "../hooks.js";
import { get, idempotencyKey, post } from "../http.js";
import { known, t } from "../i18n.js";
import { Icon } from "../icons.js";
import { limits } from "../limits.js";
import { Button, Copy, Empty, Failure, Loading } from "../ui.js";
import { LiveJob } from "./livejob.js";
import { Options, asBody, UNTOUCHED } from "./options.js";

const MODE_ICONS = { general: "chat", recommendation: "gift", support: "help", ecommerce: "tag" };

export function Playground() {
  const modes = usePolled((signal) => get("/api/modes", { signal }), []);
  const models = usePolled((signal) => get("/api/models", { signal }), [], () => 15_000);
  const [bounds, setBounds] = useState(null);
  const [prompt, setPrompt] = useKept("prompt", "");
  const [mode, setMode] = useKept("mode", null);
  const [options, setOptions] = useKept("options", UNTOUCHED);
  const [run, setRun] = useKept("run", null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const field = useRef(null);
  const answer = useRef(null);
  useEffect(() => { limits().then(setBounds); }, []);

  const names = modes.data?.data.map((item) => item.name) ?? [];
  const chosen = names.includes(mode) ? mode : names[0];
  const most = bounds?.prompt.maxLength ?? 8000;
  const length = Array.from(prompt).length;
  const body = { prompt, mode: chosen, ...asBody(options) };
  const ready = prompt.length > 0 && length <= most && chosen && !busy;

  const submit = async (event) => {
    event?.preventDefault();
    if (!ready) {
      field.current.focus();
      return;
    }
    setBusy(true);
    setError(null);
    try {
      setRun(await post("/api/generate", { body, headers: { "Idempotency-Key": idempotencyKey() } }));
      show(answer.current);
    } catch (wrong) {
      setError(wrong);
      if (wrong.param === "prompt") field.current.focus();
    }
    setBusy(false);
  };
  const keys = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  const examples = known(`examples.${chosen}`) ? t(`examples.${chosen}`) : [];

  return html`
    <div class="view-head"><h1>${t("nav.playground")}</h1><p class="lead">${t("playground.lead")}</p></div>
    ${modes.error && !modes.data && html`<${Failure} error=${modes.error} retry=${modes.refresh} />`}
    <div class="bench">
      <form class="card composer" onSubmit=${submit} onKeyDown=${keys} novalidate>
        ${modes.data ? html`<${Modes} modes=${modes.data.data} value=${chosen} onChange=${setMode} />`
          : html`<${Loading} rows=${2} />`}
        <div class="prompt">
          <label for="prompt">${t("playground.prompt")}</label>
          <textarea id="prompt" ref=${field} rows="5" value=${prompt} placeholder=${t("playground.placeholder")}
            aria-describedby="prompt-count" aria-invalid=${length > most ? "true" : undefined}
            onInput=${(event) => setPrompt(event.target.value)}></textarea>
          <div class="prompt-foot">
            <span id="prompt-count" class=${length > most ? "count count-over" : "count"}>
              ${t("playground.count", { n: number(length), most: number(most) })}</span>
            ${prompt && html`<${Button} small kind="ghost" onClick=${() => { setPrompt(""); field.current.focus(); }}>${t("do.clear")}<//>`}
          </div>
        </div>
        ${examples.length > 0 && html`
          <div class="examples"><span id="examples">${t("playground.try")}</span>
            <ul aria-labelledby="examples">${examples.map((text) => html`
              <li key=${text}><button type="button" class="chip" onClick=${() => { setPrompt(text); field.current.focus(); }}>${text}</button></li>`)}
            </ul></div>`}
        <${Options} value=${options} onChange=${setOptions} bounds=${bounds} models=${models.data?.data ?? []} wrong=${error} />
        ${error && html`<${Failure} error=${error} />`}
        <div class="composer-foot">
          <${Button} type="submit" kind="primary" icon="spark" busy=${busy} aria-disabled=${ready ? undefined : "true"}>
            ${t("playground.go")}<//>
          <span class="keys"><kbd>Ctrl</kbd> <kbd>↵</kbd></span>
          <${Curl} body=${body} />
        </div>
      </form>
      <section class="card answer" ref=${answer} aria-label=${t("playground.answer")}>
        ${run ? html`<${LiveJob} key=${run.id} known=${run} onDeleted=${() => { setRun(null); say(t("job.deleted")); }} />` : html`
          <${Empty} icon="spark" title=${t("playground.empty")}>${t("playground.empty.text")}<//>`}
      </section>
    </div>`;
}

// Where the answer is below the form, on a phone, it comes into sight when it begins.
function show(element) {
  if (element.getBoundingClientRect().top < innerHeight / 2) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

const Modes = ({ modes, value, onChange }) => html`
  <fieldset class="modes"><legend>${t("playground.mode")}</legend>
    <div class="modes-grid">${modes.map((mode) => html`
      <label key=${mode.name} class="mode">
        <input type="radio" name="mode" value=${mode.name} checked=${mode.name === value} onChange=${() => onChange(mode.name)} />
        <span class="mode-card"><${Icon} name=${MODE_ICONS[mode.name] ?? "spark"} />
          <span class="mode-name">${known(`mode.${mode.name}`) ? t(`mode.${mode.name}`) : mode.name}</span>
          <span class="mode-text">${known(`mode.${mode.name}.text`) ? t(`mode.${mode.name}.text`) : mode.description}</span></span>
      </label>`)}</div>
  </fieldset>`;

// The same request for a terminal. The key stays out of it.
function Curl({ body }) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const text = `curl -s ${location.origin}/api/generate -H "X-API-Key: $KEY" -H "Content-Type: application/json" \\\n  -d '${quoted}'`;
  return html`<span class="push"><${Copy} text=${text} label=${t("playground.curl")} /></span>`;
}
