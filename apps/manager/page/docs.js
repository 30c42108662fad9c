"use strict";
// Shows what openapi.json describes, and sends what its reader fills in. Text is put in as text, never as HTML.

const BASE = new URL(".", location.href);
// Said of every text.
const NO_NUL = "^[^\\x00]*$";
const METHODS = ["get", "post", "put", "patch", "delete"];
const $ = (id) => document.getElementById(id);
let api;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined));
  return node;
}

function resolve(schema) {
  while (schema && schema.$ref) {
    schema = schema.$ref.slice(2).split("/").reduce((found, name) => found[name], api);
  }
  return schema || {};
}

function choices(schema) {
  return schema.anyOf || schema.oneOf || schema.allOf;
}

// A schema in words: `{ name: string, 1 to 128 characters }`.
function words(schema, indent = "", seen = []) {
  const name = schema.$ref && schema.$ref.split("/").pop();
  if (name && seen.includes(name)) return name;
  const trail = name ? [...seen, name] : seen;
  const found = resolve(schema);
  const within = indent + "  ";
  if (choices(found)) return choices(found).map((one) => words(one, indent, trail)).join(" or ");
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (found.type === "array") return `[ ${words(found.items || {}, indent, trail)} ]${limits(found)}`;
  if (found.properties) {
    const needed = found.required || [];
    const lines = Object.entries(found.properties).map(([field, value]) =>
      `${within}${field}${needed.includes(field) ? "" : "?"}: ${words(value, within, trail)}`);
    return `{\n${lines.join("\n")}\n${indent}}`;
  }
  return `${found.type || "any"}${limits(found)}`;
}

function limits(schema) {
  const told = [];
  for (const [low, high, unit] of [["minLength", "maxLength", " characters"], ["minItems", "maxItems", " of them"],
    ["minimum", "maximum", ""]]) {
    if (schema[low] !== undefined && schema[high] !== undefined) told.push(`${schema[low]} to ${schema[high]}${unit}`);
    else if (schema[high] !== undefined) told.push(`at most ${schema[high]}${unit}`);
    else if (schema[low] !== undefined) told.push(`at least ${schema[low]}${unit}`);
  }
  if (schema.format) told.push(schema.format);
  if (schema.pattern && schema.pattern !== NO_NUL) told.push(`/${schema.pattern}/`);
  if (schema.default !== undefined) told.push(`else ${JSON.stringify(schema.default)}`);
  return told.length ? ` (${told.join(", ")})` : "";
}

// What to begin with: the fields that are needed.
function example(schema) {
  const found = resolve(schema);
  if (found.default !== undefined) return found.default;
  if (found.enum) return found.enum[0];
  if (choices(found)) return example(choices(found)[0]);
  if (found.properties) {
    return Object.fromEntries((found.required || []).map((name) => [name, example(found.properties[name])]));
  }
  return { array: [], object: {}, integer: found.minimum ?? 0, number: found.minimum ?? 0, boolean: false }[found.type] ?? "";
}

function field(parameter) {
  const schema = resolve(parameter.schema);
  const attributes = { name: parameter.name, "data-in": parameter.in, required: parameter.required };
  if (schema.enum) return make("select", attributes, ...["", ...schema.enum].map((value) => make("option", {}, String(value))));
  return make("input", { ...attributes, placeholder: schema.default });
}

function row(parameter, input) {
  const needed = parameter.required ? "" : " (may be left out)";
  return make("tr", {},
    make("th", {}, make("code", {}, parameter.name), make("div", { class: "soft" }, parameter.in + needed)),
    make("td", {}, input, make("div", { class: "soft" }, words(parameter.schema))));
}

function schemaOf(content) {
  const [media] = Object.values(content || {});
  return media && media.schema;
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, answer]) => {
    const headers = Object.keys(answer.headers || {}).join(", ");
    const schema = schemaOf(answer.content);
    return make("details", {},
      make("summary", {}, make("code", {}, status), ` ${answer.description}`),
      make("div", { class: "soft" }, headers && `headers: ${headers}`),
      schema && make("pre", {}, words(schema)));
  });
}

function request(method, path, form, body) {
  const url = new URL(BASE);
  const headers = {};
  let filled = path;
  for (const input of form.querySelectorAll("[data-in]")) {
    if (!input.value) continue;
    if (input.dataset.in === "path") filled = filled.replace(`{${input.name}}`, encodeURIComponent(input.value));
    if (input.dataset.in === "query") url.searchParams.append(input.name, input.value);
    if (input.dataset.in === "header") headers[input.name] = input.value;
  }
  url.pathname += filled.slice(1);
  return [url, options(method, headers, body)];
}

