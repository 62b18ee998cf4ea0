// Follows the theme chosen in MLflow (its own key in localStorage); without a choice the style sheet follows the system.
// A classic script in <head>, so that the first paint already has the right colours.
(() => {
  const KEY = "_mlflow_dark_mode_toggle_enabled";
  const apply = () => {
    let choice = null;
    try {
      choice = localStorage.getItem(KEY);
    } catch {
      // storage is blocked: the system's preference holds
    }
    if (choice === null) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice === "true" ? "dark" : "light";
  };
  apply();
  addEventListener("storage", (event) => event.key === KEY && apply());
})();
