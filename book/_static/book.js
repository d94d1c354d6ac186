// Glue between page scripts that were not made for one another.  Nothing here loads anything.

// The widgets look for their icon font where require.js says that their module lies.
window.requirejs = {
  paths: {
    "@jupyter-widgets/html-manager/dist":
      (document.documentElement.dataset.content_root || "./") + "_static/widgets",
  },
};

// The widgets ask MathJax 2 to typeset their labels; the page has MathJax 3.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.MathJax || window.MathJax.Hub) return;
  window.MathJax.Hub = {
    Queue: (...calls) =>
      calls.forEach(([what, , element]) => {
        if (what !== "Typeset" || !element) return;
        element.classList.add("mathjax_process");
        window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([element]));
      }),
  };
});