function options(method, headers = {}, body = undefined) {
  const token = $("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  return { method, headers, body: body || undefined, credentials: "same-origin", cache: "no-store" };
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// The same for a terminal; what proves who one is is left to its user.
function curl(url, { method, headers, body }) {
  const parts = ["curl", "-X", method, $("token").value.trim() ? '-H "Authorization: Bearer $TOKEN"' : "-b jar"];
  for (const [name, value] of Object.entries(headers)) {
    if (name !== "Authorization") parts.push("-H", quoted(`${name}: ${value}`));
  }
  if (body) parts.push("-d", quoted(body));
  return [...parts, quoted(url.href)].join(" ");
}

async function shown(answer) {
  const text = await answer.text();
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function operation(method, path, described) {
  const parameters = [...(described.parameters || [])];
  const schema = described.requestBody && schemaOf(described.requestBody.content);
  const body = schema && make("textarea", { "aria-label": "body", spellcheck: "false" });
  if (body) body.value = JSON.stringify(example(schema), null, 2);
  const result = make("div", { class: "result", role: "status" });
  const form = make("form", { novalidate: true },
    make("table", {}, ...parameters.map((parameter) => row(parameter, field(parameter)))),
    body, make("button", { class: "send" }, "Send"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [url, given] = request(method.toUpperCase(), path, form, body && body.value);
    result.replaceChildren("…");
    try {
      const answer = await fetch(url, given);
      const headers = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
      result.replaceChildren(
        make("pre", { class: "curl" }, curl(url, given)),
        make("p", {}, make("strong", { class: "status" }, String(answer.status)), ` ${answer.statusText}`),
        make("pre", { class: "soft" }, headers),
        make("pre", { class: "answer" }, await shown(answer)));
    } catch (error) {
      result.replaceChildren(String(error));
    }
    if (path === "/session" || path === "/me") await who();
  });
  return make("details", { class: "operation", id: described.operationId },
    make("summary", {},
      make("span", { class: `method ${method.toUpperCase()}` }, method.toUpperCase()),
      make("code", { class: "path" }, path), ` ${described.summary}`),
    make("div", {}, make("p", {}, described.description), schema && make("pre", {}, words(schema)), form, result,
      make("h3", {}, "Answers"), ...answers(described)));
}

function list() {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    const group = path.split("/")[1];
    if (!groups.has(group)) groups.set(group, make("section", {}, make("h2", {}, group)));
    for (const method of METHODS) {
      if (methods[method]) groups.get(group).append(operation(method, path, methods[method]));
    }
  }
  $("operations").replaceChildren(...groups.values());
}

async function who() {
  const answer = await fetch(new URL("me", BASE), options("GET"));
  const known = answer.ok && (await answer.json());
  $("who").textContent = known ? `${known.user.name}, by ${known.via}` : "nobody is signed in";
  $("sign-in").hidden = Boolean(known);
  $("sign-out").hidden = !(known && known.via === "session");
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify(Object.fromEntries(new FormData($("sign-in"))));
  const answer = await fetch(new URL("session", BASE), options("POST", {}, body));
  $("sign-in").elements.password.value = "";
  if (answer.ok) await who();
  else $("who").textContent = (await answer.json()).detail;
});

$("sign-out").addEventListener("click", async () => {
  await fetch(new URL("session", BASE), options("DELETE"));
  await who();
});

$("by-token").addEventListener("submit", (event) => event.preventDefault());
$("token").addEventListener("change", who);

$("find").addEventListener("input", () => {
  const sought = $("find").value.toLowerCase();
  for (const section of $("operations").children) {
    for (const one of section.querySelectorAll(".operation")) {
      one.hidden = !one.firstChild.textContent.toLowerCase().includes(sought);
    }
    section.hidden = !section.querySelector(".operation:not([hidden])");
  }
});

async function begin() {
  try {
    api = await (await fetch(new URL("openapi.json", BASE))).json();
    $("title").textContent = `${api.info.title} ${api.info.version}`;
    list();
    await who();
  } catch (error) {
    $("who").textContent = `openapi.json cannot be shown: ${error}`;
  }
}

begin();
