// How to generate: the options that most people want, with the API's own bounds.
import { html } from "../dom.js";
import { t } from "../i18n.js";
import { Field, Segmented } from "../ui.js";

// What was not touched is not sent, so that the deployment's defaults hold.
export const UNTOUCHED = {};

const NUMBERS = ["max_length", "temperature", "top_p", "top_k", "repetition_penalty", "n"];

// The form's texts as the API's types. What is no number goes as it is: the API says best what is wrong with it.
export function asBody(options) {
  const body = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === "" || value === null) continue;
    if (name === "stop") body.stop = value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
    else if (name === "seed") body.seed = asInteger(value);
    else body[name] = NUMBERS.includes(name) ? Number(value) : value;
  }
  return body;
}

const asInteger = (text) => (/^\d{1,15}$/.test(text) ? Number(text) : text);

export function Options({ value, onChange, bounds, models, wrong }) {
  const set = (name, next) => {
    const all = { ...value, [name]: next };
    if (next === "" || next === null) delete all[name];
    onChange(all);
  };
  const touched = Object.keys(value);
  const errorOf = (name) => (wrong?.param?.split(".")[0] === name ? wrong.message : null);
  const slider = (name, min, max, step, usual) => html`
    <${Slider} name=${name} min=${min} max=${max} step=${step} value=${value[name] ?? usual} touched=${name in value}
      error=${errorOf(name)} onChange=${(next) => set(name, next)} />`;
  const text = (name, more = {}) => html`
    <${Field} id=${`o-${name}`} label=${t(`option.${name}`)} hint=${t(`option.${name}.hint`)} error=${errorOf(name)}>
      <input id=${`o-${name}`} type="text" autocomplete="off" value=${value[name] ?? ""} aria-describedby=${`o-${name}-hint`}
        ...${more} onInput=${(event) => set(name, event.target.value)} /><//>`;
  const length = bounds?.max_length;
  return html`
    <details class="options">
      <summary><span>${t("options")}</span>
        ${touched.length > 0 && html`<span class="options-set">${t("options.set", { n: touched.length })}</span>`}</summary>
      <div class="options-grid">
        ${slider("max_length", length?.minimum ?? 10, length?.maximum ?? 500, 1, length?.default ?? 100)}
        ${slider("temperature", 0, 2, 0.05, 0.7)}
        ${slider("top_p", 0.05, 1, 0.05, 1)}
        ${slider("top_k", 0, 200, 1, 0)}
        ${slider("repetition_penalty", 0.55, 2, 0.05, 1)}
        ${slider("n", 1, 4, 1, 1)}
        ${text("seed", { inputmode: "numeric" })}
        ${text("user_id")}
        <${Field} id="o-stop" label=${t("option.stop")} hint=${t("option.stop.hint")} error=${errorOf("stop")}>
          <textarea id="o-stop" rows="2" value=${value.stop ?? ""} aria-describedby="o-stop-hint"
            onInput=${(event) => set("stop", event.target.value)}></textarea><//>
        ${models.length > 1 && html`
          <${Field} id="o-model" label=${t("option.model")} error=${errorOf("model")}>
            <select id="o-model" value=${value.model ?? ""} onChange=${(event) => set("model", event.target.value)}>
              <option value="">${t("option.model.default")}</option>
              ${models.map((model) => html`<option key=${model.name} value=${model.name}>${model.name}</option>`)}
            </select><//>`}
        <div class="field"><span class="field-label">${t("option.priority")}</span>
          <${Segmented} name="priority" label=${t("option.priority")} value=${value.priority ?? "normal"}
            options=${["low", "normal", "high"].map((name) => ({ value: name, label: t(`priority.${name}`) }))}
            onChange=${(next) => set("priority", next === "normal" ? null : next)} /></div>
        <label class="tick"><input type="checkbox" checked=${value.cache !== false}
          onChange=${(event) => set("cache", event.target.checked ? null : false)} /> ${t("option.cache")}</label>
      </div>
      ${touched.length > 0 && html`
        <button type="button" class="link" onClick=${() => onChange(UNTOUCHED)}>${t("options.reset")}</button>`}
    </details>`;
}

const Slider = ({ name, min, max, step, value, touched, error, onChange }) => {
  const id = `o-${name}`;
  const changed = (event) => onChange(event.target.value);
  return html`
    <${Field} id=${id} label=${t(`option.${name}`)} hint=${t(`option.${name}.hint`)} error=${error}>
      <div class="slider">
        <input type="range" min=${min} max=${max} step=${step} value=${value} aria-label=${t(`option.${name}`)} tabindex="-1"
          onInput=${changed} />
        <input id=${id} type="number" min=${min} max=${max} step=${step} value=${value} class=${touched ? "" : "untouched"}
          aria-describedby=${`${id}-hint`} onInput=${changed} />
      </div><//>`;
};
