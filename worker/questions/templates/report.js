// Filters and searches the questions; without it the page simply shows them all.
(() => {
  "use strict";
  const tools = document.getElementById("tools");
  if (!tools) return;
  const articles = [...document.querySelectorAll("article")];
  const buttons = [...tools.querySelectorAll("button")];
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const nothing = document.getElementById("nothing");
  const texts = new Map();
  let show = "all";

  // Read only when first searched: ten thousand questions open without it.
  const textOf = (article) => {
    if (!texts.has(article)) texts.set(article, article.textContent.toLowerCase());
    return texts.get(article);
  };

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const article of articles) {
      const fits =
        (show === "all" || article.dataset.show.split(" ").includes(show)) &&
        words.every((word) => textOf(article).includes(word));
      article.hidden = !fits;
      count += fits;
    }
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === show));
    shown.textContent = count === articles.length ? "" : `${count} of ${articles.length} shown`;
    nothing.hidden = count > 0;
  };

  const reset = () => {
    show = "all";
    search.value = "";
    apply();
  };

  for (const button of buttons) {
    button.addEventListener("click", () => {
      show = button.dataset.show;
      apply();
    });
  }
  search.addEventListener("input", apply);
  document.getElementById("reset").addEventListener("click", reset);
  // A bar of the picture leads to a question that a filter may have hidden.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      reset();
      target.scrollIntoView();
    }
  });

  // Paper cannot be clicked: print the quoted passages too, and fold them again afterwards.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
  });

  tools.hidden = false;
})();
