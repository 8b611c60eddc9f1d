// The routes of the service, from its own description.

const make = (tag, text, kind) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, kind ? { className: kind } : {});

function rows(head, lines) {
  const table = make("table"), top = make("tr");
  top.append(...head.map((text) => Object.assign(make("th", text), { scope: "col" })));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(top);
  for (const cells of lines) {
    const line = make("tr");
    line.append(...cells.map((cell, place) => { const box = make("td"); box.append(...(place ? inlineCode(cell) : [make("code", cell)])); return box; }));
    table.tBodies[0].append(line);
  }
  return table;
}

/** Text with code between backticks. */
const inlineCode = (text) => text.split("`").map((part, place) => (place % 2 ? make("code", part) : part));

function kind(one) {
  if (one.type === "array") return `any of ${one.items.enum?.join(", ") ?? one.items.type}`;
  if (one.enum) return one.enum.join(", ");
  const span = one.minimum !== undefined ? `, ${one.minimum} to ${one.maximum}` : "";
  return `${one.type ?? ""}${span}`;
}

function route(path, verb, what) {
  const section = Object.assign(make("section"), { tabIndex: 0, ariaLabel: `${verb} ${path}` }), title = make("h2");
  title.append(make("span", verb.toUpperCase(), "verb"), " ", make("code", path));
  section.append(title, make("p", what.description ?? what.summary ?? ""));
  if (what.parameters?.length) {
    section.append(make("h3", "Parameters"), rows(["Name", "In", "Value", "Meaning"], what.parameters.map((one) =>
      [one.name, one.in, kind(one.schema), one.description ?? one.schema.description ?? ""])));
  }
  if (what.requestBody) section.append(make("h3", "Body"), make("p", Object.keys(what.requestBody.content).join(", ")));
  section.append(make("h3", "Responses"), rows(["Status", "Meaning", "Type"], Object.entries(what.responses).map(([status, one]) =>
    [status, one.description, Object.keys(one.content ?? {}).join(", ")])));
  return section;
}

const here = document.getElementById("commands");
here.textContent = here.textContent.replaceAll("HERE", location.origin);
try {
  const description = await (await fetch("/openapi.json")).json();
  const found = Object.entries(description.paths).flatMap(([path, verbs]) => Object.entries(verbs).map(([verb, what]) => route(path, verb, what)));
  document.getElementById("routes").replaceChildren(...found);
} catch {
  document.getElementById("routes").replaceChildren(make("p", "The description could not be loaded. Is the service still running?"));
}
