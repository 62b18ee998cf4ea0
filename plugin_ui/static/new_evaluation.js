// The form for a new evaluation: finding tasks in the catalogue. Without this script the text field alone does.

const form = document.querySelector("form[data-tasks]");
const field = document.getElementById("tasks");
const part = (name) => form.querySelector(`[data-part="${name}"]`);
const [picked, browse, results, found] = ["picked", "browse", "results", "found"].map(part);
const search = document.getElementById("task-search");
const SHOWN = 50;
let asked = 0;
let timer = null;

const chosen = () => field.value.split(",").map((name) => name.trim()).filter(Boolean);

function choose(names) {
  field.value = [...new Set(names)].join(", ");
  showChosen();
}

function button(text, label, onClick) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "button small";
  element.textContent = text;
  element.setAttribute("aria-label", label);
  element.addEventListener("click", onClick);
  return element;
}

function showChosen() {
  picked.replaceChildren(
    ...chosen().map((name) => {
      const item = document.createElement("li");
      item.append(button(`${name} ×`, `Remove ${name}`, () => {
        choose(chosen().filter((other) => other !== name));
        field.focus();
      }));
      return item;
    }),
  );
}

function item({ name, kind, note }) {
  const element = document.createElement("li");
  const text = document.createElement("span");
  const about = document.createElement("small");
  about.className = "soft";
  about.textContent = ` ${kind}${note ? `, ${note}` : ""}`;
  text.append(name, about);
  element.append(text, button("Add", `Add ${name}`, () => choose([...chosen(), name])));
  return element;
}

async function find() {
  const mine = ++asked;
  const url = new URL(form.dataset.tasks, location.href);
  url.searchParams.set("search", search.value);
  url.searchParams.set("limit", SHOWN);
  const answer = await fetch(url);
  if (!answer.ok || mine !== asked) return;
  const { tasks, total } = await answer.json();
  results.replaceChildren(...tasks.map(item));
  found.textContent = total > tasks.length ? `${tasks.length} of ${total} shown: search for more` : `${total} found`;
}

for (const element of document.querySelectorAll("[data-suite]")) {
  element.hidden = false;
  element.addEventListener("click", () => {
    document.getElementById("suite").value = element.dataset.suite;
    choose([]);
  });
}

browse.hidden = false;
field.removeAttribute("list");
field.addEventListener("input", showChosen);
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(find, 200);
});
search.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
showChosen();
find();
