// The one door to the vendored view library: text that is put into a template becomes a text node, never markup.
export {
  h, html, render, useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "./vendor/preact-htm.js";
