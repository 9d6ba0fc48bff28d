// Names for the theme's controls that have none, or one that does not contain the words they show.
document.addEventListener("DOMContentLoaded", () => {
  const words = (element) => element.innerText.trim().replace(/\s+/g, " ");

  // A control that shows words is named by them: what is said aloud must be what is seen.
  document.querySelectorAll("button[aria-label], summary[aria-label]").forEach((control) => {
    if (words(control) && !control.getAttribute("aria-label").includes(words(control))) control.removeAttribute("aria-label");
  });
  // A button that shows only an icon is named by its tooltip.
  document.querySelectorAll("button:not([aria-label])").forEach((button) => {
    const name = button.title || button.dataset.bsOriginalTitle || button.dataset.tooltip;
    if (!words(button) && name) button.setAttribute("aria-label", name);
  });
  // The arrows that unfold a part of the table of contents are named by the page beside them.
  document.querySelectorAll("nav summary").forEach((summary) => {
    const page = summary.closest("li")?.querySelector("a");
    if (!words(summary) && page) summary.setAttribute("aria-label", `Chapters under ${words(page)}`);
  });
  // A field without a label is named by the hint it shows.
  document.querySelectorAll("input:not([aria-label]):not([id]), [role=searchbox]:not([aria-label])").forEach((field) => {
    if (field.placeholder && !field.closest("label")) field.setAttribute("aria-label", field.placeholder);
  });
});
