// Our tabs in MLflow's own sidebar. They are copies of MLflow's entries, found by structure and not by class names,
// so that they look like them in every theme. React may draw the sidebar anew at any time; then they are added again.
// Where MLflow's page is not as expected, nothing happens.

(() => {
  const { root, account } = document.currentScript.dataset;
  const ICONS = `${root}/lmms/static/icons.svg`;
  const TABS = [
    { text: "Leaderboard", path: "/lmms/leaderboard", icon: "leaderboard" },
    { text: "Evaluations", path: "/lmms/evaluations", icon: "evaluations" },
    { text: "Fleet", path: "/lmms/fleet", icon: "fleet" },
    { text: "Suites", path: "/lmms/suites", icon: "suites" },
    { text: "New evaluation", path: "/lmms/evaluations/new", icon: "new" },
  ];
  const ACCOUNT = [{ text: "Account", path: "/lmms/password", icon: "user" }];
  const SVG = "http://www.w3.org/2000/svg";
  const OURS = "data-lmms-tab";

  // What a copy takes over from its model: when this changes, the copies are made anew.
  function shape(model) {
    const link = model.querySelector("a");
    return `${model.className}|${link.className}|${link.textContent.trim() !== ""}`;
  }

  function drawIcon(link, name) {
    const drawing = link.querySelector("svg");
    if (!drawing) return;
    const use = document.createElementNS(SVG, "use");
    use.setAttribute("href", `${ICONS}#${name}`);
    const look = { viewBox: "0 0 16 16", fill: "none", stroke: "currentColor", "stroke-width": "1.5" };
    for (const [attribute, value] of Object.entries(look)) drawing.setAttribute(attribute, value);
    drawing.replaceChildren(use);
  }

  function copy(model, tab) {
    const item = model.cloneNode(true);
    const link = item.querySelector("a");
    const withText = link.textContent.trim() !== "";
    const icon = [...link.children].find((child) => child.matches("svg") || child.querySelector("svg"));
    for (const name of ["aria-current", "target", "rel", "data-component-id", "aria-describedby"]) link.removeAttribute(name);
    link.href = root + tab.path;
    link.replaceChildren(...(icon ? [icon] : []), ...(withText ? [tab.text] : []));
    link.setAttribute("aria-label", tab.text);
    if (!withText) link.title = tab.text;
    drawIcon(link, tab.icon);
    item.setAttribute(OURS, shape(model));
    return item;
  }

  function place(list, model, tabs) {
    const present = [...list.children].filter((child) => child.hasAttribute(OURS));
    const wanted = shape(model);
    const isCurrent = (item) => item.getAttribute(OURS) === wanted;
    if (present.length === tabs.length && present.every(isCurrent) && list.lastElementChild === present.at(-1)) return;
    for (const item of present) item.remove();
    list.append(...tabs.map((tab) => copy(model, tab)));
  }

  function add() {
    // The last entry, because inside an experiment the first one is its "back" button.
    const entries = document.querySelectorAll(`aside nav ul > li:not([${OURS}]) > a[href*="#/"]`);
    const model = [...entries].at(-1)?.parentElement;
    if (model?.parentElement) place(model.parentElement, model, TABS);
    const settings = account && document.querySelector('aside nav li > a[href*="#/settings"]')?.parentElement;
    if (settings?.parentElement) place(settings.parentElement, settings, ACCOUNT);
  }

  let planned = false;
  const plan = () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => {
      planned = false;
      add();
    });
  };
  new MutationObserver(plan).observe(document.documentElement, { childList: true, subtree: true });
  plan();
})();
