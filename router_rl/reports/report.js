// Draws the charts of a report. Bundled with Vega, Vega-Lite and Vega-Embed, see page_script.py.

const specs = JSON.parse(document.getElementById("specs").textContent);

// Vega places the names beside the marks so that they cover neither each other nor the marks; Vega-Lite cannot say so.
function placeNames(vega) {
  for (const mark of vega.marks.filter((mark) => mark.name === "names_marks")) {
    mark.from = { data: "points_marks" };
    mark.encode = {
      update: {
        text: { signal: "datum.opacity < 0.5 ? '' : datum.datum.label" },
        fill: { signal: "datum.datum.ink" },
        fontSize: { value: 12 },
        stroke: { value: "var(--card)" }, // a halo; the style sheet draws it below the letters
        strokeWidth: { value: 3 },
      },
    };
    mark.transform = [
      {
        type: "label",
        // What is sliced off makes Vega place the names anew when a chart is zoomed or a method is ticked.
        size: { signal: "slice([max(width, 1), max(height, 1), domain('x'), domain('y'), shown], 0, 2)" },
        anchor: ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"],
        offset: [4, 14],
      },
    ];
  }
  return vega;
}

const options = {
  mode: "vega-lite",
  renderer: "svg",
  ast: true, // no `eval`, which the page's policy forbids
  actions: false,
  defaultStyle: false,
  tooltip: { disableDefaultStyle: true },
  patch: placeNames,
};

const ticked = (figure) => [...figure.querySelectorAll("input[data-method]:checked")].map((box) => box.dataset.method);

async function draw(place) {
  const figure = place.closest("figure");
  const { view } = await vegaEmbed(place, specs[place.dataset.spec], options);
  if (place.dataset.keyed === undefined) return;
  const show = () => view.signal("shown", ticked(figure)).runAsync();
  figure.addEventListener("change", (event) => event.target.dataset.method !== undefined && show());
  await show();
}

function search(box) {
  const rows = [...document.getElementById(box.getAttribute("aria-controls")).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.getElementById(box.getAttribute("aria-describedby"));
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase();
    rows.forEach((row, i) => (row.hidden = !texts[i].includes(words)));
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} queries`;
  });
}

Promise.all([...document.querySelectorAll("[data-spec]")].map(draw)).then(() => {
  document.documentElement.dataset.drawn = "";
});
document.querySelectorAll("input[type=search]").forEach(search);
