// The deployment's bounds, out of its own OpenAPI document, so that the form asks only for what the API takes.
import { get } from "./http.js";

const USUAL = { prompt: { maxLength: 8000 }, max_length: { minimum: 10, maximum: 500, default: 100 } };

let asked = null;

// {prompt: {maxLength}, max_length: {minimum, maximum, default}}; the usual ones where the document cannot be read.
export function limits() {
  asked ??= get("/openapi.json").then(
    (document) => ({ ...USUAL, ...document.components.schemas.GenerateRequest.properties }),
    () => {
      asked = null; // next time, perhaps
      return USUAL;
    },
  );
  return asked;
}
