// The page: who is signed in, where one is, and the frame around it.
import { html, render, useEffect, useRef, useState } from "./dom.js";
import { go, href, say, useNews, usePolled, useRoute } from "./hooks.js";
import { get } from "./http.js";
import { LANGUAGES, chooseLanguage, language, t } from "./i18n.js";
import { Icon, Mark } from "./icons.js";
import * as session from "./session.js";
import { chooseTheme, nextTheme, theme } from "./themes.js";
import { IconButton, Loading } from "./ui.js";
import { Batches } from "./views/batches.js";
import { Jobs } from "./views/jobs.js";
import { Operations } from "./views/operations.js";
import { Playground } from "./views/playground.js";
import { Queue } from "./views/queue.js";
import { SignIn, abilities } from "./views/signin.js";
import { Usage } from "./views/usage.js";
import { Webhooks } from "./views/webhooks.js";

// `needs`: the scope without which a view has nothing to show.
const VIEWS = [
  { name: "playground", icon: "spark", view: Playground, needs: "generate" },
  { name: "jobs", icon: "list", view: Jobs, needs: "generate" },
  { name: "batches", icon: "stack", view: Batches, needs: "generate" },
  { name: "queue", icon: "pulse", view: Queue },
  { name: "usage", icon: "chart", view: Usage, needs: "generate" },
  { name: "webhooks", icon: "bell", view: Webhooks, needs: "generate" },
  { name: "operations", icon: "tools", view: Operations, needs: "admin" },
];

const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

function App() {
  const [key, setKey] = useState(session.key());
  const [notice, setNotice] = useState(null);
  const [may, setMay] = useState(null);
  const [, redraw] = useState(0);
  const again = () => redraw((n) => n + 1);
  useEffect(() => session.onSignOut((reason) => {
    setKey(null);
    setMay(null);
    setNotice(reason === "rejected" ? "signin.rejected" : null);
  }), []);
  useEffect(() => {
    if (key && !may) abilities(key).then(setMay, (error) => error.status === 401 || setMay({ generate: true, admin: false }));
  }, [key]);
  const enter = (secret, found) => {
    session.signIn(secret);
    setNotice(null);
    setMay(found);
    setKey(secret);
  };
  return html`
    ${key ? html`<${Frame} may=${may} redraw=${again} />` : html`
      <${SignIn} notice=${notice} onEnter=${enter} tools=${html`<${Looks} redraw=${again} />`} />`}
    <${News} />`;
}

function Frame({ may, redraw }) {
  const [name, ...rest] = useRoute();
  const strip = useRef(null);
  const shown = VIEWS.filter((view) => !view.needs || may?.[view.needs]);
  const here = shown.find((view) => view.name === name) ?? (may ? shown[0] : null);
  useEffect(() => {
    document.title = here ? `${t(`nav.${here.name}`)} · SmartTextGen` : "SmartTextGen";
  });
  useEffect(() => {
    if (may && here.name !== name) go(here.name);
  }, [may, here, name]);
  useEffect(() => { // where the views are a strip that scrolls, the one that is shown is in sight
    const link = strip.current.querySelector("[aria-current]");
    if (link) strip.current.scrollLeft = link.offsetLeft - (strip.current.clientWidth - link.offsetWidth) / 2;
  }, [here?.name]);
  const skip = (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skip}>${t("skip")}</a>
    <div class="frame">
      <header class="side">
        <a class="brand" href=${href(shown[0]?.name ?? "queue")}><${Mark} size=${28} /><span>SmartTextGen</span></a>
        <nav class="views" ref=${strip} aria-label=${t("nav")}>
          ${shown.map((view) => html`
            <a key=${view.name} href=${href(view.name)} aria-current=${view === here ? "page" : undefined}>
              <${Icon} name=${view.icon} /><span>${t(`nav.${view.name}`)}</span></a>`)}
        </nav>
        <div class="side-foot">
          <${Pulse} />
          <div class="tools">
            <${Looks} redraw=${redraw} />
            <a class="icon-button" href="/apidocs" title=${t("apidocs")} aria-label=${t("apidocs")}><${Icon} name="book" /></a>
            <${IconButton} icon="exit" label=${t("signout")} onClick=${() => session.signOut("asked")} />
          </div>
        </div>
      </header>
      <main id="main" tabindex="-1">
        ${here ? html`<${here.view} key=${here.name} rest=${rest} may=${may} />` : html`<${Loading} rows=${4} />`}
      </main>
    </div>`;
}

// Theme and language.
function Looks({ redraw }) {
  const other = Object.keys(LANGUAGES).find((tag) => tag !== language());
  const turn = () => {
    chooseTheme(nextTheme());
    redraw();
    say(t("theme.is", { name: t(`theme.${theme()}`) }));
  };
  const speak = () => {
    chooseLanguage(other);
    redraw();
  };
  return html`
    <${IconButton} icon=${THEME_ICONS[theme()]} label=${t("theme", { name: t(`theme.${theme()}`) })} onClick=${turn} />
    <${IconButton} icon="globe" label=${LANGUAGES[other]} lang=${other} onClick=${speak} />`;
}

// How the service is, in a dot and a few words.
function Pulse() {
  const { data, error } = usePolled((signal) => get("/health", { signal }), [], () => 10_000);
  const status = error ? "unreachable" : data?.status ?? "unknown";
  return html`
    <a class="pulse" href=${href("queue")}>
      <span class=${`dot dot-${status}`} aria-hidden="true"></span>
      <span>${t(`health.${status}`)}</span>
      ${data && !error && html`<span class="pulse-model">${data.model}</span>`}</a>`;
}

function News() {
  const [news, drop] = useNews();
  return html`
    <div class="news" role="status" aria-live="polite">
      ${news.map((item) => html`
        <div key=${item.id} class=${`news-item news-${item.kind}`}>
          <${Icon} name=${item.kind === "bad" ? "warn" : "check"} size=${18} /><span>${item.text}</span>
          <${IconButton} icon="close" label=${t("do.close")} onClick=${() => drop(item.id)} /></div>`)}
    </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
