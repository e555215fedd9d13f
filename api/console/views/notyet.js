// Where a deployment does not know a route: said kindly, and no failure of anybody's.
import { html } from "../dom.js";
import { t } from "../i18n.js";
import { Empty } from "../ui.js";

export const missing = (error) => error?.status === 404 || error?.status === 405;

export const NotYet = ({ icon }) => html`<div class="card"><${Empty} icon=${icon} title=${t("notyet")}>${t("notyet.text")}<//></div>`;
