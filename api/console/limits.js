// The deployment's bounds, out of its own OpenAPI document, so that the form asks only for what the API takes.
import { get } from "./http.js";

const USUAL = { prompt: { maxLength: 8000 }, max_length: { minimum: 10, maximum: 500, default: 100 } };

let asked = null;

// {prompt: {maxLength}, max_length: {minimum, maximum, default}}; the usual ones where the document cannot be read.
export function limits() {
  asked ??= get("/openapi.json").then(
    (document) => {
      const found = { ...USUAL, ...document.components.schemas.GenerateRequest.properties };
      const text = found.prompt.oneOf?.find((kind) => kind.type === "string"); // beside token ids
      return text ? { ...found, prompt: text } : found;
    },
    () => {
      asked = null; // next time, perhaps
      return USUAL;
    },
  );
  return asked;
}
