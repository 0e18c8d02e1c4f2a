// Tables that are sorted by the heading pressed: numbers by value, rows without a value last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((first, second) => {
      const [a, b] = [key(first), key(second)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = heading.classList.contains("number") ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  });
}

// Colours: the system's, or those chosen here. A browser may refuse to keep a choice of a page opened from a file.
const kept = {
  read() { try { return localStorage.getItem("dataeff-theme") ?? ""; } catch { return ""; } },
  write(value) { try { localStorage.setItem("dataeff-theme", value); } catch { /* the choice holds for this visit */ } },
};
const theme = document.getElementById("theme");
const colours = (choice) => {
  if (choice) document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
  document.dispatchEvent(new Event("colours"));
};
theme.value = kept.read();
colours(theme.value);
theme.addEventListener("change", () => { kept.write(theme.value); colours(theme.value); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => colours(theme.value));
addEventListener("beforeprint", () => colours("light"));
addEventListener("afterprint", () => colours(theme.value));
