// Small parts that every view is made of.
import { html, useEffect, useRef, useState } from "./dom.js";
import { number } from "./format.js";
import { say } from "./hooks.js";
import { known, t } from "./i18n.js";
import { Icon } from "./icons.js";

const names = (...all) => all.filter(Boolean).join(" ");

export const Button = ({ kind = "plain", icon, busy, small, children, class: extra, ...rest }) => html`
  <button type="button" ...${rest} class=${names("button", `button-${kind}`, small && "button-small", extra)}
    disabled=${rest.disabled || busy} aria-busy=${busy ? "true" : undefined}>
    ${icon && html`<${Icon} name=${icon} size=${small ? 16 : 18} />`}${children}
  </button>`;

export const IconButton = ({ icon, label, ...rest }) => html`
  <button type="button" class="icon-button" title=${label} aria-label=${label} ...${rest}><${Icon} name=${icon} /></button>`;

export const Badge = ({ status }) => html`
  <span class=${`badge badge-${status}`}>${t(`status.${status}`)}</span>`;

export const Tile = ({ label, value, hint }) => html`
  <div class="tile"><dt>${label}</dt><dd>${value}</dd>${hint && html`<dd class="tile-hint">${hint}</dd>`}</div>`;

export const Empty = ({ icon, title, small, children }) => html`
  <div class=${names("empty", small && "empty-small")}><span class="empty-icon"><${Icon} name=${icon} size=${small ? 18 : 28} /></span><p class="empty-title">${title}</p>
    <div class="empty-text">${children}</div></div>`;

// What went wrong, in words that help, and the API's own words below.
export function Failure({ error, retry }) {
  const name = [`error.${error.code}`, `error.${error.status}`].find(known) ?? "error.any";
  return html`
    <div class="failure" role="alert">
      <${Icon} name="warn" />
      <div><p class="failure-title">${t(name)}</p>
        ${error.status !== 0 && html`<p class="failure-text">${error.message}</p>`}
        ${error.retryAfter > 0 && html`<p class="failure-text">${t("error.later", { n: error.retryAfter })}</p>`}</div>
      ${retry && html`<${Button} small icon="retry" onClick=${retry}>${t("do.again")}<//>`}
    </div>`;
}

export const Loading = ({ rows = 3 }) => html`
  <div class="loading" aria-busy="true"><span class="sr-only">${t("loading")}</span>
    ${Array.from({ length: rows }, () => html`<div class="bone"></div>`)}</div>`;

async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // plain http on another machine: no clipboard object there
  area.value = text;
  area.className = "sr-only";
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return undefined;
}

export function Copy({ text, label = t("do.copy"), small = true, icon = false }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await toClipboard(text);
      setDone(true);
      setTimeout(() => setDone(false), 1500);
    } catch {
      say(t("copy.failed"), "bad");
    }
  };
  if (icon) return html`<${IconButton} icon=${done ? "check" : "copy"} label=${done ? t("copied") : label} onClick=${copy} />`;
  return html`<${Button} small=${small} icon=${done ? "check" : "copy"} onClick=${copy}>${done ? t("copied") : label}<//>`;
}

// A choice of few, as buttons beside each other; underneath, radio buttons with their keys.
export const Segmented = ({ name, label, options, value, onChange }) => html`
  <fieldset class="segmented"><legend class="sr-only">${label}</legend>
    ${options.map((option) => html`
      <label key=${option.value}><input type="radio" name=${name} value=${option.value} checked=${option.value === value}
        onChange=${() => onChange(option.value)} /><span>${option.label}</span></label>`)}
  </fieldset>`;

export const Field = ({ label, hint, id, error, children }) => html`
  <div class=${names("field", error && "field-wrong")}>
    <label for=${id}>${label}</label>${children}
    ${error && html`<p class="field-error" id=${`${id}-error`}>${error}</p>`}
    ${hint && !error && html`<p class="field-hint" id=${`${id}-hint`}>${hint}</p>`}
  </div>`;

// A modal dialog: the browser holds the focus in it, Escape closes it, and the focus goes back to where it was.
export function Dialog({ title, onClose, kind = "box", children, actions }) {
  const ref = useRef(null);
  useEffect(() => {
    const dialog = ref.current;
    dialog.showModal();
    return () => dialog.close();
  }, []);
  const outside = (event) => event.target === ref.current && onClose();
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`
    <dialog ref=${ref} class=${`dialog dialog-${kind}`} aria-label=${title} onCancel=${cancel} onMouseDown=${outside}>
      <div class="dialog-inside">
        <header class="dialog-head"><h2 tabindex="-1" autofocus>${title}</h2>
          <${IconButton} icon="close" label=${t("do.close")} onClick=${onClose} /></header>
        <div class="dialog-body">${children}</div>
        ${actions && html`<footer class="dialog-foot">${actions}</footer>`}
      </div>
    </dialog>`;
}

// Asks before what cannot be undone. `ask({title, text, yes, act})` opens it; put `dialog` into the view.
export function useConfirm() {
  const [question, setQuestion] = useState(null);
  const [busy, setBusy] = useState(false);
  const close = () => setQuestion(null);
  const act = async () => {
    setBusy(true);
    try {
      await question.act();
    } finally {
      setBusy(false);
      close();
    }
  };
  const dialog = question && html`
    <${Dialog} title=${question.title} onClose=${close} actions=${html`
      <${Button} onClick=${close}>${t("do.keep")}<//><${Button} kind="danger" busy=${busy} onClick=${act}>${question.yes}<//>`}>
      <p>${question.text}</p>
    <//>`;
  return [dialog, setQuestion];
}

// A part of a whole, with words for those who do not see it. `parts`: [{kind, count}].
export function Bar({ parts, total, label }) {
  return html`
    <div class="bar" role="img" aria-label=${label}>
      ${parts.map(({ kind, count }) => count > 0 && html`
        <span key=${kind} class=${`bar-part bar-${kind}`} style=${{ width: `${(100 * count) / Math.max(total, 1)}%` }}></span>`)}
    </div>`;
}

export const Pager = ({ page, more, onBack, onNext }) =>
  (page > 0 || more) && html`
    <nav class="pager" aria-label=${t("pages")}>
      <${Button} small icon="back" disabled=${page === 0} onClick=${onBack}>${t("do.newer")}<//>
      <span>${t("page", { n: number(page + 1) })}</span>
      <${Button} small disabled=${!more} onClick=${onNext}>${t("do.older")} <${Icon} name="next" size=${16} /><//>
    </nav>`;

// Cursors as pages: where one is, and how to go on and back.
export function usePages(wanted) {
  const [trail, setTrail] = useState([undefined]);
  useEffect(() => setTrail([undefined]), wanted);
  return {
    cursor: trail.at(-1),
    page: trail.length - 1,
    next: (cursor) => setTrail((all) => [...all, cursor]),
    back: () => setTrail((all) => all.slice(0, -1)),
  };
}

// Do something that may fail, and say how it went.
export async function attempt(action, good) {
  try {
    const answer = await action();
    if (good) say(good);
    return answer ?? true;
  } catch (error) {
    say(error.status === 0 ? t("error.0") : error.message, "bad");
    return null;
  }
}
